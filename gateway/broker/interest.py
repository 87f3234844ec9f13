"""``Interest``: which rooms are to be heard, which of them the engine has confirmed, and what to tell it next. No loop, no clock.

1. A room is told to the engine whenever *wanted* and *confirmed* differ, however often that changes meanwhile.
2. A new link knows nothing: ``reset`` makes every wanted room unconfirmed, and telling them again is the same work as telling
   them the first time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable
from typing import NamedTuple

__all__ = ["Changes", "Interest"]


class Changes(NamedTuple):
    """What to tell the engine."""

    subscribe: list[str]
    unsubscribe: list[str]


class Interest:
    """Wanted rooms, and the engine's knowledge of them."""

    def __init__(self) -> None:
        self.wanted: set[str] = set()
        self.confirmed: set[str] = set()
        self._changed: deque[str] = deque()  # in the order of asking; a room that is in it twice is harmless

    def want(self, room: str) -> None:
        self.wanted.add(room)
        self._changed.append(room)

    def drop(self, room: str) -> None:
        self.wanted.discard(room)
        self._changed.append(room)

    def changes(self, limit: int) -> Changes | None:
        """The next rooms to tell, at most ``limit``; ``None`` when there is nothing. To be confirmed or given up by ``reset``."""
        subscribe: dict[str, None] = {}
        unsubscribe: dict[str, None] = {}
        while self._changed and len(subscribe) + len(unsubscribe) < limit:
            room = self._changed.popleft()
            if room in self.wanted and room not in self.confirmed:
                subscribe[room] = None
            elif room in self.confirmed and room not in self.wanted:
                unsubscribe[room] = None
        return Changes(list(subscribe), list(unsubscribe)) if subscribe or unsubscribe else None

    def done(self, changes: Changes, refused: Container[str] = ()) -> None:
        """The engine has confirmed them, except ``refused``: these are told again when they are wanted anew or after ``reset``."""
        self.confirmed.update(room for room in changes.subscribe if room not in refused)
        self.confirmed.difference_update(changes.unsubscribe)

    def reset(self, without: Iterable[str] = ()) -> None:
        """The engine knows nothing any more, and ``without`` are not wanted any more."""
        self.wanted.difference_update(without)
        self.confirmed.clear()
        self._changed = deque(self.wanted)
