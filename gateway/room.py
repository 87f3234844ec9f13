"""``Room``: a set of connections that hear the same messages, in one order.

1. What is published during one turn of the event loop leaves as one write per member, in the order of publishing.
2. A member hears what is published while it is one: nothing from before it joined, nothing after it left.
3. What a room gathers is bounded in bytes and messages; a fan-out to many members takes several turns of the loop.
4. One member's failing write is that member's end and nobody else's loss.
5. Every message is accounted for to every recipient (``ledger``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from middleware.close import INTERNAL_ERROR, SLOW_CONSUMER

from .connection import Connection
from .ledger import Ledger, NamespaceTotals
from .message import Batch, Message

__all__ = ["MEMBERS_PER_TURN", "PENDING_BYTES", "PENDING_MESSAGES", "Room", "RoomStatistics", "Turns"]

MEMBERS_PER_TURN = 1000
"""A fan-out to more members than this lets the event loop do other work in between."""
PENDING_BYTES = 256 * 1024
"""What a room gathers during one turn of the loop before it begins to write."""
PENDING_MESSAGES = 256
"""The same in messages: empty ones weigh nothing, and each publisher in a batch costs a batch of its own."""

logger = logging.getLogger("tidegate.room")

_NONE: dict[str, list[int]] = {}


class RoomStatistics(NamedTuple):
    """A snapshot of one room."""

    name: str
    members: int
    messages: int


class _FanOut:
    """A batch on its way to those who were members when it set out."""

    __slots__ = ("_places", "ahead", "at", "batch", "gone", "own", "recipients", "started")

    def __init__(
        self, batch: Batch, own: dict[str, list[int]], ahead: dict[Connection, int], recipients: tuple[Connection, ...]
    ) -> None:
        self.batch = batch
        self.own = own
        """Where in the batch each publisher's messages are that must not hear itself."""
        self.ahead = ahead
        """How many of the messages a member is not to get any more: it had them before its turn, or joined behind them."""
        self.recipients = recipients
        self.at = 0
        """How many of the recipients were reached."""
        self.gone: set[Connection] | None = None
        """Who has left since it set out."""
        self.started = time.perf_counter()
        self._places: dict[Connection, int] | None = None

    def is_before(self, member: Connection) -> bool:
        """True when the member is still to be reached."""
        if self._places is None:
            self._places = {recipient: place for place, recipient in enumerate(self.recipients)}
        return self._places.get(member, -1) >= self.at and not (self.gone and member in self.gone)

    def next_part(self) -> Sequence[Connection]:
        gone, part = self.gone, self.recipients
        if len(part) > MEMBERS_PER_TURN:
            part = part[self.at : self.at + MEMBERS_PER_TURN]
        self.at += len(part)
        return [member for member in part if member not in gone] if gone else part

    def lose(self, member: Connection) -> None:
        if self.gone is None:
            self.gone = set()
        self.gone.add(member)

    def share(self, member: Connection) -> Batch | None:
        """What of the batch is for ``member``; ``None`` for nothing."""
        start, own = self.ahead.get(member, 0), self.own.get(member.id)
        if not start and own is None:
            return self.batch
        rest = _without(self.batch.messages, start, own or ())
        return Batch(rest) if rest else None


class Turns:
    """The rooms that have something to write at the end of this turn of the event loop: one callback for all of them."""

    __slots__ = ("_loop", "_rooms")

    def __init__(self) -> None:
        self._rooms: list[Room] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:  # kept: Python 3.11 makes a system call to find it
            self._loop = asyncio.get_running_loop()
        return self._loop

    def add(self, room: Room) -> None:
        self._rooms.append(room)
        if len(self._rooms) == 1:
            self.loop.call_soon(self._run)

    def _run(self) -> None:
        rooms, self._rooms = self._rooms, []
        for room in rooms:
            try:
                room.go_on()
            except Exception:  # one room's mistake is not the others' loss
                logger.exception("writing to a room failed")


class Room:
    """Members, and what is on its way to them.

    Args:
        name: of the room.
        ledger: where it accounts for what it sends.
        turns: shared by the rooms of an event loop.
        max_delay_seconds: how long it gathers messages to write them together; 0 is one turn of the event loop.
    """

    __slots__ = (
        "_ahead", "_excluded", "_excludes", "_fan_out", "_ledger", "_max_delay_seconds", "_pending", "_pending_bytes", "_scheduled",
        "_snapshot", "_totals", "_turns", "members", "messages", "name",
    )  # fmt: skip

    def __init__(self, name: str, ledger: Ledger, turns: Turns | None = None, *, max_delay_seconds: float = 0.0) -> None:
        self.name = name
        self.members: set[Connection] = set()
        self.messages = 0
        self._ledger = ledger
        self._totals: NamespaceTotals = ledger.of_room(name)
        self._max_delay_seconds = max_delay_seconds
        self._turns = turns or Turns()
        self._pending: list[Message] = []
        self._excluded: list[str] = []
        self._excludes = False
        self._ahead: dict[Connection, int] = {}
        self._pending_bytes = 0
        self._scheduled = False
        self._fan_out: _FanOut | None = None
        self._snapshot: tuple[Connection, ...] | None = None

    def add(self, connection: Connection) -> None:
        """A new member hears what is published from now on: what is pending counts as written to it."""
        if connection in self.members:
            return
        self.members.add(connection)
        if self._pending:
            self._ahead[connection] = len(self._pending)
        self._snapshot = None

    def discard(self, connection: Connection) -> None:
        """A former member hears nothing any more."""
        self.members.discard(connection)
        self._ahead.pop(connection, None)
        self._snapshot = None
        if self._fan_out is not None:
            self._fan_out.lose(connection)

    def publish(self, message: Message, exclude: str = "") -> None:
        """Send ``message`` to every member but the connection with the id ``exclude``."""
        self._pending_bytes += len(message.payload)
        self._pending.append(message)
        self._excluded.append(exclude)
        if exclude:
            self._excludes = True
        self.messages += 1
        if self._pending_bytes > PENDING_BYTES or len(self._pending) >= PENDING_MESSAGES:
            self._begin()
        if not self._scheduled and self.has_pending:
            self._schedule()

    @property
    def has_pending(self) -> bool:
        """True while something that was published is not written to everybody."""
        return self._fan_out is not None or bool(self._pending)

    def flush(self) -> None:
        """Write all that is pending now, however big the room is."""
        while self.has_pending:
            self._advance()

    def catch_up(self, member: Connection) -> None:
        """Write to ``member`` alone what it has coming, so that what it is sent next does not overtake the room."""
        fan_out = self._fan_out
        if fan_out is not None and fan_out.is_before(member):
            self._write_to((member,), fan_out)
            fan_out.ahead[member] = len(fan_out.batch)
        start = self._ahead.get(member, 0)
        if start < len(self._pending):
            self._ahead[member] = len(self._pending)
            rest = zip(self._pending[start:], self._excluded[start:], strict=True)
            messages = [message for message, excluded in rest if excluded != member.id]
            if messages:
                self._write_to((member,), _FanOut(Batch(messages), {}, {}, (member,)))

    # -- the fan-out

    def _schedule(self) -> None:
        self._scheduled = True
        if self._max_delay_seconds and self._fan_out is None:
            self._turns.loop.call_later(self._max_delay_seconds, self.go_on)
        else:
            self._turns.add(self)

    def go_on(self) -> None:
        """Write what is due; called once for every time it was scheduled."""
        self._scheduled = False
        self._advance()
        if self.has_pending and not self._scheduled:
            self._schedule()

    def _begin(self) -> None:
        """Begin to write what is pending to those who are members now; what a big room has left to do comes in later turns."""
        while self._pending:
            self._advance()

    def _advance(self) -> None:
        """Write the next part; big rooms take several turns of the loop."""
        fan_out = self._fan_out
        if fan_out is None:
            if not self._pending:
                return
            fan_out = self._fan_out = self._set_out()
        self._write_to(fan_out.next_part(), fan_out)
        if fan_out.at >= len(fan_out.recipients):
            self._fan_out = None
            if self._ledger.on_fanout is not None and not self.name.startswith(Ledger.SELF):
                seconds = time.perf_counter() - fan_out.started
                self._ledger.on_fanout(len(fan_out.batch), len(fan_out.recipients), seconds)

    def _set_out(self) -> _FanOut:
        if self._snapshot is None:
            self._snapshot = tuple(self.members)
        own = _positions(self._excluded) if self._excludes else _NONE
        fan_out = _FanOut(Batch(self._pending), own, self._ahead, self._snapshot)
        self._totals.accepted += len(self._pending)
        self._pending, self._excluded, self._ahead, self._pending_bytes, self._excludes = [], [], {}, 0, False
        return fan_out

    def _write_to(self, recipients: Iterable[Connection], fan_out: _FanOut) -> None:
        expected = lost_in_all = 0
        whole = fan_out.batch
        alike = not fan_out.own and not fan_out.ahead
        for member in recipients:
            batch = whole if alike else fan_out.share(member)
            if batch is None:
                continue
            expected += len(batch)
            try:
                lost = member.write(batch)
            except Exception:  # an encoder's or an outlet's mistake
                logger.exception("writing to a member failed")
                member.close(INTERNAL_ERROR)
                lost = len(batch)
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


def _without(messages: Sequence[Message], start: int, positions: Sequence[int]) -> list[Message]:
    """``messages`` from ``start`` on but those at ``positions``, which ascend."""
    rest: list[Message] = []
    for position in positions:
        rest += messages[start:position]
        start = max(start, position + 1)
    rest += messages[start:]
    return rest
