"""``AsgiChannel``: one WebSocket under any ASGI server, seen through its ``receive`` and ``send``.

1. ``ending`` is set once; after it the app gets no further message and cannot send one (``Disconnected``).
2. Between two messages the app is never handed one before a ``hold`` has run out.
3. No event is changed in place: hooks return what is passed on.
"""

from __future__ import annotations

import asyncio
import logging
import time

from .asgi import Disconnected, Event, Hooks, Receive, Send, payload_bytes
from .close import Close

__all__ = ["AsgiChannel"]

logger = logging.getLogger("tidegate.middleware")


class AsgiChannel:
    """A channel over any ASGI server: ``receive`` and ``send`` wrapped once for a whole run of layers."""

    __slots__ = (
        "_closing", "_handling", "_held_until", "_hooks", "_receive", "_send",
        "accepted", "ending", "initiator", "received_bytes", "received_messages", "sent_bytes", "sent_messages",
    )  # fmt: skip

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._hooks: Hooks | None = None
        self._held_until = 0.0
        self._handling = False
        self._closing: asyncio.Task[None] | None = None
        self.accepted = False
        self.ending: Close | None = None
        self.initiator = ""
        self.received_messages = self.received_bytes = self.sent_messages = self.sent_bytes = 0

    def install(self, hooks: Hooks) -> None:
        self._hooks = hooks

    def hold(self, seconds: float) -> None:
        self._held_until = max(self._held_until, time.monotonic() + seconds)

    def finish(self, close: Close, by: str) -> None:
        if self.ending is None:
            self.ending, self.initiator = close, by

    def close(self, close: Close) -> None:
        if self.ending is not None:
            return
        self.finish(close, "server")
        if self.accepted:  # before accept, ``send`` refuses when the app comes to accept
            self._closing = asyncio.get_running_loop().create_task(self._send_close(close))

    async def receive(self) -> Event:
        hooks = self._hooks
        if hooks is not None and self._handling:
            self._handling = False
            hooks.waiting()
        while True:
            await self._wait_while_held()
            event = await self._receive()
            if event["type"] == "websocket.disconnect":
                self.finish(Close.received(event.get("code"), event.get("reason")), "client")
            if event["type"] != "websocket.receive":
                return event
            if self.ending is not None:  # what the client sent before it saw our close is nobody's
                continue
            self.received_messages += 1
            self.received_bytes += payload_bytes(event)
            passed = event if hooks is None else hooks.inbound(event)
            if passed is not None:
                self._handling = True
                return passed

    async def send(self, event: Event) -> None:
        if event["type"] == "websocket.send":
            await self._send_message(event)
        elif event["type"] == "websocket.accept":
            await self._accept(event)
        elif event["type"] == "websocket.close":
            # Before accept this is an app's refusal, whatever code it names.
            ending = Close.received(event.get("code", 1000), event.get("reason")) if self.accepted else Close.for_status(403)
            self.finish(ending, "server")
            if self._closing is None:
                await self._send(event)
        else:
            if event["type"] == "websocket.http.response.start":
                self.finish(Close.for_status(event["status"]), "server")
            await self._send(event)

    async def _send_message(self, event: Event) -> None:
        if self.ending is not None:
            raise Disconnected(f"the connection has ended: {self.ending.reason}")
        passed = event if self._hooks is None else self._hooks.outbound(event)
        if passed is None:
            return
        self.sent_messages += 1
        self.sent_bytes += payload_bytes(passed)
        await self._send(passed)

    async def _accept(self, event: Event) -> None:
        if self.ending is not None:  # a layer ended it while the app was still making up its mind
            await self._send({"type": "websocket.close", "code": self.ending.code, "reason": self.ending.reason})
            raise Disconnected(f"the connection has ended: {self.ending.reason}")
        if self._hooks is not None:
            event = self._hooks.accepting(event)
        self.accepted = True
        await self._send(event)

    async def _wait_while_held(self) -> None:
        while (left := self._held_until - time.monotonic()) > 0:
            await asyncio.sleep(left)

    async def _send_close(self, close: Close) -> None:
        try:
            await self._send({"type": "websocket.close", "code": close.code, "reason": close.reason})
        except Exception:  # the peer or the app was first; servers disagree on what they raise then
            logger.debug("the close frame was not sent", exc_info=True)
