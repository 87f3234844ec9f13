"""The operations of the HTTP API that go on: the process' figures once a second, and what is said in a room."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from ipaddress import ip_address

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from middleware.asgi import Event, header
from middleware.close import Close

from ..console import Feed, TooManyWatchers, Watcher
from ..errors import ConnectionClosed
from ..explain import LISTENER
from ..message import check_room
from ..server import WebSocketServer
from .events import EventStream, Write, event
from .problems import Problem
from .requests import name_of
from .responses import json_response

__all__ = ["MOST_LISTENERS", "Listening", "Watching", "check_neighbour"]

MOST_LISTENERS = 32


class Watching:
    """The figures.

    Args:
        feed: where they come from.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    async def stats(self, request: Request) -> Response:
        watcher = _watch(self._feed)
        try:
            snapshot = await watcher.next(with_rates=True)
        finally:
            watcher.leave()
        if snapshot is None:
            raise Problem(503, "This node is about to end.", headers={"Retry-After": "1"})
        return json_response(snapshot)

    async def stats_stream(self, request: Request) -> Response:
        watcher = _watch(self._feed)

        async def produce(write: Write) -> None:
            while (snapshot := await watcher.next()) is not None:
                await write(event(snapshot))

        return EventStream(produce, watcher.leave)


def _watch(feed: Feed) -> Watcher:
    try:
        return feed.watch()
    except TooManyWatchers as error:
        raise Problem(503, f"Too many consoles are open: {error}.", headers={"Retry-After": "5"}) from None


class Listening:
    """What is said in a room, over HTTP.

    A listener is a connection like any other as far as its room is concerned: a member, in the ledger, bounded by the outbox and
    its policy, closed by a drain. Nothing of it can be heard: it has no way to speak.

    Args:
        server: whose rooms.
    """

    def __init__(self, server: WebSocketServer) -> None:
        self._server = server
        self._listeners = 0

    async def room_stream(self, request: Request) -> Response:
        room = check_room(name_of(request.path_params["room"]))
        if self._server.admission.draining:
            raise Problem(503, "This node is about to end.", headers={"Retry-After": "1"})
        if self._listeners >= MOST_LISTENERS:
            raise Problem(503, f"{MOST_LISTENERS} are listening already.", headers={"Retry-After": "5"})
        self._listeners += 1
        left = asyncio.Event()

        async def produce(write: Write) -> None:
            await self._listen(request, room, write, left)

        return EventStream(produce, lambda: self._leave(left))

    def _leave(self, left: asyncio.Event) -> None:
        if not left.is_set():
            left.set()
            self._listeners -= 1

    async def _listen(self, request: Request, room: str, write: Write, left: asyncio.Event) -> None:
        """Join as a WebSocket whose messages are events."""
        connecting = True

        async def receive() -> Event:
            nonlocal connecting
            if connecting:
                connecting = False
                return {"type": "websocket.connect"}
            await left.wait()
            return {"type": "websocket.disconnect", "code": 1001}

        async def send(sent: Event) -> None:
            if sent["type"] == "websocket.send":
                await write(event(_message(sent), "message"))
            elif sent["type"] == "websocket.close":
                close = Close.received(sent.get("code"), sent.get("reason"))
                await write(event(msgspec.json.encode({"code": close.code, "reason": close.reason}), "closed"))

        scope = {
            "type": "websocket", "path": request.scope["path"], "headers": [], "subprotocols": [], "path_params": {"room": room},
            "client": request.scope.get("client"), LISTENER: True,
        }  # fmt: skip
        try:
            async with self._server.connect(WebSocket(scope, receive, send), room) as connection:
                await write(event(msgspec.json.encode({"room": room, "connection": connection.id}), "joined"))
                await connection.receive_event()  # only ever the end
        except ConnectionClosed:  # it could not join and was told why
            return


def _message(sent: Event) -> bytes:
    text = sent.get("text")
    if text is not None:
        return msgspec.json.encode({"text": text})
    return msgspec.json.encode({"base64": base64.b64encode(sent["bytes"]).decode()})


def check_neighbour(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Raise ``Problem`` 403 for a page of another site: without a key, only who reaches the address itself may look.

    A foreign page says so (``Sec-Fetch-Site``), or has made its own name point here (DNS rebinding), which ``Host`` tells: it is
    then a name and neither an address nor ``localhost``.
    """
    scope = {"headers": headers}
    site, host = header(scope, b"sec-fetch-site") or b"none", (header(scope, b"host") or b"").decode("latin-1")
    if site not in (b"none", b"same-origin") or not _is_address(host):
        raise Problem(
            403,
            "While no key is set, the figures are shown only to who asks by address (127.0.0.1, localhost), not to pages of other"
            " sites. Set TIDEGATE_API_KEY to use them under a name.",
        )


def _is_address(host: str) -> bool:
    name = host.rpartition("]")[0][1:] if host.startswith("[") else host.partition(":")[0]
    try:
        ip_address(name)
    except ValueError:
        return name.lower() == "localhost"
    return True
