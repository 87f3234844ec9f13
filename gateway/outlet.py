"""The write side of a connection: ``FrameOutlet`` where the server takes ready-made frames, ``AsgiOutlet`` anywhere else.

Promises of both:

1. ``write`` never waits and never raises: it returns how many messages were lost by this call, 0 when all went well. A
   message that is taken and later replaced by a newer one (``latest``) counts in the call that replaces it.
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

    def write(self, batch: Batch) -> int: ...

    def buffered_bytes(self) -> int: ...

    def close(self, close: Close) -> None: ...

    async def flushed(self) -> None:
        """Wait until all that was written, and the close, has been handed to the server."""

    def wake(self) -> None:
        """The end is decided: let everybody go who waits in ``drained``."""

    def lost(self) -> None:
        """The connection is over: nothing more can be sent."""

    async def drained(self) -> None:
        """Wait until less than the high-water mark is buffered, or the connection is over."""


class FrameOutlet:
    """Writes whole frames straight to the server's protocol object."""

    __slots__ = ("_frames", "_latest", "_max_bytes", "_policy", "_waiters")

    def __init__(self, frames: Frames, options: OutletOptions) -> None:
        self._frames = frames
        self._max_bytes = options.max_bytes
        self._policy = options.policy
        self._latest: Batch | None = None
        self._waiters: list[asyncio.Future[None]] = []
        if options.max_bytes < 2 * _LARGEST_HIGH_WATER_BYTES:  # else whoever waits for half the bound might wait for ever
            frames.set_high_water(min(64 * 1024, options.max_bytes // 2))

    def write(self, batch: Batch) -> int:
        frames = self._frames
        if frames.ending is not None:
            return len(batch)
        if frames.buffered_bytes() > self._max_bytes or self._latest is not None:
            return self._overflow(batch)
        blob, payload_bytes = batch.encoded(frames.encoder)
        frames.write(blob, len(batch.messages), payload_bytes)
        return 0

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

    def close(self, close: Close) -> None:
        latest, self._latest = self._latest, None
        if latest is not None and self._frames.ending is None:  # it was taken, so it leaves before the close
            blob, payload_bytes = latest.encoded(self._frames.encoder)
            self._frames.write(blob, 1, payload_bytes)
        self._frames.close(close)

    async def drained(self) -> None:
        while self._frames.ending is None and self._frames.buffered_bytes() > self._max_bytes // 2:
            self._frames.on_drained = self._on_drained
            await _wait_among(self._waiters)

    def wake(self) -> None:
        _wake(self._waiters)

    def lost(self) -> None:
        self._latest = None
        self.wake()

    def _overflow(self, batch: Batch) -> int:
        if self._policy == "latest":
            replaced = 0 if self._latest is None else 1
            self._latest = Batch(batch.messages[-1:])
            self._frames.on_drained = self._on_drained
            return replaced + len(batch) - 1
        if self._policy == "close":
            self._frames.close(SLOW_CONSUMER)
        return len(batch)

    def _on_drained(self) -> None:
        latest, self._latest = self._latest, None
        if latest is not None:
            self.write(latest)
        self.wake()


class AsgiOutlet:
    """Sends through ASGI ``send``: a bounded queue, and one writer task that exists only while the queue is not empty."""

    __slots__ = (
        "_bytes",
        "_closing",
        "_newest",
        "_on_lost",
        "_on_slow",
        "_options",
        "_queue",
        "_send",
        "_sent_bytes",
        "_sent_messages",
        "_task",
        "_timer",
        "_waiters",
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
        self._newest: Message | None = None
        """What was taken beyond the bound (``latest``); the next one replaces it while it waits."""
        self._bytes = 0
        self._closing: Close | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sent_messages = self._sent_bytes = 0
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
        self._start()

    def _overflow(self, batch: Batch) -> int:
        if self._options.policy == "latest":
            replaced = self._newest is not None and bool(self._queue) and self._queue[-1] is self._newest
            if replaced:
                self._bytes -= len(self._queue.pop().payload)
            self._newest = batch.messages[-1]
            self._take(Batch(batch.messages[-1:]))
            return replaced + len(batch) - 1
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
                await self._send(message.event())
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
