"""What ``test_other_servers.py`` runs under foreign ASGI servers: the whole gateway, its ops app, and a server in routes.

====================  ==============================================================================================
``/ws/{room}``        the gateway of ``create_app``, whose lifespan is also the process's
``/ops/…``            that gateway's ops app: health, metrics, API
``/leaving/ws/…``     a second gateway, mounted; ``POST /leave`` drains it
``/strict/{room}``    a ``WebSocketServer`` as the endpoint of a Starlette route: text only
``/routes/{room}``    a route that calls the server's methods one by one
====================  ==============================================================================================
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway import Settings, WebSocketServer, create_app
from middleware.asgi import Event, Receive, Scope, Send
from tests.integration.other_servers import API_KEY, MAX_MESSAGE_BYTES, OUTBOX_BYTES, ROOM_MEMBERS

__all__ = ["app"]

_settings: dict[str, Any] = {
    "api_key": API_KEY,
    "message": {"max_bytes": MAX_MESSAGE_BYTES},
    "outbox": {"max_bytes": OUTBOX_BYTES},
    "rate_limit": {"messages_per_second": None},
    "connection_limit": {"per_client": None, "per_room": ROOM_MEMBERS},
    "drain": {"abort_after_seconds": 1},
}
gateway = create_app(Settings(**_settings))
leaving = create_app(Settings(**_settings))
strict = WebSocketServer(allow="text")
methods = WebSocketServer(json=True, rate_limit_config={"enabled": True, "requests_per_minute": 5})


async def route(websocket: WebSocket) -> None:
    """The loop of the original component, as its notes show it."""
    await methods.accept_connection(websocket)
    connection_id = await methods.handle_connection(websocket, websocket.path_params["room"], user="ann", metadata={"a": 1})
    await methods.send_message(websocket, {"you": connection_id, "here": len(methods.registry.by_user("ann"))})
    try:
        while True:
            message = await methods.receive_message(websocket)
            if message:
                await methods.send_message(websocket, {"heard": message})
    except WebSocketDisconnect:
        _note("left" if connection_id not in methods.registry.connections else "still there")


async def leave(request: Request) -> JSONResponse:
    """Drain the mounted gateway."""
    return JSONResponse({"closed": await leaving.server.drain(period_seconds=0.3)})


async def tasks(request: Request) -> JSONResponse:
    """How many tasks the loop has."""
    return JSONResponse(len(asyncio.all_tasks()))


routes = Starlette(
    routes=[
        Mount("/ops", gateway.ops),
        Route("/leave", leave, methods=["POST"]),
        Route("/tasks", tasks),
        Mount("/leaving", leaving),
        WebSocketRoute("/strict/{room}", strict),
        WebSocketRoute("/routes/{room}", route),
        Mount("/", gateway),
    ]
)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Everything above; the lifespan is the gateway's own, and what it answers is noted."""
    if scope["type"] != "lifespan":
        await routes(scope, receive, send)
        return

    async def noting_send(event: Event) -> None:
        _note(event["type"])
        await send(event)

    await gateway(scope, receive, noting_send)


def _note(what: str) -> None:
    with Path(os.environ["NOTES_FILE"]).open("a") as notes:
        notes.write(f"{what}\n")
