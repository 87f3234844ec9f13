"""``benchmarks.brokers``: messages that say when they were sent, servers that share an engine, and a run over real ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.__main__ import asked_for, drivers_of
from benchmarks.brokers import BrokerTurn, broker_drivers
from benchmarks.brokers.crossing import stamp_of, stamped
from benchmarks.brokers.drivers import OverEngine, TidegateOverCluster, TidegateOverNats, TidegateOverRedis
from benchmarks.drivers.python import SocketIo
from benchmarks.processes import Cores
from benchmarks.results import Results
from benchmarks.suite import Suite
from benchmarks.workloads import WORKLOADS, Case, Topology, Workload, text
from tests.needs import need

TINY = Workload(
    "tiny", "Tiny", "delivery", kind="brokers", topology=Topology(2, 3), rounds=1, seconds=0.2,
    cases=(Case("tiny-full", "64 bytes", 2, text(64)), Case("tiny-200", "64 bytes", 0, text(64), pace=200)),
)  # fmt: skip


@settings(max_examples=50)
@given(st.integers(0, 10**18), st.sampled_from([20, 64, 128, 1024]))
def test_a_message_says_when_it_was_sent_in_every_protocol(now_ns: int, size: int) -> None:
    """As it is, in an event of Socket.IO, and to the size it is said to have."""
    payload = stamped(size, now_ns)
    assert len(payload) == size
    assert stamp_of(payload) == now_ns
    assert stamp_of(b"42" + json.dumps(["message", payload.decode()]).encode()) == now_ns


@pytest.mark.parametrize("frame", [b"", b"2", b"@", b"@12", b'430["joined"]', b"@ten digits or so it seems"])
def test_what_is_no_message_has_no_time(frame: bytes) -> None:
    """Pings and answers are not counted."""
    assert stamp_of(frame) is None


@pytest.mark.parametrize(
    ("driver", "servers"),
    [(TidegateOverRedis, "redis-server"), (TidegateOverCluster, "redis-server"), (TidegateOverNats, "nats-server")],
)
async def test_messages_cross_between_two_real_gateways(driver: type[OverEngine], servers: str, tmp_path: Path) -> None:
    """None is lost, each is timed, and what nodes and engine cost is told apart."""
    need(servers)
    results = Results({}, {}, {})
    await Suite(results, Cores(None, None), tmp_path, lambda line: None).run(TINY, [driver(tmp_path)])
    assert [(row.case, row.problem) for row in results.rows] == [("tiny-full", ""), ("tiny-200", "")]
    for row in results.rows:
        (sample,) = row.samples
        assert sample.operations > 0
        assert sample.extra["lost"] == 0
        assert sample.p50_ms is not None
        assert sample.p99_ms is not None
        assert 0 < sample.p50_ms <= sample.p99_ms
        assert sample.cpu_seconds * 1e6 == pytest.approx(
            (sample.extra["first_us"] + sample.extra["second_us"]) * sample.operations, abs=1
        )
    assert results.rows[1].samples[0].extra["messages_per_second"] <= 400


def test_servers_over_an_engine_take_part_in_nothing_else(tmp_path: Path) -> None:
    """And the others not in what is about engines."""
    suite = Suite(Results({}, {}, {}), Cores(None, None), tmp_path, lambda line: None)
    drivers = drivers_of(list(WORKLOADS), tmp_path)
    for workload in WORKLOADS:
        turns = suite._turns(workload, drivers)
        assert turns
        assert {isinstance(turn, BrokerTurn) for turn in turns} == {workload.kind == "brokers"}
        assert {isinstance(turn.driver, OverEngine) for turn in turns} == {workload.kind == "brokers"}


def test_a_part_of_the_name_asks_for_all_that_is_called_by_it() -> None:
    """``brokers`` is both workloads about brokers, and nothing else."""
    assert [workload.name for workload in WORKLOADS if asked_for(workload, ["brokers"])] == ["brokers", "brokers-rooms"]
    assert [workload.name for workload in WORKLOADS if asked_for(workload, ["rooms"])] == ["rooms"]


def test_every_peer_is_told_where_the_engine_is(tmp_path: Path) -> None:
    """By the environment, and each of its nodes listens where it is to."""
    for driver in broker_drivers(tmp_path):
        assert isinstance(driver, OverEngine)
        launch = driver.node(4321, "redis://127.0.0.1:1")
        assert "redis://127.0.0.1:1" in launch.environment.values()
        assert "4321" in (*launch.command, *launch.environment.values())


def test_pings_of_socket_io_are_answered_though_nothing_is_timed(tmp_path: Path) -> None:
    """The driver over an engine speaks the protocol of the one without."""
    (driver,) = [driver for driver in broker_drivers(tmp_path) if isinstance(driver, SocketIo)]
    assert driver.answer(b"2") == b"3"
    assert stamp_of(b"2") is None
