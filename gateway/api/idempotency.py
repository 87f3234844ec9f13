"""``IdempotencyTable``: a request that is repeated with the same key is done once and answered the same way each time.

1. While a key is remembered, what it stands for is done at most once: a repetition during the first one waits for it, a
   repetition after it gets its answer, and another request under the same key is refused (``KeyReused``).
2. Only success is remembered. When the first one fails or is cancelled, whoever waits next tries, one after the other.
3. Bounded: at most ``max_entries`` keys for at most ``ttl_seconds``. At the bound the answer that was not asked for longest
   is forgotten, and counted; when all are still being worked on, a new one is refused (``TableFull``).

The table is this node's: a repetition that another node gets is new to it.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import NamedTuple

__all__ = ["IdempotencyStatistics", "IdempotencyTable", "KeyReused", "TableFull"]


class KeyReused(Exception):
    """The key stands for a different request."""


class TableFull(Exception):
    """Every key the table has room for is being worked on."""


class IdempotencyStatistics(NamedTuple):
    """What the table holds, and running totals."""

    entries: int
    in_flight: int
    replayed: int
    """Repetitions that were answered from the table."""
    conflicts: int
    """Keys that came again with another request."""
    evicted: int
    """Answers forgotten before their time, for want of room."""
    refused: int
    """Requests refused because the table was full of unfinished ones."""


class _Entry:
    __slots__ = ("answer", "done", "expires_at", "fingerprint")

    def __init__(self, fingerprint: bytes) -> None:
        self.fingerprint = fingerprint
        self.answer: bytes | None = None
        self.expires_at = 0.0
        self.done = asyncio.Event()


class IdempotencyTable:
    """Remembers answers by key.

    Args:
        max_entries: how many keys are remembered.
        ttl_seconds: for how long, from the answer on.
        clock: seconds that never go back.
    """

    def __init__(
        self, *, max_entries: int = 10_000, ttl_seconds: float = 600.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if max_entries < 1:
            raise ValueError(f"max_entries must be at least 1, not {max_entries}")
        if ttl_seconds <= 0:
            raise ValueError(f"ttl_seconds must be above 0, not {ttl_seconds:g}")
        self._max_entries = max_entries
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._answered: OrderedDict[str, _Entry] = OrderedDict()
        """Least recently asked for first."""
        self._in_flight: dict[str, _Entry] = {}
        self._replayed = self._conflicts = self._evicted = self._refused = 0

    async def run(self, key: str, fingerprint: bytes, make: Callable[[], Awaitable[bytes]]) -> tuple[bytes, bool]:
        """The answer to the request, and whether it was given before.

        Args:
            key: the client's name for the request.
            fingerprint: equal if and only if the requests are.
            make: does what is asked for and returns the answer.

        Raises:
            KeyReused, TableFull, and whatever ``make`` raises.
        """
        while True:
            entry = self._in_flight.get(key) or self._remembered(key)
            if entry is None:
                return await self._first(key, fingerprint, make), False
            if entry.fingerprint != fingerprint:
                self._conflicts += 1
                raise KeyReused
            await entry.done.wait()
            if entry.answer is not None:
                self._replayed += 1
                return entry.answer, True

    async def _first(self, key: str, fingerprint: bytes, make: Callable[[], Awaitable[bytes]]) -> bytes:
        self._make_room()
        entry = self._in_flight[key] = _Entry(fingerprint)
        try:
            entry.answer = await make()
            entry.expires_at = self._clock() + self._ttl_seconds
            self._answered[key] = entry
            return entry.answer
        finally:
            del self._in_flight[key]
            entry.done.set()

    def _remembered(self, key: str) -> _Entry | None:
        entry = self._answered.get(key)
        if entry is None:
            return None
        if entry.expires_at <= self._clock():
            del self._answered[key]
            return None
        self._answered.move_to_end(key)
        return entry

    def _make_room(self) -> None:
        now = self._clock()
        while self._answered and next(iter(self._answered.values())).expires_at <= now:
            self._answered.popitem(last=False)
        if len(self._answered) + len(self._in_flight) < self._max_entries:
            return
        if not self._answered:
            self._refused += 1
            raise TableFull
        self._answered.popitem(last=False)
        self._evicted += 1

    def statistics(self) -> IdempotencyStatistics:
        """A snapshot."""
        return IdempotencyStatistics(
            len(self._answered) + len(self._in_flight), len(self._in_flight),
            self._replayed, self._conflicts, self._evicted, self._refused,
        )  # fmt: skip
