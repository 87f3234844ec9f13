"""``gateway.wire.patience``: who reads slowly has time, who does not read has not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from gateway.wire.outbound import SLOWEST_READ_BYTES
from gateway.wire.patience import Patience


class World:
    """A transport with so many bytes waiting, and a loop whose timers a test runs."""

    def __init__(self) -> None:
        self.waiting = 10 * SLOWEST_READ_BYTES
        self.aborted = False
        self.timers: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []
        self.patience = Patience(cast(asyncio.Transport, self), cast(asyncio.AbstractEventLoop, self), 20.0)

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def abort(self) -> None:
        self.aborted = True

    def call_later(self, seconds: float, call: Callable[..., None], *arguments: Any) -> World:
        self.timers.append((seconds, call, arguments))
        return self

    def cancel(self) -> None:
        self.timers.clear()

    def run_out(self) -> None:
        """The time is over."""
        ((seconds, call, arguments),) = self.timers
        assert seconds == 20.0
        self.timers.clear()
        call(*arguments)


def test_who_reads_nothing_is_dropped() -> None:
    """Or next to nothing: less than the slowest that still counts as reading."""
    for read in (0, SLOWEST_READ_BYTES - 1):
        world = World()
        world.patience.begin()
        world.waiting -= read
        world.run_out()
        assert (world.aborted, world.timers) == (True, [])


def test_who_reads_slowly_has_all_the_time_it_needs() -> None:
    """Each time something was read it begins anew."""
    world = World()
    world.patience.begin()
    for _ in range(5):
        world.waiting -= SLOWEST_READ_BYTES
        world.run_out()
        assert not world.aborted
    world.run_out()
    assert world.aborted


def test_it_ends_with_the_need_for_it() -> None:
    """One timer at most while it is needed, none after; both may be said twice."""
    world = World()
    world.patience.begin()
    world.patience.begin()
    assert len(world.timers) == 1
    world.patience.end()
    world.patience.end()
    assert (world.timers, world.aborted) == ([], False)
    world.patience.begin()
    assert len(world.timers) == 1
