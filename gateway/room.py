"""``Room``: a set of connections that hear the same messages, in one order.

1. What is published during one turn of the event loop leaves as one write per member, in the order of publishing.
2. A member hears what is published while it is one: nothing from before it joined, nothing after it left.
3. What a room gathers is bounded in bytes and messages; a fan-out takes several turns of the loop when it is large in members, or
   in members times bytes. Publishing beyond the bound does a part of the fan-out first. A room that is over the bound even then is
   ``behind``: who can wait does, until it has caught up; for all others a part is ``MEMBERS_PER_TURN``, whatever their bytes, so
   that a room gathers at most one message per such part more than its bound.
4. One member's failing write is that member's end and nobody else's loss.
5. Every message is accounted for to every recipient (``ledger``).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from middleware.close import INTERNAL_ERROR, SLOW_CONSUMER

from .connection import Connection
from .envelope import Envelope
from .fan_out import MEMBERS_PER_TURN, FanOut, without
from .ledger import LEFT, SLOW, Ledger, NamespaceTotals
from .observer import Observers
from .turns import Turns

__all__ = ["PENDING_BYTES", "PENDING_MESSAGES", "Room", "RoomStatistics"]

PENDING_BYTES = 256 * 1024
"""What a room gathers during one turn of the loop before it begins to write."""
PENDING_MESSAGES = 256
"""The same in messages: empty ones weigh nothing, and each publisher in a batch costs a batch of its own."""

logger = logging.getLogger("tidegate.room")

_NOBODY = Observers()
_OWN: dict[Connection, list[int]] = {}
_AHEAD: dict[Connection, int] = {}


class RoomStatistics(NamedTuple):
    """A snapshot of one room."""

    name: str
    members: int
    messages: int


class Room:
    """Members, and what is on its way to them.

    Args:
        name: of the room.
        ledger: where it accounts for what it sends.
        turns: shared by the rooms of an event loop.
        observers: told what becomes of its messages.
        max_delay_seconds: how long it gathers messages to write them together; 0 is one turn of the event loop.
    """

    __slots__ = (
        "_ahead", "_excluded", "_fan_out", "_is_overflow", "_max_delay_seconds", "_newcomers", "_observers",
        "_pending", "_pending_bytes", "_scheduled", "_snapshot", "_totals", "_turns", "members", "messages", "name",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        ledger: Ledger,
        turns: Turns | None = None,
        observers: Observers = _NOBODY,
        *,
        max_delay_seconds: float = 0.0,
    ) -> None:
        self.name = name
        self.members: set[Connection] = set()
        self.messages = 0
        self._totals: NamespaceTotals = ledger.of_room(name)
        self._is_overflow = ledger.is_overflow(name)
        self._observers = _NOBODY if name.startswith(Ledger.SELF) else observers
        self._max_delay_seconds = max_delay_seconds
        self._turns = turns or Turns()
        self._pending: list[Envelope] = []
        self._excluded: list[tuple[int, Connection]] = []
        """Who is not to get what of the pending, by its place."""
        self._ahead: dict[Connection, int] = {}
        self._newcomers: dict[Connection, int] | None = None
        self._pending_bytes = 0
        self._scheduled = False
        self._fan_out: FanOut | None = None
        self._snapshot: tuple[Connection, ...] | None = None

    def add(self, connection: Connection) -> None:
        """A new member hears what is published from now on: what is pending counts as written to it."""
        if connection in self.members:
            return
        self.members.add(connection)
        if self._pending:
            self._ahead[connection] = len(self._pending)
            if self._newcomers is None:
                self._newcomers = {}
            self._newcomers[connection] = len(self._pending)
        self._snapshot = None

    def discard(self, connection: Connection) -> None:
        """A former member hears nothing any more."""
        self.members.discard(connection)
        self._ahead.pop(connection, None)
        if self._newcomers:
            self._newcomers.pop(connection, None)
        self._snapshot = None
        fan_out = self._fan_out
        if fan_out is not None and fan_out.take_out(connection):
            envelopes = fan_out.envelopes_for(connection)
            if envelopes:
                self._account(connection, len(envelopes), fan_out, envelopes, LEFT)

    def publish(self, envelope: Envelope, excluded: Connection | None = None) -> None:
        """Send the envelope's message to every member but ``excluded``."""
        pending = self._pending
        if excluded is not None:
            self._excluded.append((len(pending), excluded))
        pending.append(envelope)
        self._pending_bytes += len(envelope.message.payload)
        self.messages += 1
        if self._pending_bytes > PENDING_BYTES or len(pending) >= PENDING_MESSAGES:
            self._advance(MEMBERS_PER_TURN if self.name in self._turns.behind else 0)
            if self._has_too_much:
                self._turns.behind.setdefault(self.name, deque())
            elif not self.has_pending:
                return
        if not self._scheduled:
            self._schedule()

    @property
    def _has_too_much(self) -> bool:
        return self._pending_bytes > PENDING_BYTES or len(self._pending) >= PENDING_MESSAGES

    @property
    def has_pending(self) -> bool:
        """True while something that was published is not written to everybody."""
        return self._fan_out is not None or bool(self._pending)

    @property
    def in_progress(self) -> int:
        """Deliveries that a running fan-out has still to make."""
        return 0 if self._fan_out is None else self._fan_out.expected - self._fan_out.done

    @property
    def namespace_totals(self) -> NamespaceTotals:
        """Where it accounts for its messages."""
        return self._totals

    def flush(self) -> None:
        """Write all that is pending now, however big the room is."""
        while self.has_pending:
            self._advance()

    def catch_up(self, member: Connection) -> None:
        """Write to ``member`` alone what it has coming, so that what it is sent next does not overtake the room."""
        fan_out = self._fan_out
        if fan_out is not None and fan_out.take_out(member):  # first: writing may end it, and so come back here or to discard
            self._write_to((member,), fan_out)
        start = self._ahead.get(member, 0)
        if start < len(self._pending) and member in self.members:
            self._ahead[member] = len(self._pending)
            own = [place for place, excluded in self._excluded if excluded is member]
            envelopes = without(self._pending, start, own)
            if envelopes:
                fan_out = FanOut.of(self.name, envelopes, self._totals, (member,), _OWN, _AHEAD)
                self._totals.expected += fan_out.expected
                self._write_to(fan_out.next_part(), fan_out)

    # -- the fan-out

    def _schedule(self) -> None:
        self._scheduled = True
        if self._max_delay_seconds and self._fan_out is None:
            self._turns.loop.call_later(self._max_delay_seconds, self.go_on)
        else:
            self._turns.add(self)

    def go_on(self) -> int:
        """Write what is due; called once for every time it was scheduled. Returns how many bytes, times members, that was."""
        self._scheduled = False
        try:
            return self._advance()
        finally:
            if self._turns.behind and not self._has_too_much:
                self._caught_up()
            if (self._fan_out is not None or self._pending) and not self._scheduled:
                self._schedule()

    def _caught_up(self) -> None:
        """Those who waited go on, until it is behind again."""
        behind = self._turns.behind
        waiting = behind.pop(self.name, None)
        while waiting:
            waiting.popleft()()
            if waiting and self.name in behind:
                behind[self.name].extend(waiting)
                break

    def _advance(self, members: int = 0) -> int:
        """Write the next part, which is so many members, or as many as fit a turn; returns its bytes, times the members."""
        fan_out = self._fan_out
        if fan_out is None:
            if not self._pending:
                return 0
            fan_out = self._fan_out = self._set_out()
        part = fan_out.next_part(members)
        self._write_to(part, fan_out)
        if fan_out.at >= len(fan_out.recipients):
            self._fan_out = None
            fan_out.finished = time.time()
            for told in self._observers.fanned_out:
                told(fan_out)
        return len(part) * fan_out.payload_bytes

    def _set_out(self) -> FanOut:
        if self._snapshot is None:
            self._snapshot = tuple(self.members)
        own = _positions(self._excluded, self.members) if self._excluded else _OWN
        fan_out = FanOut.of(self.name, self._pending, self._totals, self._snapshot, own, self._ahead or _AHEAD, self._newcomers)
        fan_out.weigh(self._pending_bytes)
        accepted, totals = len(self._pending), self._totals
        totals.accepted += accepted
        totals.expected += fan_out.expected
        if self._is_overflow:
            totals.ledger.overflow += accepted
        self._pending, self._pending_bytes = [], 0
        if self._excluded:
            self._excluded = []
        if self._ahead:
            self._ahead, self._newcomers = {}, None
        return fan_out

    def _write_to(self, recipients: Sequence[Connection], fan_out: FanOut) -> None:
        whole, apart, totals = fan_out.batch, fan_out.apart, self._totals
        taken = len(recipients) * len(whole.messages)
        for member in recipients:
            batch = whole
            if apart and member in apart:
                share = fan_out.share(member)
                taken -= len(whole) - len(share or ())
                if share is None:
                    continue
                batch = share
            try:
                lost = member.outlet.write(batch)
            except Exception:  # a server's mistake
                logger.exception("writing to a member failed")
                member.close(INTERNAL_ERROR)
                lost = len(batch)
            if lost:
                taken -= lost
                envelopes = fan_out.envelopes_for(member)[:lost] if self._observers.dropped else ()
                member.messages_not_taken += lost
                self._account(member, lost, fan_out, envelopes, SLOW)
        fan_out.done += taken
        totals.taken += taken
        for told in self._observers.reached:
            told(recipients, fan_out)

    def _account(self, member: Connection, lost: int, fan_out: FanOut, envelopes: Sequence[Envelope], reason: str) -> None:
        """``lost`` messages do not reach ``member``: for ``reason``, or because its end is decided."""
        fan_out.lose(member, lost)
        if member.ending is SLOW_CONSUMER:
            reason = SLOW
        elif member.ending is not None:
            reason = "closed"
        if reason == "closed":
            self._totals.closed += lost
        else:
            self._totals.dropped[reason] += lost
        for told in self._observers.dropped:
            told(member, envelopes, reason)

    def statistics(self) -> RoomStatistics:
        """A snapshot."""
        return RoomStatistics(self.name, len(self.members), self.messages)


def _positions(excluded: Sequence[tuple[int, Connection]], members: set[Connection]) -> dict[Connection, list[int]]:
    """Where in a batch the messages are that a member must not hear."""
    positions: dict[Connection, list[int]] = {}
    for place, connection in excluded:
        if connection in members:
            positions.setdefault(connection, []).append(place)
    return positions
