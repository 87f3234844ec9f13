"""A Starlette app with CompressionMiddleware under uvicorn, for clients in other processes and languages."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount, WebSocketRoute
from starlette.websockets import WebSocket

from middleware.compression import CompressionMiddleware, Dictionary, DictionaryApp, train_dictionary

__all__ = ["EVENTS", "serve", "trained"]

EVENTS = [
    json.dumps(
        {"type": "moved", "game": f"g{n % 9}", "piece": n % 32, "to": [n % 8, n % 7], "note": "ebb and flöd"}, ensure_ascii=False
    )
    for n in range(600)
]


@cache
def trained() -> Dictionary:
    """A dictionary of the first 500 of ``EVENTS``."""
    return train_dictionary([event.encode() for event in EVENTS[:500]], 4096)


async def echo(websocket: WebSocket) -> None:
    """Accepts ``chat`` where it is offered, then says back what it hears, text as text and bytes as bytes."""
    await websocket.accept(subprotocol="chat" if "chat" in websocket.scope["subprotocols"] else None)
    while (event := await websocket.receive())["type"] == "websocket.receive":
        await websocket.send({**event, "type": "websocket.send"})


@asynccontextmanager
async def serve() -> AsyncIterator[str]:
    """Run the app on a free port of the loopback; yields ``127.0.0.1:port``."""
    app = Starlette(
        routes=[WebSocketRoute("/ws", echo), Mount("/dictionaries", DictionaryApp([trained()]))],
        middleware=[Middleware(CompressionMiddleware, dictionaries=[trained()])],
    )
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, ws="websockets-sansio", lifespan="off", log_level="warning"))
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        host, port = listener.getsockname()
        yield f"{host}:{port}"
    finally:
        server.should_exit = True
        await asyncio.wait_for(running, 10)
        listener.close()
