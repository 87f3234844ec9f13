"""``Store``: the figures of one registry and namespace, and their way to Prometheus. Part of ``metrics``, which feeds it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from threading import Lock
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakSet

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Exemplar

from .asgi import Channel
from .catalogue import CATALOGUE, OBSERVATIONS, Metric
from .close import NAMED
from .layer import Layer, Link
from .series import Bucket, Histogram, Number

__all__ = ["MAX_ROUTES", "OTHER", "Route", "Store"]

logger = logging.getLogger("tidegate.middleware")

OTHER: Final = "other"
MAX_ROUTES: Final = 64
MAX_ROUTE_LENGTH: Final = 200
_HANDSHAKES: Final = (
    ("accepted", "none"),
    *(("refused", reason) for reason in ("forbidden", "unauthorized", "rate-limited", "at-capacity", "unavailable", "restarting")),
    ("abandoned", "abnormal"),
    ("failed", "internal-error"),
)
"""Usual outcomes of handshakes: there from the start, so that the first one is seen as an increase. So are all ends."""


class Route:
    """What is counted by route, resolved once."""

    __slots__ = ("duration", "handling", "label", "now", "peak")

    def __init__(self, store: Store, label: str) -> None:
        self.label = label
        self.now = store.number("connections", label)
        self.peak = store.number("connections_peak", label)
        self.duration = store.histogram("connection_duration_seconds", label)
        self.handling = store.histogram("handling_seconds", label)
        for outcome, reason in _HANDSHAKES:
            store.number("handshakes_total", label, outcome, reason)


class Store:
    """The figures of one registry and namespace; a collector of ``prometheus_client``."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._metrics = {metric.name: metric for metric in CATALOGUE}
        self._numbers: dict[str, dict[tuple[str, ...], Number]] = {}
        self._histograms: dict[str, dict[tuple[str, ...], Histogram]] = {}
        self._routes: dict[str, Route] = {}
        self._lock = Lock()
        self._open: set[Channel] = set()
        self.layers: WeakSet[Layer] = WeakSet()
        """Those that are asked to report before everything is handed out."""
        self._past = [0, 0, 0, 0]
        """Of closed connections: messages and bytes received, messages and bytes sent."""
        self.text_in = self.histogram("message_size_bytes", "inbound", "text")
        self.binary_in = self.histogram("message_size_bytes", "inbound", "binary")
        self.text_out = self.histogram("message_size_bytes", "outbound", "text")
        self.binary_out = self.histogram("message_size_bytes", "outbound", "binary")
        for metric in CATALOGUE:
            if not metric.labels:
                _ = self.histogram(metric.name) if metric.type == "histogram" else self.number(metric.name)
        for reason, initiator in product(NAMED, ("client", "server")):
            self.number("closes_total", reason, initiator)
        for outcome in ("accepted", "refused", "abandoned", "failed"):
            self.histogram("handshake_seconds", outcome)
        self._sinks = {name: self._sink(metric, labels) for name, (metric, labels) in OBSERVATIONS.items()}
        self._unknown = self.number("observations_unknown_total")
        self._overflow = self.number("routes_overflow_total")
        self.route(OTHER)

    @staticmethod
    def of(registry: CollectorRegistry, namespace: str) -> Store:
        """The one store of ``registry`` and ``namespace``, registered when it is first asked for."""
        stores = _STORES.setdefault(registry, {})
        if namespace not in stores:
            store = Store(namespace)
            registry.register(store)
            stores[namespace] = store
        return stores[namespace]

    def number(self, name: str, *labels: str) -> Number:
        """The counter or gauge with these label values. Never asked for per message."""
        series = self._numbers.setdefault(name, {})
        return series.get(labels) or series.setdefault(labels, Number())

    def histogram(self, name: str, *labels: str) -> Histogram:
        """The histogram with these label values. Never asked for per message."""
        series = self._histograms.setdefault(name, {})
        return series.get(labels) or series.setdefault(labels, Histogram(self._metrics[name].buckets))

    def observe(self, name: str, value: float) -> None:
        """What a layer reports; a name that is not in the table makes no series."""
        sink = self._sinks.get(name)
        if sink is None:
            self._unknown.add(1.0)
        else:
            sink(value)

    def route(self, label: str) -> Route:
        """What is counted for a route that is known to be one."""
        route = self._routes.get(label)
        if route is None:
            route = self._routes[label] = Route(self, label)
        return route

    def admit(self, label: str) -> Route:
        """What is counted for a route that a router has named: itself while there is room, then ``other``."""
        if label in self._routes:
            return self._routes[label]
        if len(self._routes) > MAX_ROUTES or len(label) > MAX_ROUTE_LENGTH:
            self._overflow.add(1.0)
            return self._routes[OTHER]
        return self.route(label)

    def entered(self, link: Link, route: Route) -> None:
        """A connection was accepted."""
        route.now.add(1.0)
        route.peak.raise_to(route.now.value)
        with self._lock:
            self._open.add(link.channel)

    def left(self, link: Link, route: Route) -> None:
        """A connection is over; what it has carried joins the past."""
        route.now.add(-1.0)
        with self._lock:
            self._open.discard(link.channel)
            self._past = [total + more for total, more in zip(self._past, _carried(link.channel), strict=True)]

    def describe(self) -> Iterable[Family]:
        """The names, for the registry to find clashes."""
        return [_family(metric, self._namespace) for metric in CATALOGUE]

    def collect(self) -> Iterator[Family]:
        """Let the layers report, add up what the open connections have carried, then hand out everything."""
        for layer in tuple(self.layers):
            try:
                layer.report()
            except Exception:  # the figures of all others have nothing to do with it
                logger.exception("a layer could not report: %s", type(layer).__qualname__)
        self._count_traffic()
        for metric in CATALOGUE:
            family = _family(metric, self._namespace)
            for labels, number in tuple(self._numbers.get(metric.name, {}).items()):
                family.add_metric(labels, number.value)
            for labels, histogram in tuple(self._histograms.get(metric.name, {}).items()):
                family.add_metric(labels, [_bucket(bucket) for bucket in histogram.buckets()], histogram.sum)
            yield family

    def _count_traffic(self) -> None:
        """Open connections and the past are added up under one lock, so a connection that closes is never in both or neither."""
        with self._lock:
            totals = [sum(column) for column in zip(self._past, *map(_carried, self._open), strict=True)]
            for direction, messages, size in (("inbound", totals[0], totals[1]), ("outbound", totals[2], totals[3])):
                self.number("messages_total", direction).raise_to(messages)
                self.number("message_bytes_total", direction).raise_to(size)

    def _sink(self, name: str, labels: tuple[str, ...]) -> Callable[[float], None]:
        kind = self._metrics[name].type
        if kind == "histogram":
            return self.histogram(name, *labels).observe
        return self.number(name, *labels).set if kind == "gauge" else self.number(name, *labels).add


_FAMILIES: Final[dict[str, Any]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


def _family(metric: Metric, namespace: str) -> Any:
    """An empty family of the right class; each has an ``add_metric`` of its own signature."""
    return _FAMILIES[metric.type](metric.full_name(namespace), metric.help, labels=metric.labels, unit=metric.unit)


def _bucket(bucket: Bucket) -> tuple[str, float] | tuple[str, float, Exemplar]:
    bound = "+Inf" if bucket.bound == math.inf else str(bucket.bound)
    if bucket.exemplar is None:
        return bound, bucket.cumulated
    trace_id, value, seconds = bucket.exemplar
    return bound, bucket.cumulated, Exemplar({"trace_id": trace_id}, value, seconds)


def _carried(channel: Channel) -> tuple[int, int, int, int]:
    return channel.received_messages, channel.received_bytes, channel.sent_messages, channel.sent_bytes


_STORES: WeakKeyDictionary[CollectorRegistry, dict[str, Store]] = WeakKeyDictionary()
