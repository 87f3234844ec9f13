"""MetricsMiddleware: Prometheus metrics of whatever WebSockets pass, for a price that does not grow with their traffic.

1. Every label value comes from a set that is closed when the process starts; whatever is not in it is ``other``.
2. No message is counted. A connection's channel knows what it has carried, also what was written as ready-made frames; a
   scrape adds up the channels of the open connections and the totals of the closed ones. Only sizes and handling times,
   which no total can tell, cost a message something: a position in a list of buckets.
3. A counter never goes back, whichever thread scrapes.
4. All ``MetricsMiddleware`` with one registry and namespace are one source: their figures add up. A connection that passes two
   of them is counted by the outer one.

The figures belong to one event loop. Prometheus' multi-process mode does not see them: scrape each process by itself.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from threading import Lock
from typing import Any, Final
from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Exemplar

from .asgi import SELF_CHECK, ASGIApp, Channel, Event, payload_bytes
from .catalogue import CATALOGUE, OBSERVATIONS, Metric, catalogue_markdown
from .close import GOING_AWAY, INTERNAL_ERROR, NAMED, Close
from .layer import Guard, Layer, Link
from .series import Bucket, Histogram, Number

__all__ = ["CATALOGUE", "OBSERVATIONS", "Metric", "MetricsMiddleware", "catalogue_markdown"]

OTHER: Final = "other"
MAX_ROUTES: Final = 64
MAX_ROUTE_LENGTH: Final = 200
_METRICS: Final = "tidegate.metrics"
_HANDSHAKES: Final = (
    ("accepted", "none"),
    *(("refused", reason) for reason in ("forbidden", "unauthorized", "rate-limited", "at-capacity", "restarting")),
    ("abandoned", "abnormal"),
    ("failed", "internal-error"),
)
"""Usual outcomes of handshakes: there from the start, so that the first one is seen as an increase. So are all ends."""
_NAMESPACE = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class MetricsMiddleware(Layer):
    """Counts and times handshakes, connections and messages, and what the other layers report.

    Options: ``registry``, the default one of ``prometheus_client`` unless given; ``namespace``, the first word of every name;
    ``routes``, the route templates that may be a label (``None``: the first 64 that a router names); ``exemplars``, whether
    histograms remember the trace id of a sampled handshake or message, which OpenMetrics scrapes show; ``clock``, seconds.

    Raises:
        ValueError: the namespace is no metric name, there are too many routes, the registry holds metrics of the same names
            that are not ours, or an adjacent layer counts into the same metrics.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        registry: CollectorRegistry = REGISTRY,
        namespace: str = "tidegate",
        routes: Iterable[str] | None = None,
        exemplars: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(app)
        if isinstance(routes, str):
            raise ValueError(f"routes is a list of route templates, not one string: [{routes!r}]")
        if not _NAMESPACE.fullmatch(namespace):
            raise ValueError(f"a namespace is letters, digits and underscores, not {namespace!r}")
        self.routes = None if routes is None else frozenset(routes)
        if self.routes is not None and len(self.routes) > MAX_ROUTES:
            raise ValueError(f"{len(self.routes)} routes are too many: a label may have {MAX_ROUTES} values")
        self.exemplars = exemplars
        self.clock = clock
        self.store = Store.of(registry, namespace)
        if any(isinstance(layer, MetricsMiddleware) and layer.store is self.store for layer in self._layers[1:]):
            raise ValueError("two MetricsMiddleware in a row count into the same metrics; give one its own registry or namespace")
        for route in sorted(self.routes or ()):
            self.store.route(route)

    async def open(self, link: Link) -> Guard | None:
        """Listen to what the layers further in report; ``None`` when a layer further out counts this connection already.

        The process's own check of itself is nobody's connection.
        """
        if link.get(SELF_CHECK) is True:
            return None
        link.subscribe(self.store.observe)
        if link.get(_METRICS) is self.store:
            return None
        link.set(**{_METRICS: self.store})
        return MetricsGuard(self, link)

    def route_of(self, link: Link) -> Route:
        """What the connection's route is counted as."""
        if self.routes is None:
            return self.store.admit(link.route)
        return self.store.route(link.route if link.route in self.routes else OTHER)


class MetricsGuard(Guard):
    """One connection: what it is counted as, and the times of its handshake and of the message in hand."""

    __slots__ = ("_clock", "_handed", "_layer", "_link", "_route", "_since", "_store")

    def __init__(self, layer: MetricsMiddleware, link: Link) -> None:
        self._layer = layer
        self._store = layer.store
        self._link = link
        self._clock = layer.clock
        self._route: Route | None = None
        self._since = self._clock()
        """The start of the handshake; once accepted, that of the connection."""
        self._handed = 0.0
        """When the message in hand was handed to the app; 0 while there is none."""

    def accepting(self, event: Event) -> Event:
        """The handshake has succeeded: by now the router has named the route."""
        now = self._clock()
        self._route = route = self._layer.route_of(self._link)
        self._handshaken(route, now, "accepted", "none")
        self._since = now
        self._store.entered(self._link, route)
        return event

    def inbound(self, event: Event) -> Event:
        """Note the size and the time."""
        text = event.get("text")
        if text is None:
            sizes, size = self._store.binary_in, len(event.get("bytes") or b"")
        else:
            sizes, size = self._store.text_in, len(text) if text.isascii() else payload_bytes(event)
        sizes.observe(size)
        if self._link.exemplar:
            self._exemplify(sizes, size)
        self._handed = self._clock()
        return event

    def outbound(self, event: Event) -> Event:
        """Note the size."""
        sizes = self._store.binary_out if event.get("text") is None else self._store.text_out
        sizes.observe(payload_bytes(event))
        return event

    def waiting(self) -> None:
        """The message in hand is handled."""
        if self._handed and self._route is not None:
            seconds = self._clock() - self._handed
            self._handed = 0.0
            self._route.handling.observe(seconds)
            if self._link.exemplar:
                self._exemplify(self._route.handling, seconds)

    def dropped(self) -> None:
        """The app never saw the message, so there is nothing to time."""
        self._handed = 0.0

    def closed(self, close: Close) -> None:
        """Count the end: of the connection, or of a handshake that came to nothing."""
        now, reason, initiator = self._clock(), _slug(close), self._link.channel.initiator
        if self._route is None:
            outcome = _outcome(self._link, close)
            self._handshaken(self._layer.route_of(self._link), now, outcome, reason)
            return
        self._store.left(self._link, self._route)
        self._route.duration.observe(now - self._since)
        self._store.number("closes_total", reason, initiator or "server").add(1.0)

    def _handshaken(self, route: Route, now: float, outcome: str, reason: str) -> None:
        self._store.number("handshakes_total", route.label, outcome, reason).add(1.0)
        times = self._store.histogram("handshake_seconds", outcome)
        times.observe(now - self._since)
        if self._link.exemplar:
            self._exemplify(times, now - self._since)

    def _exemplify(self, histogram: Histogram, value: float) -> None:
        if self._layer.exemplars:
            histogram.exemplify(value, self._link.exemplar)


def _slug(close: Close) -> str:
    return close.reason if close.reason in NAMED else OTHER


def _outcome(link: Link, close: Close) -> str:
    """What became of a handshake that was not accepted."""
    if link.channel.initiator == "client":
        return "abandoned"
    if link.refusal is None and close in (INTERNAL_ERROR, GOING_AWAY):
        return "failed"
    return "refused"


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
        """Add up what the open connections have carried, then hand out everything."""
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
