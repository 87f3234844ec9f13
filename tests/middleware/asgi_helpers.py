"""A scripted WebSocket client and a strict ASGI server in one object, for tests without sockets.

    server = await run(MyMiddleware(echo), websocket_scope(), text("hello"))
    assert server.payloads == ["hello"]

``Server`` plays what the client does (``websocket.connect``, the given events, then ``websocket.disconnect``), records what the
app sends and judges its order by the ASGI WebSocket spec: every breach is in ``violations``, and ``run`` fails on any.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from middleware.asgi import DENIAL_EXTENSION, ASGIApp, Event, Receive, Scope, Send

__all__ = ["Clock", "Server", "binary", "disconnect", "echo", "http_scope", "run", "text", "websocket_scope"]


class Clock:
    """A clock that stands still until told otherwise; pass it as ``clock=``."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def websocket_scope(
    path: str = "/ws",
    *,
    headers: Iterable[tuple[bytes, bytes]] = (),
    subprotocols: Sequence[str] = (),
    client: tuple[str, int] | None = ("127.0.0.1", 50000),
    query_string: bytes = b"",
    denial: bool = True,
    **more: Any,
) -> Scope:
    """The scope of a handshake; ``denial=False`` is a server that cannot refuse with an HTTP response."""
    return {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws",
        "server": ("127.0.0.1", 8000),
        "client": client,
        "root_path": "",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query_string,
        "headers": [(b"host", b"127.0.0.1:8000"), *headers],
        "subprotocols": list(subprotocols),
        "extensions": {DENIAL_EXTENSION: {}} if denial else {},
        "state": {},
        **more,
    }


def http_scope(path: str = "/", **more: Any) -> Scope:
    """The scope of a plain GET."""
    return {**websocket_scope(path), "type": "http", "method": "GET", "scheme": "http", **more}


def text(payload: str) -> Event:
    """A text message from the client."""
    return {"type": "websocket.receive", "text": payload}


def binary(payload: bytes) -> Event:
    """A binary message from the client."""
    return {"type": "websocket.receive", "bytes": payload}


def disconnect(code: int = 1005, reason: str = "") -> Event:
    """The client's leaving."""
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


class Server:
    """Scripted ``receive``, recording and judging ``send``.

    After the script the client leaves with 1005, or, with ``stay=True``, waits until ``feed`` is called.
    """

    def __init__(self, *script: Event, stay: bool = False) -> None:
        self.sent: list[Event] = []
        self.violations: list[str] = []
        self.state = "connecting"
        """``connecting``, ``open``, ``denying`` or ``closed``."""
        self._script: deque[Event] = deque([{"type": "websocket.connect"}, *script])
        self._stay = stay
        self._left: Event | None = None
        self._fed = asyncio.Event()

    def feed(self, *events: Event) -> None:
        """Let the client do more, now."""
        self._script.extend(events)
        self._fed.set()

    async def receive(self) -> Event:
        await asyncio.sleep(0)  # a real server switches tasks here
        while not self._script and self._left is None and self._stay:
            self._fed.clear()
            await self._fed.wait()
        if self._left is None:
            event = self._script.popleft() if self._script else disconnect()
            if event["type"] == "websocket.disconnect":
                self._left, self.state = event, "closed"
            return event
        return dict(self._left)

    async def send(self, event: Event) -> None:
        self.record(event)
        await asyncio.sleep(0)

    def record(self, event: Event) -> None:
        """``send`` without the waiting."""
        kind = event["type"]
        after = _LEGAL.get((self.state, kind))
        if self._left is not None:
            raise OSError("the client has left")  # ASGI WebSocket spec 2.4: allowed to try, an OSError
        if after is None:
            self.violations.append(f"{kind} while {self.state}")
            raise RuntimeError(self.violations[-1])
        self.state = "closed" if kind == "websocket.http.response.body" and not event.get("more_body") else after
        self.sent.append(dict(event))
        if kind == "websocket.close" and not any(e["type"] == "websocket.disconnect" for e in self._script):
            self.feed(disconnect(event.get("code", 1000), event.get("reason") or ""))

    def of(self, kind: str) -> list[Event]:
        """The sent events of type ``websocket.{kind}``."""
        return [event for event in self.sent if event["type"] == f"websocket.{kind}"]

    @property
    def accepted(self) -> bool:
        return bool(self.of("accept"))

    @property
    def payloads(self) -> list[str | bytes]:
        """What the client got, in order: text as ``str``, binary as ``bytes``."""
        return [event["bytes"] if event.get("text") is None else event["text"] for event in self.of("send")]

    @property
    def status(self) -> int | None:
        """The HTTP status of a refusal by response, if there was one."""
        return next((event["status"] for event in self.of("http.response.start")), None)

    @property
    def response_headers(self) -> dict[bytes, bytes]:
        """The headers of a refusal by response."""
        return dict(next((event["headers"] for event in self.of("http.response.start")), ()))

    @property
    def body(self) -> bytes:
        """The body of a refusal by response."""
        return b"".join(event.get("body", b"") for event in self.of("http.response.body"))

    @property
    def close(self) -> tuple[int, str] | None:
        """Code and reason of the close event, if there was one."""
        return next(((event.get("code", 1000), event.get("reason") or "") for event in self.of("close")), None)


_LEGAL = {
    ("connecting", "websocket.accept"): "open",
    ("connecting", "websocket.close"): "closed",
    ("connecting", "websocket.http.response.start"): "denying",
    ("denying", "websocket.http.response.body"): "denying",
    ("open", "websocket.send"): "open",
    ("open", "websocket.close"): "closed",
}


async def run(app: ASGIApp, scope: Scope, *script: Event, stay: bool = False, timeout_seconds: float = 5.0) -> Server:
    """Drive ``app`` through one connection and return what the server saw; an illegal order of events fails the test."""
    server = Server(*script, stay=stay)
    async with asyncio.timeout(timeout_seconds):
        await app(scope, server.receive, server.send)
    assert not server.violations, server.violations
    return server


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """The smallest app: accepts, and says back what it hears until the client leaves."""
    assert scope["type"] == "websocket"
    while True:
        event = await receive()
        if event["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        elif event["type"] == "websocket.receive":
            await send({**event, "type": "websocket.send"})
        else:
            return
