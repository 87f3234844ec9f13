"""Counted slots and the queue for them: the synchronous core of ``connection_limit.py``, without clock or ASGI.

A *kind* of slot has a limit per key (``per_client``: per address); a *claim* is one slot of a kind under a key, and whoever
enters needs all of its claims at once.

1. No limit is ever exceeded. A count that is back at zero is forgotten.
2. First come, first served, and no newcomer overtakes: a free slot that a waiter could use does not exist, because giving
   back a slot and handing it on is one step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

__all__ = ["Claim", "Slots", "Waiter"]

Claim = tuple[str, str]
"""The name of a kind of slots, and the key that the slot is counted under."""


class Waiter:
    """A place in the queue. ``granted`` becomes True when the claims were taken for it, False when it waited too long."""

    __slots__ = ("claims", "granted")

    def __init__(self, claims: tuple[Claim, ...]) -> None:
        self.claims = claims
        self.granted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def expire(self) -> None:
        """Wait no longer, unless it was granted by now."""
        if not self.granted.done():
            self.granted.set_result(False)

    @property
    def has_slots(self) -> bool:
        """Whether the claims were taken for it, whatever has become of the task that waited."""
        return self.granted.done() and not self.granted.cancelled() and self.granted.result()


class Slots:
    """Slots of several kinds, ``limits`` by kind, and who waits for them."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        self.limits = dict(limits)
        self.taken: dict[Claim, int] = {}
        self.waiters: dict[Waiter, None] = {}
        """In the order of their coming."""

    def lacking(self, claims: Iterable[Claim]) -> str | None:
        """The first kind of which there is no slot for these claims; ``None`` when all can be taken."""
        return next((claim[0] for claim in claims if self.taken.get(claim, 0) >= self.limits[claim[0]]), None)

    def take(self, claims: Iterable[Claim]) -> None:
        """Take slots that are not ``lacking``."""
        for claim in claims:
            self.taken[claim] = self.taken.get(claim, 0) + 1

    def give_back(self, claims: Iterable[Claim]) -> None:
        """Free the slots of one connection, and hand them on when somebody waits for them."""
        was_full = False
        for claim in claims:
            taken = self.taken.pop(claim)
            was_full = was_full or taken == self.limits[claim[0]]
            if taken > 1:
                self.taken[claim] = taken - 1
        if was_full:  # else nobody waits for any of these
            self._serve_next()

    def _serve_next(self) -> None:
        """One connection frees one slot of a kind at most, so it serves one waiter at most."""
        for waiter in self.waiters:
            if not waiter.granted.done() and not self.lacking(waiter.claims):
                self.take(waiter.claims)
                waiter.granted.set_result(True)
                return

    def join(self, claims: tuple[Claim, ...]) -> Waiter:
        """Queue for claims of which some are ``lacking``; whoever joins must ``leave``."""
        waiter = Waiter(claims)
        self.waiters[waiter] = None
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Leave the queue, with the slots or without."""
        del self.waiters[waiter]
