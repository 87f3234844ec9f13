"""``create_app``: composes the chain, the server and what stands beside it, in one readable list.

    from gateway import Settings, create_app

    app = create_app(Settings(), handler=my_handler)

``app`` is the public ASGI app (``/ws/{room}``, ``/healthz``, ``/readyz``, ``/dictionaries/{id}``); ``app.ops`` is the one
for the ops listener (health with details, ``/metrics``, ``/console``, ``/api/…``) and must not be reachable for the public.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Mount

from middleware import (
    AccessLogMiddleware,
    AuthMiddleware,
    CompressionMiddleware,
    ConnectionLimitMiddleware,
    Layer,
    Link,
    MetricsMiddleware,
    OriginMiddleware,
    RateLimitMiddleware,
    TracingMiddleware,
)
from middleware.asgi import ASGIApp, Receive, Scope, Send
from middleware.dictionaries import Dictionary, DictionaryApp, load_dictionaries

from .api import api_answers, api_routes
from .api.signposts import not_here, to_the_console, to_the_sockets
from .broker import Broker, open_broker
from .console import Feed, Sources, Statistics, console_routes
from .explain import Explainer, Records
from .health import Health, HealthState, WebSocketSelfCheck, health_routes
from .outlet import OutletOptions
from .server import Handler, WebSocketServer
from .settings import Settings
from .telemetry import (
    DeliveryTraces,
    GatewayCollector,
    SpanCounts,
    flush,
    metrics_route,
    new_registry,
    report_nodes,
    tracer_provider,
)
from .version import __version__

__all__ = ["ROOM_ROUTE", "Gateway", "create_app"]

ROOM_ROUTE = "/ws/{room}"


def create_app(
    settings: Settings | None = None, *, handler: Handler | None = None, broker: Broker | None = None, **server_options: Any
) -> Gateway:
    """The gateway as an ASGI app.

    Args:
        settings: from the environment when ``None``.
        handler: ``async def handler(connection)``; the room relay when ``None``.
        broker: instead of the one that ``settings.broker`` names.
        server_options: more options of ``WebSocketServer`` (``json=True``, ``message_type=…``).

    Raises:
        SettingsError: the settings cannot work. StartupError: there is no such broker.
    """
    return Gateway(settings or Settings(), handler=handler, broker=broker, **server_options)


class Gateway:
    """The public ASGI app, and the parts that it is made of: ``ops``, ``server``, ``health``, ``metrics_registry``."""

    def __init__(self, settings: Settings, *, handler: Handler | None, broker: Broker | None, **server_options: Any) -> None:
        self.settings = settings
        self.metrics_registry = new_registry()
        span_counts = SpanCounts()
        self._tracer_provider = tracer_provider(settings.telemetry.otlp_endpoint, counts=span_counts)
        self.server = WebSocketServer(
            broker=broker or open_broker(settings.broker),
            handler=handler,
            **{**_server_options(settings), **server_options},
        )
        self.collector = GatewayCollector(self.server.hub, confirms_per_second=settings.telemetry.confirms_per_second)
        self.metrics_registry.register(self.collector)
        if self._tracer_provider is not None:
            self.server.hub.observers.add(_traces(self.server, self._tracer_provider, self.collector, settings))
        self.explainer = _explainer(self.server) if settings.telemetry.explain else None
        dictionaries = load_dictionaries(settings.compression.dictionaries)
        self.sockets = _chain(self.server, settings, self.metrics_registry, self._tracer_provider, dictionaries)
        self.health = _health(self.server, self.sockets, self.collector)
        self.collector.add_source(lambda: _state(self.health))
        self.collector.add_source(span_counts.values)
        if settings.connection_limit.total is not None:
            self.collector.add_source(lambda: {"slots_limit": {(): settings.connection_limit.total or 0}})
        report_nodes(self.collector, self.server.hub.broker, self.server.cluster)
        self._http = Starlette(
            routes=[
                *health_routes(self.health, details=False, startup=False),
                Mount("/dictionaries", DictionaryApp(dictionaries)),
                to_the_sockets(),
            ],
            exception_handlers={HTTPException: not_here()},
        )
        self.feed = _feed(self)
        self.collector.expect_api_requests(api_answers())
        self.ops = Starlette(routes=_ops_routes(self), exception_handlers={HTTPException: not_here(_ON_OPS)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the public listener."""
        if scope["type"] == "websocket":
            await self.sockets(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await self._http(scope, receive, send)

    async def start(self) -> None:
        """Connect the broker and become ready. Raises ``BrokerUnavailable``."""
        await self.server.start()
        self.health.started()

    async def stop(self) -> None:
        """Close the broker and flush what is still to be exported."""
        self.health.stopped()
        await self.server.stop()
        if self._tracer_provider is not None:
            await flush(self._tracer_provider)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.start()
        except Exception as error:  # noqa: BLE001 - whatever it is, the server must be told that there will be no start
            await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})


def _chain(
    server: WebSocketServer,
    settings: Settings,
    registry: CollectorRegistry,
    provider: Any,
    dictionaries: tuple[Dictionary, ...],
) -> ASGIApp:
    """The layers around the server, outermost first: who observes sees refusals, and the cheapest refusal comes first."""
    limits, rates, compression = settings.connection_limit, settings.rate_limit, settings.compression
    layers: list[tuple[type[Layer], dict[str, Any]] | None] = [
        (TracingMiddleware, {"tracer_provider": provider, "message_ratio": settings.telemetry.message_ratio}),
        (MetricsMiddleware, {"registry": registry, "routes": [ROOM_ROUTE]}),
        (AccessLogMiddleware, {"new_id": server.hub.new_id}),
        (OriginMiddleware, {"allowed": settings.allowed_origins}),
        (
            ConnectionLimitMiddleware,
            {
                "total": limits.total,
                "per_client": limits.per_client,
                "waiting": limits.waiting or None,
                "waiting_seconds": limits.waiting_seconds,
            },
        ),
        _auth(settings),
        (ConnectionLimitMiddleware, {"per_user": limits.per_user, "per_room": limits.per_room, "room": _room_of})
        if limits.per_user or limits.per_room
        else None,
        (
            RateLimitMiddleware,
            {
                "messages_per_second": rates.messages_per_second,
                "burst": rates.burst,
                "bytes_per_second": rates.bytes_per_second,
                "byte_burst_bytes": max(rates.bytes_per_second, settings.message.max_bytes) if rates.bytes_per_second else None,
                "handshakes_per_second": rates.handshakes_per_second,
                "handshake_burst": rates.handshake_burst,
                "exceeded": rates.exceeded,
            },
        ),
        (
            CompressionMiddleware,
            {
                "level": compression.level,
                "minimum_bytes": compression.minimum_bytes,
                "max_message_bytes": settings.message.max_bytes,
                "dictionaries": dictionaries,
            },
        )
        if compression.zstd
        else None,
    ]
    app: ASGIApp = server
    for layer in reversed([layer for layer in layers if layer is not None]):
        app = layer[0](app, **layer[1])
    return _RoomPath(app)


def _auth(settings: Settings) -> tuple[type[Layer], dict[str, Any]] | None:
    auth = settings.auth
    if auth.mode == "none":
        return None
    keys = {
        "secret": auth.secret.get_secret_value() if auth.secret else None,
        "public_key": auth.public_key,
        "jwks_url": auth.jwks_url,
    }
    return AuthMiddleware, {
        **keys, "audience": auth.audience, "issuer": auth.issuer, "query_token": auth.query_token,
    }  # fmt: skip


class _RoomPath:
    """Puts the room of ``/ws/{room}`` and the route's template where layers and server look for them.

    Any other path goes through the chain too, without a room, and is refused by the server: whoever observes sees it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path.startswith("/ws/"):
            found = {"path_params": {"room": path.removeprefix("/ws/")}, "path_template": ROOM_ROUTE}
        else:
            found = {"path_params": {}}
        await self._app({**scope, **found}, receive, send)


def _room_of(link: Link) -> str | None:
    room: str | None = link.scope["path_params"].get("room")
    return room


def _server_options(settings: Settings) -> dict[str, Any]:
    return {
        "max_message_bytes": settings.message.max_bytes,
        "allow": settings.message.allow,
        "outbox": OutletOptions(
            max_bytes=settings.outbox.max_bytes,
            policy=settings.outbox.policy,
            abort_after_seconds=settings.drain.abort_after_seconds,
        ),
        "namespaces": settings.namespaces,
        "max_delay_seconds": settings.outbox.max_delay_ms / 1000,
    }


def _health(server: WebSocketServer, sockets: ASGIApp, collector: GatewayCollector) -> Health:
    health = Health(on_loop_lag=collector.on_loop_lag)
    health.add("broker", server.hub.broker.check, cache_seconds=1.0)  # it is to be named soon, and costs nothing to ask
    health.add("websocket", WebSocketSelfCheck(sockets))
    return health


def _feed(gateway: Gateway) -> Feed:
    """The figures for the console; over when a drain has nobody left to see off."""
    settings, server = gateway.settings, gateway.server
    sources = Sources(
        server=server,
        health=gateway.health,
        scrape=gateway.metrics_registry.collect,
        version=__version__,
        broker=urlsplit(settings.broker).scheme,
        connection_limit=settings.connection_limit.total,
        api_key_set=settings.api_key is not None,
    )
    return Feed(Statistics(sources), is_over=lambda: server.admission.draining and not server.registry.connections)


def _traces(server: WebSocketServer, provider: Any, collector: GatewayCollector, settings: Settings) -> DeliveryTraces:
    return DeliveryTraces(
        provider,
        node=server.hub.node,
        ledger=server.registry.ledger,
        confirms=collector.confirms,
        ratio=settings.telemetry.message_ratio,
    )


def _explainer(server: WebSocketServer) -> Explainer:
    records = Records(has_members=server.registry.rooms.__contains__)
    server.hub.observers.add(records)
    return Explainer(server.hub, records)


def _state(health: Health) -> dict[str, dict[tuple[str, ...], float]]:
    """The node's state as metrics."""
    return {"ready": {(): health.looks_ready()}, "draining": {(): health.state is HealthState.DRAINING}}


_ON_OPS = "GET /console shows what goes on, GET /api/openapi.json describes the API."


def _ops_routes(gateway: Gateway) -> list[BaseRoute]:
    settings = gateway.settings
    return [
        *health_routes(gateway.health, details=True),
        metrics_route(gateway.metrics_registry),
        *console_routes(),
        to_the_console(),
        *api_routes(
            gateway.server,
            feed=gateway.feed,
            explainer=gateway.explainer,
            api_key=settings.api_key.get_secret_value() if settings.api_key else None,
            max_body_bytes=settings.message.max_bytes,
            version=__version__,
            on_request=gateway.collector.on_api_request,
        ),
    ]
