"""A chat on Starlette in the short form: one connection object, one loop.

    pip install .                                                                   (in the checkout)
    uvicorn --app-dir examples --ws gateway.wire:WireProtocol chat_starlette:app

Then open browser.html and join ws://127.0.0.1:8000/rooms/lobby, or:  python -m websockets ws://127.0.0.1:8000/rooms/lobby
"""

from __future__ import annotations

import json

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from gateway import WebSocketServer
from middleware import AccessLogMiddleware, OriginMiddleware, RateLimitMiddleware

server = WebSocketServer(allow="text")


async def chat(websocket: WebSocket) -> None:
    room = websocket.path_params["room"]
    async with server.connect(websocket, room) as connection:
        await server.broadcast(room, f"{connection.id} has joined", exclude=connection)
        async for message in connection:
            await server.broadcast(room, f"{connection.id}: {message}")
    await server.broadcast(room, f"{connection.id} has left")


def write(event: str, /, **fields: object) -> None:
    """One line per connection, when it has ended."""
    print(json.dumps({"event": event, **fields}), flush=True)


app = Starlette(
    routes=[WebSocketRoute("/rooms/{room}", chat)],
    middleware=[
        Middleware(AccessLogMiddleware, emit=write),
        Middleware(OriginMiddleware, allowed=["null"]),  # "null": a page opened from a file, as browser.html is
        Middleware(RateLimitMiddleware, messages_per_second=10, burst=20),
    ],
)
