"""What is said at addresses to which people come by a wrong way: a room asked for over plain HTTP, the ops listener's root."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from .problems import PROBLEM_JSON, Problem

__all__ = ["to_the_console", "to_the_sockets"]

_METHODS = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"]
_NO_SOCKET = Problem(
    426,
    "This is the address of a WebSocket: connect to it with ws:// or wss://. To publish over HTTP, POST to "
    "/api/rooms/{room}/messages on the ops listener. A proxy in between has to pass Connection and Upgrade on.",
    headers={"Upgrade": "websocket", "Connection": "Upgrade"},  # RFC 9110 §15.5.22
)


def to_the_sockets() -> Route:
    """``/ws/{room}`` over plain HTTP: 426, and what would be right."""

    async def answer(request: Request) -> Response:
        return Response(_NO_SOCKET.body(), _NO_SOCKET.status, _NO_SOCKET.headers, PROBLEM_JSON)

    return Route("/ws/{room}", answer, methods=_METHODS)


def to_the_console() -> Route:
    """``/`` leads to ``/console``, also behind a proxy that puts both below a path."""

    async def answer(request: Request) -> Response:
        return RedirectResponse("console")

    return Route("/", answer)
