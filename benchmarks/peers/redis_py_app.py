"""What one writes by hand: bare ASGI, ``redis.publish`` for every message, one loop over ``pubsub.listen`` that sends it on.

Nothing is bounded, nothing is counted, nobody is told when Redis has gone; a member that does not read stops the loop for all.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from typing import Any

from redis.asyncio import Redis

redis = Redis.from_url(os.environ["REDIS_URL"], socket_timeout=None)  # else listening ends after five quiet seconds
pubsub = redis.pubsub()
rooms: dict[str, dict[str, Any]] = {}
numbers = itertools.count()
node = os.getpid()
listening: set[asyncio.Task[None]] = set()
one_at_a_time = asyncio.Lock()


async def listen() -> None:
    async for event in pubsub.listen():
        if event["type"] != "message":
            continue
        sender, _, text = event["data"].decode().partition(" ")
        for name, send in tuple(rooms.get(event["channel"].decode(), {}).items()):
            if name != sender:
                await send({"type": "websocket.send", "text": text})


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "websocket":
        return
    room, name = scope["path"].rpartition("/")[2], f"{node}-{next(numbers)}"
    async with one_at_a_time:  # else those who come first make a connection each
        await pubsub.subscribe(room)
    if not listening:
        listening.add(asyncio.create_task(listen()))
    await receive()
    await send({"type": "websocket.accept"})
    rooms.setdefault(room, {})[name] = send
    while (event := await receive())["type"] == "websocket.receive":
        await redis.publish(room, f"{name} {event['text']}")
    del rooms[room][name]


__all__: list[Any] = ["app"]
