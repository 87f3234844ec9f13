"""The spans of a publication's way: publish, fan-out, deliver; decided before they are made."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway.connection import Connection
from gateway.hub import Hub
from gateway.ledger import REPLACED, SLOW, UNSENT
from gateway.message import Message
from gateway.outlet import OutletOptions
from gateway.registry import EVERYONE
from gateway.telemetry.confirms import Confirms
from gateway.telemetry.traces import DeliveryTraces
from middleware.close import FORBIDDEN
from middleware.tracing import SPAN_CONTEXT
from tests.gateway.connections import BufferingFrames, frame_connection
from tests.gateway.linked_brokers import Engine

PARENT = "00-" + "a1" * 16 + "-" + "b2" * 8 + "-01"


class Traced:
    """A hub of which everything is traced, and the spans it made."""

    def __init__(self, broker: Any = None, node: str = "n", *, per_second: float = 100, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer("test")
        self.hub = Hub(broker, namespaces=["chat"], node=node)
        self.confirms = Confirms(per_second=per_second, observers=self.hub.observers)
        self.hub.observers.add(self.confirms)
        self.traces = DeliveryTraces(provider, node=node, ledger=self.hub.registry.ledger, confirms=self.confirms, **options)
        self.hub.observers.add(self.traces)

    def spans(self, name: str) -> Sequence[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    async def member(self, room: str = "chat:1", **options: Any) -> tuple[Connection, BufferingFrames]:
        made, frames = frame_connection(id=self.hub.new_id(), **options)
        frames.reads = True
        await self.hub.hold((room, EVERYONE))
        self.hub.enter(made, (room, EVERYONE))
        return made, frames


async def traced(**options: Any) -> Traced:
    made = Traced(**options)
    await made.hub.start()
    return made


def ids(span: ReadableSpan) -> tuple[str, str, str]:
    """Trace id, own id, parent's id."""
    context = span.get_span_context()
    assert context is not None
    parent = span.parent
    return (
        trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id),
        trace.format_span_id(parent.span_id) if parent else "",
    )  # fmt: skip


async def test_a_publication_is_one_trace_from_its_publisher_to_a_confirmed_delivery() -> None:
    """The publisher's span is the parent of publish, publish of fan-out, fan-out of deliver, which links to the handshake."""
    on = await traced()
    handshake = trace.SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=trace.TraceFlags(1))
    member, frames = await on.member()
    member.scope[SPAN_CONTEXT] = handshake
    await on.hub.publish("chat:1", "hello", traceparent=PARENT)
    await asyncio.sleep(0)
    frames.pong()
    [publish], [fan_out], [deliver] = (on.spans(name) for name in ("publish", "fan-out", "deliver"))
    trace_id, publish_id, parent = ids(publish)
    assert (trace_id, parent) == ("a1" * 16, "b2" * 8)
    assert ids(fan_out)[::2] == (trace_id, publish_id)
    assert ids(deliver)[::2] == (trace_id, ids(fan_out)[1])
    assert [link.context.span_id for link in deliver.links] == [0xDEF]
    assert deliver.attributes is not None
    assert deliver.attributes["tidegate.delivery.result"] == "confirmed"
    assert fan_out.attributes is not None
    assert (fan_out.attributes["tidegate.fan_out.recipients"], fan_out.attributes["tidegate.namespace"]) == (1, "chat")
    assert publish.start_time <= fan_out.start_time <= fan_out.end_time  # type: ignore[operator]  # they are finished
    await on.hub.stop()


async def test_every_node_has_one_fan_out_in_the_same_trace() -> None:
    """The envelope carries the trace through the broker."""
    engine = Engine()
    one, two = Traced(engine.broker(), "one"), Traced(engine.broker(), "two")
    for node in (one, two):
        await node.hub.start()
        await node.member()
    await one.hub.publish("chat:1", "hello", traceparent=PARENT)
    for _ in range(5):
        await asyncio.sleep(0)
    [publish] = one.spans("publish")
    assert not two.spans("publish")
    assert [ids(span)[::2] for node in (one, two) for span in node.spans("fan-out")] == [("a1" * 16, ids(publish)[1])] * 2
    for node in (one, two):
        await node.hub.stop()


async def test_every_traced_message_shows_a_delivery_whoever_did_not_get_it() -> None:
    """The publisher is among the members and does not hear itself, others cannot be asked just now."""
    on = await traced(deliveries_per_second=1000)
    on.hub.observers.reached = ()  # nothing is sampled: the traces alone ask
    publisher, _ = await on.member()
    _, frames = await on.member()
    busy = [await on.member() for _ in range(4)]
    for member, _ in busy:
        assert member.confirm(lambda: None)
    for _ in range(50):
        await on.hub.publish("chat:1", "x", exclude=publisher, traceparent=PARENT)
        await asyncio.sleep(0)
        frames.pong()
    assert len(on.spans("deliver")) == 50
    await on.hub.stop()


async def test_what_nobody_samples_has_no_span() -> None:
    """Neither a publisher that is not sampled, nor chance; and nothing is made to find that out."""
    on = await traced(ratio=0.5, chance=lambda: 0.6, per_second=0)
    await on.member()
    await on.hub.publish("chat:1", "x", traceparent=PARENT[:-2] + "00")
    await on.hub.publish("chat:1", "x")
    on.hub.post("chat:1", Message("x"))
    await asyncio.sleep(0)
    assert not on.exporter.get_finished_spans()
    await on.hub.stop()


async def test_an_inbound_message_that_is_traced_is_the_parent() -> None:
    """The span that is current when a client's message is posted; chance decides where there is none."""
    on = await traced(ratio=1.0)
    await on.member()
    with on.tracer.start_as_current_span("websocket message") as current:
        on.hub.post("chat:1", Message("x"))
    on.hub.post("chat:1", Message("x"))
    await asyncio.sleep(0)
    first, second = on.spans("publish")
    assert ids(first)[2] == trace.format_span_id(current.get_span_context().span_id)
    assert second.parent is None
    await on.hub.stop()


async def test_failed_and_slow_deliveries_show_without_a_trace_of_their_message() -> None:
    """They are what one looks for; a healthy one of an untraced message makes no span."""
    on = await traced(slow_seconds=0.0)
    slow, slow_frames = await on.member(outlet=OutletOptions(max_bytes=1))
    slow_frames.stick(slow)
    gone, gone_frames = await on.member()
    await on.hub.publish("chat:1", "x")
    await asyncio.sleep(0)
    gone_frames.finish(FORBIDDEN, "client")
    results = {(span.attributes or {})["tidegate.delivery.result"]: span for span in on.spans("deliver")}
    assert set(results) == {SLOW, "closed_before"}
    assert all(span.status.status_code is trace.StatusCode.ERROR for span in results.values())
    assert gone.ending is not None
    await on.hub.stop()


@pytest.mark.parametrize("traceparent", [PARENT, ""])
async def test_what_an_outbox_gave_up_shows_with_its_reason(traceparent: str) -> None:
    """It had been taken, so no drop tells of it: a newer message took its place, or the connection was lost first."""
    on = await traced(per_second=0)
    member, frames = await on.member(outlet=OutletOptions(max_bytes=1, policy="latest"))
    frames.stick(member)
    for text in ("first", "second"):
        await on.hub.publish("chat:1", text, traceparent=traceparent)
        await asyncio.sleep(0)
    frames.finish(FORBIDDEN, "client")
    frames.lose(None)
    replaced, unsent = on.spans("deliver")
    told = [span.attributes or {} for span in (replaced, unsent)]
    assert [one["tidegate.delivery.result"] for one in told] == [REPLACED, UNSENT]
    assert [one["messaging.message.body.size"] for one in told] == [len("first"), len("second")]
    assert [ids(span)[0] == "a1" * 16 for span in (replaced, unsent)] == [bool(traceparent)] * 2
    assert all(span.status.status_code is trace.StatusCode.ERROR for span in (replaced, unsent))
    await on.hub.stop()


async def test_a_storm_of_failures_makes_few_spans() -> None:
    """The budget is per second, whatever happens."""
    now = [0.0]
    on = await traced(deliveries_per_second=3, clock=lambda: now[0])
    member, _ = await on.member()
    envelope = on.hub._envelope("chat:1", Message("x"), traceparent=PARENT)
    for _ in range(50):
        on.traces.dropped(member, (envelope,), SLOW)
    assert len(on.spans("deliver")) == 3
    now[0] = 1.0
    for _ in range(50):
        on.traces.dropped(member, (envelope,), SLOW)
    assert len(on.spans("deliver")) == 6
    await on.hub.stop()


@pytest.mark.parametrize("broken", ["", "x", "00-zz", "\ud7ff" * 55, "0" * 1000, PARENT.upper() + "é"])
async def test_a_broken_trace_context_from_a_broker_harms_nobody(broken: str) -> None:
    """Whatever stands there, the message is delivered and no span is made."""
    on = await traced(per_second=0)
    _, frames = await on.member()
    on.hub._deliver(on.hub._envelope("chat:1", Message("x"), traceparent=broken))
    await asyncio.sleep(0)
    assert frames.written == [b"\x81\x01x"]
    assert not on.spans("fan-out")
    await on.hub.stop()
