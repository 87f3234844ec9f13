"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..results import Results, Row
from ..workloads import Workload
from .targets import TARGETS

__all__ = ["ratio_table", "table", "target_table", "workload_table"]

TIDEGATE = "tidegate"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Three figures; a dash for none."""
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def ratio_table(results: Results, cases: Sequence[tuple[str, str]], title: Callable[[str], str], own_name: str = TIDEGATE) -> str:
    """What others need for the work for which Tidegate (``own_name``) needs 1."""
    peers: list[str] = []
    names = {case for case, _ in cases}
    for row in results.rows:
        if row.case in names and row.peer not in peers and "+" not in row.peer and row.peer != own_name:
            peers.append(row.peer)
    lines = []
    for case, name in cases:
        own = results.row(case, own_name)
        if own is not None and own.figure("cpu_us") is not None:
            cells = [_times(results.ratio(case, peer, own_name)) for peer in peers]
            lines.append([name, f"{number(own.figure('cpu_us'))} µs", *cells])
    return table(["CPU per message or delivery", title(own_name), *(title(peer) for peer in peers)], lines)


def _times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{number(ratio)} ×"


def target_table(results: Results) -> str:
    words = {True: "reached", False: "**not reached**", None: "not measured"}
    rows = [
        [target.title, target.bound_text(), f"{number(target.measure(results))} {target.unit}", words[target.reached(results)]]
        for target in TARGETS
    ]
    return table(["target", "bound", "measured", ""], rows)


def workload_table(results: Results, workload: Workload, case: str, title: Callable[[str], str]) -> str:
    """Everything that was measured of one case, the cheapest server first."""
    rows = sorted(results.of_case(case), key=lambda row: _sort_value(row, workload))
    special = _columns(workload)
    heads = ["server", *(head for head, _ in special)]
    return table(heads, [[title(row.peer), *(_cell(row, read) for _, read in special)] for row in rows])


def _sort_value(row: Row, workload: Workload) -> float:
    value = row.figure("kib_per_connection" if workload.kind == "idle" else "cpu_us")
    return float("inf") if value is None else value


def _cell(row: Row, read: Callable[[Row], str]) -> str:
    return read(row) if row.samples else ("failed" if row.problem else "–")


def _columns(workload: Workload) -> list[tuple[str, Callable[[Row], str]]]:
    def figure(name: str) -> Callable[[Row], str]:
        return lambda row: number(row.figure(name))

    cpu = (f"CPU µs per {workload.unit}", figure("cpu_us"))
    latency = [("p50 ms", figure("p50_ms")), ("p99 ms", figure("p99_ms"))]
    busy = ("core used", lambda row: f"{row.busy()[0]:.0%}")
    spread = ("spread", lambda row: "–" if row.spread() is None or len(row.samples) < 2 else f"{row.spread():.2f}")
    rate = (f"{workload.unit.replace('delivery', 'deliverie')}s/s", figure("per_second"))
    if workload.kind == "idle":
        connections = ("connections", lambda row: f"{row.figure('operations') or 0:,.0f}")
        return [("KiB each", figure("kib_per_connection")), connections, ("CPU µs to connect", figure("cpu_us"))]
    if workload.kind == "handshakes":
        return [("per CPU-second", figure("per_cpu_second")), cpu, rate, *latency, spread]
    if workload.kind == "brokers":
        parts = [("publishers' node", figure("first_us")), ("members' node", figure("second_us")), ("engine", figure("engine_us"))]
        offered = [("messages/s sent", figure("messages_per_second"))] if workload.topology.members > 2 else []
        lost = ("lost", lambda row: f"{max(sample.extra['lost'] for sample in row.samples):,.0f}")
        return [("CPU µs per delivery, both nodes", figure("cpu_us")), *parts, *offered, rate, *latency, spread, lost]
    columns = [cpu, rate, *latency, busy, spread]
    if len(workload.variants) > 1:
        columns.insert(1, ("bytes each", figure("bytes_per_delivery")))
    if workload.topology.slow:
        columns[-1] = ("memory grown, MiB", figure("memory_growth_mib"))
        columns.append(("slow ones ended", lambda row: f"{row.figure('descriptors_closed') or 0:.0f}"))
        columns.append(("flow at the end", lambda row: f"{row.figure('flow_at_end') or 0:.0%}"))
    return columns
