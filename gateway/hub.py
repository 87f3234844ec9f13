"""``Hub``: the part of a server that knows no ASGI: connections in rooms, over a broker.

Everything is addressed to a room: a user is the room ``~user/<id>``, a node is ``~node/<id>``, everyone is ``~all``. So one
path carries broadcasts, messages to users, direct messages and remote closes, whichever node a connection is on.

1. A connection is registered only while its end is not decided, and is in a room only while this node is subscribed to it.
2. A join that fails or is cancelled leaves nothing behind; a teardown never waits.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from middleware.close import NAMED, SLOW_CONSUMER, Close
from middleware.close import OTHER as OTHER_CLOSE

from .broker import Broker, Deliver, GapTeller, MemoryBroker, OnGap, Reports, Subscriptions
from .connection import Connection
from .envelope import Envelope
from .errors import BrokerUnavailable, ConnectionClosed
from .ledger import OTHER, SLOW, Ledger
from .message import Batch, Message, node_room, user_room
from .registry import EVERYONE, ConnectionRegistry

__all__ = ["Hub", "HubStatistics", "Published"]

MOST_AT_ONCE = 100
"""Rooms that one caller asks the broker for at the same time."""
CLOSED_PER_TURN = 100
"""Connections that one envelope closes before the event loop does other work."""

logger = logging.getLogger("tidegate.server")


class Published(NamedTuple):
    """What became of a publication: its id, when it was accepted (seconds since the epoch), and its recipients on this node."""

    id: str
    accepted_at: float
    recipients_local: int


class HubStatistics(NamedTuple):
    """Running totals."""

    opened: int
    closed: dict[tuple[str, str], int]
    """By reason slug and initiator."""
    refused_by_broker: int


class Hub:
    """Connections in rooms, over a broker.

    Args:
        broker: carries messages between nodes; memory (this process alone) when ``None``.
        namespaces: room prefixes that the ledger tells apart.
        max_delay_seconds: how long a room may gather messages before it writes; 0 is one turn of the event loop.
        linger_seconds: how long a room stays subscribed after its last member has left.
        node: this node's id; random when ``None``.
        on_gap: told, after the broker's engine was away, the rooms of this node in which messages may have been missed, when they
            are live again; a function or a coroutine function. Names that begin with ``~`` are users, nodes and everyone.
    """

    def __init__(
        self,
        broker: Broker | None = None,
        *,
        namespaces: Iterable[str] = (),
        max_delay_seconds: float = 0.0,
        linger_seconds: float = 5.0,
        node: str | None = None,
        on_gap: OnGap | None = None,
    ) -> None:
        self.node = node or secrets.token_hex(4)
        self.broker: Broker = broker or MemoryBroker()
        self.subscriptions = Subscriptions(self.broker, linger_seconds=linger_seconds)
        self.registry = ConnectionRegistry(
            Ledger(namespaces), max_delay_seconds=max_delay_seconds, on_left=self.subscriptions.release
        )
        self.observers = self.registry.observers
        self.started = False
        self._listeners: dict[str, Deliver] = {}
        self._gap_teller = GapTeller(on_gap) if on_gap is not None else None
        if isinstance(self.broker, Reports) and self._gap_teller is not None:
            self.broker.on_gap = self._gap_teller
        self._opened = 0
        self._closed: Counter[tuple[str, str]] = Counter()
        self._refused_by_broker = 0
        self._numbers = itertools.count(1)

    # -- life

    async def start(self) -> None:
        """Start the broker and listen for what is addressed to this node and to everyone. Raises ``BrokerUnavailable``."""
        if not self.started:
            await self.broker.start(self._deliver)
            try:
                await self.hold(dict.fromkeys((node_room(self.node), EVERYONE, *self._listeners)))
            except BaseException:
                await self.broker.close()  # whoever tries again starts it again
                raise
            self.started = True

    def listen(self, room: str, listener: Deliver) -> None:
        """Call ``listener`` with what comes to a room of the gateway's own, for no connection. To be said before ``start``."""
        assert not self.started, "rooms are subscribed to when the hub starts"
        self._listeners[room] = listener

    async def stop(self) -> None:
        """Close the broker; connections are closed by ``drain`` before."""
        if self.started:
            self.started = False
            if self._gap_teller is not None:
                self._gap_teller.stop()
            await self.subscriptions.close()
            await self.broker.close()

    # -- connections

    def new_id(self) -> str:
        """An id for a connection or a message: this node and a running number, unique over all nodes."""
        return f"{self.node}-{next(self._numbers)}"

    async def hold(self, rooms: Iterable[str]) -> None:
        """Subscribe to all of ``rooms`` or to none; each is to be released or ``enter``-ed. Raises ``BrokerUnavailable``.

        Those that are new here are asked for together, ``MOST_AT_ONCE`` at a time: they share the engine's round trip. The broker
        is to be usable for the others, too: who joins hears from then on, or is told that it cannot be. A room that the engine has
        refused after a reconnect is new in this sense, although it has members here.
        """
        await self.broker.check()
        held: list[str] = []
        new: list[str] = []
        for room in rooms:
            (held if self.subscriptions.hold_now(room) else new).append(room)
        try:
            for start in range(0, len(new), MOST_AT_ONCE):
                await self._hold_together(new[start : start + MOST_AT_ONCE], held)
        except BaseException:
            self.release(held)
            raise

    async def _hold_together(self, rooms: list[str], held: list[str]) -> None:
        """Hold them and note in ``held`` those that are; when one fails the others are called off, and its error is raised."""

        async def hold(room: str) -> None:
            await self.subscriptions.hold(room)
            held.append(room)

        if len(rooms) == 1:
            await hold(rooms[0])
            return
        try:
            async with asyncio.TaskGroup() as group:
                for room in rooms:
                    group.create_task(hold(room))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    def release(self, rooms: Iterable[str]) -> None:
        """Give back what ``hold`` took."""
        for room in rooms:
            self.subscriptions.release(room)

    def enter(self, connection: Connection, rooms: Iterable[str], *, counted: bool = True) -> None:
        """Register a connection in rooms that are held for it; the holds pass to its memberships.

        What is not ``counted`` (the node's check of itself) is left out of the totals.

        Raises:
            ConnectionClosed: it is already over. ValueError: its id is taken. The holds stay the caller's then.
        """
        if connection.ending is not None:  # nobody would take it out again
            raise ConnectionClosed(connection.ending)
        self.registry.add(connection)
        connection.on_ended = self._ended if counted else self.registry.remove
        for room in rooms:
            self.registry.join(connection, room)
        self._opened += counted

    async def join(self, connection: Connection, room: str) -> None:
        """Put a registered connection into one more room; it hears everything published after this returns.

        Raises:
            BrokerUnavailable: the room cannot be subscribed to now.
            ConnectionClosed: the connection ended meanwhile.
        """
        if room in connection.rooms:
            return
        await self.hold((room,))
        if connection.ending is not None:
            self.subscriptions.release(room)
            raise ConnectionClosed(connection.ending)
        if room in connection.rooms:  # joined by somebody else meanwhile
            self.subscriptions.release(room)
            return
        try:
            self.registry.join(connection, room)
        except BaseException:  # it is not of this hub
            self.subscriptions.release(room)
            raise

    def leave(self, connection: Connection, room: str) -> None:
        """Take a connection out of a room."""
        self.registry.leave(connection, room)

    def _ended(self, connection: Connection) -> None:
        assert connection.ending is not None, "on_ended is called when the ending is set"
        for told in self.observers.ended:
            told(connection, connection.ending)
        self.registry.remove(connection)
        named = NAMED.get(connection.ending.reason, OTHER_CLOSE)  # an app may make up its own; what is counted is a closed set
        self._closed[named.reason, connection.initiator] += 1

    # -- publishing

    async def publish(
        self, room: str, payload: Any, *, exclude: str | Connection | None = None, traceparent: str = ""
    ) -> Published:
        """Send text, bytes or anything with a JSON form to everybody in ``room``, on every node, but to ``exclude``.

        Raises:
            BrokerUnavailable: the broker cannot take it now.
            TypeError: the payload has no JSON form.
        """
        envelope = self._envelope(room, Message.of(payload), exclude=_id_of(exclude), traceparent=traceparent)
        recipients = self.recipients(room, envelope.exclude)
        for told in self.observers.published:
            told(envelope)
        await self.broker.publish(envelope)
        return Published(envelope.id, envelope.published_at, recipients)

    def post(self, room: str, message: Message, exclude: str = "") -> None:
        """As ``publish``, without waiting. Raises ``BrokerUnavailable``."""
        envelope = Envelope(room, message, id=self.new_id(), node=self.node, exclude=exclude)
        for told in self.observers.published:
            told(envelope)
        try:
            self.broker.post(envelope)
        except BrokerUnavailable:
            self._refused_by_broker += 1
            raise

    async def send_to(self, connection_id: str, payload: Any) -> bool:
        """Send to one connection, wherever it is; False when this node should have it and does not."""
        message = Message.of(payload)
        connection = self.registry.get(connection_id)
        if connection is not None:
            return self._write(connection, self._envelope(node_room(self.node), message, target=connection_id))
        return await self._to_node_of(connection_id, message, None)

    async def close_connection(self, connection_id: str, close: Close) -> bool:
        """Close one connection, wherever it is; False when this node should have it and does not."""
        connection = self.registry.get(connection_id)
        if connection is not None:
            connection.close(close)
            return True
        return await self._to_node_of(connection_id, Message(b""), close)

    async def close_user(self, user: str, close: Close) -> int:
        """Close all connections of a user, everywhere; returns how many there were on this node."""
        count = len(self.registry.by_user(user))
        await self.broker.publish(self._envelope(user_room(user), Message(b""), close=close))
        return count

    def tell_gap(self) -> None:
        """Something may have been missed in any room of this node; ``on_gap`` is told as of a gap that the broker has found."""
        if self._gap_teller is not None:
            self._gap_teller(self.subscriptions.rooms)

    def recipients(self, room: str, exclude: str = "") -> int:
        """How many connections on this node a publication to ``room`` goes to now."""
        found = self.registry.rooms.get(room)
        if found is None:
            return 0
        excluded = self.registry.get(exclude) if exclude else None
        return len(found.members) - (1 if excluded in found.members else 0)

    def statistics(self) -> HubStatistics:
        """Running totals."""
        return HubStatistics(self._opened, dict(self._closed), self._refused_by_broker)

    def _envelope(
        self, room: str, message: Message, *, exclude: str = "", target: str = "", traceparent: str = "", close: Close | None = None
    ) -> Envelope:
        return Envelope(
            room, message, id=self.new_id(), node=self.node, exclude=exclude, target=target, traceparent=traceparent, close=close
        )

    async def _to_node_of(self, connection_id: str, message: Message, close: Close | None) -> bool:
        node = connection_id.rpartition("-")[0]  # as new_id() joins them; a node's own name may have dashes
        if node == self.node or not node or self.broker.local:
            return False
        await self.broker.publish(self._envelope(node_room(node), message, target=connection_id, close=close))
        return True

    # -- delivery

    def _deliver(self, envelope: Envelope) -> None:
        """What the broker calls for every envelope to a subscribed room."""
        if envelope.target:
            self._deliver_to_one(envelope)
            return
        room = self.registry.rooms.get(envelope.room)
        if room is None:
            listener = self._listeners.get(envelope.room)
            if listener is not None:
                listener(envelope)
            return
        if envelope.close is None:
            room.publish(envelope, self.registry.get(envelope.exclude) if envelope.exclude else None)
            return
        self._close_some(tuple(room.members), envelope.close)

    def _close_some(self, members: Sequence[Connection], close: Close) -> None:
        """Close them, each behind what was published to it before; a crowd takes several turns of the loop."""
        for member in members[:CLOSED_PER_TURN]:
            member.close(close)
        rest = members[CLOSED_PER_TURN:]
        if rest:
            asyncio.get_running_loop().call_soon(self._close_some, rest, close)

    def _deliver_to_one(self, envelope: Envelope) -> None:
        connection = self.registry.get(envelope.target)
        if envelope.close is not None:
            if connection is not None:
                connection.close(envelope.close)
        elif connection is not None:
            self._write(connection, envelope)
        else:
            self.registry.ledger.direct(1, closed=True)
            for told in self.observers.missed:
                told(envelope)

    def _write(self, connection: Connection, envelope: Envelope) -> bool:
        """Write a message for one connection behind what its rooms have for it; False when it was not taken."""
        self.registry.catch_up(connection)
        ledger = self.registry.ledger
        if connection.write(Batch((envelope.message,), ledger.totals[OTHER], (envelope,))):
            slow = connection.ending is None or connection.ending is SLOW_CONSUMER
            ledger.direct(1, slow=slow, closed=not slow)
            for dropped in self.observers.dropped:
                dropped(connection, (envelope,), SLOW if slow else "closed")
            return False
        ledger.direct(1)
        for sent in self.observers.sent:
            sent(connection, envelope)
        return True


def _id_of(connection: str | Connection | None) -> str:
    if connection is None:
        return ""
    return connection if isinstance(connection, str) else connection.id
