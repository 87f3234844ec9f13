"""``AsgiChannel``: one WebSocket under any ASGI server, seen through its ``receive`` and ``send``.

1. ``ending`` is set once; after it the app gets no further message and cannot send one (``Disconnected``).
2. A layer's close reaches the app at once, as a disconnect of ours: it does not depend on the peer's answer, nor on a server
   that cannot close while its ``receive`` is pending (granian), which is therefore cut short.
3. Between two messages the app is never handed one before a ``hold`` has run out; what came meanwhile is kept, not lost.
4. No event is changed in place: hooks return what is passed on.
5. What is sent on a layer's behalf keeps the order legal: one answer to the handshake, and nothing behind a close.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import Any

from .asgi import REFUSED_AS, Disconnected, Event, Hooks, Receive, Send, payload_bytes
from .close import ABNORMAL, Close

__all__ = ["AsgiChannel"]

SETTLE_SECONDS = 5.0
"""How long a close may take to leave once the app is done: a peer that is frozen must not keep the task."""

logger = logging.getLogger("tidegate.middleware")


class AsgiChannel:
    """A channel over any ASGI server: ``receive`` and ``send`` wrapped once for a whole run of layers."""

    __slots__ = (
        "_closing", "_connected", "_cuts", "_handling", "_held_until", "_hooks", "_next", "_reader", "_receive",
        "_send", "_unsent", "_wake",
        "accepted", "ending", "initiator", "received_bytes", "received_messages", "sent_bytes", "sent_messages", "status",
    )  # fmt: skip

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._hooks: Hooks | None = None
        self._connected = False  # websocket.connect was taken: before, some servers cannot be answered
        self._handling = False
        self._held_until = 0.0
        self._next: Event | None = None  # a message that came during a hold, or the disconnect that our close stands for
        self._wake: asyncio.Event | None = None
        self._unsent: Close | None = None
        self._closing: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[Any] | None = None
        self._cuts = -1  # the reader's count of cancellations when we cut it short; -1: we did not
        self.accepted = False
        self.ending: Close | None = None
        self.initiator = ""
        self.status: int | None = None
        self.received_messages = self.received_bytes = self.sent_messages = self.sent_bytes = 0

    def install(self, hooks: Hooks) -> None:
        self._hooks = hooks

    def hold(self, seconds: float) -> None:
        self._held_until = max(self._held_until, time.monotonic() + seconds)

    def finish(self, close: Close, by: str) -> None:
        if self.ending is None:
            self.ending, self.initiator = close, by
            if self._wake is not None:  # a hold must not outlive the connection
                self._wake.set()

    def close(self, close: Close) -> None:
        if self.ending is not None:
            return
        self.finish(close, "server")
        self._unsent = close
        if self._connected or self.accepted:
            self._start_closing()

    async def settle(self, *, wait: bool) -> None:
        """Once the app is done: let a close that is on its way leave before the server tears down, or drop it."""
        if self._closing is not None and not self._closing.done():
            if wait:
                await asyncio.wait((self._closing,), timeout=SETTLE_SECONDS)
            self._closing.cancel()

    async def receive(self) -> Event:
        while True:
            if self._handling:
                self._handling = False
                if self._hooks is not None:
                    self._hooks.waiting()
            if self._held_until:
                await self._wait_while_held()
            if self._next is not None:
                event, self._next = self._next, None
            else:
                self._reader = asyncio.current_task()
                try:
                    event = await self._receive()
                except asyncio.CancelledError:
                    if not self._was_ours():
                        raise
                    continue
                else:
                    if self._cuts >= 0:  # whoever wraps ``receive`` swallowed it, as wait_for may
                        self._was_ours()
                finally:
                    self._reader = None
            if event["type"] != "websocket.receive":
                return self._noted(event)
            if self.ending is not None:  # what the client sent before it saw our close is nobody's
                continue
            if self._held_until and self._held_until > time.monotonic():  # the hold began while we waited
                self._next = event
                continue
            self.received_messages += 1
            self.received_bytes += payload_bytes(event)
            passed = event if self._hooks is None else self._hooks.inbound(event)
            if passed is not None:
                self._handling = True
                if self.ending is None:  # else a hook has just closed
                    return passed

    async def send(self, event: Event) -> None:
        kind = event["type"]
        if kind == "websocket.send":
            passed = self._outbound(event)
        elif kind == "websocket.accept":
            passed = self._accepting(event)
        else:
            passed = self._ending(event)
        if passed is None:
            return
        try:
            await self._send(passed)
        except OSError:  # how a server says that the client has left (ASGI WebSocket spec 2.4)
            self.finish(ABNORMAL, "client")
            raise

    def _noted(self, event: Event) -> Event:
        if event["type"] == "websocket.disconnect":
            self.finish(Close.received(event.get("code"), event.get("reason")), "client")
        else:
            self._connected = True
            self._start_closing()
        return event

    def _outbound(self, event: Event) -> Event | None:
        if self.ending is not None:
            raise self._ended()
        passed = event if self._hooks is None else self._hooks.outbound(event)
        if passed is not None:
            if self.ending is not None:  # a hook has just closed: nothing is sent behind that
                raise self._ended()
            self.sent_messages += 1
            self.sent_bytes += payload_bytes(passed)
        return passed

    def _accepting(self, event: Event) -> Event:
        if self._hooks is not None and self.ending is None:
            event = self._hooks.accepting(event)
        if self.ending is not None:  # a layer ended it while the app was still making up its mind
            self._start_closing()
            raise self._ended()
        self.accepted = True
        return event

    def _ended(self) -> Disconnected:
        return Disconnected(f"the connection has ended: {self.ending.reason if self.ending else ''}")

    def _ending(self, event: Event) -> Event | None:
        """A close or a response of the app (or of ``deny``) on its way out; ``None`` when ours was first."""
        if self._closing is not None:
            return None
        self._unsent = None
        named = event.get(REFUSED_AS)
        if event["type"] == "websocket.close":
            # Before accept this is an app's refusal, whatever code it names.
            ending = Close.received(event.get("code", 1000), event.get("reason")) if self.accepted else Close.for_status(403)
            self.finish(named or ending, "server")
        elif event["type"] == "websocket.http.response.start":
            self.status = event["status"]
            self.finish(named or Close.for_status(event["status"]), "server")
        return event if named is None else {key: value for key, value in event.items() if key != REFUSED_AS}

    async def _wait_while_held(self) -> None:
        while self.ending is None and (left := self._held_until - time.monotonic()) > 0:
            self._wake = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._wake.wait()
        self._held_until, self._wake = 0.0, None

    def _start_closing(self) -> None:
        if self._unsent is not None:
            close, self._unsent = self._unsent, None
            self._closing = asyncio.get_running_loop().create_task(self._send_close(close))
            self._next = {"type": "websocket.disconnect", "code": close.code, "reason": close.reason}
            if self._reader is not None:
                self._cuts = self._reader.cancelling()
                self._reader.cancel()

    def _was_ours(self) -> bool:
        """True when the reader was cancelled by us and by nobody else: the counting of ``asyncio.timeout``."""
        cuts, self._cuts = self._cuts, -1
        return cuts >= 0 and self._reader is not None and self._reader.uncancel() <= cuts

    async def _send_close(self, close: Close) -> None:
        try:
            await self._send({"type": "websocket.close", "code": close.code, "reason": close.reason})
        except Exception:  # the peer or the app was first; servers disagree on what they raise then
            logger.debug("the close frame was not sent", exc_info=True)
