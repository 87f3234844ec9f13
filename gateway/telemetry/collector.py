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
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import metrics_core
from prometheus_client.registry import Collector

from middleware.catalogue import Metric
from middleware.series import Histogram

from ..fan_out import FanOut
from ..hub import Hub
from ..observer import Observer
from ..version import __version__
from .catalogue import CATALOGUE

__all__ = ["GatewayCollector"]

Values = Mapping[tuple[str, ...], float]


class GatewayCollector(Collector, Observer):
    """Reads a hub's numbers at scrape time.

    Args:
        hub: whose numbers.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._histograms = {metric.name: Histogram(metric.buckets) for metric in CATALOGUE if metric.type == "histogram"}
        self._api_requests: Counter[tuple[str, ...]] = Counter()
        self._wire_refused: Counter[tuple[str, ...]] = Counter()
        self.drain_left = 0
        self.on_loop_lag = self._histograms["loop_lag_seconds"].observe
        self.on_ping_rtt = self._histograms["ping_rtt_seconds"].observe
        hub.observers.add(self)

    def fanned_out(self, fan_out: FanOut) -> None:
        """A write to a room has reached every member."""
        self._histograms["fanout_recipients"].observe(len(fan_out.recipients))
        self._histograms["fanout_seconds"].observe(time.perf_counter() - fan_out.started)

    def on_api_request(self, operation: str, status: int, seconds: float) -> None:
        """An API request was answered; ``operation`` is from the API's closed set."""
        self._api_requests[operation, str(status)] += 1
        self._histograms["api_request_seconds"].observe(seconds)

    def on_wire_refused(self, status: int) -> None:
        """The wire refused a request itself, before any layer saw it."""
        self._wire_refused[(str(status),)] += 1

    def describe(self) -> Iterable[metrics_core.Metric]:
        """Nothing: the families are the same at every scrape and are not asked for at registration."""
        return ()

    def collect(self) -> Iterator[metrics_core.Metric]:
        values = self.values()
        for metric in CATALOGUE:
            if metric.type == "histogram":
                yield _histogram(metric, self._histograms[metric.name])
            else:
                yield _numbers(metric, values[metric.name])

    def values(self) -> dict[str, Values]:
        """Every counter and gauge by name, and its values by their labels."""
        registry, ledger = self._hub.registry.statistics(), self._hub.registry.ledger.totals
        return {
            "build_info": {(__version__, platform.python_version(), self._hub.node): 1},
            "registered_connections": {(): registry.connections},
            "rooms": {(): registry.rooms},
            "users": {(): registry.users},
            "memberships": {(): registry.memberships},
            "subscriptions": {(): len(self._hub.subscriptions)},
            "event_loop_tasks": {(): _tasks()},
            "drain_connections_left": {(): self.drain_left},
            "broker_refused_total": {(): self._hub.statistics().refused_by_broker},
            "deliveries_accepted_total": {(name,): totals.accepted for name, totals in ledger.items()},
            "deliveries_expected_total": {(name,): totals.expected for name, totals in ledger.items()},
            "deliveries_written_total": {(name,): totals.written for name, totals in ledger.items()},
            "deliveries_closed_total": {(name,): totals.closed for name, totals in ledger.items()},
            "deliveries_dropped_total": {
                (name, reason): count for name, totals in ledger.items() for reason, count in totals.dropped.items()
            },
            "wire_refused_total": self._wire_refused,
            "api_requests_total": self._api_requests,
        }


def _numbers(metric: Metric, values: Values) -> metrics_core.Metric:
    make = metrics_core.CounterMetricFamily if metric.type == "counter" else metrics_core.GaugeMetricFamily
    family = make(metric.full_name(), metric.help, labels=metric.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _histogram(metric: Metric, histogram: Histogram) -> metrics_core.Metric:
    buckets = [("+Inf" if math.isinf(bound) else str(bound), count) for bound, count, _ in histogram.buckets()]
    return metrics_core.HistogramMetricFamily(metric.full_name(), metric.help, buckets=buckets, sum_value=histogram.sum)


def _tasks() -> int:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:  # scraped from outside the loop
        return 0
