"""``Sources``: where the figures come from; ``take`` reads them all at one moment.

Counters and histograms are those of ``GET /metrics``, by their names, so that the console needs nothing of its own on any hot
path and shows no other numbers than the dashboards. Only what may never be a metric's label, the rooms' names, is read from the
registry.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from msgspec import Struct

from ..health import Health
from ..server import WebSocketServer
from .quantiles import Buckets, added

__all__ = ["PREFIX", "ROOMS_PER_TURN", "Family", "RoomReading", "Sample", "Sources"]

PREFIX = "tidegate_"
ROOMS_PER_TURN = 2000
"""Of many rooms the event loop reads so many, then does other work."""
TURN_SECONDS = 0.002
"""And so long it reads metrics, as far as they come one by one."""

Labels = Mapping[str, str]


class Family(Protocol):
    """A metric with its samples, as a scrape has it."""

    @property
    def samples(self) -> Iterable[Any]: ...


class RoomReading(Struct, frozen=True, gc=False):
    """A room: its members, and its messages since it is there. Ten thousand a second are nothing for the garbage collector."""

    members: int
    messages: int


@dataclass(frozen=True, slots=True)
class Sample:
    """Everything at one moment."""

    at: float
    """By the clock of the sources."""
    numbers: dict[str, list[tuple[Labels, float]]]
    """Counters and gauges: the series of each sample name."""
    histograms: dict[str, Buckets]
    """By name, all series of one together."""
    rooms: Mapping[str, RoomReading]

    def total(self, name: str, **labels: str) -> float:
        """The sum of the series of ``tidegate_<name>`` with these labels; 0 when there is none."""
        series = self.numbers.get(PREFIX + name, ())
        return sum(value for found, value in series if labels.items() <= found.items())

    def by(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """The sums of the series by the values of ``labels``."""
        sums: dict[tuple[str, ...], float] = {}
        for found, value in self.numbers.get(PREFIX + name, ()):
            key = tuple(found.get(label, "") for label in labels)
            sums[key] = sums.get(key, 0.0) + value
        return sums

    def has(self, name: str) -> bool:
        """Whether there is such a counter or gauge."""
        return bool(self.numbers.get(PREFIX + name))

    def process(self, name: str) -> float:
        """What ``process_<name>`` says; 0 where the system tells nothing."""
        return sum(value for _, value in self.numbers.get(f"process_{name}", ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the figures come from.

    Args:
        server: whose rooms.
        health: state, loop lag and the last checks.
        scrape: all metric families, as for ``GET /metrics``.
        version: of the gateway.
        broker: its kind, such as ``redis``; never its address, which may hold a password.
        connection_limit: slots in all.
        api_key_set: whether the rest of the API can be used.
        clock: seconds that never go back.
    """

    server: WebSocketServer
    health: Health
    scrape: Callable[[], Iterable[Family]]
    version: str
    broker: str = "memory"
    connection_limit: int | None = None
    api_key_set: bool = False
    clock: Callable[[], float] = time.monotonic

    async def take(self) -> Sample:
        """Read everything, a turn of the event loop for each part: many rooms, and each of those who count.

        What one of those says is of one moment (the ledger adds up); what two say may be a few turns apart.
        """
        rooms: dict[str, RoomReading] = {}
        for number, room in enumerate(tuple(self.server.registry.public_rooms())):
            rooms[room.name] = RoomReading(len(room.members), room.messages)
            if number % ROOMS_PER_TURN == ROOMS_PER_TURN - 1:
                await asyncio.sleep(0)
        sample = Sample(self.clock(), {}, {}, rooms)
        began = time.perf_counter()
        for family in self.scrape():  # whoever counts adds up when asked for the first of its families
            _read(family, sample)
            if time.perf_counter() - began > TURN_SECONDS:
                await asyncio.sleep(0)
                began = time.perf_counter()
        return sample


def _read(family: Family, into: Sample) -> None:
    series: dict[tuple[str, ...], dict[float, float]] = {}
    name = ""
    for sample in family.samples:
        bound = sample.labels.get("le")
        if bound is None:
            into.numbers.setdefault(sample.name, []).append((sample.labels, sample.value))
            continue
        name = sample.name.removesuffix("_bucket")
        key = tuple(value for label, value in sample.labels.items() if label != "le")
        series.setdefault(key, {})[float(bound)] = sample.value
    for buckets in series.values():
        into.histograms[name] = added(into.histograms.get(name, {}), buckets)
