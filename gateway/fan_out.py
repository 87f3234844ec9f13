"""``FanOut``: publications on their way from a room to those who were members when it set out."""

from __future__ import annotations

import time
from collections.abc import Sequence, Set
from itertools import filterfalse
from typing import TypeVar

import msgspec

from .connection import Connection
from .envelope import Envelope
from .ledger import NamespaceTotals
from .message import Batch

__all__ = ["BYTES_PER_TURN", "MEMBERS_PER_TURN", "FanOut", "without"]

MEMBERS_PER_TURN = 500
"""A fan-out to more members than this lets the event loop do other work in between."""
BYTES_PER_TURN = 4 * 1024 * 1024
"""The same in bytes, the messages' times the members: they are copied for each."""

_T = TypeVar("_T")


class FanOut(msgspec.Struct, eq=False, gc=False):
    """See the module. It lives for a few turns of the loop at most and is part of no cycle that outlives them."""

    room: str
    envelopes: Sequence[Envelope]
    batch: Batch
    recipients: Sequence[Connection]
    own: dict[Connection, list[int]]
    """Where in the batch each publisher's messages are that must not hear itself."""
    ahead: dict[Connection, int]
    """How many of the messages a member is not to get any more: it had them before they set out, or joined behind them."""
    newcomers: dict[Connection, int] | None = None
    """Of those in ``ahead``, who joined behind messages that were waiting, and behind how many."""
    apart: Set[Connection] = frozenset()
    """Who is in ``own`` or ``ahead``; all others get the whole batch."""
    started: float = msgspec.field(default_factory=time.time)
    """When it set out, in seconds since the epoch."""
    finished: float = 0.0
    """When it had reached everybody."""
    expected: int = 0
    """Deliveries: messages times the members they are for."""
    done: int = 0
    """Deliveries that were made, or given up."""
    lost: int = 0
    """Those that were given up."""
    at: int = 0
    """How many of the recipients were reached."""
    payload_bytes: int = 0
    """Of the messages together."""
    members_per_turn: int = MEMBERS_PER_TURN
    """How many members are a part: fewer for messages that are large together."""
    passed: set[Connection] | None = None
    """Whose turn will not come: who has left since it set out, or was written to ahead of its turn."""
    missed: set[Connection] | None = None
    """Who did not get all that is for it."""
    places: dict[Connection, int] | None = None
    """Where each recipient stands; made when it is asked for."""

    @classmethod
    def of(
        cls,
        room: str,
        envelopes: Sequence[Envelope],
        totals: NamespaceTotals,
        recipients: Sequence[Connection],
        own: dict[Connection, list[int]],
        ahead: dict[Connection, int],
        newcomers: dict[Connection, int] | None = None,
    ) -> FanOut:
        """A fan-out that sets out now."""
        one = len(envelopes) == 1  # most are
        messages = [envelopes[0].message] if one else [envelope.message for envelope in envelopes]
        fan_out = cls(room, envelopes, Batch(messages, totals, envelopes), recipients, own, ahead, newcomers)
        fan_out.expected = len(recipients) * len(messages)
        if own or ahead:
            fan_out.apart = own.keys() | ahead.keys()
            fan_out.expected -= fan_out.left_out()
        return fan_out

    def is_before(self, member: Connection) -> bool:
        """True when the member is still to be reached."""
        if self.places is None:
            self.places = {recipient: place for place, recipient in enumerate(self.recipients)}
        return self.places.get(member, -1) >= self.at and not (self.passed and member in self.passed)

    def weigh(self, payload_bytes: int) -> None:
        """The messages have so many bytes together."""
        self.payload_bytes = payload_bytes
        fits = payload_bytes * MEMBERS_PER_TURN <= BYTES_PER_TURN
        self.members_per_turn = MEMBERS_PER_TURN if fits else max(1, BYTES_PER_TURN // payload_bytes)

    def next_part(self, members: int = 0) -> Sequence[Connection]:
        """Whom to write to now: so many of the recipients, as many as fit a turn with 0."""
        part, passed, members = self.recipients, self.passed, members or self.members_per_turn
        if len(part) > members:
            part = part[self.at : self.at + members]
        self.at += len(part)
        return part if passed is None else [*filterfalse(passed.__contains__, part)]

    def take_out(self, member: Connection) -> bool:
        """Do not come to ``member`` any more; False when it was reached or taken out before."""
        if not self.is_before(member):
            return False
        if self.passed is None:
            self.passed = set()
        self.passed.add(member)
        return True

    def lose(self, member: Connection, count: int) -> None:
        """``count`` of the messages do not reach ``member``."""
        self.done += count
        self.lost += count
        if self.missed is None:
            self.missed = set()
        self.missed.add(member)

    def left_out(self) -> int:
        """Deliveries that are not to be made, for each of ``apart``."""
        return sum([len(self.envelopes) - self.count_for(member) for member in self.recipients if member in self.apart])

    def count_for(self, member: Connection) -> int:
        """How many of the messages are for ``member``."""
        start, own = self.ahead.get(member, 0), self.own.get(member, ())
        return len(self.envelopes) - start - sum([position >= start for position in own])

    def has(self, member: Connection, place: int) -> bool:
        """True when the message at ``place`` of the batch is for ``member``, and nothing that is was lost to it."""
        if self.missed is not None and member in self.missed:
            return False
        return place >= self.ahead.get(member, 0) and place not in self.own.get(member, ())

    def share(self, member: Connection) -> Batch | None:
        """What of the batch is for ``member``; ``None`` for nothing."""
        start, own = self.ahead.get(member, 0), self.own.get(member)
        if not start and own is None:
            return self.batch
        rest = without(self.batch.messages, start, own or ())
        return Batch(rest, self.batch.totals, self.envelopes_for(member)) if rest else None

    def envelopes_for(self, member: Connection) -> Sequence[Envelope]:
        """The publications of ``share``."""
        return without(self.envelopes, self.ahead.get(member, 0), self.own.get(member, ()))


def without(items: Sequence[_T], start: int, positions: Sequence[int]) -> list[_T]:
    """``items`` from ``start`` on but those at ``positions``, which ascend."""
    rest: list[_T] = []
    for position in positions:
        rest += items[start:position]
        start = max(start, position + 1)
    rest += items[start:]
    return rest
