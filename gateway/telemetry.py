"""What the core counts, turned into metrics when somebody asks; and the set-up of trace export.

The hot path only adds to plain numbers (``Histogram.observe`` is two additions); everything else happens at scrape time.
Labels are namespaces that were declared, and reasons from the closed set of endings: nothing a client can choose.
"""

from __future__ import annotations

import asyncio
import math
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from middleware.series import Histogram

from .hub import Hub
from .version import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

__all__ = ["GatewayCollector", "metrics_route", "new_registry", "tracer_provider"]

FANOUT_RECIPIENTS = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0)
FANOUT_SECONDS = (0.00001, 0.00005, 0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
API_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
PING_RTT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)
LOOP_LAG_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class GatewayCollector(Collector):
    """Reads a hub's numbers at scrape time.

    Args:
        hub: whose numbers.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.loop_lag = Histogram(LOOP_LAG_SECONDS)
        self.ping_rtt = Histogram(PING_RTT_SECONDS)
        self._api_seconds = Histogram(API_SECONDS)
        self._api_requests: Counter[tuple[str, int]] = Counter()
        self._wire_refused: Counter[int] = Counter()
        self._fanout_recipients = Histogram(FANOUT_RECIPIENTS)
        self._fanout_seconds = Histogram(FANOUT_SECONDS)
        self.drain_left = 0
        hub.registry.ledger.on_fanout = self._on_fanout

    def _on_fanout(self, messages: int, recipients: int, seconds: float) -> None:
        self._fanout_recipients.observe(recipients)
        self._fanout_seconds.observe(seconds)

    def on_api_request(self, operation: str, status: int, seconds: float) -> None:
        """An API request was answered; ``operation`` is from the API's closed set."""
        self._api_requests[operation, status] += 1
        self._api_seconds.observe(seconds)

    def on_wire_refused(self, status: int) -> None:
        """The wire refused a request itself, before any layer saw it."""
        self._wire_refused[status] += 1

    def describe(self) -> Iterable[Metric]:
        """Nothing: the families are the same at every scrape and are not asked for at registration."""
        return ()

    def collect(self) -> Iterator[Metric]:
        yield from self._collect_state()
        yield from self._collect_ledger()
        yield _family("tidegate_fanout_recipients", "Members a write to a room went to.", self._fanout_recipients)
        yield _family("tidegate_fanout_seconds", "Time a write to all members of a room took.", self._fanout_seconds)
        yield _family("tidegate_loop_lag_seconds", "How late the event loop ran a timer.", self.loop_lag)
        yield _family("tidegate_ping_rtt_seconds", "From a keepalive ping to its pong.", self.ping_rtt)
        yield from self._collect_http()

    def _collect_state(self) -> Iterator[Metric]:
        registry, totals = self._hub.registry.statistics(), self._hub.statistics()
        yield InfoMetricFamily(
            "tidegate_build",
            "Version of the gateway and of Python.",
            {"version": __version__, "python": platform.python_version(), "node": self._hub.node},
        )
        yield GaugeMetricFamily("tidegate_registered_connections", "Connections in the registry.", registry.connections)
        yield GaugeMetricFamily("tidegate_rooms", "Rooms with at least one member on this node.", registry.rooms)
        yield GaugeMetricFamily("tidegate_users", "Users with at least one connection on this node.", registry.users)
        yield GaugeMetricFamily("tidegate_memberships", "Memberships of connections in rooms.", registry.memberships)
        yield GaugeMetricFamily("tidegate_subscriptions", "Rooms this node listens to.", len(self._hub.subscriptions))
        yield GaugeMetricFamily("tidegate_event_loop_tasks", "Tasks of the event loop.", _tasks())
        yield GaugeMetricFamily("tidegate_drain_connections_left", "Connections that a drain has still to close.", self.drain_left)
        yield CounterMetricFamily(
            "tidegate_broker_refused", "Messages that the broker did not take.", totals.refused_by_broker
        )  # fmt: skip

    def _collect_ledger(self) -> Iterator[Metric]:
        families: dict[str, tuple[str, Callable[[str], float]]] = {
            "accepted": ("Messages fanned out.", lambda name: totals[name].accepted),
            "expected": ("Messages times recipients.", lambda name: totals[name].expected),
            "written": ("Deliveries handed to a connection's outlet.", lambda name: totals[name].written),
            "closed": ("Deliveries to connections that ended before the write.", lambda name: totals[name].closed),
        }
        totals = self._hub.registry.ledger.totals
        for what, (help_text, value) in families.items():
            family = CounterMetricFamily(f"tidegate_deliveries_{what}", help_text, labels=("namespace",))
            for name in totals:
                family.add_metric((name,), value(name))
            yield family
        dropped = CounterMetricFamily(
            "tidegate_deliveries_dropped", "Deliveries left out, and why.", labels=("namespace", "reason")
        )  # fmt: skip
        for name, total in totals.items():
            for reason, count in total.dropped.items():
                dropped.add_metric((name, reason), count)
        yield dropped

    def _collect_http(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("tidegate_api_requests", "Requests to the HTTP API.", labels=("operation", "status"))
        for (operation, status), count in self._api_requests.items():
            requests.add_metric((operation, str(status)), count)
        yield requests
        yield _family("tidegate_api_request_seconds", "Time to answer a request to the HTTP API.", self._api_seconds)
        refused = CounterMetricFamily(
            "tidegate_wire_refused", "Handshakes and requests that the wire refused itself.", labels=("status",)
        )  # fmt: skip
        for status, count in self._wire_refused.items():
            refused.add_metric((str(status),), count)
        yield refused


def _family(name: str, help_text: str, histogram: Histogram) -> HistogramMetricFamily:
    buckets = [("+Inf" if math.isinf(bound) else str(bound), count) for bound, count, _ in histogram.buckets()]
    return HistogramMetricFamily(name, help_text, buckets=buckets, sum_value=histogram.sum)


def _tasks() -> int:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:  # scraped from outside the loop
        return 0


def new_registry() -> CollectorRegistry:
    """A registry with what Python and the process say of themselves."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def metrics_route(registry: CollectorRegistry) -> Route:
    """``GET /metrics``: the classic text format or OpenMetrics, whichever the scraper prefers."""

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return Route("/metrics", metrics)


def tracer_provider(endpoint: str | None, service: str = "tidegate") -> TracerProvider | None:
    """A provider that exports spans over OTLP/HTTP in batches from a bounded queue; ``None`` without an endpoint."""
    if endpoint is None:
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": service, "service.version": __version__}))
    url = endpoint if endpoint.rstrip("/").endswith("/v1/traces") else endpoint.rstrip("/") + "/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url, timeout=5)))
    return provider
