"""Where the command begins: what holds before anything is imported that takes time."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest

import gateway.cli
from gateway.__main__ import run


@pytest.fixture(autouse=True)
def own_signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is done with SIGTERM, and the command line, stay in the test."""
    monkeypatch.setattr(sys, "argv", ["tidegate", "--version"])
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_process_1_of_a_container_takes_a_signal_before_anybody_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM while the command loads: exit code 0. The kernel would keep it from a process 1 that does not handle it."""

    def loading(**options: object) -> None:
        assert callable(signal.getsignal(signal.SIGTERM)), "nobody takes the signal: it would end this test's process"
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("went on after the signal")

    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(gateway.cli, "main", loading)
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 0


def test_other_processes_leave_signals_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Outside a container SIGTERM ends a command that is still loading, as it does any other."""
    before = signal.getsignal(signal.SIGTERM)  # a measurement of coverage has a handler of its own
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("tidegate, version")
    assert signal.getsignal(signal.SIGTERM) is before
