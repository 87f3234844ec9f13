"""A small stand-in for the ``tidegate.frames`` extension: ``middleware.asgi.Frames`` over a scripted ``Server``.

It keeps the promises of the interface (hooks run here, writing is synchronous, the first ending wins) without a socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from middleware.asgi import FRAMES_EXTENSION, REFUSED_AS, Disconnected, Encoder, Event, Hooks, Receive, Scope, Send, payload_bytes
from middleware.close import ABNORMAL, Close

from .asgi_helpers import Server

__all__ = ["FakeFrames", "framed"]


class FakeFrames:
    """One connection of a server that offers the extension. ``written`` collects what went out through ``write``."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.received_messages = self.received_bytes = self.sent_messages = self.sent_bytes = 0
        self.accepted = False
        self.ending: Close | None = None
        self.initiator = ""
        self.status: int | None = None
        self.encoder: Encoder | None = None
        self.on_message: Callable[[Event], None] | None = None
        self.on_finished: Callable[[Close, str], None] | None = None
        self.on_drained: Callable[[], None] | None = None
        self.on_lost: Callable[[int | None], None] | None = None
        self.pings: list[tuple[bytes, Callable[[], None]]] = []
        self.written: list[bytes] = []
        self.aborted = self.paused = False
        self._hooks: list[Hooks] = []
        self._handling = False
        self._held_until = 0.0
        self._answered = False

    def carries(self, receive: Receive, send: Send) -> bool:
        return receive == self.receive and send == self.send

    def install(self, hooks: Hooks) -> None:
        self._hooks.append(hooks)

    def hold(self, seconds: float) -> None:
        self._held_until = max(self._held_until, asyncio.get_running_loop().time() + seconds)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def finish(self, close: Close, by: str) -> None:
        if self.ending is None:
            self.ending, self.initiator = close, by
            if self.on_finished is not None:
                self.on_finished(close, by)

    def close(self, close: Close) -> None:
        if self.ending is None:
            self.finish(close, "server")
            self._answer({"type": "websocket.close", "code": close.code, "reason": close.reason})

    def write(self, data: bytes, messages: int = 1, payload_bytes: int = 0) -> int:
        if self.ending is not None:
            return -1
        self.written.append(data)
        self.sent_messages += messages
        self.sent_bytes += payload_bytes
        return self.buffered_bytes()

    def ping(self, payload: bytes, on_answer: Callable[[], None]) -> bool:
        if self.ending is not None or self.pings:
            return False
        self.pings.append((payload, on_answer))
        return True

    def pong(self) -> None:
        """The client answers the ping that is under way."""
        self.pings.pop()[1]()

    def buffered_bytes(self) -> int:
        return 0

    def set_high_water(self, high_water_bytes: int) -> None:
        return

    def abort(self) -> None:
        self.finish(ABNORMAL, "server")
        self.aborted = True
        self.lose(self.buffered_bytes())

    def lose(self, unsent: int | None) -> None:
        """The socket is gone."""
        on_lost, self.on_lost = self.on_lost, None
        if on_lost is not None:
            on_lost(unsent)

    async def receive(self) -> Event:
        while True:
            self._wait_if_handled()
            event = await self.server.receive()
            if event["type"] == "websocket.disconnect":
                self.finish(Close.received(event.get("code"), event.get("reason")), "client")
            if event["type"] != "websocket.receive":
                return event
            while self.ending is None and (left := self._held_until - asyncio.get_running_loop().time()) > 0:
                await asyncio.sleep(min(left, 0.1))
            passed = self._inbound(event) if self.initiator != "server" else None
            if passed is None or self.initiator == "server":  # what came before the client's own end is handed over
                continue
            if self.on_message is None:
                return passed
            self.on_message(passed)

    async def send(self, event: Event) -> None:
        kind = event["type"]
        if kind in ("websocket.send", "websocket.accept"):
            self._refuse_if_ended()
        passed: Event | None = event
        if kind == "websocket.send":
            passed = self._outbound(event)
        elif kind == "websocket.accept":
            passed = self._accepting(event)
        elif kind == "websocket.close" and self.ending is None:
            ending = Close.received(event.get("code", 1000), event.get("reason")) if self.accepted else Close.for_status(403)
            self.finish(event.get(REFUSED_AS) or ending, "server")
        elif kind == "websocket.http.response.start":
            self.status = event["status"]
            self.finish(event.get(REFUSED_AS) or Close.for_status(event["status"]), "server")
        if passed is not None:
            self._answer(passed)
        await asyncio.sleep(0)

    def _answer(self, event: Event) -> None:
        if event["type"] in ("websocket.close", "websocket.http.response.start") and self.server.state == "closed":
            return  # a second ending is nothing to the wire
        if self.server.state == "closed" and event["type"] == "websocket.http.response.body":
            return
        self.server.record(event)

    def _inbound(self, event: Event) -> Event | None:
        self.received_messages += 1
        self.received_bytes += payload_bytes(event)
        passed: Event | None = event
        for hooks in self._hooks:
            passed = None if passed is None else hooks.inbound(passed)
        self._handling = passed is not None
        return passed

    def _outbound(self, event: Event) -> Event | None:
        passed: Event | None = event
        for hooks in reversed(self._hooks):
            passed = None if passed is None else hooks.outbound(passed)
        if passed is not None:
            self._refuse_if_ended()
            self.sent_messages += 1
            self.sent_bytes += payload_bytes(passed)
        return passed

    def _accepting(self, event: Event) -> Event:
        for hooks in reversed(self._hooks):
            event = hooks.accepting(event)
        self._refuse_if_ended()
        self.accepted = True
        return event

    def _refuse_if_ended(self) -> None:
        if self.ending is not None:
            raise Disconnected(f"the connection has ended: {self.ending.reason}")

    def _wait_if_handled(self) -> None:
        if self._handling:
            self._handling = False
            for hooks in reversed(self._hooks):
                hooks.waiting()


def framed(scope: Scope, server: Server) -> tuple[Scope, Receive, Send]:
    """What an app gets from a server with the extension: ``scope``, ``receive`` and ``send``."""
    frames = FakeFrames(server)
    return {**scope, "extensions": {**scope["extensions"], FRAMES_EXTENSION: frames}}, frames.receive, frames.send
