"""A broker that fails, waits or dies on demand, for tests of what is above it."""

from __future__ import annotations

import asyncio

from gateway.broker import Deliver, MemoryBroker, Position
from gateway.envelope import Envelope
from gateway.errors import BrokerUnavailable

__all__ = ["MoodyBroker"]


class MoodyBroker(MemoryBroker):
    """Remembers what was asked; ``down`` makes it unavailable, ``gate`` makes subscribing wait."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False
        self.gate: asyncio.Event | None = None
        self.subscribed: list[str] = []
        self.unsubscribed: list[str] = []
        self.posted: list[Envelope] = []

    async def start(self, deliver: Deliver) -> None:
        self._refuse_when_down()
        await super().start(deliver)

    def post(self, envelope: Envelope) -> None:
        self._refuse_when_down()
        self.posted.append(envelope)
        super().post(envelope)

    async def publish(self, envelope: Envelope) -> Position | None:
        self._refuse_when_down()
        return await super().publish(envelope)

    async def subscribe(self, room: str) -> None:
        if self.gate is not None:
            await self.gate.wait()
        self._refuse_when_down()
        self.subscribed.append(room)
        await super().subscribe(room)

    async def unsubscribe(self, room: str) -> None:
        self.unsubscribed.append(room)
        await super().unsubscribe(room)
        self._refuse_when_down()

    async def check(self) -> None:
        self._refuse_when_down()
        await super().check()

    def _refuse_when_down(self) -> None:
        if self.down:
            raise BrokerUnavailable("the broker is down", retry_after=3)
