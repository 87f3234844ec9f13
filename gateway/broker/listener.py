"""``Listener``: keeps the engine's subscriptions equal to what is wanted, and tells those who wait when theirs is confirmed.

One task tells the engine; all that was asked for meanwhile goes along with the next round trip. After ``attach`` everything that is
wanted is told to the new link in the same way. A room that was granted and is refused to a new link stays wanted: each further link
is asked for it. Who has it is told, and whoever subscribes to it anew asks again.

An engine that does not answer fails those who wait, after a time, and ends the link no sooner than a probe would. When the answer
comes after all, a room that nobody wants any more is given up again.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping

from ..errors import BrokerUnavailable
from .interest import Interest
from .link import EngineError, Link, as_engine_error
from .options import EngineOptions

__all__ = ["Listener"]


class Listener:
    """Rooms that are to be heard, over one link after the other.

    Args:
        options: bounds and times.
        heard_all: told each time everything that is wanted is confirmed.
        failed: told why a room was refused, or somebody has waited in vain.
        refused: told which rooms that were granted cannot be heard any more.
        lose: told why the link is of no use.
    """

    def __init__(
        self,
        options: EngineOptions,
        *,
        heard_all: Callable[[], None],
        failed: Callable[[str], None],
        refused: Callable[[Collection[str]], None],
        lose: Callable[[str], None],
    ) -> None:
        self.interest = Interest()
        self._options = options
        self._heard_all = heard_all
        self._failed = failed
        self._refused = refused
        self._lose = lose
        self._granted: set[str] = set()
        """Rooms that ``subscribe`` has returned for: wanted until ``unsubscribe``."""
        self._waiters: defaultdict[str, list[asyncio.Future[None]]] = defaultdict(list)
        self._news = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    def attach(self, link: Link, own: Collection[str]) -> None:
        """Tell ``link`` from now on, beginning with everything; it is of no use without the rooms ``own``."""
        self.interest.reset()
        for room in own:
            self.interest.want(room)
        self._worker = asyncio.get_running_loop().create_task(self._tell_all(link, own), name="broker subscriptions")

    async def detach(self, probe_rooms: Collection[str], error: BrokerUnavailable) -> None:
        """There is no link; those who wait are told ``error``, and what only they wanted is not wanted any more."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.cancel()
            await asyncio.wait((worker,))
        waiting, self._waiters = self._waiters, defaultdict(list)
        self.interest.reset(without=(*probe_rooms, *(waiting.keys() - self._granted)))
        for waiter in [waiter for waiters in waiting.values() for waiter in waiters]:
            if not waiter.done():
                waiter.set_exception(error)

    def clear(self) -> None:
        """Nothing is wanted any more."""
        self._granted.clear()
        self.interest.reset(without=tuple(self.interest.wanted))

    async def subscribe(self, room: str) -> None:
        """Returns when it is confirmed. Raises ``BrokerUnavailable``: refused, too late, or what ``detach`` is given."""
        if room in self.interest.wanted and room in self.interest.confirmed:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[room].append(waiter)
        self.interest.want(room)
        self._news.set()
        try:
            async with asyncio.timeout(self._options.subscribe_seconds):
                await waiter
            self._granted.add(room)
        except BaseException as error:  # nobody would ever give the room back, be it refused, late or called off
            self._forget(room, waiter)
            if isinstance(error, TimeoutError):
                detail = f"a subscription was not confirmed within {self._options.subscribe_seconds:g} s"
                self._failed(detail)
                raise BrokerUnavailable(detail) from None
            raise

    def unsubscribe(self, room: str) -> None:
        """Hear it no longer."""
        self._granted.discard(room)
        if room in self.interest.wanted:
            self.interest.drop(room)
            self._news.set()

    async def _tell_all(self, link: Link, own: Collection[str]) -> None:
        limit: asyncio.Timeout | None = None
        try:
            while True:
                self._news.clear()
                while changes := self.interest.changes(self._options.batch_rooms):
                    limit = asyncio.timeout(self._options.probe_timeout_seconds)
                    async with limit:
                        refused = await link.subscribe(changes.subscribe) if changes.subscribe else {}
                        if changes.unsubscribe:
                            await link.unsubscribe(changes.unsubscribe)
                    for reason in [reason for room, reason in refused.items() if room in own]:
                        raise EngineError(reason)
                    self.interest.done(changes, refused)
                    self._answered(changes.subscribe, refused)
                self._heard_all()
                await self._news.wait()
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing more would be told
            if limit is not None and limit.expired():  # else a TimeoutError is the system's own
                detail = f"subscriptions were not confirmed within {self._options.probe_timeout_seconds:g} s"
            else:
                detail = str(as_engine_error(error))
            self._failed(detail)
            self._lose(detail)

    def _answered(self, rooms: Iterable[str], refused: Mapping[str, str]) -> None:
        for reason in refused.values():
            self._failed(reason)
        if gone := [room for room in refused if room in self._granted]:
            self._refused(gone)
        for room in rooms:
            for waiter in self._waiters.pop(room, ()):
                if waiter.done():
                    continue
                if room in refused:
                    waiter.set_exception(BrokerUnavailable(f"the engine does not allow this room: {refused[room]}"))
                else:
                    waiter.set_result(None)

    def _forget(self, room: str, waiter: asyncio.Future[None]) -> None:
        others = self._waiters.get(room, [])
        if waiter in others:
            others.remove(waiter)
        if not others:
            self._waiters.pop(room, None)
            if room not in self._granted:
                self.unsubscribe(room)
