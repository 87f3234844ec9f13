"""The write side of a connection: ``FrameOutlet`` where the server takes ready-made frames, ``AsgiOutlet`` anywhere else.

Promises of both:

1. ``write`` never waits and never raises: it returns how many of the batch's messages were not taken, 0 when all went well.
   What is taken and then not sent after all is told to the batch's ``totals``, with the reason.
2. What is taken leaves in order, also in relation to ``close``.
3. What waits for one slow peer is bounded: ``max_bytes`` and one batch. Past the bound the policy acts on that peer alone:
   ``close`` ends it (``slow-consumer``), ``drop`` leaves out what comes, ``latest`` keeps of what comes only
   the newest message, behind what was taken before.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from middleware.asgi import Frames, Send
from middleware.close import ABNORMAL, SLOW_CONSUMER, Close

from .backlog import Backlog
from .ledger import REPLACED, UNSENT, NamespaceTotals
from .message import Batch, Message

__all__ = ["AsgiOutlet", "FrameOutlet", "Outlet", "OutletOptions", "Policy"]

logger = logging.getLogger("tidegate.outlet")

_LARGEST_HIGH_WATER_BYTES = 512 * 1024
"""The highest mark that event loops set by themselves (for TLS): a transport tells that it has drained only from above it."""

Policy = Literal["close", "drop", "latest"]


@dataclass(frozen=True, slots=True)
class OutletOptions:
    """Bounds of what may wait for one peer."""

    max_bytes: int = 1024 * 1024
    max_messages: int = 16_384
    """Only counted where messages wait as messages (``AsgiOutlet``)."""
    policy: Policy = "close"
    abort_after_seconds: float = 5.0
    """How long a peer that must go may take to read what is left."""

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_messages", "abort_after_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0, not {getattr(self, name)!r}")
        if self.policy not in get_args(Policy):
            raise ValueError(f"policy must be one of {', '.join(get_args(Policy))}, not {self.policy!r}")


class Outlet(Protocol):
    """How the rest of the gateway writes to one connection."""

    @property
    def sent_messages(self) -> int: ...

    @property
    def sent_bytes(self) -> int: ...

    @property
    def replaced_messages(self) -> int:
        """Messages that were taken and gave way to a newer one (policy ``latest``)."""

    def write(self, batch: Batch) -> int: ...

    def buffered_bytes(self) -> int: ...

    def ping(self, payload: bytes, on_answer: Callable[[], None]) -> bool:
        """Send a ping behind all that was taken (``Frames.ping``); False when it cannot stand there now."""

    def close(self, close: Close) -> None: ...

    async def flushed(self) -> None:
        """Wait until all that was written, and the close, has been handed to the server."""

    def wake(self) -> None:
        """The end is decided: let everybody go who waits in ``drained``."""

    def lost(self) -> None:
        """The connection is over: nothing more can be sent."""

    def settle(self) -> bool:
        """Account for what has been sent meanwhile; True when nothing is left."""

    async def drained(self) -> None:
        """Wait until less than the high-water mark is buffered, or the connection is over."""


class FrameOutlet:
    """Writes whole frames straight to the server's protocol object."""

    __slots__ = ("_backlog", "_frames", "_latest", "_max_bytes", "_policy", "_position", "_unsent", "_waiters", "replaced_messages")

    def __init__(self, frames: Frames, options: OutletOptions) -> None:
        self._frames = frames
        self._max_bytes = options.max_bytes
        self._policy = options.policy
        self._latest: Batch | None = None
        """What was taken beyond the bound (``latest``); it waits here, behind what waits in the socket's buffer."""
        self._unsent = 0
        """Bytes in the socket's buffer after the last write."""
        self._backlog: Backlog | None = None
        self._position = 0
        """Bytes of frames written since there is a backlog."""
        self._waiters: list[asyncio.Future[None]] = []
        self.replaced_messages = 0
        frames.on_lost = self._on_lost
        if options.max_bytes < 2 * _LARGEST_HIGH_WATER_BYTES:  # else whoever waits for half the bound might wait for ever
            frames.set_high_water(min(64 * 1024, options.max_bytes // 2))

    def write(self, batch: Batch) -> int:
        if self._unsent:
            if self._frames.ending is not None:
                return len(batch)
            self.settle()
            if self._unsent > self._max_bytes or self._latest is not None:
                return self._overflow(batch)
        frames = self._frames
        blob, payload_bytes = batch.encoded(frames.encoder)
        unsent = self._unsent = frames.write(blob, len(batch.messages), payload_bytes)
        if unsent:
            if unsent < 0:
                self._unsent = 0
                return len(batch)
            self._wait_with(batch, len(blob))
        elif batch.totals is not None:
            batch.totals.taken += len(batch.messages)
        return 0

    def _wait_with(self, batch: Batch, size: int) -> None:
        """Remember what the kernel has not taken at once."""
        if not self._backlog:
            self._backlog, self._position = self._backlog or Backlog(), 0
        self._position += size
        if batch.totals is not None:
            batch.totals.taken += len(batch)
            self._backlog.add(self._position, batch.totals, len(batch))
            batch.totals.ledger.watch(self)

    def settle(self) -> bool:
        self._unsent = self._frames.buffered_bytes()
        if self._backlog:
            self._backlog.settle(self._position - self._unsent)
        return not self._backlog and self._latest is None

    @property
    def sent_messages(self) -> int:
        return self._frames.sent_messages

    @property
    def sent_bytes(self) -> int:
        return self._frames.sent_bytes

    async def flushed(self) -> None:
        return None

    def buffered_bytes(self) -> int:
        return self._frames.buffered_bytes() + (self._latest.payload_bytes if self._latest else 0)

    def ping(self, payload: bytes, on_answer: Callable[[], None]) -> bool:
        return self._latest is None and self._frames.ping(payload, on_answer)  # it would overtake what waits here

    def close(self, close: Close) -> None:
        if self._latest is not None and self._frames.ending is None:  # it was taken, so it leaves before the close
            self._put_latest()
        self._frames.close(close)

    async def drained(self) -> None:
        while self._frames.ending is None and self._frames.buffered_bytes() > self._max_bytes // 2:
            self._frames.on_drained = self._on_drained
            await _wait_among(self._waiters)

    def wake(self) -> None:
        _wake(self._waiters)

    def lost(self) -> None:
        self._drop_latest(UNSENT)
        self.wake()

    def _on_lost(self, unsent: int | None) -> None:
        """The socket is gone with so many bytes in its buffer; ``None``: nobody knows, so what was not seen to leave did not."""
        self._drop_latest(UNSENT)
        if self._backlog:
            if unsent is not None:
                self._backlog.settle(self._position - unsent)
            self._backlog.forget(UNSENT)

    def _overflow(self, batch: Batch) -> int:
        if self._policy == "latest":
            if self._latest is not None:
                self.replaced_messages += 1
                self._drop_latest(REPLACED)
            self._latest = latest = Batch(batch.messages[-1:], batch.totals)
            if latest.totals is not None:
                latest.totals.taken += 1
                latest.totals.buffered += 1
                latest.totals.ledger.watch(self)
            self._frames.on_drained = self._on_drained
            return len(batch) - 1
        if self._policy == "close":
            self._frames.close(SLOW_CONSUMER)
        return len(batch)

    def _drop_latest(self, reason: str) -> None:
        latest, self._latest = self._latest, None
        if latest is not None and latest.totals is not None:
            latest.totals.buffered -= 1
            latest.totals.lose(1, reason)

    def _put_latest(self) -> None:
        latest, self._latest = self._latest, None
        if latest is not None:
            if latest.totals is not None:  # it is taken once more
                latest.totals.taken -= 1
                latest.totals.buffered -= 1
            self._unsent = 0  # it is its turn, whatever the bound
            if self.write(latest) and latest.totals is not None:
                latest.totals.taken += 1
                latest.totals.lose(1, UNSENT)

    def _on_drained(self) -> None:
        self._unsent = self._frames.buffered_bytes()
        self._put_latest()
        self.wake()


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
        on_slow: Callable[[], None],
        on_lost: Callable[[Close], None],
    ) -> None:
        self._send = send
        self._options = options
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
        _wake(self._waiters)

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
            await _wait_among(self._waiters)

    def _take(self, batch: Batch) -> None:
        self._queue.extend(batch.messages)
        self._bytes += batch.payload_bytes
        if batch.totals is not None:
            batch.totals.taken += len(batch)
            batch.totals.ledger.watch(self)
        self._backlog.add(self._sent_messages + self._sending + len(self._queue), batch.totals, len(batch))
        self._start()

    def settle(self) -> bool:
        self._backlog.settle(self._sent_messages)
        return not self._backlog

    def _overflow(self, batch: Batch) -> int:
        if self._options.policy == "latest":
            if self._newest is not None and self._queue and self._queue[-1] is self._newest:
                self._bytes -= len(self._queue.pop().payload)
                self._backlog.withdraw(self._newest_totals, REPLACED)
                self.replaced_messages += 1
            self._newest, self._newest_totals = batch.messages[-1], batch.totals
            self._take(Batch(batch.messages[-1:], batch.totals))
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
        self._backlog.forget(UNSENT)


async def _wait_among(waiters: list[asyncio.Future[None]]) -> None:
    waiter = asyncio.get_running_loop().create_future()
    waiters.append(waiter)
    try:
        await waiter
    except asyncio.CancelledError:
        if waiter in waiters:  # who gives up again and again must not fill the list
            waiters.remove(waiter)
        raise


def _wake(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
    waiters.clear()
