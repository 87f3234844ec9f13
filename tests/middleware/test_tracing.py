"""TracingMiddleware alone, with the real OpenTelemetry SDK: which spans there are, when they end, and where they are current."""

from __future__ import annotations

import asyncio
import inspect
import io
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest

from middleware import asgi, tracing
from middleware.asgi import CONNECTION_ID, FRAMES_EXTENSION, SELF_CHECK, TRACE_ID, ASGIApp, Event, Receive, Scope, Send
from middleware.close import AT_CAPACITY, FORBIDDEN, INTERNAL_ERROR
from middleware.layer import Guard, Layer, Link, Refuse
from middleware.metrics import MetricsMiddleware
from middleware.tracing import SPAN_CONTEXT, HandshakeGuard, TracingMiddleware

from .asgi_helpers import Server, binary, disconnect, echo, http_scope, run, text, websocket_scope
from .fake_frames import framed
from .virtual_time import VirtualLoop, run_virtual

DOCS = Path(__file__).parents[2] / "docs" / "layers" / "tracing.md"
PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED_PARENT = PARENT[:-2] + b"00"


class Spans(SpanProcessor):
    """Keeps what was started and what has ended, of one provider."""

    def __init__(self, sampler: Sampler = ALWAYS_ON) -> None:
        self.open: list[Any] = []
        self.ended: list[ReadableSpan] = []
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(self)

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.open.append(span)

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)
        self.open = [other for other in self.open if other.context != span.context]

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.ended if span.name == name or span.name.startswith(f"{name} /")]

    @property
    def handshake(self) -> ReadableSpan:
        (span,) = [span for span in self.ended if span.kind is SpanKind.SERVER]
        return span

    @property
    def messages(self) -> list[ReadableSpan]:
        return self.named("websocket message")


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture(autouse=True)
def _context_is_left_as_it_was(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a test does: OpenTelemetry has nothing to complain about."""
    with caplog.at_level(logging.WARNING, "opentelemetry"):
        yield
        assert not [record for record in caplog.get_records("call") if record.name.startswith("opentelemetry")]


def layer(app: ASGIApp, spans: Spans, **options: Any) -> TracingMiddleware:
    return TracingMiddleware(app, tracer_provider=spans.provider, **{"message_ratio": 1.0, **options})


def refusing(refusal: Refuse) -> Layer:
    class Refusing(Layer):
        async def open(self, link: Link) -> Guard | None:
            raise refusal

    return Refusing(echo)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def current() -> trace.SpanContext:
    return trace.get_current_span().get_span_context()


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never became true")


class TestHandshake:
    async def test_its_span_ends_at_accept(self, spans: Spans) -> None:
        """From connect to accept: while the socket is open and idle, no span is."""
        server = Server(stay=True)
        task = asyncio.create_task(layer(echo, spans)(websocket_scope(), server.receive, server.send))
        await until(lambda: server.accepted)
        assert [span.name for span in spans.ended] == ["websocket"]
        assert spans.open == []
        server.feed(disconnect())
        await task

    async def test_what_it_says(self, spans: Spans) -> None:
        """A SERVER span named by the route, with the attributes of the HTTP conventions."""
        await run(layer(echo, spans), websocket_scope(route=SimpleNamespace(path="/ws/{room}"), **{CONNECTION_ID: "c1"}))
        assert spans.handshake.name == "websocket /ws/{room}"
        assert attributes(spans.handshake) == {
            "http.request.method": "GET",
            "http.route": "/ws/{room}",
            "http.response.status_code": 101,
            "url.scheme": "ws",
            "network.protocol.name": "http",
            "network.protocol.version": "1.1",
            "client.address": "127.0.0.1",
            "server.address": "127.0.0.1",
            "server.port": 8000,
            "tidegate.connection.id": "c1",
        }
        assert spans.handshake.status.status_code is StatusCode.UNSET

    async def test_a_scope_without_addresses(self, spans: Spans) -> None:
        """A unix socket has no client and no port: those attributes are absent."""
        await run(layer(echo, spans), websocket_scope(client=None, server=("/run/s", None), http_version="2"))
        found = attributes(spans.handshake)
        assert "client.address" not in found
        assert "server.port" not in found
        assert found["http.response.status_code"] == 200

    @pytest.mark.parametrize(
        ("refusal", "error"),
        [
            (Refuse(403, FORBIDDEN), None),
            (Refuse(503, AT_CAPACITY), "at-capacity"),
            (Refuse(500, INTERNAL_ERROR), "internal-error"),
        ],
    )
    async def test_a_refusal_ends_it(self, spans: Spans, refusal: Refuse, error: str | None) -> None:
        """With status and slug; it is an error only when it is the server's fault. There is no close span."""
        await run(layer(refusing(refusal), spans), websocket_scope())
        found = attributes(spans.handshake)
        assert (found["http.response.status_code"], found["websocket.close.reason"]) == (refusal.status, refusal.close.reason)
        assert found.get("error.type") == error
        assert spans.handshake.status.status_code is (StatusCode.ERROR if error else StatusCode.UNSET)
        assert len(spans.ended) == 1

    async def test_an_app_that_fails(self, spans: Spans) -> None:
        """An error before accept is the span's error."""

        async def failing(scope: Scope, receive: Receive, send: Send) -> None:
            raise LookupError("a bug")

        with pytest.raises(LookupError):
            await run(layer(failing, spans), websocket_scope())
        assert attributes(spans.handshake)["error.type"] == "internal-error"
        assert not otel_context.get_current()

    async def test_a_cancelled_handshake(self, spans: Spans) -> None:
        """Cancellation ends the span and goes on its way."""

        async def stuck(scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.Event().wait()

        task = asyncio.create_task(run(layer(stuck, spans), websocket_scope()))
        await until(lambda: bool(spans.open))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert spans.open == []
        assert attributes(spans.handshake)["websocket.close.reason"] == "going-away"

    async def test_the_process_checking_itself_is_not_traced(self, spans: Spans) -> None:
        """The gateway's own self check makes no span."""
        await run(layer(echo, spans), websocket_scope(**{SELF_CHECK: True}), text("hello"))
        assert spans.ended == []


class TestParent:
    async def test_the_client_s_traceparent(self, spans: Spans) -> None:
        """The client's span is the parent, and its tracestate is kept."""
        headers = [(b"traceparent", PARENT), (b"tracestate", b"congo=t61rcWkgMzE, rojo=00f067aa0ba902b7")]
        await run(layer(echo, spans), websocket_scope(headers=headers))
        assert spans.handshake.parent is not None
        assert trace.format_trace_id(spans.handshake.context.trace_id) == "0af7651916cd43dd8448eb211c80319c"
        assert trace.format_span_id(spans.handshake.parent.span_id) == "b7ad6b7169203331"
        assert spans.handshake.context.trace_state == {"congo": "t61rcWkgMzE", "rojo": "00f067aa0ba902b7"}

    @pytest.mark.parametrize(
        "headers",
        [
            [(b"traceparent", b"")],
            [(b"traceparent", b"nonsense\r\n\x1b[31m")],
            [(b"traceparent", PARENT.upper())],
            [(b"traceparent", b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01")],
            [(b"traceparent", b"ff" + PARENT[2:])],
            [(b"traceparent", PARENT + b"-extra")],
            [(b"traceparent", PARENT), (b"traceparent", PARENT)],
            [(b"traceparent", b"01" + PARENT[2:] + b"-" + b"x" * 100_000)],
            [(b"traceparent", b"\xff" * 55)],
        ],
    )
    async def test_what_is_no_traceparent_is_ignored(self, spans: Spans, headers: list[tuple[bytes, bytes]]) -> None:
        """Malformed, doubled or huge: a trace of our own, and nothing of it in a log (the fixture looks)."""
        await run(layer(echo, spans), websocket_scope(headers=headers))
        assert spans.handshake.parent is None

    @pytest.mark.parametrize(
        "state", [b"a=b," * 100_000, b"k=" + b"x" * 600, b"UPPER=1", b"a=\x1b[31m", b"a=b,nonsense", b"a", b"\xff=1"]
    )
    async def test_what_is_no_tracestate_is_ignored(self, spans: Spans, state: bytes) -> None:
        """The parent counts, the state does not, and nothing of it is in a log."""
        await run(layer(echo, spans), websocket_scope(headers=[(b"traceparent", PARENT), (b"tracestate", state)]))
        assert spans.handshake.parent is not None
        assert len(spans.handshake.context.trace_state) == 0

    @given(st.binary(max_size=80), st.binary(max_size=80))
    @hypothesis_settings(max_examples=60)
    def test_no_bytes_do_harm(self, parent: bytes, state: bytes) -> None:
        """Whatever bytes a client sends, the handshake succeeds."""
        spans = Spans()
        headers = [(b"traceparent", parent), (b"traceparent", PARENT), (b"tracestate", state)][: 1 + len(parent) % 3]
        assert asyncio.run(run(layer(echo, spans), websocket_scope(headers=headers))).accepted

    async def test_a_public_endpoint_only_links(self, spans: Spans) -> None:
        """Strangers do not decide what is sampled: their span is linked to, and the trace is ours."""
        await run(layer(echo, spans, public_endpoint=True), websocket_scope(headers=[(b"traceparent", UNSAMPLED_PARENT)]))
        assert spans.handshake.parent is None
        (link,) = spans.handshake.links
        assert trace.format_span_id(link.context.span_id) == "b7ad6b7169203331"

    async def test_a_public_endpoint_without_traceparent(self, spans: Spans) -> None:
        """Nothing to link to, no link."""
        await run(layer(echo, spans, public_endpoint=True), websocket_scope())
        assert list(spans.handshake.links) == []

    async def test_a_span_around_the_app_is_closer(self, spans: Spans) -> None:
        """An outer instrumentation that records is the parent, not the header that it has seen already."""
        with spans.provider.get_tracer("outer").start_as_current_span("outer") as outer:
            await run(layer(echo, spans), websocket_scope(headers=[(b"traceparent", PARENT)]))
        assert spans.handshake.parent == outer.get_span_context()

    async def test_what_the_server_was_started_in_is_no_parent(self, spans: Spans) -> None:
        """A span that is over stays in the context of everything started within: it is not a connection's parent."""
        with spans.provider.get_tracer("startup").start_as_current_span("startup") as startup:
            server_context = otel_context.get_current()
        token = otel_context.attach(server_context)
        await run(layer(echo, spans), websocket_scope())
        assert otel_context.get_current() == server_context
        otel_context.detach(token)
        assert spans.handshake.parent is None
        assert spans.handshake.context.trace_id != startup.get_span_context().trace_id


class TestMessages:
    async def test_a_message_s_span(self, spans: Spans) -> None:
        """A CONSUMER span, root of a trace of its own, linked to the handshake."""
        await run(layer(echo, spans), websocket_scope(route=SimpleNamespace(path="/ws")), text("héllo"), binary(b"abc"))
        first, second = spans.messages
        assert (first.name, first.kind, first.parent) == ("websocket message /ws", SpanKind.CONSUMER, None)
        assert len({first.context.trace_id, second.context.trace_id, spans.handshake.context.trace_id}) == 3
        assert [link.context for link in first.links] == [spans.handshake.context]
        assert attributes(first) == {
            "http.route": "/ws",
            "websocket.message.type": "text",
            "websocket.message.payload_bytes": 6,
            "tidegate.message.outcome": "handled",
        }
        assert attributes(second)["websocket.message.type"] == "binary"

    async def test_it_ends_when_the_app_asks_for_the_next(self, spans: Spans) -> None:
        """Waiting for the client is in no span."""
        server = Server(text("one"), stay=True)
        task = asyncio.create_task(layer(echo, spans)(websocket_scope(), server.receive, server.send))
        await until(lambda: len(server.payloads) == 1)
        await until(lambda: len(spans.messages) == 1)
        assert spans.open == []
        server.feed(disconnect())
        await task

    async def test_the_app_works_inside_it(self, spans: Spans) -> None:
        """Current from receive to receive; the handshake's until accept; between and after, nothing."""
        seen: list[trace.SpanContext] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            async def peeking_send(event: Event) -> None:
                await send(event)

            await receive()
            seen.append(current())
            await peeking_send({"type": "websocket.accept"})
            seen.append(current())
            while (await receive())["type"] == "websocket.receive":
                seen.append(current())
            seen.append(current())

        await run(layer(app, spans), websocket_scope(), text("one"), text("two"))
        first, second = spans.messages
        assert seen == [
            spans.handshake.context, trace.INVALID_SPAN_CONTEXT, first.context, second.context, trace.INVALID_SPAN_CONTEXT,
        ]  # fmt: skip
        assert not otel_context.get_current()

    async def test_what_the_app_does_is_a_child(self, spans: Spans) -> None:
        """Spans that the app makes, also in tasks that it starts, belong to the message's trace."""
        tracer = spans.provider.get_tracer("app")

        async def work() -> None:
            with tracer.start_as_current_span("work"):
                await asyncio.sleep(0)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            await asyncio.create_task(work())
            await receive()

        await run(layer(app, spans), websocket_scope(), text("one"))
        (message,) = spans.messages
        (child,) = spans.named("work")
        assert child.parent == message.context

    async def test_the_ratio_is_decided_before_a_span_exists(self, spans: Spans) -> None:
        """A message that is not drawn makes nothing: no span, no context, no draw of the sampler."""
        chances = iter([0.5, 0.05, 0.1, 0.0])
        seen: list[bool] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            while (await receive())["type"] == "websocket.receive":
                seen.append(current().is_valid)

        messages = [text(str(number)) for number in range(4)]
        await run(layer(app, spans, message_ratio=0.1, chance=lambda: next(chances)), websocket_scope(), *messages)
        assert seen == [False, True, False, True]
        assert len(spans.messages) == 2

    @pytest.mark.parametrize("options", [{"message_ratio": 0.0}, {"message_ratio": 1.0, "sampler": ALWAYS_OFF}])
    async def test_where_nothing_is_drawn_messages_have_no_hook(self, options: dict[str, Any]) -> None:
        """Ratio 0, or a handshake that was not sampled: a message does not even meet the guard."""
        spans = Spans(options.pop("sampler", ALWAYS_ON))
        guard = await layer(echo, spans, **options).open(link_of(websocket_scope()))
        assert type(guard) is HandshakeGuard
        assert guard.overridden == {"accepting"}

    async def test_messages_follow_the_handshake_s_decision(self) -> None:
        """By default a connection that is not sampled has no message spans; inherit=False traces them all the same."""
        spans = Spans(ParentBased(ALWAYS_ON))
        scope = websocket_scope(headers=[(b"traceparent", UNSAMPLED_PARENT)])
        await run(layer(echo, spans), scope, text("one"))
        assert spans.ended == []
        await run(layer(echo, spans, inherit=False), scope, text("one"))
        assert [span.name for span in spans.ended] == ["websocket message"]

    async def test_the_provider_s_sampler_has_the_last_word(self) -> None:
        """A message that is drawn but not sampled is handled as any other, and so is what the app makes in it."""
        spans = Spans(ParentBased(ALWAYS_OFF))
        tracer = spans.provider.get_tracer("app")

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            with tracer.start_as_current_span("work"):
                pass
            await receive()

        await run(layer(app, spans), websocket_scope(headers=[(b"traceparent", PARENT)]), text("one"))
        assert [span.kind for span in spans.ended] == [SpanKind.SERVER]

    async def test_a_dropped_message(self, spans: Spans) -> None:
        """A message that a layer further in drops has ended, with its context, before the next is waited for."""

        class Dropping(Layer):
            async def open(self, link: Link) -> Guard | None:
                class DroppingGuard(Guard):
                    def inbound(self, event: Event) -> Event | None:
                        return None

                return DroppingGuard()

        server = Server(text("one"), stay=True)
        task = asyncio.create_task(layer(Dropping(echo), spans)(websocket_scope(), server.receive, server.send))
        await until(lambda: len(spans.messages) == 1)
        assert spans.open == []
        assert attributes(spans.messages[0])["tidegate.message.outcome"] == "dropped"
        server.feed(disconnect())
        await task

    async def test_an_app_that_returns_while_handling(self, spans: Spans) -> None:
        """The span ends with the connection."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            await receive()

        await run(layer(app, spans), websocket_scope(), text("one"))
        assert attributes(spans.messages[0])["tidegate.message.outcome"] == "closed"
        assert not otel_context.get_current()

    async def test_an_app_that_fails_while_handling(self, spans: Spans) -> None:
        """The message's span is in error, and so is the close span."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            raise LookupError("a bug")

        with pytest.raises(LookupError):
            await run(layer(app, spans), websocket_scope(), text("one"))
        assert spans.messages[0].status.status_code is StatusCode.ERROR
        assert spans.named("websocket close")[0].status.status_code is StatusCode.ERROR
        assert not otel_context.get_current()

    def test_an_app_that_never_asks_again(self, spans: Spans) -> None:
        """An app that hears one message and then talks for a day: the span ends after message_timeout_seconds."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            await asyncio.sleep(59)
            assert len(spans.open) == 1
            await asyncio.sleep(2)
            assert spans.open == []
            await asyncio.sleep(86_400)

        run_virtual(lambda loop: run(layer(app, spans), websocket_scope(), text("one"), timeout_seconds=100_000))
        assert attributes(spans.messages[0])["tidegate.message.outcome"] == "timeout"

    def test_no_timer_outlives_a_message(self, spans: Spans) -> None:
        """What has ended waits for nothing."""

        async def main(loop: VirtualLoop) -> None:
            server = Server(text("one"), text("two"), stay=True)
            task = loop.create_task(layer(echo, spans)(websocket_scope(), server.receive, server.send))
            await until(lambda: len(spans.messages) == 2)
            assert loop.pending_timers() == 0
            server.feed(disconnect())
            await task

        run_virtual(main)


class TestContext:
    async def test_connections_do_not_see_each_other(self, spans: Spans) -> None:
        """Many at once: each handler sees the span that is linked to its own handshake."""
        seen: dict[str, list[int]] = {}

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            mine = seen.setdefault(scope[TRACE_ID], [])
            await receive()
            await send({"type": "websocket.accept"})
            while (await receive())["type"] == "websocket.receive":
                before = current()
                await asyncio.sleep(0)
                assert current() == before
                mine.append(before.trace_id)

        traced = layer(app, spans)
        scripts = [[text(str(number)) for number in range(5)] for _ in range(20)]
        await asyncio.gather(*(run(traced, websocket_scope(), *script) for script in scripts))
        linked: dict[str, list[int]] = {}
        for span in spans.messages:
            linked.setdefault(trace.format_trace_id(span.links[0].context.trace_id), []).append(span.context.trace_id)
        assert linked == seen
        assert not otel_context.get_current()

    async def test_the_app_s_own_context_is_put_back(self, spans: Spans) -> None:
        """What the app has attached for the whole connection, such as baggage, is under every message and there between them."""
        seen: list[tuple[object, bool]] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            token = otel_context.attach(otel_context.set_value("tenant", "acme"))
            for _ in range(3):
                await receive()
                seen.append((otel_context.get_value("tenant"), current().is_valid))
            otel_context.detach(token)
            assert not otel_context.get_current()

        chances = iter([0.0, 1.0])
        await run(layer(app, spans, message_ratio=0.5, chance=lambda: next(chances)), websocket_scope(), text("a"), text("b"))
        assert seen == [("acme", True), ("acme", False), ("acme", False)]

    async def test_a_task_per_receive(self, spans: Spans) -> None:
        """Every receive in a task of its own, as asyncio.wait wants it: no error, no leak, every span ended."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            while True:
                event = await asyncio.create_task(receive())  # type: ignore[arg-type]  # a coroutine
                assert not current().is_valid, "the helper's context does not reach its parent"
                if event["type"] == "websocket.disconnect":
                    return

        await run(layer(app, spans), websocket_scope(), text("a"), text("b"), text("c"))
        assert len(spans.messages) == 3
        assert spans.open == []
        assert not otel_context.get_current()

    async def test_accept_from_a_helper_task(self, spans: Spans) -> None:
        """The handshake's context is gone from the app's task when the first message arrives."""
        seen: list[trace.SpanContext] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await asyncio.create_task(send({"type": "websocket.accept"}))  # type: ignore[arg-type]  # a coroutine
            await receive()
            seen.append(current())
            await receive()

        await run(layer(app, spans, message_ratio=0.5, chance=lambda: 1.0), websocket_scope(), text("a"))
        assert seen == [trace.INVALID_SPAN_CONTEXT]
        assert not otel_context.get_current()

    async def test_a_span_that_the_app_left_open(self, spans: Spans) -> None:
        """An app that forgets to detach what it attached in a message does not carry the message's span into the next."""
        seen: list[bool] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            otel_context.attach(otel_context.set_value("forgotten", "yes"))
            await receive()
            seen.append(current().is_valid)

        chances = iter([0.0, 1.0])
        await run(layer(app, spans, message_ratio=0.5, chance=lambda: next(chances)), websocket_scope(), text("a"), text("b"))
        assert seen == [False]

    async def test_a_reader_that_is_started_in_a_message(self, spans: Spans) -> None:
        """A task that was born in a message's context reads on: what it handles later is not in that message."""
        seen: list[bool] = []

        async def read_on(receive: Receive) -> None:
            for _ in range(2):
                await receive()
                seen.append(current() == spans.open[-1].context)
            await receive()
            seen.append(current().is_valid)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            reader = asyncio.create_task(read_on(receive))
            await reader

        await run(layer(app, spans), websocket_scope(), text("a"), text("b"), text("c"))
        assert seen == [True, True, False]

    async def test_a_reader_that_starts_later(self, spans: Spans) -> None:
        """The same when the app's own task has left that message in the meantime."""
        seen: list[bool] = []
        go = asyncio.Event()

        async def read_on(receive: Receive) -> None:
            await go.wait()
            await receive()
            await receive()
            seen.append(current().is_valid)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            reader = asyncio.create_task(read_on(receive))
            await receive()
            go.set()
            await reader

        chances = iter([0.0, 1.0, 0.0, 1.0])
        script = [text(str(number)) for number in range(4)]
        await run(layer(app, spans, message_ratio=0.5, chance=lambda: next(chances)), websocket_scope(), *script)
        assert seen == [False]

    async def test_one_connection_inside_another_s_message(self, spans: Spans) -> None:
        """An app that opens a connection within the process while it handles a message keeps its own span."""
        inner = layer(echo, Spans())
        seen: list[bool] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            before = current()
            await run(inner, websocket_scope(), text("hello"))
            seen.append(current() == before)
            await receive()

        await run(layer(app, spans), websocket_scope(), text("a"))
        assert seen == [True]

    async def test_a_synchronous_handler_in_a_callback(self, spans: Spans) -> None:
        """on_message straight from a parser: current within the call, and nothing stays behind in the protocol's context."""
        seen: list[trace.SpanContext] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            scope["extensions"][FRAMES_EXTENSION].on_message = lambda event: seen.append(current())
            with suppress(asyncio.TimeoutError):
                await receive()

        server = Server(stay=True)
        scope, receive, send = framed(websocket_scope(), server)
        frames = scope["extensions"][FRAMES_EXTENSION]
        task = asyncio.create_task(layer(app, spans)(scope, receive, send))
        await until(lambda: frames.on_message is not None)

        def parse() -> None:
            for _ in range(2):
                frames.on_message(frames._inbound(text("hello")))
                frames._wait_if_handled()
                seen.append(current())

        asyncio.get_running_loop().call_soon(parse)
        await until(lambda: len(seen) == 4)
        first, second = spans.messages
        assert seen == [first.context, trace.INVALID_SPAN_CONTEXT, second.context, trace.INVALID_SPAN_CONTEXT]
        server.feed(disconnect())
        await task

    async def test_hooks_far_from_the_app_attach_nothing(self, spans: Spans) -> None:
        """A server that runs the hooks while it parses, on behalf of a task: spans, but no context where it is nobody's."""
        server = Server(stay=True)
        scope, receive, send = framed(websocket_scope(), server)
        frames = scope["extensions"][FRAMES_EXTENSION]
        task = asyncio.create_task(layer(echo, spans)(scope, receive, send))
        await until(lambda: server.accepted)
        seen: list[bool] = []

        def parse() -> None:
            frames._inbound(text("one"))
            seen.append(current().is_valid)
            frames._inbound(text("two"))

        asyncio.get_running_loop().call_soon(parse)
        await until(lambda: bool(seen))
        server.feed(disconnect())
        await task
        assert seen == [False]
        assert len(spans.messages) == 2
        assert spans.open == []

    @given(
        st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["message", "close", "cancel"])), max_size=25), st.integers(0, 2**20)
    )
    @hypothesis_settings(max_examples=40)
    def test_every_span_ends_once(self, steps: list[tuple[int, str]], seed: int) -> None:
        """Three connections, any order of messages, closes and cancellations: what was started has ended, and nothing leaks."""
        asyncio.run(_play(steps, seed))


class TestClose:
    async def test_its_span(self, spans: Spans) -> None:
        """Short, linked, with how it ended and what was carried."""
        await run(layer(echo, spans), websocket_scope(**{CONNECTION_ID: "c1"}), text("hello"), disconnect(1001))
        (close,) = spans.named("websocket close")
        assert (close.kind, close.parent) == (SpanKind.INTERNAL, None)
        assert [link.context for link in close.links] == [spans.handshake.context]
        assert attributes(close) == {
            "websocket.close.code": 1001,
            "websocket.close.reason": "going-away",
            "websocket.close.initiator": "client",
            "tidegate.connection.id": "c1",
            "tidegate.connection.received_messages": 1,
            "tidegate.connection.received_bytes": 5,
            "tidegate.connection.sent_messages": 1,
            "tidegate.connection.sent_bytes": 5,
        }

    async def test_none_for_a_connection_that_is_not_sampled(self) -> None:
        """The handshake's decision holds for the end too."""
        spans = Spans(ParentBased(ALWAYS_ON))
        await run(layer(echo, spans), websocket_scope(headers=[(b"traceparent", UNSAMPLED_PARENT)]))
        assert spans.ended == []


class TestSecrets:
    async def test_no_token_is_in_a_span(self, spans: Spans) -> None:
        """Query, path, headers, cookies, subprotocols and close reasons may hold tokens: none becomes an attribute or a name."""
        headers = [
            (b"authorization", b"Bearer s3cret"), (b"cookie", b"session=s3cret"), (b"user-agent", b"s3cret"), (b"host", b"s3cret"),
        ]  # fmt: skip
        scope = websocket_scope("/ws/s3cret", headers=headers, subprotocols=["bearer.s3cret"], query_string=b"token=s3cret")
        await run(layer(echo, spans), scope, text("s3cret"), disconnect(4000, "s3cret"))
        assert len(spans.ended) == 3
        assert not [span.name for span in spans.ended if "s3cret" in span.to_json()]


class TestNoProvider:
    async def test_nothing_is_made(self) -> None:
        """Without a provider a connection has no guard, and the scope nothing of ours."""
        link = link_of(websocket_scope(headers=[(b"traceparent", PARENT)]))
        assert await TracingMiddleware(echo, message_ratio=1.0).open(link) is None
        assert link.get(TRACE_ID) is None

    async def test_a_silent_provider_is_none(self) -> None:
        """The API's own no-op provider is as good as no provider."""
        middleware = TracingMiddleware(echo, tracer_provider=trace.NoOpTracerProvider(), message_ratio=1.0)
        assert await middleware.open(link_of(websocket_scope())) is None

    async def test_a_provider_that_is_set_later(self, spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
        """An app may configure tracing after it has built its middlewares."""
        middleware = TracingMiddleware(echo)
        await run(middleware, websocket_scope())
        monkeypatch.setattr(tracing.trace, "get_tracer_provider", lambda: spans.provider)
        await run(middleware, websocket_scope())
        assert len(spans.named("websocket")) == 1


class TestSharing:
    async def test_the_scope_tells_the_trace(self, spans: Spans) -> None:
        """The access log's trace id and the context for links; the caller's scope is left alone."""
        seen: list[Scope] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(scope)
            await echo(scope, receive, send)

        scope = websocket_scope()
        await run(layer(app, spans), scope)
        assert seen[0][TRACE_ID] == trace.format_trace_id(spans.handshake.context.trace_id)
        assert seen[0][SPAN_CONTEXT] == spans.handshake.context
        assert TRACE_ID not in scope

    async def test_exemplars_of_the_metrics_beside_it(self, spans: Spans) -> None:
        """Metrics remember the handshake's trace and each sampled message's own."""
        registry = CollectorRegistry()
        await run(layer(MetricsMiddleware(echo, registry=registry), spans), websocket_scope(), text("hello"))
        exposed = generate_latest(registry).decode()
        assert f'trace_id="{trace.format_trace_id(spans.handshake.context.trace_id)}"' in exposed
        assert exposed.count(f'trace_id="{trace.format_trace_id(spans.messages[0].context.trace_id)}"') == 2

    async def test_no_exemplars_of_what_is_not_sampled(self) -> None:
        """A trace id that no back end has is no exemplar."""
        registry, spans = CollectorRegistry(), Spans(ALWAYS_OFF)
        app = layer(MetricsMiddleware(echo, registry=registry), spans, inherit=False)
        await run(app, websocket_scope(), text("hello"))
        assert "trace_id" not in generate_latest(registry).decode()


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"message_ratio": 1.1}, "share"),
            ({"message_ratio": -0.1}, "share"),
            ({"message_ratio": float("nan")}, "share"),
            ({"message_timeout_seconds": 0}, "above 0"),
            ({"message_timeout_seconds": -1.0}, "above 0"),
        ],
    )
    def test_wrong_options_say_what_is_wrong(self, options: dict[str, Any], sentence: str) -> None:
        """ValueError with a sentence, at construction."""
        with pytest.raises(ValueError, match=sentence):
            TracingMiddleware(echo, **options)

    def test_no_time_out(self, spans: Spans) -> None:
        """None lets a span wait for as long as the app does."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            await asyncio.sleep(3600)
            assert len(spans.open) == 1

        traced = layer(app, spans, message_timeout_seconds=None)
        run_virtual(lambda loop: run(traced, websocket_scope(), text("one"), timeout_seconds=100_000))

    async def test_other_scopes_pass_untouched(self, spans: Spans) -> None:
        """HTTP and lifespan see the same scope, receive and send, and make no span."""
        seen: list[Any] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append((scope, receive, send))

        server = Server()
        for scope in (http_scope(), {"type": "lifespan"}):
            call = (scope, server.receive, server.send)
            await layer(app, spans)(*call)
            assert all(got is given for got, given in zip(seen.pop(), call, strict=True))
        assert spans.ended == []


async def test_the_snippet_in_the_documentation_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied as it stands: a handshake's span reaches the console."""
    console = io.StringIO()  # the exporter's own default is what stdout was when its module was first imported
    service_name, _, formatter = ConsoleSpanExporter.__init__.__defaults__ or ()
    monkeypatch.setattr(ConsoleSpanExporter.__init__, "__defaults__", (service_name, console, formatter))
    namespace: dict[str, Any] = {"__name__": "snippet"}
    exec(re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)[0], namespace)
    try:
        assert (await run(namespace["app"], websocket_scope("/rooms/lobby"), text("hello"))).payloads == ["hello"]
        namespace["provider"].force_flush()
    finally:
        namespace["provider"].shutdown()
    assert '"name": "websocket /rooms/{room}"' in console.getvalue()


def test_every_option_and_attribute_is_documented() -> None:
    """The tables have a row for each option, and name each attribute by its last part at least."""
    page = DOCS.read_text()
    for option in list(inspect.signature(TracingMiddleware).parameters)[1:]:
        assert f"| `{option}` |" in page
    own = {name for name in vars(tracing) if name.isupper() and name[0] != "_"} - set(asgi.__all__)
    names = [value for name in own if isinstance(value := getattr(tracing, name), str)]
    assert len(names) > 20
    for name in names:
        assert f"`{name}`" in page or f"`.{name.rpartition('.')[2]}`" in page, name


def link_of(scope: Scope) -> Link:
    server = Server()
    return Link(scope, framed(scope, server)[0]["extensions"][FRAMES_EXTENSION])


async def _play(steps: list[tuple[int, str]], seed: int) -> None:
    spans = Spans()
    draws = [(seed >> at & 7) / 8 for at in range(18)]
    app = layer(echo, spans, message_ratio=0.5, chance=lambda: draws.pop() if draws else 0.0)
    servers = [Server(stay=True) for _ in range(3)]
    tasks = [asyncio.create_task(app(websocket_scope(), server.receive, server.send)) for server in servers]
    await until(lambda: all(server.accepted for server in servers))
    for which, what in steps:
        if what == "cancel":
            tasks[which].cancel()
        else:
            servers[which].feed(text("hello") if what == "message" else disconnect())
        await asyncio.sleep(0)
    for server in servers:
        server.feed(disconnect())
    await asyncio.gather(*tasks, return_exceptions=True)
    assert spans.open == []
    assert len({span.context.span_id for span in spans.ended}) == len(spans.ended)
    assert len([span for span in spans.ended if span.kind is SpanKind.SERVER]) == 3
    assert not otel_context.get_current()
