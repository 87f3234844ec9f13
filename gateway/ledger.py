"""``Ledger``: what became of every message that was accepted for a room, in whole numbers.

At every moment and for every namespace::

    expected = written + buffered + sum(dropped.values()) + closed + in progress

``expected``
    is counted when a fan-out sets out: accepted messages times the members that are to get them.
``written``
    the kernel has it (or, under a foreign server, that server has).
``buffered``
    waits in a connection's outbox.
``dropped``
    was left out, for a reason of ``DROPS``.
``closed``
    went to connections whose end was decided before the write.
in progress
    belongs to members whom a running fan-out has not reached; known by looking at the rooms (``ConnectionRegistry.in_progress``).

The left side is counted in one place and the right side in others, so a difference is a bug, and ``deliveries_unaccounted``
shows it. Labels come from the declared namespaces; every other room counts under ``other``.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from middleware.close import SLOW_CONSUMER

if TYPE_CHECKING:
    from .envelope import Envelope

__all__ = ["DROPS", "LEFT", "OTHER", "REPLACED", "SLOW", "UNSENT", "Ledger", "NamespaceTotals", "Taken"]

OTHER = "other"

SLOW: Final = SLOW_CONSUMER.reason
"""The connection's outbox was full."""
REPLACED: Final = "replaced"
"""A newer message took its place in a full outbox (policy ``latest``)."""
UNSENT: Final = "unsent"
"""It was in the outbox when the connection was lost."""
LEFT: Final = "left"
"""The connection left the room before its turn in a fan-out of several turns."""
DROPS: Final = (SLOW, REPLACED, UNSENT, LEFT)

SETTLE_SECONDS = 1.0
"""How often outboxes that had something in them are looked at again."""


class Taken(NamedTuple):
    """A publication that an outlet has taken, by its name; payloads are not kept for the sake of what may become of them."""

    message: str
    """Its id."""
    room: str
    published_at: float
    traceparent: str
    payload_bytes: int

    @classmethod
    def of(cls, envelope: Envelope) -> Taken:
        """The name of a publication."""
        return cls(envelope.id, envelope.room, envelope.published_at, envelope.traceparent, len(envelope.message.payload))


class Settling(Protocol):
    """Something that holds what was taken and not sent (an outlet)."""

    def settle(self) -> bool:
        """Account for what has been sent meanwhile; True when nothing is left."""


class NamespaceTotals:
    """The running totals of one namespace."""

    __slots__ = ("accepted", "buffered", "closed", "dropped", "expected", "ledger", "returned", "taken")

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.accepted = self.expected = self.taken = self.buffered = self.returned = self.closed = 0
        self.dropped: Counter[str] = Counter(dict.fromkeys(DROPS, 0))

    @property
    def written(self) -> int:
        """What outlets took, and neither hold nor had to give up."""
        return self.taken - self.buffered - self.returned

    def lose(self, messages: int, reason: str) -> None:
        """An outlet gave up messages that it had taken."""
        self.returned += messages
        self.dropped[reason] += messages

    def unaccounted(self, in_progress: int = 0) -> int:
        """Zero, or there is a bug."""
        return self.expected - self.written - self.buffered - self.closed - sum(self.dropped.values()) - in_progress


class Ledger:
    """Totals by namespace: the part of a room's name before the first ``:``, when it was declared."""

    SELF = "~self/"
    """The beginning of a room in which a node talks to itself: not accounted for."""

    def __init__(self, namespaces: Iterable[str] = ()) -> None:
        self.totals = {name: NamespaceTotals(self) for name in (*namespaces, OTHER)}
        self.overflow = 0
        """Messages in rooms whose prefix is not declared, which therefore count under ``other``."""
        self._uncounted = NamespaceTotals(self)
        self._unsettled: set[Settling] = set()
        self._timer: asyncio.TimerHandle | None = None

    def namespace(self, room: str) -> str:
        """The label that ``room`` counts under."""
        namespace, colon, _ = room.partition(":")
        return namespace if colon and namespace in self.totals else OTHER

    def of_room(self, room: str) -> NamespaceTotals:
        """The totals that ``room`` counts under; looked up once per room. The node's talk to itself is not counted."""
        return self._uncounted if room.startswith(self.SELF) else self.totals[self.namespace(room)]

    def is_overflow(self, room: str) -> bool:
        """True for a room with a prefix that was not declared."""
        return ":" in room and room[0] != "~" and self.namespace(room) == OTHER

    def direct(self, messages: int, *, slow: bool = False, closed: bool = False) -> None:
        """Account for messages to one connection, which are of no room."""
        totals = self.totals[OTHER]
        totals.accepted += messages
        totals.expected += messages
        totals.dropped[SLOW] += messages * slow
        totals.closed += messages * closed

    def watch(self, outlet: Settling) -> None:
        """Look at ``outlet`` again until nothing is left in it."""
        self._unsettled.add(outlet)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._tick)

    def settle(self) -> None:
        """Bring ``buffered`` up to date: what the kernel took since the last look is written."""
        for outlet in tuple(self._unsettled):
            if outlet.settle():
                self._unsettled.discard(outlet)

    def _tick(self) -> None:
        self._timer = None
        self.settle()
        if self._unsettled:
            self._timer = asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._tick)
