"""``Delivery``: messages from the parser to whoever wants them: the synchronous handler, or ``receive`` by way of an inbox.

1. Messages are handed over one by one, in order, and not while ``hold`` runs or between ``pause`` and ``resume``.
2. The inbox is bounded in messages and bytes; when it is full nothing is parsed until half of it is taken.
3. Hooks see a message when it is handed over: never two before ``waiting``.
4. Once the server has decided the end nothing is handed over; what the client sent before *its* close still is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from middleware.asgi import Event, Hooks
from middleware.close import INTERNAL_ERROR, Close

from .keepalive import Keepalive
from .outbound import OPEN, logger

__all__ = ["BEHIND", "CLOSED", "FULL", "HELD", "PAUSED", "STOPPED", "TURN", "WAITING", "Delivery"]

WAITING, HELD, FULL, TURN, BEHIND, CLOSED, PAUSED = 1, 2, 4, 8, 16, 32, 64
"""Why nothing is parsed: not accepted yet; ``hold``; enough waits for ``receive``; others' turn; a new handler has to catch up;
our close frame is out, or the socket is being shut; ``pause``."""


STOPPED = HELD | PAUSED


class Delivery(Keepalive):
    """Handing over; see the module."""

    __slots__ = ("_blocked", "_hold_timer", "_hooks", "_inbox", "_inbox_bytes", "_on_message", "_waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._blocked = WAITING
        self._inbox: list[str | bytes] = []
        self._inbox_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._hooks: Hooks | None = None
        self._on_message: Callable[[Event], None] | None = None
        self._hold_timer: asyncio.TimerHandle | None = None

    def _deliver(self, message: str | bytes, size: int) -> None:
        if self.ending is not None:
            return
        self.received_messages += 1
        self.received_bytes += size
        if self._on_message is not None:
            self._handle(message, self._on_message)
            return
        self._inbox.append(message)
        self._inbox_bytes += len(message)
        if len(self._inbox) >= self.options.inbound_messages or self._inbox_bytes >= self.options.inbound_bytes:
            self._blocked |= FULL
        self._wake()

    def _handle(self, message: str | bytes, handler: Callable[[Event], None]) -> None:
        event: Event = {"type": "websocket.receive", "text" if isinstance(message, str) else "bytes": message}
        hooks = self._hooks
        if hooks is None:
            handler(event)
            return
        passed = hooks.inbound(event)
        if passed is not None:
            try:
                if self.ending is None:
                    handler(passed)
            finally:  # what hooks opened for the message is closed, also when handling it failed
                hooks.waiting()

    def _take_from_inbox(self) -> str | bytes:
        message = self._inbox.pop(0)
        self._inbox_bytes -= len(message)
        options = self.options
        if (
            self._blocked & FULL
            and len(self._inbox) * 2 <= options.inbound_messages
            and self._inbox_bytes * 2 <= options.inbound_bytes
        ):
            self._blocked &= ~FULL
            self._give_turn()
        return message

    @property
    def on_message(self) -> Callable[[Event], None] | None:
        """The synchronous handler (``Frames.on_message``); what already waits for ``receive`` goes to it first."""
        return self._on_message

    @on_message.setter
    def on_message(self, handler: Callable[[Event], None] | None) -> None:
        self._on_message = handler
        if handler is not None and self._inbox and not self._blocked & BEHIND:
            self._blocked |= BEHIND
            self._loop.call_soon(self._catch_up)

    def _catch_up(self) -> None:
        if not self._blocked & BEHIND:  # it was called twice
            return
        turn_ends = time.monotonic() + self.options.turn_seconds
        try:
            while self._inbox and self._on_message is not None and not self._blocked & STOPPED and self.initiator != "server":
                if time.monotonic() >= turn_ends:
                    self._loop.call_soon(self._catch_up)
                    return
                self._handle(self._take_from_inbox(), self._on_message)
        except Exception as error:  # noqa: BLE001  # as in _parse
            self._handler_failed(error)
            return
        if not (self._blocked & STOPPED and self._inbox):  # else whoever has stopped it lets it go on
            self._give_turn()
            self._unblock(BEHIND)

    def _wake(self) -> None:
        """Let ``receive`` look again."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # Waiting

    def hold(self, seconds: float) -> None:
        """Hand over nothing for ``seconds`` (``Channel.hold``)."""
        if self.ending is not None:
            return
        at = self._loop.time() + seconds
        if self._hold_timer is not None:
            if self._hold_timer.when() >= at:
                return
            self._hold_timer.cancel()
        self._blocked |= HELD
        self._hold_timer = self._loop.call_at(at, self._hold_over)

    def _hold_over(self) -> None:
        if self._hold_timer is not None:
            self._hold_timer.cancel()
            self._hold_timer = None
        self._start_again(HELD)

    def pause(self) -> None:
        """Hand over nothing until ``resume`` (``Frames.pause``)."""
        if self.ending is None:
            self._blocked |= PAUSED

    def resume(self) -> None:
        """Go on in the next turn of the event loop (``Frames.resume``)."""
        if self._blocked & PAUSED:
            self._loop.call_soon(self._start_again, PAUSED)

    def _start_again(self, why: int) -> None:
        self._wake()
        self._unblock(why)
        self._catch_up()

    def _give_turn(self) -> None:
        """Parse on in the next turn of the event loop."""
        if not self._blocked & TURN:
            self._blocked |= TURN
            self._loop.call_soon(self._unblock, TURN)

    def _unblock(self, why: int) -> None:
        """One reason less not to parse."""
        raise NotImplementedError

    # The end

    def finish(self, close: Close, by: str) -> None:
        """Record how the connection ends (``Channel.finish``)."""
        first = self.ending is None
        super().finish(close, by)
        if first and by == "server":
            self._inbox.clear()
            self._inbox_bytes = 0
            if self._hold_timer is not None:  # a hold must not outlive the connection
                self._loop.call_soon(self._hold_over)

    def _tell_disconnected(self, code: int, reason: str) -> None:
        super()._tell_disconnected(code, reason)
        self._wake()

    def _handler_failed(self, error: Exception) -> None:
        close = getattr(error, "close", None)
        if not isinstance(close, Close):
            logger.error("the handler of a message failed", exc_info=error)
            close = INTERNAL_ERROR
        self.finish(close, "server")
        if self._phase == OPEN:
            self._start_close(close.code, close.reason)
