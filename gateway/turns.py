"""``Turns``: the rooms of one event loop take turns: what they write at the end of one, and which of them are behind."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from .fan_out import BYTES_PER_TURN

if TYPE_CHECKING:
    from .room import Room

__all__ = ["Turns"]

logger = logging.getLogger("tidegate.room")


class Turns:
    """The rooms that have something to write at the end of this turn of the event loop: one callback for all of them.

    Together they write ``BYTES_PER_TURN``, and what one room's part is more than that; the others are first in the next turn.
    """

    __slots__ = ("_loop", "_rooms", "behind")

    def __init__(self) -> None:
        self._rooms: list[Room] = []
        self.behind: dict[str, deque[Callable[[], None]]] = {}
        """Rooms that have gathered too much, and what is to be called, one after the other, when they have caught up."""
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
        rooms, self._rooms, written = self._rooms, [], 0
        for place, room in enumerate(rooms):
            if written >= BYTES_PER_TURN:
                if not self._rooms:
                    self.loop.call_soon(self._run)
                self._rooms[:0] = rooms[place:]
                break
            try:
                written += room.go_on()
            except Exception:  # one room's mistake is not the others' loss
                logger.exception("writing to a room failed")
