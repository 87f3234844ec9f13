"""What is counted of the broker and of the other nodes."""

from __future__ import annotations

from prometheus_client import generate_latest

from gateway import Settings, create_app
from gateway.broker import BrokerStatistics
from gateway.envelope import Envelope
from gateway.message import Message
from tests.gateway.linked_brokers import Engine, LinkedBroker


class ReportingBroker(LinkedBroker):
    """A broker with figures."""

    def statistics(self) -> BrokerStatistics:
        errors = {"connect": 1, "publish": 2}
        return BrokerStatistics(
            up=False, rooms=3, rooms_confirmed=2, reconnects=4, gaps=5, errors=errors, queue_messages=6,
            queue_bytes=7, publish_seconds=8,
        )  # fmt: skip


async def test_broker_and_nodes_are_told() -> None:
    """Every figure under its name; times go into histograms; gaps count whether the broker or the cluster has found them."""
    engine = Engine()
    broker = ReportingBroker(engine)
    engine.brokers.append(broker)
    gateway = create_app(Settings(), broker=broker, node="n1")
    await gateway.start()
    broker.on_publish_seconds(0.5)
    broker.on_lag_seconds(0.25)
    broker.arrived(Envelope("~nodes", Message(b"junk"), id="x-1", node="x").encode())
    gateway.server.cluster._missed.gaps += 1
    lines = generate_latest(gateway.metrics_registry).decode().splitlines()
    await gateway.stop()
    for line in (
        "nodes 1.0", 'nodes_ignored_total{reason="malformed"} 1.0', 'nodes_ignored_total{reason="same-id"} 0.0',
        "broker_up 0.0", "broker_reconnects_total 4.0", "broker_gaps_total 6.0", "broker_queue_messages 6.0",
        'broker_errors_total{operation="publish"} 2.0', "broker_publish_seconds_sum 0.5", "broker_lag_seconds_sum 0.25",
    ):  # fmt: skip
        assert f"tidegate_{line}" in lines


async def test_memory_is_always_up() -> None:
    """And nothing goes wrong with a broker without an engine."""
    gateway = create_app(Settings())
    text = generate_latest(gateway.metrics_registry).decode()
    assert "tidegate_broker_up 1.0" in text
    assert "tidegate_broker_gaps_total 0.0" in text
