"""``gateway.console``: what a snapshot says, and that it says what the metrics and the rooms say."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from jsonschema import Draft202012Validator

from gateway import Settings, create_app
from gateway.console import Snapshot, Statistics, sampling
from gateway.console import statistics as statistics_of_rooms
from gateway.console.figures import schemas
from gateway.console.statistics import TOP, WINDOW
from gateway.health import Health
from gateway.server import WebSocketServer
from tests.gateway.api_helpers import open_api
from tests.gateway.console_helpers import Clock, telling
from tests.middleware.asgi_helpers import Server, disconnect, text, websocket_scope


async def test_rates_are_over_the_time_between_two_snapshots() -> None:
    """A first snapshot has totals only; the next has rates, over the time that has passed."""
    clock = Clock()
    statistics, families = telling(WebSocketServer(), clock)
    families.set("tidegate_messages_total", 100, direction="inbound")
    families.set("tidegate_messages_total", 7, direction="outbound")
    first = await statistics.take()
    assert (first.interval_seconds, first.messages.received_total, first.messages.received_per_second) == (None, 100, None)
    families.set("tidegate_messages_total", 130, direction="inbound")
    clock.now += 2
    second = await statistics.take()
    assert (second.interval_seconds, second.messages.received_per_second, second.messages.sent_per_second) == (2.0, 15.0, 0.0)


async def test_who_comes_back_begins_anew() -> None:
    """After nobody has watched for a while there is nothing to compare with."""
    clock = Clock()
    statistics, _ = telling(WebSocketServer(), clock)
    await statistics.take()
    clock.now += 1
    statistics.forget()
    assert (await statistics.take()).interval_seconds is None


async def test_percentiles_look_back_over_some_seconds_only() -> None:
    """What is older than the window is forgotten; series of one histogram count together."""
    clock = Clock()
    statistics, families = telling(WebSocketServer(), clock)
    name = "tidegate_handshake_seconds"

    async def take(fast: int, slow: int) -> tuple[int, float | None, float | None]:
        families.histogram(name, {"0.1": fast, "1.0": fast + slow, "+Inf": fast + slow}, outcome="accepted")
        families.histogram(name, {"0.1": 0, "1.0": 0, "+Inf": 0}, outcome="refused")
        clock.now += 1
        (latency,) = (await statistics.take()).latency
        assert latency.name == "handshake"
        return latency.count, latency.p50_seconds, latency.p99_seconds

    assert await take(0, 50) == (0, None, None)
    assert await take(10, 50) == (10, 0.1, 0.1)
    assert await take(10, 70) == (30, pytest.approx(0.325), pytest.approx(0.98650))
    for _ in range(WINDOW - 1):
        await take(10, 70)
    assert await take(10, 70) == (0, None, None)


async def test_a_percentile_that_is_only_a_bound_is_said_to_be_one() -> None:
    """After a first message nobody knows more than its bucket; what was seen since the start is told besides."""
    clock = Clock()
    statistics, families = telling(WebSocketServer(), clock)
    families.histogram("tidegate_handshake_seconds", {"0.1": 0, "1.0": 0, "+Inf": 1})
    (first,) = (await statistics.take()).latency_total
    assert (first.window_seconds, first.count, first.p99_seconds, first.bounds["p99"]) == (None, 1, 1.0, "more_than")
    clock.now += 1
    families.histogram("tidegate_handshake_seconds", {"0.1": 0, "1.0": 1, "+Inf": 2})
    snapshot = await statistics.take()
    (latency,), (total,) = snapshot.latency, snapshot.latency_total
    assert (latency.count, latency.p50_seconds, latency.bounds) == (1, 1.0, dict.fromkeys(("p50", "p90", "p99"), "at_most"))
    assert (total.count, total.bounds) == (2, {"p50": "at_most", "p90": "more_than", "p99": "more_than"})


async def test_the_largest_and_the_busiest_rooms_are_named() -> None:
    """At most 20 of each; a room's rate is what was said since the snapshot before, also in a room that is new since then."""
    clock = Clock()
    async with open_api() as api:
        statistics, _ = telling(api.server, clock)
        for number in range(TOP + 5):
            await api.join(f"room{number:02}")
        await api.join("room07")
        await api.publish("/api/rooms/room01/messages")
        first = (await statistics.take()).rooms
        assert (len(first.top_by_members), first.top_by_members[0].name, first.top_by_members[0].members) == (TOP, "room07", 2)
        assert (first.rooms, first.memberships, first.top_by_rate) == (TOP + 5, TOP + 6, [])
        await api.join("fresh")
        for _ in range(4):
            await api.publish("/api/rooms/fresh/messages")
        await api.publish("/api/rooms/room03/messages")
        clock.now += 2
        second = (await statistics.take()).rooms
        assert [(room.name, room.messages_per_second) for room in second.top_by_rate] == [("fresh", 2.0), ("room03", 0.5)]


async def test_many_rooms_hold_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between so many rooms the event loop does other work."""
    monkeypatch.setattr(sampling, "ROOMS_PER_TURN", 2)
    async with open_api() as api:
        for number in range(7):
            await api.join(f"room{number}")
        statistics, _ = telling(api.server, Clock())
        turns = 0
        taking = asyncio.ensure_future(statistics.take())
        while not taking.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns >= 4
        assert (await taking).rooms.rooms == 7


async def test_the_lists_are_the_same_in_however_many_parts_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part has a handful of rooms here, thousands elsewhere; the event loop works between them and between metrics."""
    clock, answers = Clock(), []
    async with open_api() as api:
        for number in range(9):
            for _ in range(number % 4 + 1):
                await api.join(f"r{number}")
        for size in (2, 5, 100):
            monkeypatch.setattr(sampling, "ROOMS_PER_TURN", size)
            monkeypatch.setattr(statistics_of_rooms, "ROOMS_PER_TURN", size)
            monkeypatch.setattr(statistics_of_rooms, "TOP", 4)
            monkeypatch.setattr(sampling, "TURN_SECONDS", 0.0)
            statistics, families = telling(api.server, clock)
            families.set("tidegate_users", 3)
            families.set("tidegate_connections", 7)
            await statistics.take()
            for number in (1, 1, 5, 8, 8, 8, 2, 7):
                await api.publish(f"/api/rooms/r{number}/messages")
            clock.now += 1
            snapshot = await statistics.take()
            answers.append(snapshot.rooms)
            assert snapshot.connections.now == 7
    assert answers[0] == answers[1] == answers[2]
    assert [room.name for room in answers[0].top_by_members] == ["r3", "r7", "r2", "r6"]
    assert [room.name for room in answers[0].top_by_rate] == ["r8", "r1", "r2", "r5"]


async def test_the_ledger_adds_up_whoever_counts() -> None:
    """Unaccounted is the metric where there is one, else what is left of the others; namespaces count together."""
    statistics, families = telling(WebSocketServer(), Clock())
    for namespace in ("chat", "other"):
        for part, value in {"expected": 10, "written": 6, "closed": 1}.items():
            families.set(f"tidegate_deliveries_{part}_total", value, namespace=namespace)
    families.set("tidegate_deliveries_dropped_total", 1, namespace="chat", reason="slow-consumer")
    families.set("tidegate_deliveries_buffered", 2, namespace="chat")
    ledger = (await statistics.take()).ledger
    assert (ledger.expected, ledger.written, ledger.dropped, ledger.closed, ledger.buffered) == (20, 12, 1, 2, 2)
    assert (ledger.unaccounted, ledger.dropped_by_reason) == (3, {"slow-consumer": 1})
    families.set("tidegate_deliveries_unaccounted", 0, namespace="chat")
    assert (await statistics.take()).ledger.unaccounted == 0


async def test_ends_are_told_by_reason() -> None:
    """The most frequent first, each with its rate."""
    clock = Clock()
    statistics, families = telling(WebSocketServer(), clock)
    families.set("tidegate_closes_total", 3, reason="normal", initiator="client")
    families.set("tidegate_closes_total", 1, reason="slow-consumer", initiator="server")
    await statistics.take()
    families.set("tidegate_closes_total", 6, reason="slow-consumer", initiator="server")
    clock.now += 1
    closes = (await statistics.take()).closes
    assert [(one.reason, one.initiator, one.total, one.per_second) for one in closes] == [
        ("slow-consumer", "server", 6, 5.0),
        ("normal", "client", 3, 0.0),
    ]


async def test_a_drain_is_told() -> None:
    """How many connections it has still to close."""
    async with open_api() as api:
        statistics, _ = telling(api.server, Clock())
        await api.join("lobby")
        assert (await statistics.take()).drain.draining is False
        api.server.admission.draining = True
        drain = (await statistics.take()).drain
        assert (drain.draining, drain.connections_left) == (True, 1)


async def test_the_broker_is_up_when_somebody_has_found_it_so() -> None:
    """The metric tells; without it nobody knows until readiness was asked for."""
    statistics, families = telling(WebSocketServer(), Clock())
    assert (await statistics.take()).broker.up is None
    families.set("tidegate_broker_up", 0)
    assert (await statistics.take()).broker.up is False


async def test_a_node_that_cannot_use_its_broker_is_not_shown_as_ready() -> None:
    """`/readyz` would fail; a node that is not ready anyway keeps its state."""
    clock = Clock()
    health = Health()
    statistics, families = telling(WebSocketServer(), clock, health=health)
    families.set("tidegate_broker_up", 0)
    assert (await statistics.take()).node.state == "starting"
    health.started()
    assert (await statistics.take()).node.state == "failing"
    families.set("tidegate_broker_up", 1)
    assert (await statistics.take()).node.state == "ready"
    health.draining()
    assert (await statistics.take()).node.state == "draining"


async def test_a_real_gateway_tells_of_real_traffic() -> None:
    """Everything by the names that the metrics really have: nothing stays zero because a name is wrong."""
    gateway = create_app(Settings(api_key="k", connection_limit={"total": 5}))
    await gateway.start()
    try:
        client = Server(text("hello"), stay=True)
        scope = websocket_scope("/ws/lobby", query_string=b"echo=1")
        serving = asyncio.ensure_future(gateway(scope, client.receive, client.send))
        for _ in range(30):
            await asyncio.sleep(0)
        snapshot = await gateway.feed._source.take()
        client.feed(disconnect())
        await serving
        after = await gateway.feed._source.take()
    finally:
        await gateway.stop()
    assert isinstance(gateway.feed._source, Statistics)
    assert (snapshot.connections.now, snapshot.connections.peak, snapshot.connections.limit) == (1, 1, 5)
    assert (snapshot.connections.slots_taken, snapshot.connections.accepted_total) == (1, 1)
    assert (snapshot.messages.received_total, snapshot.messages.received_bytes_total) == (1, 5)
    assert (snapshot.messages.sent_total, snapshot.messages.sent_bytes_total) == (1, 5)
    assert (snapshot.ledger.accepted, snapshot.ledger.expected, snapshot.ledger.unaccounted) == (1, 1, 0)
    assert [(room.name, room.members) for room in snapshot.rooms.top_by_members] == [("lobby", 1)]
    assert (snapshot.node.state, snapshot.node.api_key_set, snapshot.broker.kind) == ("ready", True, "memory")
    assert snapshot.process.resident_bytes > 1 << 20
    assert snapshot.process.most_descriptors > snapshot.process.open_descriptors > 0
    assert {"fanout", "handling", "handshake", "ping_rtt"} <= {latency.name for latency in after.latency}
    assert next(latency for latency in after.latency if latency.name == "handling").count == 0
    assert (after.connections.now, [(one.reason, one.total) for one in after.closes]) == (0, [("normal", 1)])
    assert "redis" not in str(snapshot)


async def test_a_snapshot_keeps_its_schema() -> None:
    """What the API's description says of the figures is what they are."""
    statistics, _ = telling(WebSocketServer(), Clock())
    parts = schemas("#/$defs/")
    encoded = msgspec.json.encode(await statistics.take())
    Draft202012Validator({"$ref": "#/$defs/StatisticsSnapshot", "$defs": parts}).validate(msgspec.json.decode(encoded))
    assert msgspec.json.decode(encoded, type=Snapshot)
