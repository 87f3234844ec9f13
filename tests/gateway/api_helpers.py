"""A real server with scripted members, and an HTTP client of its API; no sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.applications import Starlette

from gateway.api import api_routes
from gateway.connection import Connection
from gateway.server import WebSocketServer
from tests.middleware.asgi_helpers import Server, disconnect, websocket_scope

__all__ = ["KEY", "MAX_BODY_BYTES", "VERSION", "Api", "Member", "open_api", "settle"]

KEY = "correct-horse-battery"
VERSION = "1.2.3"
MAX_BODY_BYTES = 1000


async def settle() -> None:
    """Let everything that can run now run."""
    for _ in range(20):
        await asyncio.sleep(0)


class Member:
    """A client of the server, in a room."""

    def __init__(self, server: WebSocketServer, room: str, user: str | None) -> None:
        self.client = Server(stay=True)
        scope = websocket_scope(f"/ws/{room}", path_params={"room": room}, **({"user": user} if user else {}))
        before = set(server.registry.connections)
        self._ids = lambda: set(server.registry.connections) - before
        self.task = asyncio.get_running_loop().create_task(server(scope, self.client.receive, self.client.send))
        self.connection: Connection

    async def leave(self) -> None:
        """Leave and wait until the server has cleaned up."""
        self.client.feed(disconnect())
        await self.task

    @property
    def payloads(self) -> list[str | bytes]:
        return self.client.payloads

    @property
    def id(self) -> str:
        return self.connection.id


class Api:
    """The API of a server, and who is connected to it."""

    def __init__(self, server: WebSocketServer, client: httpx.AsyncClient) -> None:
        self.server = server
        self.client = client
        self.members: list[Member] = []

    async def join(self, room: str, user: str | None = None) -> Member:
        """One more client, accepted and in the room."""
        member = Member(self.server, room, user)
        await settle()
        (connection_id,) = member._ids()
        member.connection = self.server.registry.connections[connection_id]
        self.members.append(member)
        return member

    async def publish(self, path: str, body: str | bytes = "hello", **headers: str) -> httpx.Response:
        """``POST`` a text (unless ``content_type`` says otherwise) and let it arrive."""
        named = {name.replace("_", "-"): value for name, value in {"content_type": "text/plain", **headers}.items()}
        response = await self.client.post(path, content=body, headers=named)
        await settle()
        return response


@asynccontextmanager
async def open_api(
    server: WebSocketServer | None = None, *, key: str | None = KEY, show: Mapping[str, str] | None = None, **options: Any
) -> AsyncIterator[Api]:
    """A started server with its API; ``show`` replaces the right ``Authorization`` header."""
    server = server or WebSocketServer(node="n1")
    await server.start()
    app = Starlette(routes=api_routes(server, api_key=key, version=VERSION, **{"max_body_bytes": MAX_BODY_BYTES, **options}))
    headers = {"authorization": f"Bearer {KEY}"} if show is None else dict(show)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ops", headers=headers) as client:
        api = Api(server, client)
        try:
            yield api
        finally:
            for member in api.members:
                await member.leave()
            await server.stop()
