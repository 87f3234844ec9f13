"""python-socketio over its Redis manager, as its documentation shows it: an event ``message`` goes to the others in the room.

``socket_timeout``: with the default of redis-py 8 listening ends after five quiet seconds.
"""

from __future__ import annotations

import os
from typing import Any

import socketio

manager = socketio.AsyncRedisManager(os.environ["REDIS_URL"], redis_options={"socket_timeout": None})
server = socketio.AsyncServer(async_mode="asgi", transports=["websocket"], client_manager=manager)
app = socketio.ASGIApp(server)


@server.event
async def join(sid: str, room: str) -> str:
    await server.enter_room(sid, room)
    return "joined"


@server.event
async def message(sid: str, room: str, text: str) -> None:
    await server.emit("message", text, room=room, skip_sid=sid)


__all__: list[Any] = ["app"]
