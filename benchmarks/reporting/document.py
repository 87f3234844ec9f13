"""The page: ratios first, then targets, every table, where the time goes, and what it was measured on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..brokers import broker_drivers
from ..drivers import all_drivers
from ..results import Results
from ..workloads import WORKLOADS, Workload
from .plots import bar_chart
from .scaling import with_figures
from .tables import ratio_table, table, target_table, workload_table

__all__ = ["write_report"]

PLOTS = "docs/performance"
NOTES = Path(__file__).with_name("notes.md")

INTRODUCTION = """\
# Performance

<!-- Written by `python -m benchmarks`. Change benchmarks/reporting/, not this file. -->

What a message costs, beside other servers. The figure to look at is **CPU time of the server per message or delivery**: user and
system time of all its threads, from `/proc`. Unlike throughput and latency it hardly depends on what else the machine is doing
or on how fast the load generator is, and ratios within one run depend on it even less. Servers take turns (A B C, A B C, …);
every figure is the median of the turns. Workloads may come from different runs on one machine; the servers of one
workload never do.

Tidegate runs as `tidegate serve` with its whole default chain (tracing unsampled, metrics, access log, origin, connection limit,
rate limit, compression offered, validation, ledger), limits too high to act. The peers run the smallest program that does the
job and do nothing else; what that is can be read in `benchmarks/peers/`.
"""

IN_SHORT = """\
## In short

The CPU time that others need for what Tidegate does in the time of the second column; more than 1 means that they need more.
"""

CROSSINGS = """\
The same of messages that are published on one node and delivered by another, both nodes together, without the engine:
"""

TIME_GOES = """\
## Where Tidegate's time goes

py-spy, from outside: the share of samples in which a function was on top of the stack, with the C code and the system calls that it
calls. So the function that writes holds the system call that sends, and `asyncio/runners.py Runner.run` stands for uvloop: the
event loop itself, waiting included, and the system calls that read.
"""

REPEAT = """\
## Repeat it

    make bench-quick                    # two minutes, printed only
    make bench                          # everything, about a quarter of an hour; writes this page
    python -m benchmarks --only echo fan-out --peers tidegate bun uvicorn --rounds 5
    python -m benchmarks --only brokers # two nodes on one engine; needs redis-server and nats-server

Peers are installed into `~/.cache/tidegate/bench`: the Python ones into an environment of their own, `ws` and Bun with npm,
Centrifuge with the Go toolchain. One that cannot be installed is listed as absent. Linux only (`/proc`); with two cores or more,
servers run on the first and the load generator, written with picows, on the last.
"""


def write_report(results: Results, root: Path) -> None:
    """Write ``docs/performance.md``, its plots, and the figures of ``docs/scaling.md`` below ``root``."""
    folder = root / PLOTS
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.svg"):
        stale.unlink()
    for workload, case, name in measured(results):
        chart = chart_of(results, workload, case, name)
        if chart:
            (folder / f"{case}.svg").write_text(chart)
    (root / "docs" / "performance.md").write_text(page(results))
    scaling = root / "docs" / "scaling.md"
    if scaling.exists():
        scaling.write_text(with_figures(scaling.read_text(), results))


def measured(results: Results) -> list[tuple[Workload, str, str]]:
    """Workload, case and title of everything that the run has rows of."""
    found = []
    for workload in WORKLOADS:
        cases = [(case.name, case.title) for case in workload.cases] or [(workload.name, "")]
        found += [(workload, case, title) for case, title in cases if results.of_case(case)]
    return found


def page(results: Results) -> str:
    title = titles(results)
    names = {"echo": "echo", "fan-out": "fan-out to 500", "rooms": "1,000 rooms of 10", "slow": "10 of 200 never read"}
    cases = [(case, f"{names[work.name]}, {name}") for work, case, name in measured(results) if work.name in names]
    cases += [(work.name, work.name) for work, _, _ in measured(results) if work.kind == "handshakes"]
    parts = [
        INTRODUCTION,
        IN_SHORT,
        ratio_table(results, cases, title) + "\n",
        crossings(results, title),
        "## Targets\n",
        target_table(results) + "\n",
        NOTES.read_text(),
        *sections(results, title),
        profiles(results),
        surroundings(results, title),
        REPEAT,
    ]
    return "\n".join(part for part in parts if part)


def crossings(results: Results, title: Callable[[str], str]) -> str:
    """What is in short of messages that go from node to node."""
    kinds = {"brokers": "one hears", "brokers-rooms": "50 hear"}
    cases = [(case, f"{kinds[work.name]}, {name}") for work, case, name in measured(results) if work.name in kinds]
    return f"{CROSSINGS}\n{ratio_table(results, cases, title, 'tidegate-redis')}\n" if cases else ""


def titles(results: Results) -> Callable[[str], str]:
    """A server's name for people."""
    names = {driver.name: driver.title for driver in (*all_drivers(Path()), *broker_drivers(Path()))}

    def title(peer: str) -> str:
        name, _, compressed = peer.partition("+")
        return names.get(name, name) + (f" + {compressed}" if compressed else "")

    return title


def sections(results: Results, title: Callable[[str], str]) -> list[str]:
    parts, begun = [], ""
    for workload, case, name in measured(results):
        if workload.name != begun:
            parts.append(f"## {workload.title}\n")
            begun = workload.name
        if name:
            parts.append(f"### {name[0].upper()}{name[1:]}\n")
        if _bars(results, workload, case):
            parts.append(f"![{workload.title}{': ' + name if name else ''}](performance/{case}.svg)\n")
        parts.append(workload_table(results, workload, case, title) + "\n")
        parts += [f"* {title(row.peer)} failed: {row.problem}\n" for row in results.of_case(case) if row.problem]
    return parts


def chart_of(results: Results, workload: Workload, case: str, name: str) -> str:
    bars, title = _bars(results, workload, case), titles(results)
    unit = "KiB per connection" if workload.kind == "idle" else f"CPU µs per {workload.unit}"
    heading = f"{workload.title}{': ' + name if name else ''}"
    return bar_chart(heading, unit, [(title(peer), value, peer.startswith("tidegate")) for peer, value in bars]) if bars else ""


def _bars(results: Results, workload: Workload, case: str) -> list[tuple[str, float]]:
    figure = "kib_per_connection" if workload.kind == "idle" else "cpu_us"
    bars = [(row.peer, value) for row in results.of_case(case) if (value := row.figure(figure)) is not None]
    return sorted(bars, key=lambda bar: bar[1])


def profiles(results: Results) -> str:
    if not results.profiles:
        return ""
    parts = [TIME_GOES]
    names = {case: f"{work.title}{f': {name}' if name else ''}" for work, case, name in measured(results)}
    for case, lines in results.profiles.items():
        if lines:
            parts.append(f"{names.get(case, case)}\n")
            parts.append(
                table(["place", "share"], [[f"`{place}`", f"{share:.0%}"] for place, share in lines if share >= 0.01]) + "\n"
            )
    return "\n".join(parts)


def surroundings(results: Results, title: Callable[[str], str]) -> str:
    lines = ["## What it was measured on\n"]
    lines += [f"* {name}: {text}" for name, text in results.machine.items()]
    lines += [f"* begun: {results.began} (UTC)", "", "Versions:", ""]
    lines += [f"* {title(name)}: {version}" for name, version in results.versions.items()]
    if results.absent:
        lines += ["", "Absent:", ""]
        lines += [f"* {title(name)}: {reason}" for name, reason in results.absent.items()]
    return "\n".join(lines) + "\n"
