"""``Wheel``: many deadlines behind one timer."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.wheel import RESOLUTION_SECONDS, Wheel, wheel_of


class Loop:
    """A loop's clock and timers, moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def is_closed(self) -> bool:
        return False

    def call_at(self, at: float, callback: Any) -> Timer:
        timer = Timer(at, callback)
        self.timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [timer for timer in self.timers if not timer.cancelled and timer.at <= end]:
            timer = min(due, key=lambda timer: timer.at)
            self.timers.remove(timer)
            self.now = max(self.now, timer.at)
            timer.callback()
        self.now = end

    @property
    def armed(self) -> int:
        return sum(not timer.cancelled for timer in self.timers)


class Timer:
    def __init__(self, at: float, callback: Any) -> None:
        self.at, self.callback, self.cancelled = at, callback, False

    def cancel(self) -> None:
        self.cancelled = True


class Entry:
    def __init__(self, loop: Loop, wheel: Wheel | None = None, again: float = 0) -> None:
        self.wheel_tick: int | None = None
        self.loop, self.wheel, self.again = loop, wheel, again
        self.fired: list[float] = []
        self.then: Any = None

    def on_timer(self, now: float) -> None:
        self.fired.append(self.loop.now)
        if self.then is not None:
            self.then()
        if self.again and self.wheel is not None:
            self.wheel.schedule(self, now + self.again)


def made() -> tuple[Loop, Wheel]:
    loop = Loop()
    return loop, Wheel(loop)  # type: ignore[arg-type]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 30), min_size=1, max_size=50))
def test_each_fires_once_never_early_hardly_late(delays: list[float]) -> None:
    """Whatever the deadlines, one timer is armed, and each entry fires within a tick behind its deadline."""
    loop, wheel = made()
    entries = [Entry(loop) for _ in delays]
    for entry, delay in zip(entries, delays, strict=True):
        wheel.schedule(entry, loop.now + delay)
        assert loop.armed == 1
    loop.advance(31)
    for entry, delay in zip(entries, delays, strict=True):
        assert len(entry.fired) == 1
        assert 100 + delay - 1e-9 <= entry.fired[0] <= 100 + delay + 2 * RESOLUTION_SECONDS
    assert len(wheel) == 0
    assert loop.armed == 0


def test_a_new_deadline_replaces_the_old_one() -> None:
    """Earlier or later: only the last counts."""
    loop, wheel = made()
    entry = Entry(loop)
    for delay in (5, 2, 9):
        wheel.schedule(entry, loop.now + delay)
    loop.advance(8)
    assert entry.fired == []
    loop.advance(2)
    assert len(entry.fired) == 1


def test_what_is_cancelled_is_forgotten() -> None:
    """Also by another entry of the same tick."""
    loop, wheel = made()
    entries = [Entry(loop), Entry(loop)]
    for entry in entries:
        wheel.schedule(entry, loop.now + 1)
        entry.then = lambda: [wheel.cancel(other) for other in entries]
    loop.advance(2)
    assert sum(len(entry.fired) for entry in entries) == 1
    assert len(wheel) == 0


def test_an_entry_may_schedule_itself_again() -> None:
    """Also for a time that has passed: then in the next tick, so the wheel always gets to its end."""
    loop, wheel = made()
    entry, hasty = Entry(loop, wheel, again=1), Entry(loop, wheel, again=-5)
    wheel.schedule(entry, loop.now + 1)
    wheel.schedule(hasty, loop.now + 1)
    loop.advance(5.5)
    assert len(entry.fired) == 5
    assert 80 <= len(hasty.fired) <= 100


def test_one_failing_entry_does_not_stop_the_others(caplog: Any) -> None:
    """Its mistake is logged."""
    loop, wheel = made()
    bad, good = Entry(loop), Entry(loop)
    bad.then = lambda: 1 / 0
    wheel.schedule(bad, loop.now + 1)
    wheel.schedule(good, loop.now + 1)
    loop.advance(2)
    assert len(good.fired) == 1
    assert len(caplog.records) == 1


async def test_a_loop_has_one_wheel_which_does_not_keep_it_alive() -> None:
    """The wheel of a loop that is gone is gone, too."""
    assert wheel_of(asyncio.get_running_loop()) is wheel_of(asyncio.get_running_loop())
    other = asyncio.new_event_loop()
    wheel = weakref.ref(wheel_of(other))
    other.close()
    del other
    gc.collect()
    assert wheel() is None
