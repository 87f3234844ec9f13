"""``WebSocketSelfCheck``: is a WebSocket served, from the handshake to an echo, by the whole chain of this process?

The check plays an ASGI server towards the app it is given: handshake, one message, the same message back, goodbye. What
it opens has ``SELF_CHECK`` in its scope, which only code of this process can put there, so the server lets it into the
room ``~self/<node>`` and does not count it, and layers can tell it from a client. To those that do not look it is a client
without an address, an ``Origin`` and, unless ``token`` has one, a token.

It takes the way of a message (layers, broker, room, outlet) but not the wire: no port, no frame.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from middleware.asgi import DENIAL_EXTENSION, SELF_CHECK, ASGIApp, Event, Scope
from middleware.close import AT_CAPACITY, NORMAL, RATE_LIMITED, UNAUTHORIZED, UNAVAILABLE

__all__ = ["SelfCheckFailed", "WebSocketSelfCheck"]

GOODBYE_SECONDS = 0.5
"""How long the end may take before the connection is cut: a rate limiter may be holding it, which is no fault."""
WAITING_EVENTS = 64
"""What the app may send ahead before its ``send`` waits."""
_RETURNED = "tidegate.returned"


class SelfCheckFailed(Exception):
    """The app did not serve a WebSocket as it should; the text says how far it came."""


class WebSocketSelfCheck:
    """Raises ``SelfCheckFailed`` when called, unless a handshake and an echo work.

    A limiter's refusal passes, because a full node is a healthy one; so does the refusal of a client without a token when
    there is none to give. What lies behind the layer that refused is not tried then, and the detail says so.

    Args:
        app: the whole chain.
        token: makes the token to show (``Authorization: Bearer``) at each check.
        path: the address; its last part stands for the room.
        timeout_seconds: for all of it.
    """

    def __init__(
        self, app: ASGIApp, *, token: Callable[[], str | None] | None = None, path: str = "/ws/~self", timeout_seconds: float = 2.0
    ) -> None:
        if timeout_seconds <= 0:
            raise ValueError(f"timeout_seconds must be above 0, not {timeout_seconds:g}")
        self._app = app
        self._token = token
        self._path = path
        self._timeout_seconds = timeout_seconds
        self._last: asyncio.Task[None] | None = None

    async def __call__(self) -> str:
        """Try it; returns what there is to say about it."""
        if self._last is not None and not self._last.done():  # one connection may hang, not one per attempt
            raise SelfCheckFailed("the connection of the last attempt has not ended yet, although it was cancelled")
        token = self._token() if self._token is not None else None
        client = _Client(self._app, _scope(self._path, token))
        self._last = client.task
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self._converse(client, has_token=token is not None)
        except TimeoutError:
            raise SelfCheckFailed(f"{client.stage}: nothing within {self._timeout_seconds:g} s") from None
        finally:
            client.task.cancel()

    async def _converse(self, client: _Client, *, has_token: bool) -> str:
        refusal = await client.connect()
        if refusal is not None:
            passing = {AT_CAPACITY.reason, RATE_LIMITED.reason, UNAVAILABLE.reason} | (
                set() if has_token else {UNAUTHORIZED.reason}
            )
            if refusal not in passing:
                raise SelfCheckFailed(f"handshake: refused with {refusal!r}")
            await client.leave()
            return f"the handshake was refused with {refusal!r}, as it should be now; nothing behind that was tried"
        await client.expect_echo(f"self check {secrets.token_hex(8)}")
        return "handshake and echo" if await client.leave() else "handshake and echo; its end took long and it was cut"


class _Client:
    """One connection: what an ASGI server is to an app, and what a client is to a server."""

    def __init__(self, app: ASGIApp, scope: Scope) -> None:
        self.stage = "handshake"
        self._to_app: asyncio.Queue[Event] = asyncio.Queue()
        self._from_app: asyncio.Queue[Event] = asyncio.Queue(WAITING_EVENTS)
        self._gone = False
        self.task = asyncio.get_running_loop().create_task(self._serve(app, scope), name="self check")

    async def _serve(self, app: ASGIApp, scope: Scope) -> None:
        error: BaseException | None = None
        try:
            await app(scope, self._receive, self._send)
        except Exception as raised:  # noqa: BLE001 - whatever it is, it is the result of the check
            error = raised
        await self._from_app.put({"type": _RETURNED, "error": error})

    async def _receive(self) -> Event:
        event = await self._to_app.get()
        if event["type"] == "websocket.disconnect":
            self._to_app.put_nowait(event)  # to be had as often as it is asked for
        return event

    async def _send(self, event: Event) -> None:
        if self._gone:
            raise OSError("the client has left")  # ASGI WebSocket spec 2.4
        await self._from_app.put(event)

    async def connect(self) -> str | None:
        """Shake hands; returns the reason of a refusal, or ``None`` when it was accepted."""
        self._to_app.put_nowait({"type": "websocket.connect"})
        event = await self._next()
        if event["type"] == "websocket.accept":
            return None
        if event["type"] == "websocket.close":
            return str(event.get("reason") or event.get("code", 1000))
        if event["type"] != "websocket.http.response.start":
            raise SelfCheckFailed(f"handshake: answered with {event['type']!r}")
        return await self._reason(event["status"])

    async def _reason(self, status: int) -> str:
        body, more = b"", True
        while more and len(body) < 65_536:
            event = await self._next()
            body += event.get("body", b"")
            more = event.get("more_body", False)
        with suppress(msgspec.MsgspecError):
            problem: Any = msgspec.json.decode(body)
            if isinstance(problem, dict) and isinstance(problem.get("reason"), str):
                return str(problem["reason"])
        return str(status)

    async def expect_echo(self, text: str) -> None:
        """Say something and wait until it comes back; layers may have something to say in between."""
        self.stage = "echo"
        self._to_app.put_nowait({"type": "websocket.receive", "text": text})
        while True:
            event = await self._next()
            if event["type"] == "websocket.close":
                raise SelfCheckFailed(f"echo: closed with {event.get('code', 1000)} {event.get('reason') or ''}".rstrip())
            if event["type"] == "websocket.send" and event.get("text") == text:
                return

    async def leave(self) -> bool:
        """Say goodbye and wait, not for long, until the app has cleaned up; returns whether it has."""
        self.stage = "goodbye"
        self._gone = True
        self._to_app.put_nowait({"type": "websocket.disconnect", "code": NORMAL.code, "reason": NORMAL.reason})
        try:
            async with asyncio.timeout(GOODBYE_SECONDS):
                while (event := await self._from_app.get())["type"] != _RETURNED:
                    pass
        except TimeoutError:
            return False
        if event["error"] is not None:
            raise SelfCheckFailed(f"goodbye: the app raised {event['error']!r}")
        return True

    async def _next(self) -> Event:
        event = await self._from_app.get()
        if event["type"] == _RETURNED:
            error = event["error"]
            raise SelfCheckFailed(f"{self.stage}: the app " + ("returned" if error is None else f"raised {error!r}"))
        return event


def _scope(path: str, token: str | None) -> Scope:
    headers = [
        (b"host", b"localhost"), (b"connection", b"Upgrade"), (b"upgrade", b"websocket"), (b"sec-websocket-version", b"13"),
        (b"user-agent", b"tidegate-self-check"),
    ]  # fmt: skip
    if token is not None:
        headers.append((b"authorization", f"Bearer {token}".encode()))
    return {
        "type": "websocket", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "scheme": "ws",
        "server": ("localhost", None), "client": None, "root_path": "", "path": path, "raw_path": path.encode(),
        "query_string": b"echo=1", "headers": headers, "subprotocols": [], "extensions": {DENIAL_EXTENSION: {}}, "state": {},
        SELF_CHECK: True,
    }  # fmt: skip
