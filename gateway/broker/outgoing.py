"""``Outgoing``: what has been taken for the engine and is not confirmed yet. Bounded; has no loop and no clock.

1. What waits and what is under way count against the same bounds: an engine that does not answer fills them, and then nothing
   more is taken. Our own probes come in always; there are never many.
2. Every item is handed back exactly once, by ``done`` or ``clear``.
"""

from __future__ import annotations

import asyncio
from collections import deque

from ..errors import BrokerUnavailable

__all__ = ["Item", "Outgoing"]


class Item:
    """One envelope on its way to the engine.

    Args:
        room, data: where to, and the envelope's bytes.
        waiter: who waits for the confirmation; ``None`` when nobody does.
        taken_at: seconds, on the broker's clock.
    """

    __slots__ = ("data", "room", "taken_at", "waiter")

    def __init__(self, room: str, data: bytes, waiter: asyncio.Future[None] | None, taken_at: float) -> None:
        self.room = room
        self.data = data
        self.waiter = waiter
        self.taken_at = taken_at


class Outgoing:
    """A queue with two bounds.

    Args:
        max_messages: most that may be unconfirmed.
        max_bytes: the same in bytes; one message is always taken into an empty queue.
    """

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self.messages = 0
        self.bytes = 0
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._waiting: deque[Item] = deque()

    def __bool__(self) -> bool:
        """True when something waits to be sent."""
        return bool(self._waiting)

    def put(self, item: Item, *, always: bool = False) -> None:
        """Take it. Raises ``BrokerUnavailable`` when there is no room."""
        size = len(item.data)
        if not always and self.messages and (self.messages >= self._max_messages or self.bytes + size > self._max_bytes):
            raise BrokerUnavailable(f"{self.messages} messages ({self.bytes} bytes) wait for the engine already")
        self.messages += 1
        self.bytes += size
        self._waiting.append(item)

    def take(self, max_messages: int, max_bytes: int) -> list[Item]:
        """The next ones to be sent: at least one, then as many as the bounds allow."""
        batch: list[Item] = []
        size = 0
        while self._waiting and len(batch) < max_messages:
            size += len(self._waiting[0].data)
            if batch and size > max_bytes:
                break
            batch.append(self._waiting.popleft())
        return batch

    def done(self, batch: list[Item]) -> None:
        """What ``take`` gave is not under way any more."""
        self.messages -= len(batch)
        self.bytes -= sum([len(item.data) for item in batch])

    def clear(self) -> list[Item]:
        """Give up what waits, and return it."""
        waiting = list(self._waiting)
        self._waiting.clear()
        self.done(waiting)
        return waiting
