"""``Probes``: messages to oneself, to know that what is published arrives. No loop; time is an argument.

A connection can look healthy and carry nothing: an engine that is frozen, a subscriber that hangs on a server which nobody
publishes to any more. So every path through the engine is probed: published like any message, expected back.

1. A new link is ``UNHEARD`` until all its rooms are confirmed, ``UNPROVEN`` until a probe has come back on every path, then
   ``PROVEN``; only ``reset`` leads back. While it is unheard no probe is published, so none can be overdue.
2. While a probe is late, the broker is not usable; a link that is not proven is late when it is older than that. When a probe is
   overdue, the link is of no use.
3. Paths keep order. A probe that comes back before an older one of its path tells that something in between was lost.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Set
from enum import Enum

from ..envelope import Envelope
from ..errors import InvalidEnvelope
from ..message import Message
from .options import EngineOptions

__all__ = ["Probes", "Progress"]

TICKS = 8
"""How often probes are looked at while the shortest of their times passes."""


class Progress(Enum):
    """How far a link has come; the value says why it is no further."""

    UNHEARD = "its rooms are being subscribed to"
    UNPROVEN = "what is published does not come back"
    PROVEN = ""


class Probes:
    """Probes under way.

    Args:
        name: unique to the node.
        options: the times.
        missed: told in words when something was lost.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        name: str,
        options: EngineOptions,
        *,
        missed: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stem = f"~probe/{name}"
        """What the rooms' names begin with."""
        self.late = False
        self.overdue = ""
        """Why the link is of no use; ``""`` while it is."""
        self.progress = Progress.UNHEARD
        self.tick_seconds = min(options.probe_interval_seconds, options.probe_late_seconds) / TICKS
        self._name = name
        self._options = options
        self._missed = missed
        self._clock = clock
        self._under_way: dict[str, deque[tuple[int, float]]] = {}
        self._unproven: set[str] = set()
        self._made_at = 0.0
        self._number = 0
        self._next_at = 0.0

    @property
    def rooms(self) -> Set[str]:
        """One per path."""
        return self._under_way.keys()

    def reset(self, rooms: Iterable[str]) -> tuple[str, ...]:
        """There is another link, with these paths, or none; nothing is under way."""
        self._under_way = {room: deque() for room in rooms}
        self.progress, self._unproven, self._made_at = Progress.UNHEARD, set(self._under_way), self._clock()
        self.late, self.overdue, self._next_at = False, "", 0.0
        return tuple(self._under_way)

    def heard_all(self) -> None:
        """All rooms are confirmed, perhaps for the first time over this link."""
        if self.progress is Progress.UNHEARD:
            self.progress = Progress.UNPROVEN

    def due(self, now: float) -> list[Envelope]:
        """What is to be published now; expected back from then on."""
        if self.progress is Progress.UNHEARD or now < self._next_at:
            return []
        self._next_at = now + self._options.probe_interval_seconds
        self._number += 1
        for under_way in self._under_way.values():
            under_way.append((self._number, now))
        return [Envelope(room, Message(str(self._number)), id=self._name, node="") for room in self._under_way]

    def came_back(self, envelope: Envelope) -> None:
        """A probe has arrived. Raises ``InvalidEnvelope`` for one that was never sent."""
        under_way = self._under_way[envelope.room]
        numbers = [str(number).encode() for number, _ in under_way]
        if envelope.id != self._name or envelope.message.payload not in numbers:
            raise InvalidEnvelope("a probe that was not sent, or not now")
        lost = numbers.index(envelope.message.payload)
        for _ in range(lost + 1):
            under_way.popleft()
        self._unproven.discard(envelope.room)
        if not self._unproven:
            self.progress = Progress.PROVEN
        self.judge(self._clock())
        if lost:
            self._missed(f"{lost} of our probes did not arrive although a later one did")

    def judge(self, now: float) -> bool:
        """Look at the oldest; True when something has become late or overdue just now."""
        age = now - min((under_way[0][1] for under_way in self._under_way.values() if under_way), default=now)
        was_late, was_overdue = self.late, self.overdue
        proven = self.progress is Progress.PROVEN
        self.late = (age if proven else now - self._made_at) > self._options.probe_late_seconds
        if age > self._options.probe_timeout_seconds:
            self.overdue = f"a probe did not come back within {self._options.probe_timeout_seconds:g} s"
        return (self.late and not was_late) or self.overdue != was_overdue
