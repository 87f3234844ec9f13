"""``docs/operations.md`` and ``releasing.md``: what they name exists, what they compute is right, what they quote was measured."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

from gateway.listening import _SPARE_DESCRIPTORS as SPARE
from gateway.settings import Settings, env_name
from gateway.settings.environment import field_paths
from gateway.settings.groups import DrainSettings
from gateway.settings.text import value_of

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
PERFORMANCE = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
PATHS = {env_name(path): path for path in field_paths(Settings)}
DEFAULTS = Settings(drain=DrainSettings(delay_seconds=5))  # at a terminal, where tests may run, it would be 0


def settings_named() -> set[str]:
    """Whole variables, and groups' settings without the prefix."""
    whole = set(re.findall(r"\bTIDEGATE_[A-Z_]+[A-Z]\b", TEXT))
    return whole | {f"TIDEGATE_{name}" for name in re.findall(r"(?<![A-Z_])(?!TIDEGATE)[A-Z][A-Z_]*[A-Z]__[A-Z_]+[A-Z]\b", TEXT)}


def test_settings_that_are_named_exist() -> None:
    """Every one of them, whichever way it is written."""
    assert len(settings_named()) > 20
    assert settings_named() - PATHS.keys() == set()


def test_defaults_that_are_given_are_the_defaults() -> None:
    """A figure in parentheses behind a setting."""
    given = re.findall(r"`(?:TIDEGATE_)?([A-Z_]+__[A-Z_]+)` \((\d+|off)(?: (s|MiB))?(?:\)|;)", TEXT)
    assert len(given) > 6
    for name, figure, unit in given:
        said = None if figure == "off" else int(figure) * (1 << 20 if unit == "MiB" else 1)
        assert value_of(DEFAULTS, PATHS[f"TIDEGATE_{name}"]) == said, name


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(tidegate_\w+)", TEXT))))
def test_metrics_that_are_named_exist(name: str) -> None:
    """As the table of all metrics has them."""
    assert f"`{name}`" in (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["operations.md", "releasing.md"])
def test_links_lead_somewhere(page: str) -> None:
    """Files of the repository, each there."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    linked = [ROOT / "docs" / target for target in re.findall(r"\]\(([^)#:]+)\)", text)]
    named = [ROOT / path for path in re.findall(r"(?:`|python3 )((?:\.ci|\.github|examples|gateway|helm)/[\w./-]+\.\w+)", text)]
    assert linked + named
    assert [str(path) for path in linked + named if not path.exists()] == []


def test_the_grace_period_is_the_sum_that_it_is_said_to_be() -> None:
    """Defaults and margin, as in the formula; and systemd's time-out in the example is not shorter."""
    match = re.search(r"defaults: 0 \+ (\d+) \+ (\d+) \+ (\d+) \+ 5 = (\d+) s", TEXT)
    assert match
    drain = DEFAULTS.drain
    assert [float(part) for part in match.groups()[:3]] == [drain.delay_seconds, drain.period_seconds, drain.abort_after_seconds]
    assert float(match[4]) == drain.total_seconds + 5
    assert float(unit()["Service"]["TimeoutStopSec"]) >= float(match[4])


def unit() -> configparser.ConfigParser:
    match = re.search(r"```ini\n(.*?)```", TEXT, re.DOTALL)
    assert match
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(match[1])
    return parser


def test_there_are_descriptors_for_all_connections() -> None:
    """The figure that the start-up check asks for, and a unit that gives as many."""
    needed = (Settings().connection_limit.total or 0) + SPARE
    assert f"`CONNECTION_LIMIT__TOTAL` + {SPARE}, at least; {needed:,} by default" in TEXT
    assert int(unit()["Service"]["LimitNOFILE"]) >= needed


def measured(heading: str, row: str = "Tidegate", column: int = 1) -> float:
    """A figure of the performance page: the row's cell in the table under a heading."""
    section = PERFORMANCE[PERFORMANCE.index(f"\n{heading}\n") :]
    match = re.search(rf"^\| {re.escape(row)} \|(.+)\|$", section, re.MULTILINE)
    assert match, heading
    return float(match[1].split("|")[column - 1].strip().replace(",", ""))


FIGURES = {
    "message of 64 bytes": lambda: measured("### 64 bytes"),
    "delivery of 128 bytes": lambda: measured("### 128 bytes, 1 in flight"),
    "the same, 16 messages": lambda: measured("### 128 bytes, 16 in flight"),
    "delivery in one of 1,000 rooms": lambda: measured("### 128 bytes"),
    "handshake": lambda: measured("## Handshakes, opened and closed, 32 at a time", column=2),
}


@pytest.mark.parametrize("start", FIGURES)
def test_figures_are_those_that_were_measured(start: str) -> None:
    """Within a quarter of the performance page, and the rate is the CPU's reciprocal; else round the new ones into the table."""
    table = TEXT.split("<!-- figures", 1)[1].split("<!-- /figures", 1)[0]
    match = re.search(rf"^\| {re.escape(start)}.*? \| ([\d.]+) µs \| ([\d,]+) a second \|$", table, re.MULTILINE)
    assert match, start
    microseconds, rate = float(match[1]), float(match[2].replace(",", ""))
    assert microseconds == pytest.approx(FIGURES[start](), rel=0.25)
    assert rate == pytest.approx(1e6 / microseconds, rel=0.05)


def test_memory_is_what_was_measured() -> None:
    """The price of an idle connection, and the sum made of it."""
    match = re.search(r"an idle connection \| (\d+) KiB", TEXT)
    assert match
    assert float(match[1]) == pytest.approx(measured("![Idle connections](performance/idle.svg)"), rel=0.25)
    total = re.search(r"10,000 idle connections are (\d+) MiB \+ 10,000 . (\d+) KiB = (\d+) MiB", TEXT)
    assert total
    assert total[2] == match[1]
    assert int(total[3]) == pytest.approx(int(total[1]) + 10_000 * int(total[2]) / 1024, rel=0.05)
