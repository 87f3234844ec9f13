"""What the core counts becomes well-formed metrics, and nothing a client can choose becomes a label."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from starlette.applications import Starlette

from gateway.app import create_app
from gateway.envelope import Envelope
from gateway.hub import Hub
from gateway.message import Message
from gateway.registry import EVERYONE
from gateway.settings import Settings
from gateway.telemetry import (
    CATALOGUE,
    GatewayCollector,
    SpanCounts,
    metrics_markdown,
    metrics_route,
    new_registry,
    tracer_provider,
)
from gateway.telemetry.spans import CountingProcessor
from middleware.catalogue import CATALOGUE as LAYERS
from middleware.close import SLOW_CONSUMER
from tests.gateway.connections import frame_connection
from tests.middleware.asgi_helpers import http_scope


async def scrape(registry: CollectorRegistry, accept: str) -> tuple[str, str]:
    """Content type and text of ``GET /metrics``."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(event: Any) -> None:
        sent.append(event)

    app = Starlette(routes=[metrics_route(registry)])
    await app(http_scope("/metrics", headers=[(b"accept", accept.encode())]), receive, send)
    headers = dict(sent[0]["headers"])
    return headers[b"content-type"].decode(), sent[1]["body"].decode()


@pytest.mark.parametrize(("flags", "traces"), [("00", set()), ("01", {"a" * 32})])
async def test_exemplars_lead_to_traces_that_there_are(flags: str, traces: set[str]) -> None:
    """A publisher that does not sample has a trace id, too, and no spans to find by it."""
    hub = Hub(node="n")
    await hub.start()
    collector = GatewayCollector(hub, confirms_per_second=5)
    member, frames = frame_connection()
    frames.reads = True
    await hub.hold(("r", EVERYONE))
    hub.enter(member, ("r", EVERYONE))
    await hub.publish("r", "x", traceparent=f"00-{'a' * 32}-{'b' * 16}-{flags}")
    await asyncio.sleep(0)
    frames.pong()
    for name in ("fanout_seconds", "delivery_residency_seconds", "delivery_confirm_seconds"):
        buckets = collector.histogram(name).buckets()
        assert {bucket.exemplar[0] for bucket in buckets if bucket.exemplar} == traces
    await hub.stop()


async def test_fan_out_rooms_and_ledger_are_told() -> None:
    """Every number of the hub has its sample, in OpenMetrics and in the classic format."""
    hub = Hub(namespaces=["chat"], node="n")
    await hub.start()
    registry = CollectorRegistry()
    collector = GatewayCollector(hub)
    registry.register(collector)
    for _ in range(3):
        connection, frames = frame_connection(user="u")
        rooms = ("chat:1", EVERYONE, "~user/u")
        await hub.hold(rooms)
        hub.enter(connection, rooms)
        frames.reads = True
    frames.stick(connection)  # the last one is slow
    await hub.publish("chat:1", "x")
    for _ in range(3):
        await asyncio.sleep(0)
    collector.on_loop_lag(0.004)
    content_type, text = await scrape(registry, "application/openmetrics-text")
    assert content_type.startswith("application/openmetrics-text")
    samples = {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }
    chat = (("namespace", "chat"),)
    assert samples["tidegate_deliveries_expected_total", chat] == 3
    assert samples["tidegate_deliveries_written_total", chat] == 2
    assert samples["tidegate_deliveries_dropped_total", (*chat, ("reason", SLOW_CONSUMER.reason))] == 1
    assert samples["tidegate_registered_connections", ()] == 2
    assert (samples["tidegate_rooms", ()], samples["tidegate_users", ()], samples["tidegate_memberships", ()]) == (1, 1, 2)
    assert samples["tidegate_fanout_recipients_sum", ()] == 3
    assert samples["tidegate_publication_size_bytes_count", (("kind", "text"),)] == 1
    assert samples["tidegate_publication_size_bytes_count", (("kind", "binary"),)] == 0
    assert samples["tidegate_loop_lag_seconds_bucket", (("le", "0.005"),)] == 1
    assert samples["tidegate_event_loop_tasks", ()] >= 1
    content_type, text = await scrape(registry, "*/*")
    assert content_type.startswith("text/plain")
    assert 'tidegate_build_info{node="n"' in text
    await hub.stop()


async def test_what_is_noted_becomes_histograms_before_anybody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publications are sorted in together: at the bound, and at a scrape; a clock that is ahead makes no negative time."""
    monkeypatch.setattr("gateway.telemetry.collector.RECENT", 3)
    hub = Hub(node="n")
    await hub.start()
    collector = GatewayCollector(hub)
    made, frames = frame_connection()
    frames.reads = True
    await hub.hold(("r", EVERYONE))
    hub.enter(made, ("r", EVERYONE))
    for number in range(7):
        hub._deliver(Envelope("r", Message("x" if number % 2 else b"xyz"), id=str(number), node="m", published_at=4e9))
        await asyncio.sleep(0)
        assert len(collector._residency) < 3
    samples = {(one.name, *one.labels.values()): one.value for family in collector.collect() for one in family.samples}
    assert samples["tidegate_delivery_residency_seconds_bucket", "+Inf"] == samples["tidegate_fanout_seconds_bucket", "+Inf"] == 7
    assert samples["tidegate_delivery_residency_seconds_sum",] == 0
    assert samples["tidegate_publication_size_bytes_sum", "binary"] == 4 * 3
    assert not collector._residency
    await hub.stop()


async def test_the_process_tells_of_itself_and_a_second_gateway_does_not_clash() -> None:
    """Every gateway has a registry of its own."""
    first, second = new_registry(), new_registry()
    for registry in (first, second):
        registry.register(GatewayCollector(Hub()))
    _, text = await scrape(first, "*/*")
    assert "process_open_fds" in text
    assert "python_gc_objects_collected_total" in text


def test_without_an_endpoint_there_is_no_provider() -> None:
    """Nothing is exported, and nothing is paid."""
    assert tracer_provider(None) is None


@pytest.fixture
def collector() -> Any:
    """A receiver of OTLP over HTTP: remembers the requests, answers 200."""
    got: list[tuple[str, bytes]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    server.server_close()
    thread.join()


def test_spans_reach_a_collector(collector: Any) -> None:
    """The endpoint may be given with or without the signal's path; the resource names the service."""
    endpoint, got = collector
    for given in (endpoint, endpoint + "/v1/traces"):
        provider = tracer_provider(given)
        assert provider is not None
        provider.get_tracer("test").start_span("a span").end()
        provider.shutdown()
    assert [path for path, _ in got] == ["/v1/traces", "/v1/traces"]
    request = ExportTraceServiceRequest.FromString(got[0][1])
    (spans,) = request.resource_spans
    assert {one.key: one.value.string_value for one in spans.resource.attributes}["service.name"] == "tidegate"
    assert spans.scope_spans[0].spans[0].name == "a span"


def test_spans_are_counted_on_their_way(collector: Any) -> None:
    """What was ended is exported in the end, when there is room for it to wait."""
    endpoint, _ = collector
    counts = SpanCounts()
    provider = tracer_provider(endpoint, counts=counts)
    assert provider is not None
    for _ in range(3):
        provider.get_tracer("test").start_span("a span").end()
    provider.shutdown()
    exported = {("ok",): 3, ("failed",): 0, ("lost",): 0}
    assert counts.values() == {"spans_ended_total": {(): 3}, "spans_exported_total": exported}


class HeldUp(SpanExporter):
    """Takes its time with the first batch, and fails with it."""

    def __init__(self) -> None:
        self.came, self.go_on = threading.Event(), threading.Event()
        self.batches: list[list[str]] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.batches.append([span.name for span in spans])
        self.came.set()
        assert self.go_on.wait(30)
        if len(self.batches) == 1:
            raise OSError("the collector is gone")
        return SpanExportResult.SUCCESS


def test_spans_that_found_the_queue_full_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest of those that wait give way; lost, failed and taken are told apart and are together what was ended."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")
    exporter, counts, provider = HeldUp(), SpanCounts(), TracerProvider()
    provider.add_span_processor(CountingProcessor(exporter, counts))
    tracer = provider.get_tracer("test")
    for number in range(2):
        tracer.start_span(str(number)).end()
    assert exporter.came.wait(30)
    for number in range(2, 12):
        tracer.start_span(str(number)).end()
    exporter.go_on.set()
    provider.shutdown()
    assert exporter.batches == [["0", "1"], ["8", "9"], ["10", "11"]]
    exported = {("ok",): 4, ("failed",): 2, ("lost",): 6}
    assert counts.values() == {"spans_ended_total": {(): 12}, "spans_exported_total": exported}


def test_the_catalogue_is_what_is_collected() -> None:
    """Every metric has its values and no value is without its metric; the documents have both catalogues to the letter."""
    collector = create_app(Settings()).collector
    assert set(collector.values()) == {metric.name for metric in CATALOGUE if metric.type != "histogram"}
    families = {family.name for family in collector.collect()}
    assert families == {metric.full_name().removesuffix("_total") for metric in CATALOGUE}
    for metric in CATALOGUE:
        for labels in collector.values().get(metric.name, {}):
            assert len(labels) == len(metric.labels)
    assert (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8") == metrics_markdown()


def test_no_name_is_used_twice() -> None:
    """The gateway's metrics and those of the layers are different ones."""
    names = [metric.name for metric in (*CATALOGUE, *LAYERS)]
    assert len(names) == len(set(names))
