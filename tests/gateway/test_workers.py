"""Several workers on one port: when a dead one is started again, and that everything comes to an end."""

from __future__ import annotations

import errno
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.listening import bind
from gateway.settings import Settings
from gateway.settings.sources import load_settings
from gateway.workers import supervise
from gateway.workers.restarts import LONGEST_DELAY_SECONDS, MOST_QUICK_DEATHS, QUICK_SECONDS, Restarts
from gateway.workers.supervisor import Supervisor
from gateway.workers.worker import SERVING

# -- when to start again


def test_who_has_lived_long_is_started_again_at_once() -> None:
    """And what it died of earlier is forgotten."""
    restarts = Restarts()
    assert restarts.died(0.1) > 0
    assert restarts.died(QUICK_SECONDS) == 0
    assert restarts.quick_deaths == 0


def test_who_dies_at_once_waits_longer_each_time_and_becomes_hopeless() -> None:
    """The pauses double; then it is the longest."""
    restarts = Restarts()
    delays = [restarts.died(0.0) for _ in range(MOST_QUICK_DEATHS - 1)]
    assert delays == [0.5, 1.0, 2.0, 4.0]
    assert not restarts.hopeless
    assert restarts.died(0.0) == LONGEST_DELAY_SECONDS
    assert restarts.hopeless


@given(st.lists(st.floats(0, 100)))
@settings(max_examples=50, deadline=None)
def test_no_pause_is_longer_than_the_longest(lives: list[float]) -> None:
    """Whatever the history."""
    restarts = Restarts()
    assert all(0 <= restarts.died(lived) <= LONGEST_DELAY_SECONDS for lived in lives)


# -- settings


def test_more_than_one_worker_needs_a_broker_between_processes() -> None:
    """The sentence says why, and names what to set."""
    with pytest.raises(ValueError, match=r"memory broker carries nothing from one process to another"):
        Settings(workers=2)
    assert Settings(workers=2, broker="redis://127.0.0.1").workers == 2
    assert load_settings({"workers": "1"}).settings.workers == 1


@pytest.mark.parametrize(
    ("ops_port", "fits"), [(8001, True), (7997, True), (7998, False), (8000, False), (65_533, True), (65_534, False)]
)
def test_the_ops_ports_of_all_workers_are_ports_of_their_own(ops_port: int, fits: bool) -> None:
    """None of them is the public one, and all of them exist."""
    options: dict[str, Any] = {"workers": 3, "broker": "nats://127.0.0.1", "port": 8000, "ops_port": ops_port}
    if fits:
        Settings(**options)
    else:
        with pytest.raises(ValueError, match="OPS_PORT"):
            Settings(**options)


# -- the supervisor, as a process


class Supervised:
    """A running supervisor."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.told = ""

    def hears(self, pattern: str, seconds: float = 20.0) -> re.Match[str]:
        """Wait until the output has ``pattern``."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        while not (match := re.search(pattern, self.told)):
            readable, _, _ = select.select([self.process.stdout], (), (), max(0.0, deadline - time.monotonic()))
            assert readable, f"{pattern!r} has not come: {self.told}"
            data = os.read(self.process.stdout.fileno(), 65_536)
            assert data, f"{pattern!r} has not come: {self.told} {self.log()}"
            self.told += data.decode()
        return match

    def pid_of(self, number: int, start: int = 1) -> int:
        """The process of a worker's start; 1 is the first."""
        pattern = rf"(?s)(?:started {number} (\d+)\n.*?){{{start}}}"
        return int(self.hears(pattern)[1])

    def greeted(self) -> str:
        """The greeting, once all serve."""
        return self.hears(r"Tidegate serves .*\n")[0]

    def ends(self) -> int:
        """Its exit code, when it has ended."""
        return self.process.wait(20)

    def log(self) -> list[dict[str, object]]:
        """What it has logged; it must have ended."""
        assert self.process.stderr is not None
        return [json.loads(line) for line in self.process.stderr.read().splitlines()]


@contextmanager
def supervised(*behaviours: str, patience_seconds: float = 60.0, before: tuple[str, ...] = ()) -> Iterator[Supervised]:
    process = subprocess.Popen(
        [*before, sys.executable, "-m", "tests.gateway.supervised", str(patience_seconds), *behaviours],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield Supervised(process)
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has waited for yet does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def test_all_addresses_are_told_when_all_workers_serve() -> None:
    """One line with the public address and every ops address."""
    with supervised("serve", "serve", "serve") as gateway:
        greeting = gateway.greeted()
        assert re.search(r"with 3 workers, operations at http://[\d.]+:\d+, http://[\d.]+:\d+, http://[\d.]+:\d+\.", greeting)


def test_a_worker_that_is_killed_is_started_again() -> None:
    """The others are left alone."""
    with supervised("serve", "serve") as gateway:
        gateway.greeted()
        first = gateway.pid_of(1)
        os.kill(first, signal.SIGKILL)
        assert gateway.pid_of(1, start=2) != first
        assert gateway.told.count("started 0") == 1
        gateway.process.terminate()
        assert gateway.ends() == 0
        (death,) = [event for event in gateway.log() if event["event"] == "a worker died"]
        assert (death["worker"], death["pid"], death["signal"]) == (1, first, "SIGKILL")


def test_a_worker_that_has_drained_is_replaced_at_once() -> None:
    """However short its life was: it was told to end, and did not die."""
    with supervised("serve", "serve") as gateway:
        gateway.greeted()
        for start in range(1, MOST_QUICK_DEATHS + 2):
            os.kill(gateway.pid_of(1, start), signal.SIGTERM)
        gateway.pid_of(1, MOST_QUICK_DEATHS + 2)
        gateway.process.terminate()
        assert gateway.ends() == 0
        events = [event["event"] for event in gateway.log()]
        assert events.count("a worker has drained and is replaced") == MOST_QUICK_DEATHS + 1
        assert "a worker died" not in events


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_drains_all_workers(sig: signal.Signals) -> None:
    """Whichever it is, they get SIGTERM, and the exit code is 0."""
    with supervised("serve", "serve") as gateway:
        gateway.greeted()
        gateway.process.send_signal(sig)
        for number in range(2):
            gateway.hears(f"ended {number} SIGTERM")
        assert gateway.ends() == 0


def test_a_supervisor_under_nohup_outlives_its_terminal() -> None:
    """Who starts it with SIGHUP ignored means it; the other signals drain it all the same."""
    with supervised("serve", before=("nohup",)) as gateway:
        gateway.greeted()
        gateway.process.send_signal(signal.SIGHUP)
        first = gateway.pid_of(0)
        os.kill(first, signal.SIGKILL)  # what comes after shows that nothing has become of the signal
        gateway.pid_of(0, start=2)
        gateway.process.send_signal(signal.SIGINT)
        assert gateway.ends() == 0


def test_a_second_signal_ends_all_at_once() -> None:
    """Workers that are still draining get SIGQUIT."""
    with supervised("serve", "obstinate") as gateway:
        gateway.greeted()
        gateway.process.terminate()
        gateway.hears("ended 0 SIGTERM")
        gateway.process.terminate()
        gateway.hears("ended 1 SIGQUIT")
        assert gateway.ends() == 0, gateway.log()


def test_a_worker_that_does_not_end_is_killed() -> None:
    """The supervisor waits for nobody longer than the drain and some patience; the exit code tells."""
    with supervised("stubborn", "serve", patience_seconds=0.2) as gateway:
        gateway.greeted()
        gateway.process.terminate()
        assert gateway.ends() == 1
        assert not is_alive(gateway.pid_of(0))


def test_a_worker_that_cannot_start_ends_it_all_with_its_exit_code() -> None:
    """As one process would: the others are drained."""
    with supervised("serve", "refuse") as gateway:
        assert gateway.ends() == 2
        assert not is_alive(gateway.pid_of(0))
        assert "worker 1 could not start" in str(gateway.log())


def test_when_all_die_at_once_again_and_again_it_gives_up() -> None:
    """With a sentence and exit code 1, after the pauses."""
    with supervised("dies-at-once") as gateway:
        assert gateway.ends() == 1
        assert "died at once 5 times in a row and no other serves" in str(gateway.log())


def test_one_that_dies_at_once_does_not_take_those_that_serve_along() -> None:
    """It is tried again for as long as another serves, and the log says that it is hopeless."""
    with supervised("dies-at-once", "serve") as gateway:
        gateway.pid_of(1)
        gateway.pid_of(0, start=7)
        gateway.process.terminate()
        gateway.ends()
        assert gateway.told.count("started 1") == 1
        assert any(event["event"] == "a worker cannot be kept alive" for event in gateway.log())


def test_workers_end_when_their_supervisor_is_killed() -> None:
    """Nobody is left behind on the port."""
    with supervised("serve", "serve") as gateway:
        gateway.greeted()
        gateway.process.kill()
        for number in range(2):
            gateway.hears(f"orphaned {number}")


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
@pytest.mark.parametrize("listener", ["port", "ops_port"])
def test_a_port_in_use_is_said_before_any_worker_starts(listener: str, shared: bool) -> None:
    """Exit code 1; a port that another gateway's workers share would otherwise be shared with them unnoticed."""
    with bind("127.0.0.1", 0, "", shared=shared) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        if listener == "port":
            options: dict[str, Any] = {"port": port, "ops_port": 0}
        else:
            options = {"port": 0, "ops_port": port - 1}
        assert supervise(Settings(workers=2, broker="redis://127.0.0.1", **options)) == 1


def test_exposure_is_judged_before_any_worker_starts(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and the table."""
    assert supervise(Settings(workers=2, broker="redis://127.0.0.1", host="0.0.0.0", port=0, ops_port=0)) == 2
    assert "TIDEGATE_AUTH__MODE" in capsys.readouterr().err


@pytest.mark.parametrize(("said", "delay"), [(b"", 0.5), (SERVING, 0.0)], ids=["never served", "served"])
def test_who_ends_well_and_has_never_served_is_started_again_after_a_pause(said: bytes, delay: float) -> None:
    """Only who has served and drained is replaced at once, also when both come to light in the same moment."""
    two = Settings(workers=2, broker="redis://127.0.0.1")
    with bind("127.0.0.1", 0, "TIDEGATE_PORT", shared=True) as public, bind("127.0.0.1", 0, "TIDEGATE_OPS_PORT") as ops:
        keeper = Supervisor(two, public, [ops], clock=lambda: 100.0)
        keeper._greeted = True
        [worker] = keeper._workers
        worker.report, writing = os.pipe()
        os.write(writing, said)
        os.close(writing)
        worker.pid, worker.started_at = 1, 100.0
        keeper._died(worker, 0)
        assert (worker.pid, worker.due_at - 100.0) == (None, delay)


def test_a_machine_without_room_for_a_process_ends_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that cannot be started again is tried again later; one that never could be is a reason to give up."""

    def fork() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", fork)
    two = Settings(workers=2, broker="redis://127.0.0.1")
    with bind("127.0.0.1", 0, "TIDEGATE_PORT", shared=True) as public, bind("127.0.0.1", 0, "TIDEGATE_OPS_PORT") as ops:
        keeper = Supervisor(two, public, [ops], clock=lambda: 100.0)
        keeper._greeted = True
        [worker] = keeper._workers
        before = len(os.listdir("/proc/self/fd")), signal.pthread_sigmask(signal.SIG_BLOCK, ())
        assert keeper._start_if_due(worker) is None
        assert (worker.pid, worker.due_at) == (None, 100.5)
        assert (len(os.listdir("/proc/self/fd")), signal.pthread_sigmask(signal.SIG_BLOCK, ())) == before
        assert Supervisor(two, public, [ops]).run() == 1
