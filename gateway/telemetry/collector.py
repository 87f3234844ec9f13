"""``GatewayCollector``: what the core counts, turned into metrics when somebody asks.

The hot path only adds to plain numbers (``Histogram.observe`` is two additions); everything else happens at scrape time. What there
is, is in ``catalogue``; here is where each value comes from.
"""

from __future__ import annotations

import asyncio
import math
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import metrics_core
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from middleware.catalogue import Metric
from middleware.series import Histogram

from ..connection import Connection
from ..envelope import Envelope, is_sampled, trace_id_of
from ..fan_out import FanOut
from ..hub import Hub
from ..observer import Observer
from ..version import __version__
from .catalogue import CATALOGUE, KINDS
from .confirms import Confirms
from .slow import SlowConsumers

__all__ = ["GatewayCollector"]

Values = Mapping[tuple[str, ...], float]

WIRE_STATUSES = ("400", "403", "408", "414", "426", "431", "503")
"""What the wire refuses with; there from the start, so that the first one is seen as an increase."""

_NO_DEFLATE: dict[str, Values] = {
    f"deflate_{what}_total": {("inbound",): 0, ("outbound",): 0} for what in ("messages", "raw_bytes", "wire_bytes", "seconds")
}
"""Where another server has the sockets; our wire counts for itself."""

RECENT = 512
"""So many publications are noted before they are sorted into histograms, which together costs a third of what it would singly."""


class GatewayCollector(Collector, Observer):
    """Reads a hub's numbers at scrape time.

    Args:
        hub: whose numbers.
        confirms_per_second: how many deliveries a second the clients are to confirm.
    """

    def __init__(self, hub: Hub, *, confirms_per_second: float = 0.0) -> None:
        self._hub = hub
        self._histograms = {metric.name: _series(metric) for metric in CATALOGUE if metric.type == "histogram"}
        self._api_requests: Counter[tuple[str, ...]] = Counter()
        self._wire_refused: Counter[tuple[str, ...]] = Counter({(status,): 0 for status in WIRE_STATUSES})
        self._sources: list[Callable[[], Mapping[str, Values]]] = []
        self.drain_left = 0
        self.drain_deadline = math.inf
        """When a drain should be over, on the monotonic clock."""
        self.confirms = Confirms(per_second=confirms_per_second, observers=hub.observers, on_confirmed=self._on_confirmed)
        self._slow = SlowConsumers()
        self._recipients: list[float] = []
        self._seconds: list[float] = []
        self._residency: list[float] = []
        self._texts: list[float] = []
        self._binaries: list[float] = []
        self._confirm, self._api = self.histogram("delivery_confirm_seconds"), self.histogram("api_request_seconds")
        self.on_loop_lag = self.histogram("loop_lag_seconds").observe
        self.on_ping_rtt = self.histogram("ping_rtt_seconds").observe
        hub.observers.add(self)
        hub.observers.add(self._slow)
        if confirms_per_second:
            hub.observers.add(self.confirms)

    def add_source(self, source: Callable[[], Mapping[str, Values]]) -> None:
        """Ask ``source`` too at every scrape, for values of metrics of the catalogue by name and labels."""
        self._sources.append(source)

    def histogram(self, name: str, *labels: str) -> Histogram:
        """The histogram of the catalogue that is called so, for who feeds it."""
        return self._histograms[name][labels]

    def fanned_out(self, fan_out: FanOut) -> None:
        """A write to a room has reached every member."""
        finished, residency = fan_out.finished, self._residency
        self._recipients.append(len(fan_out.recipients))
        self._seconds.append(finished - fan_out.started)
        for envelope in fan_out.envelopes:
            message = envelope.message
            (self._texts if isinstance(message.data, str) else self._binaries).append(len(message.payload))
            residency.append(finished - envelope.published_at)
            if envelope.traceparent:
                self._exemplify("delivery_residency_seconds", residency[-1], envelope)
                self._exemplify("fanout_seconds", self._seconds[-1], envelope)
        if len(residency) >= RECENT:
            self._sort_in()

    def _sort_in(self) -> None:
        """Put what was noted into the histograms."""
        self._recipients = _noted(self.histogram("fanout_recipients"), self._recipients)
        self._seconds = _noted(self.histogram("fanout_seconds"), self._seconds)
        self._residency = _noted(self.histogram("delivery_residency_seconds"), self._residency)
        self._texts = _noted(self.histogram("publication_size_bytes", "text"), self._texts)
        self._binaries = _noted(self.histogram("publication_size_bytes", "binary"), self._binaries)

    def _exemplify(self, name: str, seconds: float, envelope: Envelope) -> None:
        if is_sampled(envelope.traceparent):  # any other has no spans to lead to
            self.histogram(name).exemplify(max(0.0, seconds), trace_id_of(envelope.traceparent))

    def _on_confirmed(self, envelope: Envelope, seconds: float) -> None:
        """A sampled delivery was confirmed; those that only traces asked for would make the figures theirs."""
        self._confirm.observe(seconds)
        self._exemplify("delivery_confirm_seconds", seconds, envelope)

    def expect_api_requests(self, answers: Iterable[tuple[str, str]]) -> None:
        """Count these operations and statuses from 0, so that the first of each is seen as an increase."""
        self._api_requests.update(dict.fromkeys(answers, 0))

    def on_api_request(self, operation: str, status: int, seconds: float) -> None:
        """An API request was answered; ``operation`` is from the API's closed set."""
        self._api_requests[operation, str(status)] += 1
        self._api.observe(seconds)

    def on_wire_refused(self, status: int) -> None:
        """The wire refused a request itself, before any layer saw it."""
        self._wire_refused[(str(status),)] += 1

    def describe(self) -> Iterable[metrics_core.Metric]:
        """Nothing: the families are the same at every scrape and are not asked for at registration."""
        return ()

    def collect(self) -> Iterator[metrics_core.Metric]:
        values = self.values()
        self._sort_in()
        for metric in CATALOGUE:
            if metric.type == "histogram":
                yield _histogram(metric, self._histograms[metric.name])
            else:
                yield _numbers(metric, values.get(metric.name, {}))

    def values(self) -> dict[str, Values]:
        """Every counter and gauge by name, and its values by their labels."""
        registry, outbox = self._hub.registry.statistics(), [one.outlet.buffered_bytes() for one in self._connections()]
        values: dict[str, Values] = {
            **_NO_DEFLATE,
            "build_info": {(__version__, platform.python_version(), self._hub.node): 1},
            "registered_connections": {(): registry.connections},
            "rooms": {(): registry.rooms},
            "users": {(): registry.users},
            "memberships": {(): registry.memberships},
            "subscriptions": {(): len(self._hub.subscriptions)},
            "event_loop_tasks": {(): _tasks()},
            "drain_connections_left": {(): self.drain_left},
            "drain_overdue_seconds": {(): max(0.0, time.monotonic() - self.drain_deadline)},
            "outbox_bytes": {(): sum(outbox)},
            "outbox_largest_bytes": {(): max(outbox, default=0)},
            "delivery_confirms_total": {(result,): count for result, count in self.confirms.results.items()},
            "slow_consumers_total": {(): self._slow.total},
            "broker_refused_total": {(): self._hub.statistics().refused_by_broker},
            "wire_refused_total": self._wire_refused,
            "api_requests_total": self._api_requests,
        }
        values.update(self._ledger())
        for source in self._sources:
            values.update(source())
        return values

    def _connections(self) -> Iterable[Connection]:
        return tuple(self._hub.registry.connections.values())

    def _ledger(self) -> dict[str, Values]:
        """The ledger, brought up to date."""
        registry = self._hub.registry
        registry.ledger.settle()
        ledger, in_progress = registry.ledger.totals, registry.in_progress()
        running = {name: in_progress.get(totals, 0) for name, totals in ledger.items()}
        return {
            "deliveries_accepted_total": {(name,): totals.accepted for name, totals in ledger.items()},
            "deliveries_expected_total": {(name,): totals.expected for name, totals in ledger.items()},
            "deliveries_written_total": {(name,): totals.written for name, totals in ledger.items()},
            "deliveries_buffered": {(name,): totals.buffered for name, totals in ledger.items()},
            "deliveries_in_progress": {(name,): running[name] for name in ledger},
            "deliveries_closed_total": {(name,): totals.closed for name, totals in ledger.items()},
            "deliveries_unaccounted": {(name,): totals.unaccounted(running[name]) for name, totals in ledger.items()},
            "deliveries_dropped_total": {
                (name, reason): count for name, totals in ledger.items() for reason, count in totals.dropped.items()
            },
            "namespaces_overflow_total": {(): registry.ledger.overflow},
        }


def _numbers(metric: Metric, values: Values) -> metrics_core.Metric:
    make = metrics_core.CounterMetricFamily if metric.type == "counter" else metrics_core.GaugeMetricFamily
    family = make(metric.full_name(), metric.help, labels=metric.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _series(metric: Metric) -> dict[tuple[str, ...], Histogram]:
    labels = [(kind,) for kind in KINDS] if metric.labels == ("kind",) else [()]
    return {values: Histogram(metric.buckets) for values in labels}


def _noted(histogram: Histogram, values: list[float]) -> list[float]:
    """Put ``values`` into a histogram; returns the list for those to come."""
    if min(values, default=0.0) < 0:  # another node's clock may be ahead
        values = [max(0.0, value) for value in values]
    histogram.observe_all(values)
    return []


def _histogram(metric: Metric, series: Mapping[tuple[str, ...], Histogram]) -> metrics_core.Metric:
    family = metrics_core.HistogramMetricFamily(metric.full_name(), metric.help, labels=metric.labels)
    for labels, histogram in series.items():
        family.add_metric(labels, [_bucket(*bucket) for bucket in histogram.buckets()], histogram.sum)
    return family


def _bucket(bound: float, count: int, exemplar: tuple[str, float, float] | None) -> tuple[Any, ...]:
    found = () if exemplar is None else (Exemplar({"trace_id": exemplar[0]}, *exemplar[1:]),)
    return ("+Inf" if math.isinf(bound) else str(bound), count, *found)


def _tasks() -> int:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:  # scraped from outside the loop
        return 0
