"""``benchmarks.results``: medians, percentiles, ratios, and the file they are kept in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.results import Results, Row, Sample, median, percentile

FIGURES = st.lists(st.floats(0, 1e9), min_size=1, max_size=40)


def row(peer: str, *cpu_seconds: float, case: str = "echo-64") -> Row:
    return Row("echo", case, peer, [Sample(1000, 1.0, seconds, p50_ms=1.0, p99_ms=2.0) for seconds in cpu_seconds])


def test_the_median_is_the_middle_or_the_mean_of_the_two_in_the_middle() -> None:
    """One wild turn moves nothing."""
    assert median([3.0, 900.0, 1.0]) == 3.0
    assert median([1.0, 2.0, 4.0, 900.0]) == 3.0


@settings(max_examples=50)
@given(FIGURES, st.floats(0.01, 1))
def test_a_percentile_is_a_value_that_the_share_does_not_exceed(values: list[float], share: float) -> None:
    """Nearest rank: at least ``share`` of the values are at most it, and fewer are below."""
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < share * len(values) + 1e-9


@pytest.mark.parametrize("summary", [median, lambda values: percentile(values, 0.5)])
def test_nothing_has_neither_median_nor_percentile(summary: object) -> None:
    """An empty list is an error, not a zero that looks like a measurement."""
    with pytest.raises(ValueError, match="of nothing"):
        summary([])  # type: ignore[operator]


def test_cpu_is_per_operation_and_absent_where_nothing_was_done() -> None:
    """A server that did nothing has no price."""
    assert Sample(2000, 1.0, 0.5).cpu_us == 250.0
    assert Sample(0, 1.0, 0.5).cpu_us is None


def test_a_row_takes_the_median_of_its_turns() -> None:
    """Of figures and of extra figures."""
    found = row("bun", 0.010, 0.030, 0.020)
    assert found.figure("cpu_us") == pytest.approx(20.0)
    assert found.figure("per_cpu_second") is None
    assert found.spread() == pytest.approx(3.0)


def test_a_ratio_is_of_two_servers_at_one_case_of_one_run() -> None:
    """And absent where one of them is."""
    results = Results({}, {}, {}, [row("tidegate", 0.02), row("bun", 0.01), row("ws", case="other")])
    assert results.ratio("echo-64", "tidegate", "bun") == pytest.approx(2.0)
    assert results.ratio("echo-64", "tidegate", "ws") is None


def test_a_saved_run_is_read_back_as_it_was(tmp_path: Path) -> None:
    """The file holds everything the page is made of."""
    results = Results(
        {"memory": "8 GiB"}, {"bun": "Bun 1"}, {"nats": "why"}, [row("bun", 0.01)], {"echo-64": [("a.py f", 0.5)]}, "now"
    )
    results.save(tmp_path / "run.json")
    assert Results.load(tmp_path / "run.json") == results


def test_a_run_of_another_schema_is_refused(tmp_path: Path) -> None:
    """Rather than read wrongly."""
    (tmp_path / "run.json").write_text(json.dumps({"schema": 0}))
    with pytest.raises(ValueError, match="another schema"):
        Results.load(tmp_path / "run.json")


def test_a_workload_measured_anew_replaces_all_of_the_old_one() -> None:
    """Never a server of one run beside a server of another."""
    old = Results({"load": "1"}, {"bun": "1"}, {}, [row("bun", 1.0), row("tidegate", 1.0), Row("idle", "idle", "bun")])
    new = Results({"load": "9"}, {"bun": "1"}, {}, [row("tidegate", 2.0)])
    assert [(one.workload, one.peer) for one in old.updated(new).rows] == [("idle", "bun"), ("echo", "tidegate")]


def test_a_run_of_other_servers_is_added() -> None:
    """What is measured for the first time has nothing to be compared with; who was absent and is there, is no longer absent."""
    old = Results({}, {"bun": "1"}, {"redis": "not installed", "x": "why"}, [row("bun", 1.0)])
    new = Results({}, {"redis": "7"}, {}, [Row("brokers", "brokers-full", "redis")])
    both = old.updated(new)
    assert (both.versions, both.absent) == ({"bun": "1", "redis": "7"}, {"x": "why"})
    assert [one.peer for one in both.rows] == ["bun", "redis"]


def test_a_server_does_not_disappear_from_a_workload() -> None:
    """Measured anew without one that was in it: refused."""
    with pytest.raises(ValueError, match="measure everything"):
        Results({}, {"bun": "1", "ws": "1"}, {}, [row("bun", 1.0), row("ws", 1.0)]).updated(
            Results({}, {"ws": "1"}, {}, [row("ws", 1.0)])
        )


def test_runs_of_other_versions_are_not_mixed() -> None:
    """A newer peer is another peer."""
    with pytest.raises(ValueError, match="measure everything"):
        Results({}, {"bun": "1"}, {}).updated(Results({}, {"bun": "2"}, {}))
