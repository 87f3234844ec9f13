"""The ASGI app that ``test_everywhere.py`` runs under real servers: every stack of layers in every framework, by path.

``/{framework}/{stack}`` is an app of its own, with its own lifespan. Around all of them stands a judge that notes what no
layer may do: changing the scope, or sending events in an order that the ASGI specification forbids. ``GET /report`` tells.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import litestar
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from litestar.middleware import DefineMiddleware
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute

from middleware import Close, Guard, Layer, Link, Refuse
from middleware.access_log import AccessLogMiddleware
from middleware.asgi import FRAMES_EXTENSION, ASGIApp, Event, Receive, Scope, Send, header
from middleware.auth import AuthMiddleware
from middleware.close import AT_CAPACITY, MAX_AGE, RATE_LIMITED
from middleware.compression import CompressionMiddleware
from middleware.connection_limit import ConnectionLimitMiddleware
from middleware.metrics import MetricsMiddleware
from middleware.origin import OriginMiddleware
from middleware.rate_limit import RateLimitMiddleware
from middleware.tracing import TracingMiddleware

__all__ = ["FRAMEWORKS", "SECRET", "STACKS", "app"]

SECRET = "a secret of thirty-two characters"
Make = Callable[[], dict[str, Any]]
Layers = list[tuple[Any, dict[str, Any]]]
"""Classes and their options, outermost first; the frameworks' own types for them disagree."""


class ProbeMiddleware(Layer):
    """Does to a connection what its query string says, and counts the guards that are open."""

    opened = 0
    direct: ClassVar[set[str]] = set()
    """Where hooks ran in the server's own object."""

    async def open(self, link: Link) -> Guard | None:
        query = link.scope["query_string"].decode()
        if query == "refuse":
            raise Refuse(503, AT_CAPACITY, retry_after=7)
        if query == "deadline":
            link.close_after(0.05, MAX_AGE)
        ProbeMiddleware.opened += 1
        if link.frames is not None:
            ProbeMiddleware.direct.add(link.scope["tests.prefix"])
        return ProbeGuard(link, query)


class ProbeGuard(Guard):
    """The guard of ``ProbeMiddleware``."""

    __slots__ = ("link", "query")

    def __init__(self, link: Link, query: str) -> None:
        self.link, self.query = link, query

    def inbound(self, event: Event) -> Event | None:
        if self.query == "close":
            self.link.close(RATE_LIMITED)
        elif self.query == "hold":
            self.link.hold(0.002)
        elif self.query == "drop" and event.get("text") == "drop me":
            return None
        return event

    def closed(self, close: Close) -> None:
        ProbeMiddleware.opened -= 1


def client_by_header(link: Link) -> str:
    """Who shares a limit says so; everybody else is somebody new."""
    return (header(link.scope, b"x-client") or uuid.uuid4().bytes).hex()


LAYERS: dict[str, tuple[Any, Make]] = {
    "tracing": (TracingMiddleware, lambda: {"tracer_provider": TracerProvider(), "message_ratio": 1.0}),
    "metrics": (MetricsMiddleware, lambda: {"registry": CollectorRegistry()}),
    "access_log": (AccessLogMiddleware, lambda: {"emit": lambda *_, **__: None}),
    "origin": (OriginMiddleware, dict),
    "connection_limit": (ConnectionLimitMiddleware, lambda: {"total": 2}),
    "auth": (AuthMiddleware, lambda: {"secret": SECRET}),
    "rate_limit": (
        RateLimitMiddleware,
        lambda: {"messages_per_second": 1000.0, "handshakes_per_second": 0.001, "handshake_burst": 2, "key": client_by_header},
    ),
    "compression": (CompressionMiddleware, dict),
    "probe": (ProbeMiddleware, dict),
}
"""Every layer with what it needs to be told, outermost first."""

STACKS: dict[str, list[str]] = {"none": [], **{name: [name] for name in LAYERS}, "all": list(LAYERS)}


async def plain_app(scope: Scope, receive: Receive, send: Send) -> None:
    """An app without a framework: HTTP, lifespan and an echo."""
    if scope["type"] == "lifespan":
        await _plain_lifespan(scope, receive, send)
    elif scope["type"] == "http":
        body = str(scope["state"]["started"]).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": body})
    else:
        while (event := await receive())["type"] != "websocket.disconnect":
            if event["type"] == "websocket.connect":
                await send({"type": "websocket.accept", "subprotocol": next(iter(scope["subprotocols"]), None)})
            elif event.get("text") == "leave":
                await send({"type": "websocket.close", "code": 4002, "reason": "mine"})
            else:
                await send({**event, "type": "websocket.send"})


async def _plain_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    scope["state"]["started"] = True
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


@asynccontextmanager
async def lifespan(_: Any) -> AsyncIterator[dict[str, Any]]:
    """The same in Starlette's and FastAPI's terms."""
    yield {"started": True}


async def started(request: Request) -> PlainTextResponse:
    """HTTP beside the socket."""
    return PlainTextResponse(str(request.state.started))


async def starlette_echo(socket: WebSocket) -> None:
    """An echo as one writes it for Starlette and FastAPI."""
    await socket.accept(next(iter(socket.scope["subprotocols"]), None))
    try:
        while (event := await socket.receive())["type"] == "websocket.receive":
            if event.get("text") == "leave":
                await socket.close(4002, "mine")
                return
            await socket.send({**event, "type": "websocket.send"})
    except WebSocketDisconnect:
        pass


def in_plain(layers: Layers) -> ASGIApp:
    """Layers around a plain app, by hand."""
    app: ASGIApp = plain_app
    for layer, options in reversed(layers):
        app = layer(app, **options)
    return app


def in_starlette(layers: Layers) -> ASGIApp:
    """Layers through ``Middleware(X, …)``, outermost first."""
    return Starlette(
        routes=[Route("/", started), WebSocketRoute("/ws", starlette_echo)],
        middleware=[Middleware(layer, **options) for layer, options in layers],
        lifespan=lifespan,
    )


def in_fastapi(layers: Layers) -> ASGIApp:
    """Layers through ``add_middleware``: the last added is the outermost."""
    app = FastAPI(lifespan=lifespan)
    for layer, options in reversed(layers):
        app.add_middleware(layer, **options)
    app.add_api_route("/", started, response_class=PlainTextResponse)
    app.add_api_websocket_route("/ws", starlette_echo)
    return app


@litestar.get("/", media_type="text/plain")
async def litestar_started(state: litestar.datastructures.State) -> str:
    """HTTP in Litestar."""
    return str(state.started)


@litestar.websocket("/ws")
async def litestar_echo(socket: litestar.WebSocket[Any, Any, Any]) -> None:
    """The echo in Litestar."""
    await socket.accept(subprotocols=next(iter(socket.scope["subprotocols"]), None))
    while (event := await socket.receive())["type"] == "websocket.receive":
        if event.get("text") == "leave":
            await socket.close(4002, "mine")
            return
        await socket.send({**event, "type": "websocket.send"})


@asynccontextmanager
async def litestar_lifespan(app: litestar.Litestar) -> AsyncIterator[None]:
    """The same in Litestar's terms."""
    app.state.started = True
    yield


def in_litestar(layers: Layers) -> ASGIApp:
    """Layers through ``DefineMiddleware``, outermost first."""
    app: Any = litestar.Litestar(
        route_handlers=[litestar_started, litestar_echo],
        middleware=[DefineMiddleware(layer, **options) for layer, options in layers],
        lifespan=[litestar_lifespan],
        openapi_config=None,
    )
    return cast(ASGIApp, app)


FRAMEWORKS = {"plain": in_plain, "starlette": in_starlette, "fastapi": in_fastapi, "litestar": in_litestar}


class ScopeJudge:
    """A foreign middleware right outside the layers: notes when the scope that it gave them has changed."""

    complaints: ClassVar[list[str]] = []

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        before = self._picture(scope)
        await self.app(scope, receive, send)
        if scope["type"] == "websocket" and self._picture(scope) != before:
            self.complaints.append(f"scope changed on {scope['tests.prefix']}")

    @staticmethod
    def _picture(scope: Scope) -> dict[str, Any]:
        values = (dict, list, tuple, str, bytes, int, type(None))
        return {
            key: copy.deepcopy(value) if key in ("headers", "subprotocols", "client") else value
            for key, value in scope.items()
            if isinstance(value, values)
        }


class Judge:
    """Notes, for every WebSocket, what a layer must not do."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.complaints: list[str] = []
        self.running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        self.running += 1
        direct = FRAMES_EXTENSION in scope["extensions"]  # to be judged it would have to be wrapped, and so be another thing
        try:
            await self.app(scope, receive, send if direct else partial(self._sending, send, [""], scope["path"]))
        finally:
            self.running -= 1

    async def _sending(self, send: Send, state: list[str], path: str, event: Event) -> None:
        kind = event["type"].removeprefix("websocket.")
        if kind not in _AFTER.get(state[0], ()):
            self.complaints.append(f"{kind} after {state[0] or 'nothing'} on {path}")
        state[0] = kind
        await send(event)


_AFTER = {
    "": ("accept", "close", "http.response.start"),
    "accept": ("send", "close"),
    "send": ("send", "close"),
    "http.response.start": ("http.response.body",),
    "http.response.body": ("http.response.body",),
}


class House:
    """Gives every path its app, runs their lifespans, and answers ``GET /report``."""

    def __init__(self) -> None:
        self.apps = {
            f"/{framework}/{stack}": build(
                [(ScopeJudge, {})] * bool(names) + [(LAYERS[name][0], LAYERS[name][1]()) for name in names]
            )
            for framework, build in FRAMEWORKS.items()
            for stack, names in STACKS.items()
        }
        self.judge = Judge(self.enter)
        self.states: dict[str, dict[str, Any]] = {prefix: {} for prefix in self.apps}
        self.stopped = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.live(receive, send)
        elif scope["path"] == "/report":
            body = json.dumps(
                {
                    "complaints": self.judge.complaints + ScopeJudge.complaints,
                    "running": self.judge.running,
                    "opened": ProbeMiddleware.opened,
                    "direct": sorted(ProbeMiddleware.direct),
                }
            ).encode()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
            await send({"type": "http.response.body", "body": body})
        else:
            framework, stack, *rest = scope["path"].strip("/").split("/")
            prefix, path = f"/{framework}/{stack}", "/" + "/".join(rest)
            moved = {
                **scope,
                "path": path,
                "raw_path": path.encode(),
                "root_path": "",
                "tests.prefix": prefix,
                "state": self.states[prefix],
            }
            await self.judge(moved, receive, send)

    async def enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.apps[scope["tests.prefix"]](scope, receive, send)

    async def live(self, receive: Receive, send: Send) -> None:
        await receive()
        async with AsyncExitStack() as stack:
            for prefix, mounted in self.apps.items():
                await stack.enter_async_context(self.lifespan_of(mounted, self.states[prefix]))
            await send({"type": "lifespan.startup.complete"})
            await receive()
        Path(os.environ["STOPPED_FILE"]).write_text(str(self.stopped))
        await send({"type": "lifespan.shutdown.complete"})

    @asynccontextmanager
    async def lifespan_of(self, mounted: ASGIApp, state: dict[str, Any]) -> AsyncIterator[None]:
        """Play a server's part in ``mounted``'s lifespan."""
        events: asyncio.Queue[Event] = asyncio.Queue()
        said: asyncio.Queue[Event] = asyncio.Queue()
        events.put_nowait({"type": "lifespan.startup"})
        scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": state}
        task = asyncio.ensure_future(mounted(scope, events.get, said.put))
        assert (await said.get())["type"] == "lifespan.startup.complete"
        yield
        events.put_nowait({"type": "lifespan.shutdown"})
        assert (await said.get())["type"] == "lifespan.shutdown.complete"
        await task
        self.stopped += 1


app = House()
