"""uvicorn with nothing on top: an ASGI app that echoes on ``/echo/…`` and relays in rooms on ``/ws/…``."""

from __future__ import annotations

from typing import Any

rooms: dict[str, set[Any]] = {}


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    if scope["path"].startswith("/echo/"):
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event["text"]})
        return
    room = rooms.setdefault(scope["path"], set())
    room.add(send)
    try:
        while (event := await receive())["type"] == "websocket.receive":
            message = {"type": "websocket.send", "text": event["text"]}
            for member in tuple(room):
                await member(message)
    finally:
        room.discard(send)
