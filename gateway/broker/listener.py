"""``Listener``: keeps the engine's subscriptions equal to what is wanted, and tells those who wait when theirs is confirmed.

One task tells the engine; all that was asked for meanwhile goes along with the next round trip. After ``attach`` everything that is
wanted is told to the new link in the same way.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable

from ..errors import BrokerUnavailable
from .interest import Interest
from .link import Link, as_engine_error
from .options import EngineOptions

__all__ = ["Listener"]


class Listener:
    """Rooms that are to be heard, over one link after the other.

    Args:
        options: bounds and times.
        live: told each time everything that is wanted is confirmed.
        failed: told why the engine does not confirm; the link is of no use then.
    """

    def __init__(self, options: EngineOptions, *, live: Callable[[], None], failed: Callable[[str], None]) -> None:
        self.interest = Interest()
        self._options = options
        self._live = live
        self._failed = failed
        self._waiters: defaultdict[str, list[asyncio.Future[None]]] = defaultdict(list)
        self._news = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    def attach(self, link: Link, probe_rooms: Iterable[str]) -> None:
        """Tell ``link`` from now on, beginning with everything."""
        self.interest.reset()
        for room in probe_rooms:
            self.interest.want(room)
        self._worker = asyncio.get_running_loop().create_task(self._tell_all(link), name="broker subscriptions")

    async def detach(self, probe_rooms: Collection[str], error: BrokerUnavailable) -> None:
        """There is no link; those who wait are told ``error``, and their rooms are not wanted any more."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.cancel()
            await asyncio.wait((worker,))
        waiting, self._waiters = self._waiters, defaultdict(list)
        self.interest.reset(without=(*probe_rooms, *waiting))
        for waiter in [waiter for waiters in waiting.values() for waiter in waiters]:
            if not waiter.done():
                waiter.set_exception(error)

    async def subscribe(self, room: str) -> None:
        """Returns when it is confirmed; raises the error that ``detach`` is given."""
        if room in self.interest.wanted and room in self.interest.confirmed:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[room].append(waiter)
        self.interest.want(room)
        self._news.set()
        try:
            await waiter
        except BaseException:  # refused, or the caller was cancelled: nobody would ever give the room back
            self._forget(room, waiter)
            raise

    def unsubscribe(self, room: str) -> None:
        """Hear it no longer."""
        if room in self.interest.wanted:
            self.interest.drop(room)
            self._news.set()

    async def _tell_all(self, link: Link) -> None:
        try:
            while True:
                self._news.clear()
                async with asyncio.timeout(None) as patience:
                    while changes := self.interest.changes(self._options.batch_rooms):
                        patience.reschedule(asyncio.get_running_loop().time() + self._options.subscribe_seconds)
                        if changes.subscribe:
                            await link.subscribe(changes.subscribe)
                        if changes.unsubscribe:
                            await link.unsubscribe(changes.unsubscribe)
                        self.interest.done(changes)
                        self._confirmed(changes.subscribe)
                self._live()
                await self._news.wait()
        except TimeoutError:
            self._failed(f"subscriptions were not confirmed within {self._options.subscribe_seconds:g} s")
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing more would be told
            self._failed(str(as_engine_error(error)))

    def _confirmed(self, rooms: Iterable[str]) -> None:
        for room in rooms:
            for waiter in self._waiters.pop(room, ()):
                if not waiter.done():
                    waiter.set_result(None)

    def _forget(self, room: str, waiter: asyncio.Future[None]) -> None:
        others = self._waiters.get(room, [])
        if waiter in others:
            others.remove(waiter)
        if not others:
            self._waiters.pop(room, None)
            self.unsubscribe(room)
