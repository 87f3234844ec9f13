"""``MemoryBroker``: one node, no engine. Delivery happens within ``post`` itself, so nothing is queued and nothing is lost."""

from __future__ import annotations

from ..envelope import Envelope
from ..errors import BrokerUnavailable
from .base import Deliver, Position

__all__ = ["MemoryBroker"]


class MemoryBroker:
    """Delivers to this process. The envelope is passed on as the object it is; its message keeps its cached frames."""

    local = True

    def __init__(self) -> None:
        self._deliver: Deliver | None = None
        self._rooms: set[str] = set()

    async def start(self, deliver: Deliver) -> None:
        self._deliver = deliver

    def post(self, envelope: Envelope) -> None:
        if self._deliver is None:
            raise BrokerUnavailable("the memory broker is not started")
        if envelope.room in self._rooms:
            self._deliver(envelope)

    async def publish(self, envelope: Envelope) -> Position | None:
        self.post(envelope)
        return None

    async def subscribe(self, room: str) -> None:
        self._rooms.add(room)

    async def unsubscribe(self, room: str) -> None:
        self._rooms.discard(room)

    async def check(self) -> None:
        if self._deliver is None:
            raise BrokerUnavailable("the memory broker is not started")

    async def close(self) -> None:
        self._deliver = None
        self._rooms.clear()
