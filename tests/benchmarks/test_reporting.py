"""``benchmarks.reporting``: the page says what was measured, what was not reached, and what was absent."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from benchmarks.reporting import write_report
from benchmarks.reporting.plots import bar_chart
from benchmarks.reporting.targets import TARGETS
from benchmarks.results import Results, Row, Sample


def sample(cpu_us: float, **extra: float) -> Sample:
    return Sample(1000, 1.0, cpu_us / 1000, 0.5, 1.0, 2.0, extra)


@pytest.fixture
def results() -> Results:
    rows = [
        Row("echo", "echo-64", "tidegate", [sample(15)]),
        Row("echo", "echo-64", "bun", [sample(10)]),
        Row("echo", "echo-64", "uvicorn", [sample(25)]),
        Row("echo", "echo-64", "channels", problem="Stalled: nothing came"),
        Row("idle", "idle", "tidegate", [sample(300, kib_per_connection=12.5)]),
    ]
    return Results(
        {"memory": "8 GiB"}, {"bun": "Bun 1.2"}, {"centrifugo": "not to be had"}, rows, {"echo-64": [("a.py f", 0.25)]}, "now"
    )


def test_what_crosses_nodes_is_compared_for_itself(tmp_path: Path) -> None:
    """A table of its own with both nodes' CPU, the engine's beside it, and targets that are judged by it."""
    parts = {"first_us": 20.0, "second_us": 10.0, "engine_us": 2.0, "messages_per_second": 1000.0, "lost": 3.0}
    rows = [
        Row("brokers", "brokers-full", "tidegate-redis", [Sample(4000, 1.0, 0.12, 0.5, 1.0, 2.0, parts)]),
        Row("brokers", "brokers-full", "socketio-redis", [Sample(1000, 1.0, 0.3, 0.5, 9.0, 99.0, parts)]),
        Row("brokers", "brokers-5000", "tidegate-redis", [Sample(5000, 1.0, 0.3, 0.5, 1.0, 6.5, parts)]),
    ]
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "scaling.md").write_text("before\n<!-- figures: x -->\nold\n<!-- /figures -->\nbehind\n")
    write_report(Results({}, {}, {}, [Row("echo", "echo-64", "tidegate", [sample(15)]), *rows]), tmp_path)
    page = (tmp_path / "docs" / "performance.md").read_text()
    scaling = (tmp_path / "docs" / "scaling.md").read_text().splitlines()
    assert (scaling[0], scaling[-1]) == ("before", "behind")
    assert "| Redis, full | 20.0 µs | 10.0 µs | 2.00 µs | 4,000 | – |" in scaling  # noqa: RUF001
    assert "| Redis, 5,000 a second | 20.0 µs | 10.0 µs | 2.00 µs | 5,000 | 1.00 / 6.50 ms |" in scaling
    assert "old" not in scaling
    lines = page.splitlines()
    (head,) = [line for line in lines if line.startswith("| CPU per message or delivery | Tidegate |")]
    assert "Socket" not in head
    assert any(line.startswith("| one hears, ") and "| 30.0 µs | 10.0 × |" in line for line in lines)  # noqa: RUF001
    assert any(line.startswith("| Tidegate over Redis | 30.0 | 20.0 | 10.0 | 2.00 | 4,000 | 1.00 | 2.00 |") for line in lines)
    targets = {line.split(" | ")[0].strip("| "): line for line in lines if " a second" in line or "p99" in line}
    assert "4.00 " in targets["two nodes over Redis: deliveries a second against python-socketio"]
    assert "**not reached**" in targets["two nodes over Redis, 5,000 messages a second: p99"]


@pytest.fixture
def page(results: Results, tmp_path: Path) -> str:
    (tmp_path / "docs").mkdir()
    write_report(results, tmp_path)
    return (tmp_path / "docs" / "performance.md").read_text()


def test_ratios_come_first_and_are_others_over_tidegate(page: str) -> None:
    """2/3 as much as Tidegate at Bun, 5/3 at uvicorn."""
    line = next(line for line in page.splitlines() if line.startswith("| echo, 64 bytes"))
    assert "| 15.0 µs | 0.67 × | 1.67 × | – |" in line  # noqa: RUF001
    assert page.index(line) < page.index("## Targets")


def test_a_target_that_is_missed_is_said_to_be(page: str) -> None:
    """15 against 25 is over a half; 15 against 10 is within 1.6; what was not measured is not claimed."""
    by_title = {line.split(" | ")[0].strip("| "): line for line in page.splitlines() if line.startswith("| ")}
    assert "**not reached**" in by_title[TARGETS[0].title]
    assert "reached" in by_title[TARGETS[1].title]
    assert "not reached" not in by_title[TARGETS[1].title]
    assert "not measured" in by_title[TARGETS[2].title]


def test_failed_and_absent_servers_are_named_with_the_reason(page: str) -> None:
    """Nothing disappears."""
    assert "Django Channels on Daphne failed: Stalled: nothing came" in page
    assert "Centrifugo: not to be had" in page


def test_the_page_tells_machine_versions_profile_and_how_to_repeat(page: str) -> None:
    """Whoever doubts it can do it again."""
    for part in ("8 GiB", "Bun 1.2", "`a.py f` | 25%", "make bench", "12.5"):
        assert part in page


def test_every_picture_on_the_page_is_there_and_well_formed(page: str, tmp_path: Path) -> None:
    """One per case, and no broken links."""
    names = [part.split(")")[0] for part in page.split("](performance/")[1:]]
    assert names == ["echo-64.svg", "idle.svg"]
    for name in names:
        ElementTree.parse(tmp_path / "docs" / "performance" / name)


def test_bars_are_drawn_to_scale_and_labels_escaped() -> None:
    """The longest fills the room; half of it is half as long."""
    chart = ElementTree.fromstring(bar_chart("a < b", "µs", [("x & y", 2.0, True), ("z", 4.0, False)]))
    bars = [float(element.attrib["width"]) for element in chart if element.tag.endswith("rect")]
    assert bars[0] * 2 == bars[1]
    assert "x & y" in [element.text for element in chart]
