"""Starlette as its documentation shows it: ``receive_text``, ``send_text``, a loop over the members of a room."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

rooms: dict[str, set[WebSocket]] = {}


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect:
        pass


async def relay(websocket: WebSocket) -> None:
    room = rooms.setdefault(websocket.path_params["room"], set())
    await websocket.accept()
    room.add(websocket)
    try:
        while True:
            text = await websocket.receive_text()
            for member in tuple(room):
                await member.send_text(text)
    except (WebSocketDisconnect, RuntimeError):
        pass
    finally:
        room.discard(websocket)


app = Starlette(routes=[WebSocketRoute("/echo/{room}", echo), WebSocketRoute("/ws/{room}", relay)])
