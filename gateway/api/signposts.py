"""What is said at addresses to which people come by a wrong way: a room asked for over plain HTTP, the ops listener's root."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from .problems import PROBLEM_JSON, Problem

__all__ = ["not_here", "to_the_console", "to_the_sockets"]

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


def not_here(instead: str = "") -> Callable[[Request, Exception], Awaitable[Response]]:
    """An address or a method that does not exist, as the whole of an app's listener answers: a problem, or text for who wants that.

    Takes the place of Starlette's own handler of ``HTTPException``; ``instead`` says what there is.
    """

    async def answer(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException), "it is registered for no other"
        detail = error.detail
        if error.status_code == 404:
            detail = f"There is nothing at this address. {instead}".strip()
        headers = {**(error.headers or {}), "Vary": "Accept"}
        if _wants_text(request.headers.get("accept", "*/*")):
            return Response(detail + "\n", error.status_code, headers, "text/plain; charset=utf-8")
        return Response(Problem(error.status_code, detail).body(), error.status_code, headers, PROBLEM_JSON)

    return answer


def _wants_text(accept: str) -> bool:
    """Whether a text is named and JSON is not: browsers take anything, too."""
    types = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    return bool(types & {"text/html", "text/plain", "text/*"}) and not types & {"application/json", PROBLEM_JSON, "application/*"}
