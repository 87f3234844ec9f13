"""Mistakes that middlewares for sockets make in the wild; no layer here makes one.

One test per mistake of the house's list, in its order; where any layer could make it, every layer is tried.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import WebSocketRoute

from middleware import Close, Guard, Layer, Refuse
from middleware.asgi import ASGIApp, Event, Receive, Scope, Send
from middleware.channel import AsgiChannel
from middleware.close import AT_CAPACITY, RATE_LIMITED
from middleware.connection_limit import ConnectionLimitMiddleware
from middleware.metrics import MetricsMiddleware
from middleware.rate_limit import RateLimitMiddleware
from middleware.tracing import TracingMiddleware

from .asgi_helpers import Clock, Server, binary, disconnect, echo, http_scope, run, text, websocket_scope
from .everywhere_app import LAYERS, in_fastapi, in_starlette, starlette_echo
from .test_everywhere import TOKEN

REAL = [name for name in LAYERS if name != "probe"]
BEARER = (b"authorization", f"Bearer {TOKEN}".encode())


def handshake(*headers: tuple[bytes, bytes], **more: Any) -> Scope:
    """The scope of a client that every layer lets in."""
    return websocket_scope(headers=[BEARER, *headers], **more)


def made(name: str, app: ASGIApp = echo) -> Layer:
    """One layer around ``app``."""
    layer, options = LAYERS[name]
    return layer(app, **options())  # type: ignore[no-any-return]


def all_of_them(app: ASGIApp = echo) -> ASGIApp:
    """All real layers, in the documented order."""
    for name in reversed(REAL):
        app = made(name, app)
    return app


every_layer = pytest.mark.parametrize("name", [*REAL, "all"])


def stack(name: str, app: ASGIApp = echo) -> ASGIApp:
    """One layer or all of them."""
    return all_of_them(app) if name == "all" else made(name, app)


@pytest.mark.parametrize("name", REAL)
async def test_no_layer_is_deaf_to_sockets(name: str) -> None:
    """Starlette's ``BaseHTTPMiddleware`` passes sockets by: here none derives from it, and inside one each layer still opens."""
    layer = LAYERS[name][0]
    assert issubclass(layer, Layer)
    assert not issubclass(layer, BaseHTTPMiddleware)
    opened: list[str] = []

    class Watched(layer):  # type: ignore[misc,valid-type]
        async def open(self, link: Any) -> Guard | None:
            opened.append(name)
            guard: Guard | None = await super().open(link)
            return guard

    async def dispatch(request: Any, call_next: Any) -> Any:
        raise AssertionError("never called for a socket")

    app = Starlette(
        routes=[WebSocketRoute("/ws", starlette_echo)],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=dispatch), Middleware(Watched, **LAYERS[name][1]())],
    )
    assert (await run(app, handshake(), text("x"))).payloads == ["x"]
    assert opened == [name]


@every_layer
async def test_no_state_of_one_connection_is_anothers(name: str) -> None:
    """Two connections of one instance, turn about: each gets its own messages, and ends alone."""
    app = stack(name)
    first, second = Server(stay=True), Server(stay=True)
    one = asyncio.create_task(_driven(app, first))
    two = asyncio.create_task(_driven(app, second))
    for number in range(3):
        first.feed(text(f"first {number}"))
        second.feed(binary(b"second %d" % number))
    first.feed(disconnect())
    await one
    second.feed(text("still here"), disconnect())
    await two
    assert first.payloads == ["first 0", "first 1", "first 2"]
    assert second.payloads == [b"second 0", b"second 1", b"second 2", "still here"]


async def _driven(app: ASGIApp, server: Server) -> None:
    await app(handshake(), server.receive, server.send)


async def test_one_connections_excess_is_not_anothers() -> None:
    """The case where it would hurt: a rate is each connection's own."""
    app = RateLimitMiddleware(echo, messages_per_second=1.0, burst=2, exceeded="close", clock=Clock())
    greedy = await run(app, handshake(), *[text("x")] * 5, stay=True)
    modest = await run(app, handshake(), *[text("x")] * 2)
    assert (greedy.close, modest.close, modest.payloads) == ((1008, "rate-limited"), None, ["x", "x"])


@every_layer
@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8])
async def test_a_cancelled_connection_ends_as_cancelled(name: str, turns: int) -> None:
    """No layer swallows ``CancelledError``, whenever it comes, and no task is left."""
    before = asyncio.all_tasks()
    task = asyncio.create_task(_driven(stack(name), Server(text("x"), stay=True)))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


@every_layer
async def test_nothing_is_read_ahead_of_the_app(name: str) -> None:
    """No queue grows: while the app is busy with one message, no other is taken from the server."""
    taken = 0
    busy = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        busy.set()
        await asyncio.Event().wait()

    async def receive() -> Event:
        nonlocal taken
        taken += 1
        return {"type": "websocket.connect"} if taken == 1 else text("flood")

    async def send(event: Event) -> None:
        return

    task = asyncio.ensure_future(stack(name, app)(handshake(), receive, send))
    await busy.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert taken == 2
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@every_layer
async def test_scope_and_events_are_never_changed_in_place(name: str) -> None:
    """One event may go to ten thousand connections: what the server and the app hand over stays as it was."""
    said: list[tuple[Event, Event]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        for event in (
            {"type": "websocket.accept", "headers": [(b"x-a", b"b")]},
            {"type": "websocket.send", "text": "one dict " * 50},
            {"type": "websocket.send", "bytes": b"\0" * 500},
        ):
            said.append((event, copy.deepcopy(event)))
            await send(event)
        while (await receive())["type"] != "websocket.disconnect":
            pass

    scope, script = handshake(subprotocols=["chat+zstd", "chat"]), [text("a"), binary(b"\0a"), disconnect(1001)]
    before = copy.deepcopy((scope, script))
    server = Server(*script)
    await stack(name, app)(scope, server.receive, server.send)
    assert (scope, script) == before
    assert all(event == kept for event, kept in said)


REFUSALS: dict[str, tuple[int, dict[str, Any], Scope]] = {
    "origin": (403, {}, handshake((b"origin", b"https://evil.example"))),
    "connection_limit": (503, {"total": 1}, handshake()),
    "auth": (401, {}, websocket_scope()),
    "rate_limit": (429, {"handshakes_per_second": 0.001, "handshake_burst": 1, "key": lambda link: "client"}, handshake()),
}


async def _refused(name: str, *, denial: bool) -> Server:
    """A handshake that the layer refuses; where it counts, the first one is let in and stays."""
    _, options, scope = REFUSALS[name]
    layer, usual = LAYERS[name]
    app = layer(echo, **{**usual(), **options})
    first = asyncio.create_task(_driven(app, Server(stay=True)))
    for _ in range(6):
        await asyncio.sleep(0)
    refused = await run(app, {**scope, "extensions": scope["extensions"] if denial else {}})
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    return refused


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_refusal_is_a_real_status_where_one_is_possible(name: str) -> None:
    """Not a close before accept, which every server turns into 403."""
    refused = await _refused(name, denial=True)
    assert (refused.status, refused.close) == (REFUSALS[name][0], None)


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_refusal_never_says_that_all_went_well(name: str) -> None:
    """Without a response, the close code is none of 1000, 1005 and 1006."""
    refused = await _refused(name, denial=False)
    assert refused.close is not None
    assert refused.close[0] not in (1000, 1005, 1006)


@pytest.mark.parametrize("code", [1000, 1005, 1006, 1015])
def test_a_layer_cannot_even_try(code: int) -> None:
    """``Refuse`` does not take such a code, nor a status that is no refusal."""
    with pytest.raises(ValueError, match="does not refuse"):
        Refuse(503, Close(code, "mine"))
    with pytest.raises(ValueError, match="from 400 to 599"):
        Refuse(200, AT_CAPACITY)


@pytest.mark.parametrize("end", ["return", "raise", "cancel"])
async def test_cleaning_up_does_not_wait_for_a_disconnect(end: str) -> None:
    """It may never come: a slot is free again when the app has ended, however."""
    limit = 1

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        if end == "raise":
            raise LookupError
        if end == "cancel":
            raise asyncio.CancelledError

    limited = ConnectionLimitMiddleware(app, total=limit)
    for _ in range(3):
        server = Server(stay=True)
        try:
            await limited(handshake(), server.receive, server.send)
        except (LookupError, asyncio.CancelledError):
            pass
        assert server.accepted


async def test_waiting_for_a_message_is_not_timed() -> None:
    """Handling time is from ``receive`` returning to the next ``receive``: an idle hour does not show."""
    clock, registry = Clock(), CollectorRegistry()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] == "websocket.receive":
            clock.advance(0.25)

    class Idle(Server):
        async def receive(self) -> Event:
            event = await super().receive()
            clock.advance(3600)
            return event

    server = Idle(text("a"), text("b"))
    await MetricsMiddleware(app, registry=registry, clock=clock)(handshake(), server.receive, server.send)
    handled = [line for line in generate_latest(registry).decode().splitlines() if "handling_seconds_sum" in line]
    assert [float(line.split()[-1]) for line in handled] == [0.5]


def recording() -> tuple[TracerProvider, InMemorySpanExporter]:
    """A tracer that keeps what has ended."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


async def test_no_span_is_as_long_as_a_socket() -> None:
    """While the socket is open and idle, no span is open: the handshake's has ended with accept, a message's with its handling."""
    provider, exporter = recording()
    started = 0

    class Counting:
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            nonlocal started
            started += 1

        def on_end(self, span: Any) -> None: ...

        def _on_ending(self, span: Any) -> None: ...

        def shutdown(self) -> None: ...

        def force_flush(self, timeout_millis: int = 30000) -> bool:
            return True

    provider.add_span_processor(Counting())  # type: ignore[arg-type]  # by shape
    server = Server(text("x"), stay=True)
    task = asyncio.create_task(_driven(TracingMiddleware(echo, tracer_provider=provider, message_ratio=1.0), server))
    while not server.payloads:
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    assert started == len(exporter.get_finished_spans()) == 2
    server.feed(disconnect())
    await task


async def test_no_label_comes_from_a_client() -> None:
    """Three hundred odd paths, agents, subprotocols and close reasons add no series to those of one plain connection."""
    registry = CollectorRegistry()
    app = MetricsMiddleware(echo, registry=registry)

    async def visit(number: int) -> None:
        odd = f"x{number}"
        scope = handshake((b"user-agent", odd.encode()), path=f"/{odd}", subprotocols=[odd], client=(f"10.0.{number % 250}.1", 1))
        await run(app, scope, text("x"), disconnect(3000 + number, odd))

    def series() -> set[str]:
        return {line.rsplit(" ", 1)[0] for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")}

    await visit(0)
    after_one = series()
    for number in range(1, 300):
        await visit(number)
    assert series() == after_one


@every_layer
async def test_the_empty_message_is_a_message(name: str) -> None:
    """``if event.get("text")`` would lose it, and take an empty text for binary."""
    events: list[Event] = [text(""), binary(b""), {"type": "websocket.receive", "text": "", "bytes": None}]
    server = await run(stack(name), handshake(), *events)
    assert server.payloads == ["", b"", ""]


async def test_no_context_is_detached_in_another_task(caplog: pytest.LogCaptureFixture) -> None:
    """An app that reads in one task and writes in another, as many do, brings up no complaint of the tracing library."""
    provider, exporter = recording()
    inside: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})

        async def reading() -> None:
            while (await receive())["type"] == "websocket.receive":
                inside.append(trace.get_current_span().get_span_context().is_valid)
                await asyncio.ensure_future(send({"type": "websocket.send", "text": "x"}))

        await asyncio.create_task(reading())

    with caplog.at_level(logging.DEBUG):
        await run(TracingMiddleware(app, tracer_provider=provider, message_ratio=1.0), handshake(), text("a"), text("b"))
    assert inside == [True, True]
    assert "detach" not in caplog.text.lower()
    assert not trace.get_current_span().get_span_context().is_valid
    assert len(exporter.get_finished_spans()) == 4


@every_layer
async def test_lifespan_and_http_reach_the_app(name: str) -> None:
    """With the very objects that the server gave."""
    got: list[Any] = []

    async def app(*given: Any) -> None:
        got.append(given)

    for scope in ({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, http_scope()):
        server = Server()
        given = (scope, server.receive, server.send)
        await stack(name, app)(*given)
        assert got[-1] == given
        assert got[-1][0] is scope


class Headers(list[tuple[bytes, bytes]]):
    """A list of headers that counts how often it is walked."""

    walks = 0

    def __iter__(self) -> Any:
        self.walks += 1
        return super().__iter__()


async def test_what_belongs_to_the_connection_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten messages more make no header be parsed again, and no metric's labels be resolved again."""
    resolved = 0
    labels = MetricWrapperBase.labels

    def counting(self: Any, *values: Any, **named: Any) -> Any:
        nonlocal resolved
        resolved += 1
        return labels(self, *values, **named)

    monkeypatch.setattr(MetricWrapperBase, "labels", counting)
    server = Server(stay=True)
    scope = handshake()
    scope["headers"] = headers = Headers(scope["headers"])
    task = asyncio.ensure_future(all_of_them()(scope, server.receive, server.send))

    async def exchange(count: int) -> tuple[int, int]:
        wanted = len(server.payloads) + count
        server.feed(*[text("x")] * count)
        while len(server.payloads) < wanted:
            await asyncio.sleep(0)
        return headers.walks, resolved

    assert await exchange(1) == await exchange(10)
    server.feed(disconnect())
    await task


@pytest.mark.parametrize("build", [in_starlette, in_fastapi])
async def test_the_order_is_what_was_written(build: Callable[[Any], ASGIApp]) -> None:
    """Outermost first in ``Middleware(…)``; ``add_middleware`` puts the last outermost: the documented ways agree, and fuse."""
    opened: list[str] = []
    links: set[int] = set()

    def watching(name: str) -> Any:
        class Watching(Layer):
            async def open(self, link: Any) -> Guard | None:
                opened.append(name)
                links.add(id(link))
                return None

        return Watching

    names = ["tracing", "metrics", "access_log"]
    app = build([(watching(name), {}) for name in names])
    await run(app, handshake(), text("x"))
    assert opened == names
    assert len(links) == 1


@pytest.mark.parametrize("name", REAL)
def test_options_are_keyword_only(name: str) -> None:
    """A call reads as what it means, and a new option breaks nobody."""
    parameters = list(inspect.signature(LAYERS[name][0]).parameters.values())
    assert parameters[0].name == "app"
    assert {parameter.kind for parameter in parameters[1:]} <= {inspect.Parameter.KEYWORD_ONLY}


async def test_the_driver_sends_nothing_behind_a_close() -> None:
    """Two reasons in one turn make one close frame."""
    server = Server(stay=True)
    channel = AsgiChannel(server.receive, server.send)
    await channel.receive()
    await channel.send({"type": "websocket.accept"})
    channel.close(RATE_LIMITED)
    channel.close(AT_CAPACITY)
    await channel.settle(wait=True)
    assert len(server.of("close")) == 1
