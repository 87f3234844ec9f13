"""What tests of the console share: sources over a real server with a clock and a scrape of their own, and a feed worked by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry

from gateway.console import Feed, Sources, Statistics
from gateway.health import Health
from gateway.server import WebSocketServer

__all__ = ["Clock", "Families", "Hand", "feed_of", "sources_of", "telling"]


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class _Sample(NamedTuple):
    name: str
    labels: dict[str, str]
    value: float


class _Family(NamedTuple):
    samples: list[_Sample]


class Families:
    """A scrape in which a test writes what it likes: ``families["x_total", ("label", "value")] = 3``."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def set(self, name: str, value: float, **labels: str) -> None:
        self.values[name, tuple(labels.items())] = value

    def histogram(self, name: str, counts: dict[str, float], **labels: str) -> None:
        """Cumulated counts by upper bound."""
        for bound, count in counts.items():
            self.set(f"{name}_bucket", count, **labels, le=bound)

    def __call__(self) -> Iterable[Any]:
        families: dict[str, list[_Sample]] = {}
        for (name, labels), value in self.values.items():
            families.setdefault(name, []).append(_Sample(name, dict(labels), value))
        return [_Family(samples) for samples in families.values()]


def sources_of(server: WebSocketServer | None = None, **options: Any) -> Sources:
    """Sources with an empty scrape."""
    server = server or WebSocketServer(node="n1")
    return Sources(**{"server": server, "health": Health(), "scrape": CollectorRegistry().collect, "version": "1.2.3", **options})


def feed_of(server: WebSocketServer | None = None, **options: Any) -> Feed:
    """A feed with a short breath, whose sources' clock moves by a second per sample."""
    clock = Clock()

    def ticking() -> float:
        clock.now += 1
        return clock.now

    return Feed(Statistics(sources_of(server, clock=ticking)), **{"interval_seconds": 0.001, **options})


class Hand:
    """Instead of ``asyncio.sleep``: the feed goes on when ``turn`` is called."""

    def __init__(self) -> None:
        self._turns: asyncio.Queue[None] = asyncio.Queue()

    async def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        await self._turns.get()

    async def turn(self) -> None:
        """One more snapshot."""
        self._turns.put_nowait(None)
        for _ in range(10):
            await asyncio.sleep(0)


def telling(server: WebSocketServer, clock: Clock, **options: Any) -> tuple[Statistics, Families]:
    """Statistics over a scrape that the test writes."""
    families = Families()
    return Statistics(sources_of(server, clock=clock, scrape=families, **options)), families
