"""``Records``: small bounded memories of what rooms and connections have seen, from which deliveries are explained.

What was written to whom is not recorded, which would cost every delivery: it follows from a room's publications and a connection's
memberships. Only what went another way is: drops, direct messages, confirmations.

Bounds: ``ROOMS`` rooms with ``PER_ROOM`` publications each, ``LIVE`` open connections and ``ENDED`` that are over, each with
``PER_CONNECTION`` happenings and as many memberships that are over. Of rooms and connections those give way that ``fairness``
names, of the rest the oldest. Payloads are not kept. What was forgotten is never taken for what did not happen.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from middleware.close import Close

from ..connection import Connection
from ..envelope import Envelope, trace_id_of
from ..fan_out import FanOut
from ..ledger import UNSENT, Ledger, Taken
from ..observer import Observer
from .fairness import Held, give_way, owner_of

__all__ = [
    "ENDED", "LIVE", "PER_CONNECTION", "PER_ROOM", "ROOMS", "SET_OUT_AT", "Happening", "Membership", "Publication", "Records",
    "Story",
]  # fmt: skip

ROOMS = 1000
PER_ROOM = 32
LIVE = 10_000
ENDED = 1000
PER_CONNECTION = 12
_MANY = 64
"""A room with more members than this is not looked through for whose it is."""
SET_OUT_AT = 4
"""Of a publication in its ring."""
_HARMLESS = ("sent", "confirmed")
"""Whose being forgotten leaves no doubt: without them a delivery is called written, which it was."""


class Publication(NamedTuple):
    """One message to a room, as this node delivered it. Times are seconds since the epoch, on this node's clock."""

    id: str
    node: str
    trace_id: str
    published_at: float
    """On the clock of the node that accepted it."""
    set_out_at: float
    payload_bytes: int
    recipients: int
    lost: int
    exclude: str
    late_since: float
    """When the first of the members joined who came in behind it, as all did after them; infinity when nobody did."""


class Membership(NamedTuple):
    """A time that a connection was in a room; ``left_at`` is ``None`` while it is."""

    room: str
    joined_at: float
    left_at: float | None

    def covers(self, at: float) -> bool:
        return self.joined_at <= at and (self.left_at is None or at <= self.left_at)


class Happening(NamedTuple):
    """Something other than a plain delivery: ``what`` is ``sent``, ``confirmed``, ``timeout``, or the reason of a drop or of
    giving up what the outbox had taken; ``room`` is empty for a message to this connection alone."""

    at: float
    what: str
    message: str
    room: str
    seconds: float | None = None


class Story:
    """What is known of one connection.

    One that was open when stories last gave way, at ``gave_way_at``, may be one of them that is met again: it may have been in any
    room and lost anything until ``now``.
    """

    __slots__ = (
        "buffered_bytes", "close", "ended_at", "forgotten_until", "happenings", "id", "initiator", "left_forgotten_until", "owner",
        "past", "rooms", "since", "user",
    )  # fmt: skip

    def __init__(self, connection: Connection, now: float, gave_way_at: float) -> None:
        self.id = connection.id
        self.user = connection.user
        self.owner = owner_of(connection)
        self.since = now - (time.monotonic() - connection.connected_at)
        self.rooms = dict.fromkeys(connection.rooms, now)
        self.past: list[Membership] = []
        self.happenings: list[Happening] = []
        self.forgotten_until = self.left_forgotten_until = now if self.since <= gave_way_at else 0.0
        """When the newest of the happenings that matter happened, and of the memberships ended, that had to give way."""
        self.close: Close | None = None
        self.initiator = ""
        self.ended_at = 0.0
        self.buffered_bytes = 0
        """What waited in its outbox when its end was decided and nothing has been heard of since; 0 when it held no message."""

    def memberships(self, room: str) -> list[Membership]:
        """Every remembered time in ``room``, oldest first."""
        now = [Membership(room, self.rooms[room], None)] if room in self.rooms else []
        return [one for one in self.past if one.room == room] + now

    def add(self, happening: Happening) -> None:
        self.happenings.append(happening)
        if len(self.happenings) > PER_CONNECTION:
            forgotten = self.happenings.pop(0)
            if forgotten.what not in _HARMLESS:
                self.forgotten_until = max(self.forgotten_until, forgotten.at)

    def leave(self, room: str, at: float) -> None:
        self.past.append(Membership(room, self.rooms.pop(room), at))
        if len(self.past) > PER_CONNECTION:
            self.left_forgotten_until = self.past.pop(0).left_at or at


class Ring(deque[tuple[Any, ...]]):
    """The last publications of a room."""

    __slots__ = ("owner",)

    def __init__(self, owner: str) -> None:
        super().__init__(maxlen=PER_ROOM)
        self.owner = owner
        """Who brought the room in, as long as nobody else has been in it."""


class Records(Observer):
    """Remembers; see the module.

    Args:
        clock: seconds since the epoch.
        has_members: whether somebody is in a room now.
    """

    def __init__(self, clock: Callable[[], float] = time.time, has_members: Callable[[str], bool] = lambda room: True) -> None:
        self.rooms: dict[str, Ring] = {}
        self._has_members = has_members
        self.live: dict[str, Story] = {}
        self.ended_stories: dict[str, Story] = {}
        self._clock = clock
        self._gave_way_at = 0.0
        """When stories of open connections last gave way."""

    def story(self, connection_id: str) -> Story | None:
        """What is known of a connection, open or over."""
        return self.live.get(connection_id) or self.ended_stories.get(connection_id)

    def rooms_of(self, message: str) -> list[str]:
        """Rooms in which a message is remembered."""
        return [name for name, ring in self.rooms.items() if any(one[0] == message for one in ring)]

    # -- as an observer

    def fanned_out(self, fan_out: FanOut) -> None:
        """Remember each publication of a fan-out."""
        ring = self.rooms.get(fan_out.room)
        if ring is None:
            ring = self._new_ring(fan_out)
        envelopes, started, recipients, lost = fan_out.envelopes, fan_out.started, len(fan_out.recipients), fan_out.lost
        late_since = self._late_since(fan_out) if fan_out.newcomers else ()
        for place in range(max(0, len(envelopes) - PER_ROOM), len(envelopes)):
            envelope = envelopes[place]
            trace = envelope.traceparent
            ring.append(  # as a plain tuple: a ``Publication`` costs four times as much, and few are ever looked at
                (
                    envelope.id, envelope.node, trace and trace_id_of(trace), envelope.published_at, started,
                    len(envelope.message.payload), recipients, lost, envelope.exclude,
                    late_since[place] if late_since else math.inf,
                )
            )  # fmt: skip

    def _late_since(self, fan_out: FanOut) -> list[float]:
        """``Publication.late_since`` of each: of all who came in behind it the earliest, whichever of them has come twice."""
        earliest: dict[int, float] = {}
        for newcomer, count in (fan_out.newcomers or {}).items():
            story = self.story(newcomer.id) if newcomer in fan_out.ahead else None  # else it has left before they set out
            memberships = story.memberships(fan_out.room) if story is not None else ()
            if memberships:
                earliest[count] = min(earliest.get(count, math.inf), memberships[-1].joined_at)
        places = range(len(fan_out.envelopes), 0, -1)
        return list(accumulate((earliest.get(place, math.inf) for place in places), min))[::-1]

    def publications(self, room: str) -> list[Publication]:
        """What is remembered of a room, oldest first."""
        return [Publication._make(one) for one in self.rooms.get(room, ())]

    def _new_ring(self, fan_out: FanOut) -> Ring:
        if len(self.rooms) >= ROOMS:
            quietest_first = sorted(self.rooms.items(), key=lambda item: item[1][-1][SET_OUT_AT])
            for name in give_way(
                (Held(name, ring.owner, not self._has_members(name)) for name, ring in quietest_first), len(self.rooms)
            ):
                del self.rooms[name]
        ring = self.rooms[fan_out.room] = Ring(_owner_of_all(fan_out.recipients))
        return ring

    def joined(self, connection: Connection, room: str) -> None:
        """A membership begins."""
        if room.startswith(Ledger.SELF):
            return
        story = self.live.get(connection.id)
        now = self._clock()
        if story is None:
            story = Story(connection, now, self._gave_way_at)
            if _make_way(self.live, LIVE):
                self._gave_way_at = now
            self.live[connection.id] = story
        story.rooms[room] = now
        ring = self.rooms.get(room)
        if ring is not None and ring.owner != story.owner:
            ring.owner = ""

    def left(self, connection: Connection, room: str) -> None:
        """A membership ends, maybe with its connection."""
        story = self.story(connection.id)
        if story is not None and room in story.rooms:
            story.leave(room, self._clock())

    def ended(self, connection: Connection, close: Close) -> None:
        """A connection's end is decided."""
        story = self.live.pop(connection.id, None)
        if story is None:
            return
        story.close, story.initiator, story.ended_at = close, connection.initiator, self._clock()
        story.buffered_bytes = 0 if connection.outlet.settle() else connection.outlet.buffered_bytes()
        _make_way(self.ended_stories, ENDED)
        self.ended_stories[connection.id] = story

    def dropped(self, connection: Connection, envelopes: Sequence[Envelope], reason: str) -> None:
        """Publications that were not written to a connection."""
        story = self.story(connection.id)
        if story is not None:
            now = self._clock()
            if len(envelopes) > PER_CONNECTION:
                story.forgotten_until = now
            for envelope in envelopes[-PER_CONNECTION:]:
                story.add(Happening(now, reason, envelope.id, envelope.room))

    def gave_up(self, connection: Connection, taken: Sequence[Taken], messages: int, reason: str) -> None:
        """What an outlet had taken and does not send; ``unsent`` is the last that is heard of it."""
        story = self.story(connection.id)
        if story is None:
            return
        now, names = self._clock(), taken[-PER_CONNECTION:]
        if messages > len(names):
            story.forgotten_until = now
        for name in names:
            story.add(Happening(now, reason, name.message, "" if name.room.startswith("~node/") else name.room))
        if reason == UNSENT:
            story.buffered_bytes = 0

    def confirmed(self, connection: Connection, envelope: Envelope, result: str, seconds: float) -> None:
        """A sampled delivery came to its end."""
        story = self.story(connection.id)
        if story is not None and result != "closed_before":
            story.add(Happening(self._clock(), result, envelope.id, envelope.room, seconds))

    def sent(self, connection: Connection, envelope: Envelope) -> None:
        """A message for this connection alone."""
        story = self.story(connection.id)
        if story is not None:
            story.add(Happening(self._clock(), "sent", envelope.id, ""))

    def missed(self, envelope: Envelope) -> None:
        """A message for a connection alone that was over when it came."""
        story = self.story(envelope.target)
        if story is not None:
            story.add(Happening(self._clock(), "closed", envelope.id, ""))


def _make_way(stories: dict[str, Story], bound: int) -> bool:
    """Leave a place for one more; whether others had to give way."""
    if len(stories) < bound:
        return False
    for name in give_way((Held(one.id, one.owner) for one in stories.values()), len(stories)):
        del stories[name]
    return True


def _owner_of_all(members: Sequence[Connection]) -> str:
    """Whose a room is; ``""`` when several are in it."""
    owners = {owner_of(member) for member in members[:_MANY]}
    return owners.pop() if len(owners) == 1 and len(members) <= _MANY else ""
