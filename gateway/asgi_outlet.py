"""``AsgiOutlet``: the outlet under any other ASGI server (``outlet`` has the promises)."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from middleware.asgi import Send
from middleware.close import ABNORMAL, SLOW_CONSUMER, Close

from .backlog import Backlog
from .ledger import REPLACED, UNSENT, NamespaceTotals, Taken
from .message import Batch, Message
from .outlet import OutletOptions, Owner, wait_among, wake_all

__all__ = ["AsgiOutlet"]

logger = logging.getLogger("tidegate.outlet")


class AsgiOutlet:
    """Sends through ASGI ``send``: a bounded queue, and one writer task that exists only while the queue is not empty."""

    __slots__ = (
        "_backlog",
        "_bytes",
        "_closing",
        "_newest",
        "_newest_totals",
        "_on_lost",
        "_on_slow",
        "_options",
        "_owner",
        "_queue",
        "_send",
        "_sending",
        "_sent_bytes",
        "_sent_messages",
        "_task",
        "_timer",
        "_waiters",
        "replaced_messages",
    )  # fmt: skip

    def __init__(
        self,
        send: Send,
        options: OutletOptions,
        owner: Owner,
        on_slow: Callable[[], None],
        on_lost: Callable[[Close], None],
    ) -> None:
        self._send = send
        self._options = options
        self._owner = owner
        self._on_slow = on_slow
        self._on_lost = on_lost
        self._queue: deque[Message] = deque()
        self._backlog = Backlog()
        """Of what the queue accounts for; its positions are numbers of messages."""
        self._newest: Message | None = None
        """What was taken beyond the bound (``latest``); the next one replaces it while it waits."""
        self._newest_totals: NamespaceTotals | None = None
        self._bytes = 0
        self._closing: Close | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sent_messages = self._sent_bytes = self._sending = self.replaced_messages = 0
        self._waiters: list[asyncio.Future[None]] = []

    def write(self, batch: Batch) -> int:
        if self._closing is not None:
            return len(batch)
        if self._bytes > self._options.max_bytes or len(self._queue) > self._options.max_messages:
            return self._overflow(batch)
        self._take(batch)
        return 0

    @property
    def sent_messages(self) -> int:
        return self._sent_messages

    @property
    def sent_bytes(self) -> int:
        return self._sent_bytes

    def buffered_bytes(self) -> int:
        return self._bytes

    def ping(self, payload: bytes, on_answer: Callable[[], None]) -> bool:
        return False  # ASGI has none

    async def flushed(self) -> None:
        while self._task is not None and not self._task.done():  # a task that is cancelled before it began stays where it is
            await asyncio.wait((self._task,))

    def close(self, close: Close) -> None:
        """Send a close behind what is queued; after ``abort_after_seconds`` give up on a peer that does not read."""
        if self._closing is not None:
            return
        self._closing = close
        if close is SLOW_CONSUMER:
            self._forget_queue()
        self._timer = asyncio.get_running_loop().call_later(self._options.abort_after_seconds, self._give_up)
        self._start()

    def wake(self) -> None:
        wake_all(self._waiters)

    def lost(self) -> None:
        self._closing = self._closing or ABNORMAL
        self._forget_queue()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()
        self.wake()

    async def drained(self) -> None:
        while self._closing is None and self._bytes > self._options.max_bytes // 2:
            await wait_among(self._waiters)

    def _take(self, batch: Batch) -> None:
        self._queue.extend(batch.messages)
        self._bytes += batch.payload_bytes
        if batch.totals is not None:
            batch.totals.ledger.watch(self)
        self._backlog.take(self._sent_messages + self._sending + len(self._queue), batch)
        self._start()

    def settle(self) -> bool:
        self._backlog.settle(self._sent_messages)
        return not self._backlog

    def waiting(self) -> tuple[list[Taken], int]:
        self.settle()
        return self._backlog.waiting()

    def _overflow(self, batch: Batch) -> int:
        if self._options.policy == "latest":
            if self._newest is not None and self._queue and self._queue[-1] is self._newest:
                self._bytes -= len(self._queue.pop().payload)
                self._owner.gave_up(self._backlog.withdraw(self._newest_totals, REPLACED), 1, REPLACED)
                self.replaced_messages += 1
            self._newest, self._newest_totals = batch.messages[-1], batch.totals
            self._take(batch.newest())
            return len(batch) - 1
        if self._options.policy == "close":
            self._on_slow()
        return len(batch)

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._queue:
                message = self._queue.popleft()
                if message is self._newest:  # it has its turn: should it come again, that is another one
                    self._newest = None
                self._sending = 1
                await self._send(message.event())
                self._sending = 0
                self._sent_messages += 1
                self._sent_bytes += len(message.payload)
                self._bytes = max(0, self._bytes - len(message.payload))
                if self._waiters and self._bytes <= self._options.max_bytes // 2:
                    self.wake()
            if self._closing is not None:
                await self._say(self._closing)
        except Exception as error:  # noqa: BLE001 - servers disagree on what they raise when the client is gone
            logger.debug("send failed: %r", error)
            self._closing = self._closing or ABNORMAL
            self._forget_queue()
            self._on_lost(ABNORMAL)
        finally:
            if self._task is asyncio.current_task():
                self._task = None

    async def _say(self, close: Close) -> None:
        await self._send({"type": "websocket.close", "code": close.code, "reason": close.reason})

    def _give_up(self) -> None:
        """The peer has had its time. The close is still tried, without waiting: layers around us are to see why it ended."""
        self._timer = None
        close = self._closing or ABNORMAL
        if self._task is not None:
            self._task.cancel()
            self._task = asyncio.get_running_loop().create_task(self._try_to_say(close))
        self._on_lost(close)

    async def _try_to_say(self, close: Close) -> None:
        try:
            async with asyncio.timeout(0):
                await self._say(close)
        except Exception as error:  # noqa: BLE001 - as in _run
            logger.debug("close failed: %r", error)
        finally:
            self._task = None

    def _forget_queue(self) -> None:
        self._queue.clear()
        self._bytes = 0
        self._sending = 0
        self._backlog.settle(self._sent_messages)
        self._owner.gave_up(*self._backlog.forget(UNSENT), UNSENT)
