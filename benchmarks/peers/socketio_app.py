"""python-socketio on uvicorn, WebSocket transport only: an event ``message`` goes to the room, or back on ``echo``."""

from __future__ import annotations

from typing import Any

import socketio

server = socketio.AsyncServer(async_mode="asgi", transports=["websocket"])
app = socketio.ASGIApp(server)


@server.event
async def join(sid: str, room: str) -> str:
    await server.enter_room(sid, room)
    return "joined"


@server.event
async def message(sid: str, room: str, text: str) -> None:
    await server.emit("message", text, room=room)


@server.event
async def echo(sid: str, text: str) -> None:
    await server.emit("message", text, to=sid)


__all__: list[Any] = ["app"]
