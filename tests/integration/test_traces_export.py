"""Spans of a real gateway at a collector, and a collector that is busy, hangs or is gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from gateway.telemetry.export import FLUSH_SECONDS
from tests.integration.gateway_process import GatewayProcess, hear, running
from tests.otlp_receiver import OtlpReceiver

PARENT = "00-" + "a1" * 16 + "-" + "b2" * 8 + "-01"


@pytest.fixture(autouse=True)
def _quick_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.02)


async def test_the_whole_way_of_a_message_arrives_at_the_collector() -> None:
    """Publish, fan-out and a confirmed delivery in the publisher's trace, linked to the handshake; histograms name the trace."""
    with OtlpReceiver() as collector:
        async with running(TELEMETRY__OTLP_ENDPOINT=collector.endpoint, NAMESPACES="chat") as gateway:
            async with gateway.connect("chat:1") as client:
                status, _ = await gateway.publish("/api/rooms/chat:1/messages", "hello", traceparent=PARENT)
                assert (status, await hear(client)) == (200, ["hello"])
                await until(lambda: collector.named("deliver"))
                _, text = await gateway.get("/metrics", Accept="application/openmetrics-text")
        [publish], [fan_out], [deliver] = (collector.named(name) for name in ("publish", "fan-out", "deliver"))
        assert {span.trace_id.hex() for span in (publish, fan_out, deliver)} == {"a1" * 16}
        assert (publish.parent_span_id.hex(), fan_out.parent_span_id) == ("b2" * 8, publish.span_id)
        assert deliver.parent_span_id == fan_out.span_id
        [handshake] = collector.named("websocket /ws/{room}")
        assert [link.span_id for link in deliver.links] == [handshake.span_id]
        assert collector.resources[0]["service.name"] == "tidegate"
    for histogram in ("delivery_residency_seconds", "delivery_confirm_seconds"):
        assert any(line.startswith(f"tidegate_{histogram}_bucket") and "a1" * 16 in line for line in text.splitlines())


async def serves(gateway: GatewayProcess) -> None:
    """Sockets work, and the node is ready."""
    async with gateway.connect("chat:1", "?echo=1") as client:
        for number in range(50):
            await client.send(str(number))
        assert await hear(client, 50) == [str(number) for number in range(50)]
    status, _ = await gateway.get("/readyz")
    assert status == 200


@pytest.mark.parametrize("mood", ["busy", "hang", "gone"])
async def test_a_collector_in_trouble_is_nobodys_trouble(mood: str) -> None:
    """Serving goes on, no traceback is logged, and SIGTERM still ends the process in time with code 0."""
    with OtlpReceiver() as collector:
        async with running(TELEMETRY__OTLP_ENDPOINT=collector.endpoint, TELEMETRY__MESSAGE_RATIO="1") as gateway:
            if mood == "gone":
                await serves(gateway)
                await until(lambda: collector.spans)
                collector.disappear()
            else:
                collector.mood = mood
            for _ in range(3):
                await serves(gateway)
                await asyncio.sleep(0.1)
            if mood != "gone":
                await until(lambda: collector.requests)
            began = time.monotonic()
            assert await gateway.stop(timeout_seconds=30) == 0
            assert time.monotonic() - began < FLUSH_SECONDS + 5  # the rest of an end takes a moment, too
        assert not any("Traceback" in line.decode() for line in gateway.log_lines)


async def test_spans_that_find_the_queue_full_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of OpenTelemetry say how many may wait; afterwards every span that ended was taken, failed or lost."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "32")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16")
    with OtlpReceiver() as collector:
        collector.mood = "hang"
        async with running(TELEMETRY__OTLP_ENDPOINT=collector.endpoint, TELEMETRY__MESSAGE_RATIO="1") as gateway:
            await serves(gateway)
            await until(lambda: collector.requests)
            await serves(gateway)
            collector.mood = "take"
            collector.let_go()
            ended, left = 1.0, 0.0
            async with asyncio.timeout(20):
                while left < ended:  # the rest waits
                    ended, left = await gateway.metrics("tidegate_spans_ended_total", "tidegate_spans_exported_total")
            found = {result: await gateway.metric("tidegate_spans_exported_total", result=result) for result in ("ok", "lost")}
            arrived = len(collector.spans)
        assert left == ended > 16 + 32
        assert found["ok"] == arrived >= 32
        assert found["lost"] > 0


async def test_a_collector_that_comes_back_gets_what_is_new() -> None:
    """Trouble is not remembered."""
    with OtlpReceiver() as collector:
        collector.mood = "busy"
        async with running(TELEMETRY__OTLP_ENDPOINT=collector.endpoint, TELEMETRY__MESSAGE_RATIO="1") as gateway:
            await serves(gateway)
            await until(lambda: collector.requests)
            collector.mood = "take"
            await serves(gateway)
            await until(lambda: collector.named("websocket /ws/{room}"))
