"""``ConnectionRegistry``: who is here, on this node; ``Room``: a set of connections that hear the same messages.

Invariants (model-tested in ``tests/gateway/test_registry.py``):

R1. A connection is in a room if and only if the room is in the connection's ``rooms``.
R2. No empty room survives.
R3. A user has an entry if and only if a connection of theirs is registered (a user is the room ``~user/<id>``).
R4. Every member of every room is registered under its id, and ids are unique.

Everything here is synchronous and never raises half-way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from middleware.close import SLOW_CONSUMER

from .connection import Connection
from .ledger import Ledger, NamespaceTotals
from .message import Batch, Message, user_room

__all__ = ["EVERYONE", "ConnectionRegistry", "RegistryStatistics", "Room", "RoomStatistics"]

EVERYONE = "~all"
"""The room that every connection is in."""

MEMBERS_PER_TURN = 1000
"""A fan-out to more members than this lets the event loop do other work in between."""
PENDING_BYTES = 256 * 1024
"""What a room gathers during one turn of the loop before it writes at once."""
PENDING_MESSAGES = 256
"""The same in messages: empty ones weigh nothing, and each publisher in a batch costs a batch of its own."""


class RoomStatistics(NamedTuple):
    """A snapshot of one room."""

    name: str
    members: int
    messages: int


class RegistryStatistics(NamedTuple):
    """A snapshot of the registry; internal rooms are not counted as rooms."""

    connections: int
    rooms: int
    users: int
    memberships: int


class Room:
    """Members that hear the same messages, in one order.

    What is published during one turn of the event loop leaves as one write per member (``max_delay_seconds`` waits longer
    for more). A publisher that is not to hear itself gets a batch of its own.
    """

    __slots__ = (
        "_excluded", "_flushing", "_gone", "_ledger", "_loop", "_max_delay_seconds", "_pending", "_pending_bytes", "_scheduled",
        "_snapshot", "_totals", "members", "messages", "name",
    )  # fmt: skip

    def __init__(self, name: str, ledger: Ledger, max_delay_seconds: float = 0.0) -> None:
        self.name = name
        self.members: set[Connection] = set()
        self.messages = 0
        self._ledger = ledger
        self._totals: NamespaceTotals = ledger.of_room(name)
        self._max_delay_seconds = max_delay_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending: list[Message] = []
        self._excluded: list[str] = []
        self._pending_bytes = 0
        self._scheduled = False
        self._flushing: Iterator[None] | None = None
        self._snapshot: tuple[Connection, ...] | None = None
        self._gone: set[Connection] | None = None
        """Who has left since the fan-out began that takes several turns of the loop; ``None`` while there is none."""

    def add(self, connection: Connection) -> None:
        """A new member hears what is published from now on."""
        self._begin()
        self.members.add(connection)
        self._snapshot = None

    def discard(self, connection: Connection) -> None:
        """A former member hears nothing any more."""
        self.members.discard(connection)
        self._snapshot = None
        if self._gone is not None:
            self._gone.add(connection)

    def publish(self, message: Message, exclude: str = "") -> None:
        """Send ``message`` to every member but the connection with the id ``exclude``."""
        self._pending_bytes += len(message.payload)  # first: text that has no UTF-8 must not wait among the others' messages
        self._pending.append(message)
        self._excluded.append(exclude)
        self.messages += 1
        if self._pending_bytes > PENDING_BYTES or len(self._pending) >= PENDING_MESSAGES:
            self._begin()
        if not self._scheduled and (self._pending or self._flushing is not None):
            self._schedule()

    def _schedule(self) -> None:
        self._scheduled = True
        loop = self._loop
        if loop is None:  # kept: Python 3.11 makes a system call to find it
            loop = self._loop = asyncio.get_running_loop()
        if self._max_delay_seconds and self._flushing is None:
            loop.call_later(self._max_delay_seconds, self._continue)
        else:
            loop.call_soon(self._continue)

    def _continue(self) -> None:
        self._scheduled = False
        self._advance()
        if (self._pending or self._flushing is not None) and not self._scheduled:
            self._schedule()

    @property
    def has_pending(self) -> bool:
        """True while something that was published is not written to everybody."""
        return self._flushing is not None or bool(self._pending)

    def flush(self) -> None:
        """Write all that is pending now."""
        while self.has_pending:
            self._advance()

    def _begin(self) -> None:
        """Begin to write what is pending to those who are members now; what a big room has left to do comes in later turns."""
        while self._pending:
            self._advance()

    def _advance(self) -> None:
        """Write the next part; big rooms take several turns of the loop."""
        if self._flushing is None:
            if self._pending:
                self._fan_out()
        elif next(self._flushing, self) is self:  # exhausted
            self._flushing = None

    def _fan_out(self) -> None:
        """Write the pending messages to the members there are now, or to the first part of them."""
        started = time.perf_counter()
        messages, excluded = self._pending, self._excluded
        self._pending, self._excluded, self._pending_bytes = [], [], 0
        batch = Batch(messages)
        own = _positions(excluded) if any(excluded) else {}
        if self._snapshot is None:
            self._snapshot = tuple(self.members)
        recipients = self._snapshot
        self._totals.accepted += len(messages)
        if len(recipients) <= MEMBERS_PER_TURN:
            self._write_to(recipients, batch, own)
            self._observe(batch, recipients, started)
        else:
            self._flushing = self._in_parts(recipients, batch, own, started)
            next(self._flushing)

    def _in_parts(
        self, recipients: Sequence[Connection], batch: Batch, own: dict[str, list[int]], started: float
    ) -> Iterator[None]:
        """Write to a part of ``recipients``; yields where the loop may do something else."""
        gone = self._gone = set()
        for start in range(0, len(recipients), MEMBERS_PER_TURN):
            if start:
                yield
            part = recipients[start : start + MEMBERS_PER_TURN]
            self._write_to([member for member in part if member not in gone] if gone else part, batch, own)
        self._gone = None
        self._observe(batch, recipients, started)

    def _observe(self, batch: Batch, recipients: Sequence[Connection], started: float) -> None:
        if self._ledger.on_fanout is not None:
            self._ledger.on_fanout(len(batch.messages), len(recipients), time.perf_counter() - started)

    def _write_to(self, recipients: Iterable[Connection], batch: Batch, own: dict[str, list[int]]) -> None:
        expected = lost_in_all = 0
        size = len(batch.messages)
        for member in recipients:
            if own and member.id in own:
                others = _without(batch.messages, own[member.id])
                if not others:
                    continue
                expected += len(others)
                lost = member.write(Batch(others))
            else:
                expected += size
                lost = member.write(batch)
            if lost:
                lost_in_all += lost
                self._account(member, lost)
        self._totals.expected += expected
        self._totals.written += expected - lost_in_all

    def _account(self, member: Connection, lost: int) -> None:
        if member.ending is None or member.ending is SLOW_CONSUMER:
            self._totals.dropped[SLOW_CONSUMER.reason] += lost
        else:
            self._totals.closed += lost

    def statistics(self) -> RoomStatistics:
        """A snapshot."""
        return RoomStatistics(self.name, len(self.members), self.messages)


def _positions(excluded: list[str]) -> dict[str, list[int]]:
    """Where in a batch each excluded publisher's messages are."""
    positions: dict[str, list[int]] = {}
    for position, name in enumerate(excluded):
        if name:
            positions.setdefault(name, []).append(position)
    return positions


def _without(messages: Sequence[Message], positions: list[int]) -> list[Message]:
    """``messages`` but those at ``positions``, which ascend."""
    rest: list[Message] = []
    start = 0
    for position in positions:
        rest += messages[start:position]
        start = position + 1
    rest += messages[start:]
    return rest


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
        self.connections: dict[str, Connection] = {}
        self.rooms: dict[str, Room] = {}
        self._max_delay_seconds = max_delay_seconds
        self._on_left = on_left

    def __len__(self) -> int:
        return len(self.connections)

    def add(self, connection: Connection) -> None:
        """Register a connection. Raises ``ValueError`` when the id is taken by another one."""
        if self.connections.setdefault(connection.id, connection) is not connection:
            raise ValueError(f"connection id {connection.id!r} is taken")
        connection.before_send = self.flush_rooms_of

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
            room = self.rooms[name] = Room(name, self.ledger, self._max_delay_seconds)
        room.add(connection)
        connection.rooms.add(name)
        return room

    def leave(self, connection: Connection, name: str) -> None:
        """Take a connection out of a room it may be in."""
        room = self.rooms.get(name)
        connection.rooms.discard(name)
        if room is None or connection not in room.members:
            return
        room.discard(connection)
        if not room.members:
            del self.rooms[name]
        if self._on_left is not None:
            self._on_left(name)

    def flush_rooms_of(self, connection: Connection) -> None:
        """Write what its rooms have pending, so that what is sent to the connection itself next keeps the order."""
        for name in tuple(connection.rooms):  # writing may end the connection, and so take it out of its rooms
            room = self.rooms.get(name)
            if room is not None and room.has_pending:
                room.flush()

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

    def statistics(self) -> RegistryStatistics:
        """A snapshot."""
        rooms = [len(room.members) for room in self.public_rooms()]
        users = sum(1 for name in self.rooms if name.startswith("~user/"))
        return RegistryStatistics(len(self.connections), len(rooms), users, sum(rooms))
