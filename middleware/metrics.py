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

import re
import time
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry

from ._metrics_store import MAX_ROUTES, OTHER, Route, Store
from .asgi import SELF_CHECK, ASGIApp, Event, payload_bytes
from .catalogue import CATALOGUE, OBSERVATIONS, Metric, catalogue_markdown
from .close import GOING_AWAY, INTERNAL_ERROR, NAMED, Close
from .layer import Guard, Layer, Link
from .series import Histogram

__all__ = ["CATALOGUE", "OBSERVATIONS", "Metric", "MetricsMiddleware", "catalogue_markdown"]

_METRICS: Final = "tidegate.metrics"
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
        self.store.layers.update(self._layers[1:])
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
