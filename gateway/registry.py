"""``ConnectionRegistry``: who is here, on this node.

Invariants (model-tested in ``tests/gateway/test_registry.py``):

R1. A connection is in a room if and only if the room is in the connection's ``rooms``.
R2. No empty room survives.
R3. A user has an entry if and only if a connection of theirs is registered (a user is the room ``~user/<id>``).
R4. Every member of every room is registered under its id, and ids are unique.

Everything here is synchronous and never raises half-way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from .connection import Connection
from .ledger import Ledger, NamespaceTotals, Taken
from .message import user_room
from .observer import Observers
from .room import Room
from .turns import Turns

__all__ = ["EVERYONE", "ConnectionRegistry", "RegistryStatistics"]

EVERYONE = "~all"
"""The room that every connection is in."""


class RegistryStatistics(NamedTuple):
    """A snapshot of the registry; internal rooms are not counted as rooms."""

    connections: int
    rooms: int
    users: int
    memberships: int


class ConnectionRegistry:
    """Connections by id, by room and by user.

    Args:
        ledger: where the rooms account for what they send.
        max_delay_seconds: see ``Room``.
        on_left: told the room's name for every membership that ends.
    """

    def __init__(
        self,
        ledger: Ledger | None = None,
        *,
        max_delay_seconds: float = 0.0,
        on_left: Callable[[str], None] | None = None,
    ) -> None:
        self.ledger = ledger or Ledger()
        self.observers = Observers()
        self.connections: dict[str, Connection] = {}
        self.rooms: dict[str, Room] = {}
        self._turns = Turns()
        self.behind = self._turns.behind
        """Names of rooms that have gathered too much, and what is to be called when they have caught up."""
        self._max_delay_seconds = max_delay_seconds
        self._on_left = on_left
        self._on_gave_up = self._gave_up  # once, not per connection

    def __len__(self) -> int:
        return len(self.connections)

    def add(self, connection: Connection) -> None:
        """Register a connection. Raises ``ValueError`` when the id is taken by another one."""
        if self.connections.setdefault(connection.id, connection) is not connection:
            raise ValueError(f"connection id {connection.id!r} is taken")
        connection.before_send, connection.on_gave_up = self.catch_up, self._on_gave_up

    def _gave_up(self, connection: Connection, taken: Sequence[Taken], messages: int, reason: str) -> None:
        if not (taken and taken[0].room.startswith(Ledger.SELF)):
            for told in self.observers.gave_up:
                told(connection, taken, messages, reason)

    def remove(self, connection: Connection) -> None:
        """Unregister a connection and take it out of all its rooms; does nothing the second time."""
        for name in tuple(connection.rooms):
            self.leave(connection, name)
        if self.connections.get(connection.id) is connection:
            del self.connections[connection.id]

    def join(self, connection: Connection, name: str) -> Room:
        """Put a registered connection into a room. Raises ``KeyError`` when it is not registered."""
        if self.connections.get(connection.id) is not connection:
            raise KeyError(f"connection {connection.id!r} is not registered")
        room = self.rooms.get(name)
        if room is None:
            room = self.rooms[name] = Room(
                name, self.ledger, self._turns, self.observers, max_delay_seconds=self._max_delay_seconds
            )
        if name not in connection.rooms:
            room.add(connection)
            connection.rooms.add(name)
            for told in self.observers.joined:
                told(connection, name)
        return room

    def leave(self, connection: Connection, name: str) -> None:
        """Take a connection out of a room it may be in."""
        room = self.rooms.get(name)
        connection.rooms.discard(name)
        if room is None or connection not in room.members:
            return
        room.discard(connection)
        for told in self.observers.left:
            told(connection, name)
        if not room.members:
            del self.rooms[name]
        if self._on_left is not None:
            self._on_left(name)

    def catch_up(self, connection: Connection) -> None:
        """Write to it what its rooms have coming, so that what is sent to the connection itself next keeps the order."""
        for name in tuple(connection.rooms):  # writing may end the connection, and so take it out of its rooms
            room = self.rooms.get(name)
            if room is not None and room.has_pending:
                room.catch_up(connection)

    def get(self, connection_id: str) -> Connection | None:
        """The connection with this id, if it is on this node."""
        return self.connections.get(connection_id)

    def members(self, name: str) -> frozenset[Connection]:
        """Who is in the room now."""
        room = self.rooms.get(name)
        return frozenset(room.members) if room else frozenset()

    def by_user(self, user: str) -> frozenset[Connection]:
        """The connections of a user."""
        return self.members(user_room(user))

    def public_rooms(self) -> Iterator[Room]:
        """The rooms that clients made; not those of users and nodes."""
        return (room for name, room in self.rooms.items() if not name.startswith("~"))

    def in_progress(self) -> dict[NamespaceTotals, int]:
        """Deliveries that running fan-outs have still to make, by where they are accounted for."""
        found: dict[NamespaceTotals, int] = {}
        for room in self.rooms.values():
            if room.in_progress:
                found[room.namespace_totals] = found.get(room.namespace_totals, 0) + room.in_progress
        return found

    def statistics(self) -> RegistryStatistics:
        """A snapshot."""
        rooms = [len(room.members) for room in self.public_rooms()]
        users = sum(1 for name in self.rooms if name.startswith("~user/"))
        return RegistryStatistics(len(self.connections), len(rooms), users, sum(rooms))
