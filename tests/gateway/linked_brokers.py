"""Brokers of several nodes in one process, for tests of what nodes do together: an engine that is a dictionary.

What is published travels as bytes and arrives in a later turn of the loop, at the publisher too, as it does with a real engine.
"""

from __future__ import annotations

import asyncio

from gateway.broker import BrokerStatistics, Deliver, Position, Reports
from gateway.envelope import Envelope
from gateway.errors import BrokerUnavailable

__all__ = ["Engine", "LinkedBroker"]


class Engine:
    """What the brokers are connected to; ``down`` makes it unavailable for all of them."""

    def __init__(self) -> None:
        self.brokers: list[LinkedBroker] = []
        self.down = False
        self.published: list[Envelope] = []

    def broker(self) -> LinkedBroker:
        """A broker for one more node."""
        self.brokers.append(LinkedBroker(self))
        return self.brokers[-1]

    def take(self, envelope: Envelope) -> None:
        """Carry it to everybody who listens."""
        if self.down:
            raise BrokerUnavailable("the engine is down")
        self.published.append(envelope)
        data, loop = envelope.encode(), asyncio.get_running_loop()
        for broker in self.brokers:
            if envelope.room in broker.rooms:
                loop.call_soon(broker.arrived, data)


class LinkedBroker(Reports):
    """One node's broker; ``cut`` makes it hear nothing, as if its process had stopped, ``deaf_to`` nothing of those nodes.

    What it publishes is confirmed ``confirms_after_seconds`` later.
    """

    local = False

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.rooms: set[str] = set()
        self.reconnects = 0
        self.cut = False
        self.deaf_to: set[str] = set()
        self.confirms_after_seconds = 0.0
        self._engine = engine
        self._deliver: Deliver | None = None

    async def start(self, deliver: Deliver) -> None:
        self._deliver = deliver

    def post(self, envelope: Envelope) -> None:
        if self._deliver is None:
            raise BrokerUnavailable("the broker is not started")
        if not self.cut:
            self._engine.take(envelope)

    async def publish(self, envelope: Envelope) -> Position | None:
        self.post(envelope)
        if self.confirms_after_seconds:
            await asyncio.sleep(self.confirms_after_seconds)
        return None

    async def subscribe(self, room: str) -> None:
        self.rooms.add(room)

    async def unsubscribe(self, room: str) -> None:
        self.rooms.discard(room)

    async def check(self) -> None:
        if self._engine.down:
            raise BrokerUnavailable("the engine is down")

    def statistics(self) -> BrokerStatistics:
        return BrokerStatistics(not self._engine.down, 0, 0, self.reconnects, self.reconnects, {}, 0, 0, 0.0)

    async def close(self) -> None:
        self._deliver = None
        self.rooms.clear()

    def arrived(self, data: bytes) -> None:
        envelope = Envelope.decode(data)
        if self._deliver is not None and not self.cut and envelope.node not in self.deaf_to:
            self._deliver(envelope)
