"""What was measured: one ``Sample`` per turn, a ``Row`` of turns per server and case, and the file they are kept in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

__all__ = ["Results", "Row", "Sample", "median", "percentile"]

SCHEMA = 1


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two in the middle. Raises ``ValueError`` when there is none."""
    if not values:
        raise ValueError("there is no median of nothing")
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that ``share`` (0 to 1) of the values do not exceed (nearest rank). Raises ``ValueError`` for none."""
    if not values:
        raise ValueError("there is no percentile of nothing")
    ordered = sorted(values)
    rank = -(-len(ordered) * share // 1)
    return ordered[min(len(ordered), max(1, int(rank))) - 1]


@dataclass(frozen=True)
class Sample:
    """One turn of one server."""

    operations: int
    """Messages echoed, deliveries made, connections held or handshakes done."""
    seconds: float
    cpu_seconds: float
    """Of the server."""
    client_cpu_seconds: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def cpu_us(self) -> float | None:
        """CPU-microseconds of the server per operation; ``None`` when nothing was done."""
        return self.cpu_seconds / self.operations * 1e6 if self.operations else None

    @property
    def per_second(self) -> float:
        return self.operations / self.seconds if self.seconds else 0.0


@dataclass
class Row:
    """All turns of one server at one case, or why there are none."""

    workload: str
    case: str
    peer: str
    samples: list[Sample] = field(default_factory=list)
    problem: str = ""

    def figure(self, name: str) -> float | None:
        """The median over the turns of ``cpu_us``, ``per_second``, a latency, or one of the extra figures."""
        values = [value for value in (self._value(sample, name) for sample in self.samples) if value is not None]
        return median(values) if values else None

    @staticmethod
    def _value(sample: Sample, name: str) -> float | None:
        value = sample.extra.get(name) if name in sample.extra else getattr(sample, name, None)
        return None if value is None else float(value)

    def busy(self) -> tuple[float, float]:
        """The share of its core that the server used, and the load generator."""
        seconds = sum(sample.seconds for sample in self.samples) or 1.0
        return (
            sum(sample.cpu_seconds for sample in self.samples) / seconds,
            sum(sample.client_cpu_seconds for sample in self.samples) / seconds,
        )

    def spread(self) -> float | None:
        """Largest over smallest CPU per operation of the turns: how much to trust them."""
        values = [sample.cpu_us for sample in self.samples if sample.cpu_us]
        return max(values) / min(values) if values else None


@dataclass
class Results:
    """One run of the suite."""

    machine: dict[str, str]
    versions: dict[str, str]
    absent: dict[str, str]
    rows: list[Row] = field(default_factory=list)
    profiles: dict[str, list[tuple[str, float]]] = field(default_factory=dict)
    """By case: where Tidegate's time went, as (place in the code, share of the samples)."""
    began: str = ""

    def row(self, case: str, peer: str) -> Row | None:
        """The row of one server at one case."""
        return next((row for row in self.rows if (row.case, row.peer) == (case, peer)), None)

    def of_case(self, case: str) -> list[Row]:
        """All servers at one case."""
        return [row for row in self.rows if row.case == case]

    def ratio(self, case: str, peer: str, other: str, figure: str = "cpu_us") -> float | None:
        """``peer``'s figure over ``other``'s, from this run."""
        rows = self.row(case, peer), self.row(case, other)
        values = [None if row is None else row.figure(figure) for row in rows]
        return values[0] / values[1] if values[0] and values[1] else None

    def updated(self, newer: Results) -> Results:
        """This run with whole workloads of a later one in place of its own: ratios stay within one run.

        Raises ``ValueError`` when the machine or a version differs, or a server is missing: then nothing can be compared.
        """
        same = {name: text for name, text in self.machine.items() if name != "load"}
        anew = {row.workload for row in newer.rows}
        needed = {row.peer.partition("+")[0] for row in self.rows if row.workload in anew} & self.versions.keys()
        others = any(self.versions.get(name, version) != version for name, version in newer.versions.items())
        same_machine = same == {name: text for name, text in newer.machine.items() if name != "load"}
        if not same_machine or others or needed - newer.versions.keys():
            raise ValueError("the saved run is of another machine, or of other versions or servers: measure everything")
        rows = [row for row in self.rows if row.workload not in anew] + newer.rows
        versions = self.versions | newer.versions
        absent = {name: why for name, why in (self.absent | newer.absent).items() if name not in versions}
        return replace(newer, rows=rows, profiles=self.profiles | newer.profiles, versions=versions, absent=absent)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read a saved run. Raises ``ValueError`` when it is of another schema."""
        data: dict[str, Any] = json.loads(path.read_text())
        if data.pop("schema", None) != SCHEMA:
            raise ValueError(f"{path} has another schema than {SCHEMA}")
        rows = [Row(**{**row, "samples": [Sample(**sample) for sample in row["samples"]]}) for row in data.pop("rows")]
        profiles = {case: [(place, share) for place, share in lines] for case, lines in data.pop("profiles").items()}
        return cls(rows=rows, profiles=profiles, **data)
