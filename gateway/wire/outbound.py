"""``Outbound``: the bytes out of one connection, and its end.

1. ``ending`` is set once, by ``finish``; every way to end goes through it.
2. After ``finish`` no message reaches the client. What may still leave: one close frame, or the answer to the handshake.
3. An accepted connection that ends in order ends: close frame, the client's close frame or ``close_timeout_seconds``, FIN, the
   client's FIN. ``abort_after_seconds`` after the close frame the socket is gone whatever the client does.
4. With the buffer above the high-water mark the client has to read ``SLOWEST_READ_BYTES`` every ``write_timeout_seconds``.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any, ClassVar

from middleware.asgi import Encoder
from middleware.close import ABNORMAL, SLOW_CONSUMER, Close

from ..frame import server_frame
from .deadlines import NEVER, Deadlines
from .options import WireOptions
from .wheel import Wheel, wheel_of

__all__ = ["CLOSING", "DENYING", "ENDING", "HANDSHAKE", "LOST", "OPEN", "Outbound"]

logger = logging.getLogger("tidegate.wire")

HANDSHAKE, DENYING, OPEN, CLOSING, ENDING, LOST = range(6)
"""The phases, in order. CLOSING: our close frame is out. ENDING: our FIN is out. From DENYING it goes to ENDING directly."""

_CLOSE = 0x88

SLOWEST_READ_BYTES = 16 * 1024
"""What a client whose buffer is full has to read within ``write_timeout_seconds`` to be slow and not gone."""


class Outbound(asyncio.Protocol):
    """The write side; see the module."""

    options: ClassVar[WireOptions] = WireOptions()

    __slots__ = (
        "__weakref__",
        "_deadlines",
        "_disconnect",
        "_drain_waiters",
        "_loop",
        "_open",
        "_phase",
        "_taken_before",
        "_wheel",
        "_write_paused",
        "accepted",
        "encoder",
        "ending",
        "initiator",
        "on_drained",
        "on_finished",
        "on_lost",
        "sent_bytes",
        "sent_messages",
        "status",
        "transport",
        "wheel_tick",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._wheel: Wheel = wheel_of(loop)
        self.wheel_tick: int | None = None
        self._deadlines = Deadlines()
        self.transport: asyncio.Transport = _NO_TRANSPORT
        self._phase = HANDSHAKE
        self._open = False
        self._write_paused = False
        self._taken_before = 0
        self._drain_waiters: list[asyncio.Future[None]] | None = None
        self._disconnect: tuple[int, str] | None = None
        self.accepted = False
        self.ending: Close | None = None
        self.initiator = ""
        self.status: int | None = None
        self.sent_messages = self.sent_bytes = 0
        self.encoder: Encoder | None = None
        self.on_finished: Callable[[Close, str], None] | None = None
        self.on_drained: Callable[[], None] | None = None
        self.on_lost: Callable[[int | None], None] | None = None

    # Writing

    def write(self, data: bytes, messages: int = 1, payload_bytes: int = 0) -> int:
        """Write whole frames (``Frames.write``)."""
        if self._open:
            if self._write_paused and self._has_too_much_unsent():
                return -1
            self.sent_messages += messages
            self.sent_bytes += payload_bytes
            transport = self.transport
            transport.write(data)
            return transport.get_write_buffer_size()
        if not self.accepted and self.ending is None:
            raise RuntimeError("frames can be written once the connection is accepted")
        return -1

    def buffered_bytes(self) -> int:
        """Bytes written that the kernel has not taken yet."""
        return self.transport.get_write_buffer_size() if self._phase != LOST else 0

    def set_high_water(self, high_water_bytes: int) -> None:
        """Where the transport's buffer begins to be full (``Frames.set_high_water``)."""
        if self._phase != LOST:
            self.transport.set_write_buffer_limits(high=high_water_bytes)

    def abort(self) -> None:
        """Drop the socket and everything buffered, now."""
        self.finish(ABNORMAL, "server")
        if self._phase != LOST:
            self._tell_lost(self.buffered_bytes())
            self._phase = ENDING
            self.transport.abort()

    def _tell_lost(self, unsent: int | None) -> None:
        on_lost, self.on_lost = self.on_lost, None
        if on_lost is not None:
            on_lost(unsent)

    def pause_writing(self) -> None:
        """The transport's buffer is above its high-water mark."""
        self._write_paused = True
        if self.options.write_timeout_seconds is not None and self._phase <= OPEN:
            self._expect_reading(self._loop.time(), self.options.write_timeout_seconds)
            self._arm()

    def _taken(self) -> int:
        """Bytes that the kernel took; what counts is how they grow. A frame has a header of 2 bytes at least."""
        return self.sent_bytes + 2 * self.sent_messages - self.buffered_bytes()

    def _expect_reading(self, now: float, timeout_seconds: float) -> None:
        self._taken_before = self._taken()
        self._deadlines.write = now + timeout_seconds

    def _reading_overdue(self, now: float) -> None:
        """Who reads slowly but reads stays: what waits for it is bounded, and its outbox has a policy of its own."""
        timeout_seconds = self.options.write_timeout_seconds
        if timeout_seconds is not None and self._taken() - self._taken_before >= SLOWEST_READ_BYTES:
            self._expect_reading(now, timeout_seconds)
        else:
            self._drop_slow_consumer()

    def resume_writing(self) -> None:
        """The transport's buffer is below its low-water mark."""
        self._write_paused = False
        self._deadlines.write = NEVER
        self._wake_drain_waiters()
        if self.on_drained is not None and self._open:
            self.on_drained()

    async def _drain(self) -> None:
        """Wait until the buffer is below the high-water mark or the connection is lost."""
        while self._write_paused and self._phase != LOST:
            waiter = self._loop.create_future()
            self._drain_waiters = [*(self._drain_waiters or ()), waiter]
            await waiter

    def _wake_drain_waiters(self) -> None:
        waiters, self._drain_waiters = self._drain_waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def _has_too_much_unsent(self) -> bool:
        limit = self.options.outbound_bytes
        if limit is None or self.transport.get_write_buffer_size() <= limit:
            return False
        self._drop_slow_consumer()
        return True

    def _drop_slow_consumer(self) -> None:
        self.finish(SLOW_CONSUMER, "server")
        self._tell_disconnected(SLOW_CONSUMER.code, SLOW_CONSUMER.reason)
        self.abort()

    # The end

    def finish(self, close: Close, by: str) -> None:
        """Record how the connection ends (``Channel.finish``)."""
        if self.ending is not None:
            return
        self.ending, self.initiator, self._open = close, by, False
        logger.debug("connection %#x ends: %d %s (%s)", id(self), close.code, close.reason, by)
        callbacks = (self.on_finished, self.options.on_ended if self.accepted else None)
        self.on_finished = None
        for callback in callbacks:
            if callback is not None:
                try:
                    callback(close, by)
                except Exception:  # whoever listens must not keep the connection from ending
                    logger.exception("a callback for the end of a connection failed")

    def close(self, close: Close) -> None:
        """End the connection (``Channel.close``)."""
        if self.ending is None:
            self.finish(close, "server")
            if self._phase == OPEN:
                self._start_close(close.code, close.reason)

    def _start_close(self, code: int, reason: str) -> None:
        """Send our close frame and wait for the client's."""
        assert self._phase == OPEN, "one close frame per connection"
        self._write_close(code, reason)
        self._phase = CLOSING
        now = self._loop.time()
        self._deadlines.only_the_end()
        self._deadlines.close = now + self.options.close_timeout_seconds
        self._deadlines.abort = now + self.options.abort_after_seconds
        self._arm()
        self._tell_disconnected(code, reason)

    def _write_close(self, code: int, reason: str) -> None:
        # RFC 6455 §5.5: at most 125 bytes; a reason is cut between characters.
        text = reason.encode()[:123].decode(errors="ignore").encode()
        self.transport.write(server_frame(_CLOSE, b"" if code == 1005 else code.to_bytes(2, "big") + text))

    def _half_close(self) -> None:
        """Everything is said: FIN behind what is buffered; the client's FIN, or the deadline, ends it."""
        if self._phase >= ENDING:
            return
        self._phase = ENDING
        self._deadlines.only_the_end()
        self._deadlines.close = NEVER
        if self._deadlines.abort == NEVER:
            self._deadlines.abort = self._loop.time() + self.options.abort_after_seconds
        self._arm()
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _tell_disconnected(self, code: int, reason: str) -> None:
        """What the app will be told; the first that is known counts."""
        if self._disconnect is None:
            self._disconnect = (code, reason)

    # Time

    def _arm(self) -> None:
        at = self._deadlines.earliest()
        if at == NEVER or self._phase == LOST:
            self._wheel.cancel(self)
        else:
            self._wheel.schedule(self, at)

    def on_timer(self, now: float) -> None:
        """A deadline has passed (``wheel.Timed``)."""
        deadlines = self._deadlines
        if deadlines.abort <= now:
            deadlines.abort = NEVER
            self.abort()
        elif deadlines.write <= now:
            deadlines.write = NEVER
            self._reading_overdue(now)
        elif deadlines.close <= now:
            deadlines.close = NEVER
            self._close_overdue()
        else:
            self._on_timer(now)
        self._arm()

    def _close_overdue(self) -> None:
        """The client has not answered our close frame; the FIN goes behind what it has still to read."""
        self._half_close()

    def _on_timer(self, now: float) -> None:
        raise NotImplementedError


def jittered(seconds: float, part: float) -> float:
    """``seconds`` less a random part of up to ``part`` of it, so that what began together does not happen together."""
    return seconds * (1 - part * random.random())  # noqa: S311  # spreads load, guards nothing


class _NoTransport(asyncio.Transport):
    """Stands for the transport before and after its life."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("the connection has no socket")


_NO_TRANSPORT = _NoTransport()
