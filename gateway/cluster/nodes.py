"""``NodeTable``: which other nodes there are, from what they say. No loop, no clock: time is an argument.

1. A node is there from its first heartbeat until it says goodbye or has missed three.
2. The table is bounded; a node that finds no place in it is ignored, not put in another's place.
"""

from __future__ import annotations

from typing import NamedTuple

from .wire import Here

__all__ = ["LONGEST_TABLE", "MISSED", "Node", "NodeTable"]

LONGEST_TABLE = 256
"""How many other nodes are kept."""
MISSED = 3
"""A node that has missed as many heartbeats is taken for dead."""


class Node(NamedTuple):
    """One node, as it is told to operators."""

    id: str
    version: str
    age_seconds: float
    connections: int
    rooms: int
    load: float
    """CPU seconds per second; 1 is one core in full."""
    draining: bool
    heard_seconds_ago: float
    """How old these figures are; 0 for the node that tells."""


class _Entry(NamedTuple):
    here: Here
    heard_at: float
    due: float
    """When it is taken for dead."""


class NodeTable:
    """The other nodes."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, node: str) -> bool:
        return node in self._entries

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(self._entries)

    def heard(self, node: str, here: Here, now: float) -> bool:
        """Note a heartbeat; False when there is no place for the node."""
        if node not in self._entries and len(self._entries) >= LONGEST_TABLE:
            return False
        # The half is for a heartbeat that is late, not missed.
        self._entries[node] = _Entry(here, now, now + (MISSED + 0.5) * here.interval_seconds)
        return True

    def left(self, node: str, instance: str) -> bool:
        """Note a goodbye; False when it is of a process that this is not (any more)."""
        entry = self._entries.get(node)
        if entry is None or entry.here.instance != instance:
            return False
        del self._entries[node]
        return True

    def drop_dead(self, now: float) -> list[str]:
        """Forget those that have missed too many heartbeats; returns who they were."""
        dead = [node for node, entry in self._entries.items() if entry.due <= now]
        for node in dead:
            del self._entries[node]
        return dead

    def nodes(self, now: float) -> list[Node]:
        """What is known, by id."""
        return [_told(node, entry.here, now - entry.heard_at) for node, entry in sorted(self._entries.items())]


def _told(node: str, here: Here, ago: float) -> Node:
    return Node(
        node,
        here.version,
        round(here.age_seconds + ago, 3),
        here.connections,
        here.rooms,
        here.load,
        here.is_draining,
        round(ago, 3),
    )
