"""``tidegate top``: what it shows, where, and with which exit code."""

from __future__ import annotations

import http.server
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.cli import main, top
from gateway.cli.top_view import bytes_text, columns, cut, render, time_text
from gateway.console import figures

NONE = dict.fromkeys(("accepted_per_second", "refused_per_second", "closed_per_second"))


def snapshot(**changes: Any) -> dict[str, Any]:
    """A busy gateway's figures, as the API gives them."""
    whole = figures.Snapshot(
        at=1.0,
        interval_seconds=1.0,
        node=figures.Node("n1", "1.2.3", "3.11.7", 3725.0, "ready", True),
        connections=figures.Connections(148, 160, 10_000, 148, 0, 900, 2, 2.0, 0.0, 12.0),
        messages=figures.Messages(2715, 300_000, 79_776, 9_000_000, 150.0, 25_800.0, 4524.0, 752_640.0),
        latency=[
            figures.Latency("delivery_confirm", 10.0, 35, 0.0116, 0.0344, 1.5, {}),
            figures.Latency("handling", 10.0, 0, None, None, None, {}),
        ],
        latency_total=[
            figures.Latency(
                "delivery_confirm", None, 9, 0.025, 0.25, 10.0, {"p50": "at_most", "p90": "at_most", "p99": "more_than"}
            ),
            figures.Latency("handling", None, 1, 0.00005, 0.00005, 0.00005, dict.fromkeys(("p50", "p90", "p99"), "at_most")),
        ],
        rooms=figures.Rooms(2, 1, 60, [figures.RoomFigures("lobby", 50, 55.0)], [figures.RoomFigures("chat:1", 10, 90.0)]),
        closes=[figures.Closes("slow-consumer", "server", 12, 0.0)],
        drain=figures.Drain(False, 0, 0.0),
        process=figures.Process(0.0003, 0.01, 156, 67 << 20, 0.05, 167, 20_000),
        ledger=figures.Ledger(2715, 79_776, 79_700, 70, 6, 0, 0, 0, {"slow-consumer": 70}, 150.0, 4524.0, 0.0),
        broker=figures.Broker("redis", True, 0, 0),
    )
    return {**msgspec.to_builtins(whole), **changes}


class Ops(http.server.BaseHTTPRequestHandler):
    """A gateway's ops port that gives the same figures again and again."""

    snapshots: list[Any]
    key = "k"
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.headers.get("authorization") != f"Bearer {self.key}":
            self._answer(401, {"title": "Unauthorized", "detail": "This is not the API's key."})
        elif self.path == "/api/stats":
            self._answer(200, self.snapshots[0])
        elif self.path == "/api/stats/stream":
            self.send_response(200)
            self.end_headers()
            for one in self.snapshots:
                self.wfile.write(b":\n\ndata: " + json.dumps(one).encode() + b"\n\n")
        else:
            self._answer(404, {"title": "Not Found"})

    def _answer(self, status: int, body: Any) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def serving(*snapshots: Any) -> Iterator[tuple[str, type[Ops]]]:
    handler = type("Ops", (Ops,), {"snapshots": list(snapshots), "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", handler
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine reaches a test."""
    for name in [name for name in os.environ if name.upper().startswith("TIDEGATE_")]:
        monkeypatch.delenv(name)


def run(*arguments: str, key: str | None = "k") -> Result:
    environment = {"TIDEGATE_API_KEY": key} if key else {}
    result = CliRunner().invoke(main, ["top", *arguments], env=environment, prog_name="tidegate")
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


# ── what it looks like ───────────────────────────────────────────────────────────────────────────────────────────────


def test_it_says_what_matters() -> None:
    """Every group of figures is there, in words and units that people read."""
    text = "\n".join(line for line, _ in render(snapshot(), width=120))
    for part in (
        "tidegate n1  1.2.3  ready  up 1 h 2 min  broker redis", "148 now, peak 160, slots 148 of 10,000", "2.0/s",
        "in 150/s (25.2 KiB/s)", "out 4,524/s (735 KiB/s)", "written 79,700", "unaccounted 0", "cpu 5 %", "67.0 MiB",
        "delivery confirmed", "11.6 ms", "34.4 ms", "1.50 s", "chat:1", "slow-consumer", "2 rooms, 1 user ",
    ):  # fmt: skip
        assert part in text


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_terminal_hides_no_figure(width: int) -> None:
    """What does not fit goes on in the next line, and looks the same: a busy week's ledger, and descriptors."""
    busy = snapshot()
    busy["ledger"].update(expected=12_345_678_901, written=12_345_000_000, dropped=678_000, closed=900, unaccounted=1)
    lines = render(busy, width=width, height=24)
    text = "\n".join(line for line, _ in lines)
    for part in ("due 12,345,678,901, unaccounted 1", "dropped 678,000", "closed 900", "descriptors 167 of 20,000", "waiting 0"):
        assert part in text
    assert {look for line, look in lines if "unaccounted 1" in line or "closed 900" in line} == {"red"}
    assert "…" not in text


def test_a_first_snapshot_has_no_rates() -> None:
    """What is not known yet is a dash, not a zero."""
    first = snapshot(interval_seconds=None)
    first["messages"] = {name: None if "per_second" in name else value for name, value in first["messages"].items()}
    first["process"]["cpu_ratio"] = None
    text = "\n".join(line for line, _ in render(first, width=120))
    assert "in -/s (-/s)" in text
    assert "cpu -" in text


def test_when_nobody_speaks_the_largest_rooms_are_shown() -> None:
    """A quiet gateway still says who is where."""
    quiet = snapshot()
    quiet["rooms"]["top_by_rate"] = []
    assert "lobby" in "\n".join(line for line, _ in render(quiet, width=120))


def test_a_drain_and_what_is_wrong_stand_out() -> None:
    """Draining, a broker that is down, a delivery that is unaccounted for."""
    bad = snapshot(drain={"draining": True, "connections_left": 12, "overdue_seconds": 3.0}, closes=[])
    bad["broker"]["up"] = False
    bad["ledger"]["unaccounted"] = 1
    bad["connections"]["limit"] = None
    lines = render(bad, width=120)
    text = "\n".join(line for line, _ in lines)
    for part in ("12 connections left, 3 s overdue", "redis (down)", "no limit", "none yet"):
        assert part in text
    assert [look for line, look in lines if "unaccounted 1" in line] == ["red"]


HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\n\u200f\u202egnp.exe"


def test_a_rooms_name_cannot_steer_the_terminal() -> None:
    """Escape sequences, line breaks and turned directions are written out."""
    hostile = snapshot()
    hostile["rooms"]["top_by_rate"] = [{"name": HOSTILE, "members": 1, "messages_per_second": 1.0}]
    hostile["closes"] = [{"reason": HOSTILE, "initiator": HOSTILE, "total": 1, "per_second": 0.0}]
    hostile["node"]["id"] = hostile["node"]["state"] = hostile["latency"][0]["name"] = HOSTILE
    for line, _ in render(hostile, width=120):
        assert line.isprintable() or not any(ord(char) < 0x20 or char in "\u200f\u202e\x7f" for char in line)


@given(name=st.text(max_size=80), width=st.integers(20, 200), height=st.integers(5, 60))
@settings(max_examples=60, deadline=None)
def test_nothing_is_wider_or_higher_than_the_terminal(name: str, width: int, height: int) -> None:
    """Whatever rooms are called, and however small the window (60 columns at least)."""
    busy = snapshot()
    busy["rooms"]["top_by_rate"] = [{"name": name, "members": 1, "messages_per_second": 1.0}] * 20
    busy["closes"] *= 9
    lines = render(busy, width=width, height=height, note="12:00:00 ")
    assert len(lines) <= height
    assert all(columns(line) <= max(width, 60) for line, _ in lines)


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("価格東京", 5, "価格…"), ("e\u0301e\u0301", 2, "e\u0301e\u0301")],
)
def test_what_is_too_wide_is_cut(text: str, width: int, shown: str) -> None:
    """By the columns it takes, and with a mark."""
    assert cut(text, width) == shown


def test_units_suit_the_value() -> None:
    """From bytes to gibibytes, from microseconds to seconds."""
    assert [bytes_text(value) for value in (0, 1023, 1536, 200 << 10, 5 << 40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "200 KiB",
        "5120 GiB",
    ]
    assert [time_text(value) for value in (0, 0.000026, 0.0344, 2.5)] == ["0 µs", "26 µs", "34.4 ms", "2.50 s"]
    lines = [
        render(snapshot(node={**snapshot()["node"], "uptime_seconds": seconds}), width=120)[0][0] for seconds in (5, 65, 90_000)
    ]
    assert ["up 5 s" in lines[0], "up 1 min 5 s" in lines[1], "up 1 d 1 h" in lines[2]] == [True] * 3


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_once_prints_one_and_ends() -> None:
    """Plain text without a terminal; the key is that of the settings, or given."""
    with serving(snapshot()) as (url, ops):
        for result in (run("--once", "--ops-url", url), run("--once", "--ops-url", url, "--api-key", "k", key=None)):
            assert (result.exit_code, "148 now" in result.stdout, "\x1b" in result.stdout) == (0, True, False)
        assert ops.asked == ["/api/stats"] * 2


def test_once_of_a_quiet_second_tells_the_latencies_since_the_start() -> None:
    """Under a heading that says so, and bounds of buckets as bounds; a busy second, and --json, stay as they are."""
    quiet = snapshot()
    quiet["latency"] = [{**one, "count": 0, "p50_seconds": None} for one in quiet["latency"]]
    with serving(quiet) as (url, _):
        text = run("--once", "--ops-url", url).stdout
        assert json.loads(run("--once", "--json", "--ops-url", url).stdout) == quiet
    assert "latency, since start" in text
    assert re.search(r"delivery confirmed +≤ 25 ms +≤ 250 ms +> 10 s +9$", text, re.MULTILINE)
    assert re.search(r"handling +≤ 50 µs +≤ 50 µs +≤ 50 µs +1$", text, re.MULTILINE)
    with serving(snapshot()) as (url, _):
        assert "latency, 10 s" in run("--once", "--ops-url", url).stdout


def test_json_is_what_the_api_says() -> None:
    """--json: one object a line, for other programs."""
    with serving(snapshot()) as (url, _):
        assert json.loads(run("--once", "--json", "--ops-url", url).stdout) == snapshot()


@pytest.mark.parametrize("arguments", [[], ["--once"]])
def test_a_wrong_key_is_told_at_once(arguments: list[str]) -> None:
    """Exit 1 with a sentence that names the setting; trying again would not help."""
    with serving(snapshot()) as (url, ops):
        for key in ("wrong", None):
            result = run(*arguments, "--ops-url", url, key=key)
            assert (result.exit_code, result.stdout) == (1, "")
            assert "401" in result.stderr
            assert "TIDEGATE_API_KEY" in result.stderr
        assert len(ops.asked) == 2


@pytest.mark.parametrize("arguments", [[], ["--once"]])
@pytest.mark.parametrize(
    ("url", "says"),
    [("http://127.0.0.1:9", "no answer from http://127.0.0.1:9"), ("ftp://x", "not an http"), ("127.0.0.1", "not an http")],
)
def test_an_address_without_a_gateway_is_told(arguments: list[str], url: str, says: str) -> None:
    """Exit 1 and the reason in the system's words."""
    result = run(*arguments, "--ops-url", url)
    assert (result.exit_code, says in result.stderr) == (1, True)


@pytest.mark.parametrize("answer", [{"x": 1}, [], "text", snapshot(rooms=None), {**snapshot(), "connections": {}}])
@pytest.mark.parametrize("arguments", [[], ["--once"]])
def test_something_else_at_the_address_is_told(arguments: list[str], answer: Any) -> None:
    """An answer that is no snapshot ends in a sentence, not in a traceback."""
    with serving(answer) as (url, _):
        result = run(*arguments, "--ops-url", url)
    assert result.exit_code == 1
    assert "is this the ops address of a Tidegate" in result.stderr


class Enough(Exception):
    pass


def watch(url: str, screen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Watch until the first interruption."""

    def stop(seconds: float) -> None:
        raise Enough

    with screen, pytest.raises(Enough):
        top._watch(top._Source(url, "k"), screen, sleep=stop)


@pytest.mark.parametrize("kind", [top._Json, top._Plain])
def test_into_a_pipe_it_writes_one_after_the_other(
    kind: type[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says on standard error that the stream has ended, before it tries again."""
    with serving(snapshot(), snapshot(at=2.0)) as (url, _):
        watch(url, kind(), monkeypatch)
    out, err = capsys.readouterr()
    assert out.count("slow-consumer") >= 2
    assert "\x1b" not in out
    assert "the gateway ended the stream; trying again" in err


def test_a_terminal_is_drawn_over_and_left_as_it_was(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Another screen and a hidden cursor while it runs; each line is cleared to its end; an interruption shows in the title."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "24")
    bad = snapshot()
    bad["ledger"]["unaccounted"] = 1
    with serving(snapshot(), bad) as (url, _):
        watch(url, top._Terminal(), monkeypatch)
    out = capsys.readouterr().out
    assert out.startswith("\x1b[?1049h\x1b[?25l")
    assert out.endswith("\x1b[?25h\x1b[?1049l")
    frames = out.split("\x1b[H")[1:]
    assert len(frames) == 3
    assert all(frame.count("\r\n") <= 23 and frame.count("\x1b[K") == frame.count("\r\n") for frame in frames)
    assert "\x1b[1;31m" in frames[1]
    assert "lost, trying again" in frames[2]
    monkeypatch.setenv("NO_COLOR", "1")
    assert top._styled(("x", "red")) == "x"


def test_an_interruption_is_waited_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A gateway that restarts comes back; what was shown stays meanwhile."""
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise Enough

    with serving(snapshot()) as (url, ops):
        source = top._Source(url, "k")
        with pytest.raises(Enough):
            top._watch(source, top._Json(), sleep=wait)
        assert len(ops.asked) == 3
    with pytest.raises(Exception, match="no answer"):
        top._watch(source, top._Json(), sleep=wait)
