"""``Wheel``: the deadlines of every connection of an event loop behind one timer.

Ten thousand connections that each arm, re-arm and cancel timers would keep the loop's heap busy. Here a deadline is
rounded up to a tick; everything that is due in a tick shares a set; the loop knows one timer, for the earliest tick.

1. ``on_timer`` is called once per ``schedule``, never early, at most ``RESOLUTION_SECONDS`` late (on an idle loop).
2. An entry is in at most one set; after ``cancel`` the wheel holds no reference to it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import weakref
from heapq import heappop, heappush
from typing import Protocol

__all__ = ["RESOLUTION_SECONDS", "Timed", "Wheel", "wheel_of"]

RESOLUTION_SECONDS = 0.05

logger = logging.getLogger("tidegate.wire")


class Timed(Protocol):
    """What the wheel can call back. ``wheel_tick`` belongs to the wheel; it starts as ``None``."""

    wheel_tick: int | None

    def on_timer(self, now: float) -> None:
        """The deadline has passed; ``now`` is the loop's time."""


class Wheel:
    """The deadlines on one event loop."""

    __slots__ = ("__weakref__", "_armed_tick", "_fired_tick", "_handle", "_loop", "_slots", "_ticks")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._slots: dict[int, set[Timed]] = {}
        self._ticks: list[int] = []
        self._handle: asyncio.TimerHandle | None = None
        self._armed_tick = 0
        self._fired_tick = -1

    def __len__(self) -> int:
        """How many entries wait."""
        return sum(map(len, self._slots.values()))

    def schedule(self, entry: Timed, at: float) -> None:
        """Call ``entry.on_timer`` when the loop's time has reached ``at``; replaces what was scheduled for it before."""
        tick = max(math.ceil(at / RESOLUTION_SECONDS), self._fired_tick + 1)  # what is past is due in the next tick
        if entry.wheel_tick == tick:
            return
        self.cancel(entry)
        slot = self._slots.get(tick)
        if slot is None:
            slot = self._slots[tick] = set()
            heappush(self._ticks, tick)
        slot.add(entry)
        entry.wheel_tick = tick
        if self._handle is None or tick < self._armed_tick:
            self._arm()

    def cancel(self, entry: Timed) -> None:
        """Forget ``entry``."""
        tick = entry.wheel_tick
        if tick is not None:
            entry.wheel_tick = None
            slot = self._slots.get(tick)
            if slot is not None:
                slot.discard(entry)

    def _arm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        while self._ticks and not self._slots[self._ticks[0]]:
            del self._slots[heappop(self._ticks)]
        loop = self._loop()
        if self._ticks and loop is not None and not loop.is_closed():
            self._armed_tick = self._ticks[0]
            self._handle = loop.call_at(self._armed_tick * RESOLUTION_SECONDS, self._fire)

    def _fire(self) -> None:
        self._handle = None
        loop = self._loop()
        assert loop is not None, "the loop that runs this is alive"
        now = loop.time()
        # A timer may fire a hair early; what it was armed for counts as due.
        last = self._fired_tick = max(self._armed_tick, math.floor(now / RESOLUTION_SECONDS))
        while self._ticks and self._ticks[0] <= last:
            tick = heappop(self._ticks)
            for entry in self._slots.pop(tick):
                if entry.wheel_tick != tick:  # cancelled or moved by one that came before it
                    continue
                entry.wheel_tick = None
                try:
                    entry.on_timer(max(now, last * RESOLUTION_SECONDS))
                except Exception:  # one connection's mistake must not stop the clock of the others
                    logger.exception("a timer failed")
        self._arm()


_wheels: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Wheel] = weakref.WeakKeyDictionary()


def wheel_of(loop: asyncio.AbstractEventLoop) -> Wheel:
    """The wheel of ``loop``, made when it is first asked for."""
    wheel = _wheels.get(loop)
    if wheel is None:
        wheel = _wheels[loop] = Wheel(loop)
    return wheel
