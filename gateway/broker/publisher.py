"""``Publisher``: brings to the engine what was taken for it: one write per turn of the loop, a few under way, nothing twice.

1. With a link attached, what is taken is written in the next turn. While ``EngineOptions.batches`` writes are under way the rest
   gathers, and goes as one: so the busier it is, the larger the writes.
2. Whoever waits for an item is told exactly once. Without a link nothing waits: ``detach`` gives up what is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from ..errors import BrokerUnavailable
from .link import Link, as_engine_error
from .options import EngineOptions
from .outgoing import Item, Outgoing

__all__ = ["Publisher"]

LOST = "the connection was lost before the engine had confirmed it"


class Publisher:
    """Writes to one link after the other.

    Args:
        options: bounds.
        clock: seconds that never go back.
        failed: told why messages were refused or lost, and how many.
        lose: told why the link is of no use.
        lost: told the rooms of messages of which nobody knows whether the engine has them.
        published: told how many seconds a batch took from its first message's being taken to its confirmation.
    """

    def __init__(
        self,
        options: EngineOptions,
        clock: Callable[[], float],
        *,
        failed: Callable[[str, int], None],
        lose: Callable[[str], None],
        lost: Callable[[list[str]], None],
        published: Callable[[float], None],
    ) -> None:
        self.queue = Outgoing(options.max_queue_messages, options.max_queue_bytes)
        self._options = options
        self._clock = clock
        self._failed = failed
        self._lose = lose
        self._lost = lost
        self._published = published
        self._link: Link | None = None
        self._under_way: dict[asyncio.Future[Mapping[int, str]], list[Item]] = {}
        self._flush_is_due = False

    def attach(self, link: Link) -> None:
        """Write to ``link`` from now on."""
        self._link = link

    async def detach(self) -> None:
        """Write no more; what is not confirmed is lost."""
        self._link = None
        under_way = list(self._under_way)
        for answer in under_way:
            answer.cancel()
        if under_way:
            await asyncio.wait(under_way)
        self._settle(self.queue.clear(), None)

    def take(self, room: str, data: bytes, waiter: asyncio.Future[None] | None = None, *, always: bool = False) -> None:
        """Take an envelope's bytes. Raises ``BrokerUnavailable`` when the queue is full, unless ``always``."""
        self.queue.put(Item(room, data, waiter, self._clock()), always=always)
        if not self._flush_is_due:
            self._flush_is_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    async def sent(self, timeout_seconds: float) -> None:
        """Wait, not for longer than that, until everything is confirmed."""
        self._flush()
        deadline = self._clock() + timeout_seconds
        while self._under_way and (left := deadline - self._clock()) > 0:
            await asyncio.wait(self._under_way, timeout=left, return_when=asyncio.FIRST_COMPLETED)

    def _flush(self) -> None:
        self._flush_is_due = False
        link, options = self._link, self._options
        while link is not None and self.queue and len(self._under_way) < options.batches:
            batch = self.queue.take(options.batch_messages, options.batch_bytes)
            try:
                answer = link.publish([(item.room, item.data) for item in batch])
            except Exception as error:  # noqa: BLE001 - whatever it is, the batch has an end
                self._give_up(batch, error)
                return
            self._under_way[answer] = batch
            answer.add_done_callback(self._answered)

    def _answered(self, answer: asyncio.Future[Mapping[int, str]]) -> None:
        batch = self._under_way.pop(answer)
        error = None if answer.cancelled() else answer.exception()
        if answer.cancelled() or error is not None:
            self._give_up(batch, error)
            return
        self._published(self._clock() - batch[0].taken_at)
        self.queue.done(batch)
        self._settle(batch, answer.result())
        if self.queue:
            self._flush()

    def _give_up(self, batch: list[Item], error: BaseException | None) -> None:
        """It is not known what has become of these."""
        self.queue.done(batch)
        self._settle(batch, None)
        if error is not None:
            self._lose(str(as_engine_error(error)))

    def _settle(self, batch: list[Item], refusals: Mapping[int, str] | None) -> None:
        """Tell those who wait, and count what was refused; without ``refusals``, all is lost."""
        if refusals is None:
            self._lost([item.room for item in batch])
            refusals = dict.fromkeys(range(len(batch)), LOST)
        if refusals:
            self._failed(next(iter(refusals.values())), len(refusals))
        for index, item in enumerate(batch):
            if item.waiter is None or item.waiter.done():
                continue
            if index in refusals:
                item.waiter.set_exception(BrokerUnavailable(f"the message was not taken: {refusals[index]}"))
            else:
                item.waiter.set_result(None)
