"""An engine that is a dictionary and does what a test tells it to, for tests of ``EngineBroker`` alone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from gateway.broker.link import EngineError, Events

__all__ = ["FakeEngine", "FakeLink"]


class FakeEngine:
    """Does as it is told: ``failing`` makes connecting fail, ``frozen`` makes every answer wait, ``deaf`` loses what is published.

    ``deaf_paths`` loses what goes to rooms that end so.
    """

    name = "Fake"
    where = "nowhere:1"
    hosts = 1

    def __init__(self) -> None:
        self.failing: list[EngineError | OSError] = []
        self.frozen = asyncio.Event()
        self.frozen.set()
        self.forbidden: set[str] = set()
        self.deaf = False
        self.deaf_paths: tuple[str, ...] = ()
        self.refused: Mapping[int, str] = {}
        self.links: list[FakeLink] = []
        self.attempts: list[float] = []
        self.max_message_bytes: int | None = None

    async def connect(self, events: Events, host: int) -> FakeLink:
        self.attempts.append(asyncio.get_running_loop().time())
        if self.failing:
            raise self.failing.pop(0)
        self.links.append(FakeLink(self, events))
        return self.links[-1]

    @property
    def link(self) -> FakeLink:
        return self.links[-1]


class FakeLink:
    """Remembers what it was told."""

    def __init__(self, engine: FakeEngine, events: Events) -> None:
        self.max_message_bytes = engine.max_message_bytes
        self.events = events
        self.rooms: set[str] = set()
        self.batches: list[list[str]] = []
        self.subscribed: list[list[str]] = []
        self.unsubscribed: list[list[str]] = []
        self.verified = 0
        self.closed = False
        self._engine = engine

    def probe_rooms(self, stem: str) -> Sequence[str]:
        return [f"{stem}/a", f"{stem}/b"]

    def publish(self, batch: Sequence[tuple[str, bytes]]) -> asyncio.Future[Mapping[int, str]]:
        self.batches.append([room for room, _ in batch])
        return asyncio.ensure_future(self._carry(batch))

    async def _carry(self, batch: Sequence[tuple[str, bytes]]) -> Mapping[int, str]:
        await self._engine.frozen.wait()
        for room, data in batch:
            if room in self.rooms and not self._engine.deaf and not room.endswith(self._engine.deaf_paths):
                self.events.received(data)
        refused, self._engine.refused = self._engine.refused, {}
        return refused

    async def subscribe(self, rooms: Sequence[str]) -> Mapping[str, str]:
        self.subscribed.append(list(rooms))
        await self._engine.frozen.wait()
        refused = {room: "NOPERM" for room in rooms if room in self._engine.forbidden}
        self.rooms.update(set(rooms) - refused.keys())
        return refused

    async def unsubscribe(self, rooms: Sequence[str]) -> None:
        self.unsubscribed.append(list(rooms))
        await self._engine.frozen.wait()
        self.rooms.difference_update(rooms)

    def verify(self) -> None:
        self.verified += 1

    async def close(self) -> None:
        self.closed = True
