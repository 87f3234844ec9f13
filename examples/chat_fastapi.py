"""A chat on FastAPI: the server moves messages, a MessageRouter of the application decides what they mean.

    pip install . fastapi                                                           (in the checkout)
    uvicorn --app-dir examples --ws gateway.wire:WireProtocol chat_fastapi:app      (any ASGI server works; the wire makes it fast)

Then open browser.html and join ws://127.0.0.1:8000/rooms/lobby?name=ann, or:
    python -m websockets "ws://127.0.0.1:8000/rooms/lobby?name=ann"
and say  {"type": "say", "text": "hello"}  or  {"type": "who"}.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, WebSocket

from gateway import WebSocketServer
from middleware import ConnectionLimitMiddleware, OriginMiddleware

server = WebSocketServer(rate_limit_config={"enabled": True, "requests_per_minute": 600}, json=True)
app = FastAPI()
app.add_middleware(ConnectionLimitMiddleware, total=5000, per_client=20)
app.add_middleware(OriginMiddleware, allowed=["null"])  # "null": a page opened from a file, as browser.html is; not for production

Reply = dict[str, Any] | None
Route = Callable[[str, str, dict[str, Any]], Awaitable[Reply]]


class MessageRouter:
    """Business logic: which message does what. It knows rooms and names, and nothing of sockets."""

    def __init__(self) -> None:
        self._routes: dict[str, Route] = {"say": self._say, "who": self._who}

    async def route(self, room: str, name: str, message: Any) -> Reply:
        kind = message.get("type") if isinstance(message, dict) else None
        handler = self._routes.get(kind) if isinstance(kind, str) else None
        if handler is None:
            return {"type": "error", "detail": f"a message has a type, one of: {', '.join(self._routes)}"}
        return await handler(room, name, message)

    async def _say(self, room: str, name: str, message: dict[str, Any]) -> Reply:
        await server.broadcast(room, {"type": "said", "by": name, "text": str(message.get("text", ""))[:1000]})
        return None

    async def _who(self, room: str, name: str, message: dict[str, Any]) -> Reply:
        members = server.registry.members(room)
        return {"type": "members", "names": sorted(str(member.metadata["name"]) for member in members)}


router = MessageRouter()


@app.websocket("/rooms/{room}")
async def chat(websocket: WebSocket, room: str, name: str = "somebody") -> None:
    await server.accept_connection(websocket)
    connection_id = await server.handle_connection(websocket, room, metadata={"name": name[:40]})
    await server.send_message(websocket, {"type": "welcome", "id": connection_id})
    while True:
        message = await server.receive_message(websocket)
        if message:
            response = await router.route(room, name[:40], message)
            if response:
                await server.send_message(websocket, response)
