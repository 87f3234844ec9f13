"""``Ledger``: what became of every message that was accepted for a room, in whole numbers.

At every moment and for every namespace::

    expected = written + sum(dropped.values()) + closed

where ``expected`` is the sum over accepted messages of the recipients they reached for (who leaves during a fan-out of several
turns is not reached for), ``written`` was
handed to an outlet, ``dropped`` was left out for a reason (a slow consumer), and ``closed`` went to connections whose end
was decided before the write. Labels come from the declared namespaces; every other room counts under ``other``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

__all__ = ["OTHER", "FanoutObserver", "Ledger", "NamespaceTotals"]

OTHER = "other"

FanoutObserver = Callable[[int, int, float], None]
"""Told after every fan-out: messages, recipients, seconds it took."""


class NamespaceTotals:
    """The running totals of one namespace."""

    __slots__ = ("accepted", "closed", "dropped", "expected", "written")

    def __init__(self) -> None:
        self.accepted = self.expected = self.written = self.closed = 0
        self.dropped: Counter[str] = Counter()

    @property
    def unaccounted(self) -> int:
        """Zero, or there is a bug."""
        return self.expected - self.written - self.closed - sum(self.dropped.values())


class Ledger:
    """Totals by namespace: the part of a room's name before the first ``:``, when it was declared."""

    SELF = "~self/"
    """The beginning of a room in which a node talks to itself: not accounted for."""

    def __init__(self, namespaces: Iterable[str] = ()) -> None:
        self.totals = {name: NamespaceTotals() for name in (*namespaces, OTHER)}
        self.on_fanout: FanoutObserver | None = None

    def of_room(self, room: str) -> NamespaceTotals:
        """The totals that ``room`` counts under; looked up once per room. The node's talk to itself is not counted."""
        if room.startswith(self.SELF):
            return NamespaceTotals()
        namespace, colon, _ = room.partition(":")
        return self.totals.get(namespace if colon else OTHER, self.totals[OTHER])
