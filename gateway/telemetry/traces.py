"""``DeliveryTraces``: a publication's way as spans: publish, one fan-out per node, and the deliveries worth showing.

::

    publish (the node that accepted it)          child of the API's ``traceparent``, or of the span of the inbound message
    ├── fan-out (every node with members)        joined across the broker by the envelope's ``traceparent``
    │   └── deliver                              linked to the handshake of the connection that it went to
    └── fan-out …

1. Whether there is a span is decided before one is made: by the publisher's own sampling, else by ``ratio``.
2. Deliver spans are made afterwards, when the outcome is known: of deliveries that failed or were slow, and of one recipient of a
   fan-out that is traced. There are at most ``deliveries_per_second``.
3. Nothing here waits; the exporter has a bounded queue and a thread of its own.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, Tracer, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from middleware.tracing import SPAN_CONTEXT

from ..connection import Connection
from ..envelope import Envelope, is_sampled
from ..fan_out import FanOut
from ..ledger import Ledger, Taken
from ..logs import redact_text
from ..observer import Observer
from .confirms import Confirms

__all__ = ["DeliveryTraces"]

# OpenTelemetry's semantic conventions for messaging (version 1.27), where they have a name; the others are ours.
SYSTEM, DESTINATION, MESSAGE_ID, BODY_BYTES = (
    "messaging.system", "messaging.destination.name", "messaging.message.id", "messaging.message.body.size",
)  # fmt: skip
BATCH = "messaging.batch.message_count"
NODE = "tidegate.node"
NAMESPACE = "tidegate.namespace"
RECIPIENTS = "tidegate.fan_out.recipients"
LOST = "tidegate.fan_out.lost"
CONNECTION = "tidegate.connection.id"
RESULT = "tidegate.delivery.result"

SLOW_SECONDS = 1.0
_TRIES = 8
"""So many recipients are tried in search of one that can be asked."""
_NANOSECONDS = 1_000_000_000
_PROPAGATOR = TraceContextTextMapPropagator()


class DeliveryTraces(Observer):
    """Makes the spans.

    Args:
        provider: where the spans go; its sampler has the last word on roots.
        node: this node's id.
        ledger: names the namespaces.
        confirms: asked to confirm one delivery of every fan-out that is traced.
        ratio: share of publications without a traced publisher that get a trace.
        slow_seconds: a confirmed delivery that took longer gets a span, traced or not.
        deliveries_per_second: at most so many deliver spans.
        chance: draws from [0, 1).
        clock: seconds that never go back.
    """

    def __init__(
        self,
        provider: TracerProvider,
        *,
        node: str,
        ledger: Ledger,
        confirms: Confirms,
        ratio: float = 0.0,
        slow_seconds: float = SLOW_SECONDS,
        deliveries_per_second: float = 20.0,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tracer: Tracer = provider.get_tracer("tidegate")
        self._node = node
        self._ledger = ledger
        self._confirms = confirms
        self._ratio = ratio
        self._slow_seconds = slow_seconds
        self._chance = chance
        self._clock = clock
        self._per_second = deliveries_per_second
        self._budget = deliveries_per_second
        self._budget_at = clock()

    # -- publish

    def published(self, envelope: Envelope) -> None:
        """Begin the trace, or go on with the publisher's."""
        if envelope.room.startswith("~self/"):
            return
        parent = self._publisher(envelope)
        if parent is None:
            return
        span = self._tracer.start_span(
            "publish", parent, SpanKind.PRODUCER, self._about(Taken.of(envelope)), start_time=_nanoseconds(envelope.published_at)
        )
        if span.is_recording():
            envelope.traceparent = _traceparent(span.get_span_context())
        span.end()

    def _publisher(self, envelope: Envelope) -> Context | None:
        """What the publish span is a child of; ``None`` when there is to be none."""
        if envelope.traceparent:
            return _context(envelope.traceparent) if is_sampled(envelope.traceparent) else None
        current = trace.get_current_span()
        if current.get_span_context().is_valid:
            return trace.set_span_in_context(current, Context()) if current.is_recording() else None
        return Context() if self._ratio and self._chance() < self._ratio else None

    # -- fan-out

    def fanned_out(self, fan_out: FanOut) -> None:
        """A span for each traced publication of the batch; its deliveries will be children of it."""
        for place, envelope in enumerate(fan_out.envelopes):
            if is_sampled(envelope.traceparent):
                self._fan_out_span(fan_out, envelope)
                self._ask_one(fan_out, place)

    def _fan_out_span(self, fan_out: FanOut, envelope: Envelope) -> None:
        attributes = {
            **self._about(Taken.of(envelope)),
            BATCH: len(fan_out.envelopes), RECIPIENTS: len(fan_out.recipients), LOST: fan_out.lost,
        }  # fmt: skip
        span = self._tracer.start_span(
            "fan-out", _context(envelope.traceparent), SpanKind.CONSUMER, attributes, start_time=_nanoseconds(fan_out.started)
        )
        if span.is_recording():
            envelope.traceparent = _traceparent(span.get_span_context())
        span.end(_nanoseconds(fan_out.finished))

    def _ask_one(self, fan_out: FanOut, place: int) -> None:
        """Ask one of the recipients: a traced message shows a delivery of each node. Not everybody got it, or can be asked now."""
        recipients = fan_out.recipients
        start = random.randrange(len(recipients) or 1)  # noqa: S311 - a sample, no secret
        for at in range(start, start + min(_TRIES, len(recipients))):
            if self._confirms.ask(recipients[at % len(recipients)], fan_out, place):
                return

    # -- deliver

    def confirmed(self, connection: Connection, envelope: Envelope, result: str, seconds: float) -> None:
        """A delivery was confirmed, or was not."""
        traced = is_sampled(envelope.traceparent)
        if traced or result != "confirmed" or seconds >= self._slow_seconds:
            self._deliver_span(connection, Taken.of(envelope), result, failed=result != "confirmed")

    def dropped(self, connection: Connection, envelopes: Sequence[Envelope], reason: str) -> None:
        """Publications were not written to a connection."""
        self._failed(connection, envelopes, reason)

    def gave_up(self, connection: Connection, taken: Sequence[Taken], messages: int, reason: str) -> None:
        """Publications that an outlet had taken are not sent."""
        self._failed(connection, taken, reason)

    def _failed(self, connection: Connection, publications: Sequence[Envelope] | Sequence[Taken], reason: str) -> None:
        """One span tells of all of them."""
        traced = [one for one in publications if is_sampled(one.traceparent)]
        for one in (traced or (publications if reason != "closed" else ()))[:1]:
            self._deliver_span(connection, one if isinstance(one, Taken) else Taken.of(one), reason, failed=True)

    def _deliver_span(self, connection: Connection, publication: Taken, result: str, *, failed: bool) -> None:
        if not self._may_spend():
            return
        handshake = connection.scope.get(SPAN_CONTEXT)
        span = self._tracer.start_span(
            "deliver", _context(publication.traceparent), SpanKind.CONSUMER,
            {**self._about(publication), CONNECTION: connection.id, RESULT: result},
            links=(trace.Link(handshake),) if isinstance(handshake, SpanContext) else (),
            start_time=_nanoseconds(publication.published_at),
        )  # fmt: skip
        if failed:
            span.set_status(StatusCode.ERROR, result)
        span.end()

    def _may_spend(self) -> bool:
        now = self._clock()
        self._budget = min(self._per_second, self._budget + (now - self._budget_at) * self._per_second)
        self._budget_at = now
        if self._budget < 1:
            return False
        self._budget -= 1
        return True

    def _about(self, publication: Taken) -> dict[str, str | int]:
        return {
            SYSTEM: "tidegate", DESTINATION: redact_text(publication.room), MESSAGE_ID: publication.message, NODE: self._node,
            NAMESPACE: self._ledger.namespace(publication.room), BODY_BYTES: publication.payload_bytes,
        }  # fmt: skip


def _context(traceparent: str) -> Context:
    return _PROPAGATOR.extract({"traceparent": traceparent}, Context()) if traceparent else Context()


def _traceparent(context: SpanContext) -> str:
    """W3C Trace Context §3.2, version 00."""
    trace_id, span_id = trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)
    return f"00-{trace_id}-{span_id}-{int(context.trace_flags):02x}"


def _nanoseconds(seconds: float) -> int:
    return int(seconds * _NANOSECONDS)
