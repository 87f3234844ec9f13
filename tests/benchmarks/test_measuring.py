"""The measuring itself, tiny: a real gateway, a few connections, a fraction of a second."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.__main__ import available
from benchmarks.drivers import all_drivers
from benchmarks.drivers.others import Centrifuge, Nats
from benchmarks.drivers.python import SocketIo
from benchmarks.drivers.tidegate import Tidegate
from benchmarks.processes import Cores, Launch, Server, free_port
from benchmarks.profiling import self_shares
from benchmarks.results import Results
from benchmarks.sockets import Group
from benchmarks.suite import Suite
from benchmarks.workloads import WORKLOADS, Case, Topology, Workload, quick, text

ANYWHERE = Cores(None, None)


class FakeTransport:
    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, kind: object, frame: bytes) -> None:
        self.sent.append(frame)


async def test_a_workload_runs_against_a_real_gateway(tmp_path: Path) -> None:
    """Messages flow, CPU time and latencies are found, and the process is gone afterwards."""
    results = Results({}, {}, {})
    tiny = Workload(
        "tiny", "Tiny", "delivery", topology=Topology(2, 3), rounds=1, seconds=0.2, cases=(Case("tiny", "8 bytes", 2, text(8)),)
    )
    await Suite(results, ANYWHERE, tmp_path, lambda line: None).run(tiny, [Tidegate(tmp_path)])
    (row,) = results.rows
    assert row.problem == ""
    (sample,) = row.samples
    assert sample.operations > 0
    assert sample.p50_ms is not None
    assert sample.p99_ms is not None
    assert sample.p99_ms >= sample.p50_ms
    assert sample.extra["bytes_per_delivery"] == 8


async def test_a_server_that_cannot_start_is_a_row_with_the_reason(tmp_path: Path) -> None:
    """The run goes on with the others."""

    class Broken(Tidegate):
        def launch(self, port: int, compressed: str = "") -> Launch:
            return Launch(("sh", "-c", "echo no such thing; exit 3"))

    results = Results({}, {}, {})
    await Suite(results, ANYWHERE, tmp_path, lambda line: None).run(replace(quick()[0], rounds=1), [Broken(tmp_path)])
    assert [row.samples for row in results.rows] == [[]]
    assert "ended with 3: no such thing" in results.rows[0].problem


async def test_the_cpu_time_of_children_counts(tmp_path: Path) -> None:
    """A server that forks is not cheaper for it."""
    port = free_port()
    listen = f"import socket; s = socket.create_server(('127.0.0.1', {port})); exec('while 1: s.accept()')"
    burn = "for _ in range(10**8): pass"
    command = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {burn!r}]); {listen}"
    server = await Server.start(Launch(("python3", "-c", command)), port, ANYWHERE, tmp_path / "log")
    try:
        before = server.usage().cpu_seconds
        for _ in range(100):
            if server.usage().cpu_seconds > before:
                break
            await asyncio.sleep(0.02)
        assert server.usage().cpu_seconds > before
        assert server.usage().resident_bytes > 0
    finally:
        for child in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split():
            os.kill(int(child), 9)
        server.stop()


def test_a_group_keeps_its_window_and_measures_until_the_last_delivery() -> None:
    """Two in flight over three listeners: the third message leaves with the third delivery, and nothing after the end."""
    group, transport = Group(), FakeTransport()
    group.members = [type("Publisher", (), {"transport": transport})()]  # type: ignore[list-item]  # all that it needs of one
    group.listeners = 3
    group.start(True, [b"a", b"b"], window=2)
    assert transport.sent == [b"a", b"b"]
    for expected in (2, 2, 3):
        group.received += 1
        if group.received >= group.mark:
            group.advance()
        assert len(transport.sent) == expected
    group.running = False
    group.received += 6
    group.advance()
    assert len(group.latencies) == 3
    assert group.idle
    assert len(transport.sent) == 3


@pytest.mark.parametrize(
    ("count", "frame", "deliveries"),
    [
        (SocketIo.deliveries, b'42["message","hello"]', 1),
        (SocketIo.deliveries, b"2", 0),
        (Centrifuge.deliveries, b'{"push":{"channel":"r","pub":{"data":"x"}}}\n{"push":{"channel":"r","pub":{"data":"y"}}}', 2),
        (Centrifuge.deliveries, b'{"id":3,"publish":{}}', 0),
        (Nats.deliveries, b"MSG room-0 1 1\r\nx\r\nMSG room-0 1 1\r\ny\r\n", 2),
        (Nats.deliveries, b"PING\r\n", 0),
    ],
)
def test_a_driver_counts_the_deliveries_in_a_frame(count: Callable[[bytes], int], frame: bytes, deliveries: int) -> None:
    """Protocols that join messages are not credited with fewer, nor with their own chatter."""
    assert count(frame) == deliveries


@pytest.mark.parametrize(
    ("driver", "ping", "pong"), [(SocketIo, b"2", b"3"), (Centrifuge, b"{}", b"{}"), (Nats, b"PING\r\n", b"PONG\r\n")]
)
def test_a_driver_answers_pings_of_its_protocol(driver: type[SocketIo], ping: bytes, pong: bytes, tmp_path: Path) -> None:
    """Else the server hangs up half a minute into the run."""
    assert driver(tmp_path).answer(ping) == pong
    assert driver(tmp_path).answer(b"something else") is None


def test_what_cannot_be_measured_is_absent_with_a_reason(tmp_path: Path) -> None:
    """An empty cache has no peers, and each is accounted for."""
    drivers, absent = available(all_drivers(tmp_path), None, {"centrifugo": "the proxy has no such module"})
    assert [driver.name for driver in drivers] == ["tidegate"]
    assert set(absent) == {driver.name for driver in all_drivers(tmp_path)} - {"tidegate"}
    assert all(absent.values())
    assert absent["centrifugo"].endswith("the proxy has no such module")


def test_shares_of_a_profile_are_by_function_whatever_the_line() -> None:
    """The top of each stack counts, with its number of samples."""
    raw = "run (a.py:1);write (b.py:10) 30\nrun (a.py:1);write (b.py:12) 30\nrun (a.py:2) 40\n"
    assert self_shares(raw) == [("b.py write", 0.6), ("a.py run", 0.4)]


def test_cases_have_names_of_their_own() -> None:
    """Results and pictures are kept by them."""
    names = [case.name for workload in WORKLOADS for case in workload.cases]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("size", [1, 8, 64, 100, 128, 4096])
def test_payloads_have_the_size_they_are_called_by(size: int) -> None:
    """To the byte."""
    assert [len(payload) for payload in text(size)()] == [size]
