"""The HTTP API of the ops listener: publish, look, close. ``openapi.py`` describes it, ``docs/api.md`` shows it.

1. Nothing but the description is told or done without the key; the key is checked before the body is read. While no key is set,
   the process' figures are told nevertheless, to who is near (``watching.check_neighbour``).
2. Every error is a problem document (RFC 9457), also for addresses, methods and query parameters that do not exist.
3. What a request can hold of this process is bounded: body, time for the body, time for the broker, page, remembered keys.

Names in an address are taken from the address as it was sent, so that an encoded slash is part of a name.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol
from urllib.parse import quote

from starlette.datastructures import URLPath
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, NoMatchFound, Route, Router
from starlette.websockets import WebSocketClose

from middleware.asgi import Event, Receive, Scope, Send

from ..console import Feed
from ..explain import Explainer
from ..server import WebSocketServer
from .clustering import Clustering
from .elsewhere import Elsewhere
from .explaining import Explaining
from .idempotency import IdempotencyTable
from .inspecting import Inspecting
from .openapi import openapi_document
from .parameters import OTHER, answers_of, check_parameters, parameters_of
from .problems import Problem, problem_of
from .publishing import Publishing
from .requests import ApiKey
from .responses import problem_response
from .watching import Listening, Watching, check_neighbour

__all__ = ["OnRequest", "api_answers", "api_routes"]

logger = logging.getLogger("tidegate.api")

OnRequest = Callable[[str, int, float], None]
"""Told of every answer: the operation (an ``operationId`` of the description, or ``other``), the status, seconds."""

OPERATION = "tidegate.operation"
OPENAPI_PATH = "/api/openapi.json"
STATISTICS_PATHS = ("/api/stats", "/api/stats/stream")


class Handler(Protocol):
    """Does one operation; its name is the ``operationId``."""

    __name__: str

    def __call__(self, request: Request) -> Coroutine[Any, Any, Response]: ...


def api_routes(
    server: WebSocketServer,
    *,
    api_key: str | None,
    max_body_bytes: int,
    version: str,
    feed: Feed | None = None,
    explainer: Explainer | None = None,
    idempotency: IdempotencyTable | None = None,
    on_request: OnRequest | None = None,
    body_timeout_seconds: float = 10.0,
    broker_timeout_seconds: float = 10.0,
) -> list[BaseRoute]:
    """Everything under ``/api``, for an app that only operators can reach.

    Args:
        server: what is published to and looked at.
        api_key: what a request must show; without one everything answers 403.
        max_body_bytes: the largest message that is taken.
        version: of the gateway, for people.
        feed: of the process' figures; without one they have no address.
        explainer: answers why a client did not get a message; without one that address says how to switch it on.
        idempotency: the table of remembered keys, when somebody else wants to look at it.
        on_request: for metrics.
        body_timeout_seconds: how long a client may take to send a body.
        broker_timeout_seconds: how long the broker may take to take a message or an order.
    """
    if max_body_bytes < 1 or body_timeout_seconds <= 0 or broker_timeout_seconds <= 0:
        raise ValueError("max_body_bytes must be at least 1, body_timeout_seconds and broker_timeout_seconds above 0")
    publishing = Publishing(
        server.hub, idempotency or IdempotencyTable(), max_body_bytes, body_timeout_seconds, broker_timeout_seconds
    )  # fmt: skip
    clustering = Clustering(server)
    description = openapi_document(version, has_statistics=feed is not None)
    inspecting = Inspecting(server, version, broker_timeout_seconds, description)
    paths: dict[str, dict[str, Handler]] = {
        OPENAPI_PATH: {"GET": inspecting.openapi},
        "/api/node": {"GET": inspecting.node},
        "/api/broadcast": {"POST": publishing.broadcast},
        "/api/nodes": {"GET": clustering.nodes},
        "/api/rooms": {"GET": clustering.rooms},
        "/api/rooms/{room}": {"GET": clustering.room},
        "/api/rooms/{room}/messages": {"POST": publishing.publish_to_room},
        "/api/rooms/{room}/stream": {"GET": Listening(server).room_stream},
        "/api/users/{user}/messages": {"POST": publishing.publish_to_user},
        "/api/users/{user}/connections": {"DELETE": inspecting.close_user},
        "/api/explain": {"GET": Explaining(explainer, Elsewhere(server.cluster)).explain},
        "/api/connections/{id}": {"GET": inspecting.connection, "DELETE": inspecting.close_connection},
    }
    if feed is not None:
        watching = Watching(feed)
        paths |= {"/api/stats": {"GET": watching.stats}, "/api/stats/stream": {"GET": watching.stats_stream}}
    return [_Api(paths, ApiKey(api_key), parameters_of(description), on_request)]


def api_answers() -> frozenset[tuple[str, str]]:
    """Every operation and status that ``on_request`` is usually told of."""
    return frozenset(answers_of(openapi_document("")))


class _Api(BaseRoute):
    """``/api`` and everything below: asks for the key, finds the operation, and reports what became of it.

    A ``Mount`` would let addresses with an encoded line break pass to whoever comes next.
    """

    def __init__(
        self,
        paths: Mapping[str, Mapping[str, Handler]],
        key: ApiKey,
        parameters: Mapping[str, frozenset[str]],
        on_request: OnRequest | None,
    ) -> None:
        self._key = key
        self._on_request = on_request
        self.operations = {path: _Operations(handlers, parameters) for path, handlers in paths.items()}
        routes = [Route(path, operations) for path, operations in self.operations.items()]
        self._router = Router(routes, redirect_slashes=False, default=_no_such_address)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        is_ours = scope["type"] in ("http", "websocket") and (path == "/api" or path.startswith("/api/"))
        return (Match.FULL if is_ours else Match.NONE), {}

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        raise NoMatchFound(name, path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await WebSocketClose()(scope, receive, send)
            return
        inner = {**scope, "path": _path_as_sent(scope), OPERATION: OTHER}
        status, started, answered = 500, time.monotonic(), None

        async def noting_send(event: Event) -> None:
            nonlocal status, answered
            if event["type"] == "http.response.start":
                status, answered = event["status"], time.monotonic()  # a stream has answered when it begins
            await send(event)

        try:
            await self._serve(inner, receive, noting_send)
        finally:
            if self._on_request is not None:
                self._on_request(inner[OPERATION], status, (answered or time.monotonic()) - started)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope)
        except Problem as problem:
            await problem_response(problem)(scope, receive, send)
        else:
            await self._router(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path in STATISTICS_PATHS and path in self.operations and not self._key.is_set:
            check_neighbour(scope["headers"])
        elif path != OPENAPI_PATH:
            self._key.check(scope["headers"])


class _Operations:
    """The operations of one address, by method."""

    def __init__(self, handlers: Mapping[str, Handler], parameters: Mapping[str, frozenset[str]]) -> None:
        self.handlers = dict(handlers)
        self._parameters = parameters
        if "GET" in self.handlers:
            self.handlers["HEAD"] = self.handlers["GET"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._respond(Request(scope, receive, send))
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        handler = self.handlers.get(request.method)
        if handler is None:
            allowed = ", ".join(sorted(self.handlers))
            return problem_response(Problem(405, f"This address takes {allowed}.", headers={"Allow": allowed}))
        request.scope[OPERATION] = handler.__name__
        try:
            check_parameters((name for name, _ in request.query_params.multi_items()), self._parameters[handler.__name__])
            return await handler(request)
        except ClientDisconnect:
            return problem_response(Problem(400, "The request ended before its body was complete."))
        except Exception as error:
            problem = problem_of(error)
            if problem is None:
                logger.exception("the API failed at %s", handler.__name__)
                problem = Problem(500, "This is a fault of the gateway; its log says more.")
            return problem_response(problem)


async def _no_such_address(scope: Scope, receive: Receive, send: Send) -> None:
    problem = Problem(404, "There is nothing at this address. GET /api/openapi.json describes the API.")
    await problem_response(problem)(scope, receive, send)


def _path_as_sent(scope: Scope) -> str:
    """The path with its percent-encoding, where the server tells it."""
    raw: bytes | None = scope.get("raw_path")
    return raw.decode("latin-1") if raw else quote(scope["path"])
