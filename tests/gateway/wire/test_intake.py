"""``gateway.wire.intake``: bytes on their way to the parser, a slice in a turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.intake import SLICE_BYTES, Intake


class World:
    """A transport, a loop whose turns a test runs, and a parser that keeps what it gets."""

    def __init__(self) -> None:
        self.reading, self.closing = True, False
        self.turns: list[Callable[[], None]] = []
        self.parsed: list[bytes] = []
        self.intake = Intake(cast(asyncio.Transport, self), cast(asyncio.AbstractEventLoop, self), self.parsed.append)

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        assert self.reading, "paused once"
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading, "resumed once"
        self.reading = True

    def call_soon(self, call: Callable[[], None]) -> World:
        self.turns.append(call)
        return self

    def cancel(self) -> None:
        self.turns.clear()

    def turn(self) -> None:
        (call,) = self.turns
        self.turns.clear()
        call()


def test_what_is_small_is_parsed_at_once() -> None:
    """And the socket is read on."""
    world = World()
    world.intake.take(bytes(SLICE_BYTES))
    assert (len(world.parsed), world.turns, world.reading) == (1, [], True)


def test_a_turn_parses_one_slice() -> None:
    """Meanwhile the socket is not read; what it brings all the same waits behind the rest."""
    world = World()
    data = bytes(range(256)) * (SLICE_BYTES // 100)
    world.intake.take(data)
    world.intake.take(b"behind")
    assert (len(world.parsed), world.reading) == (1, False)
    while world.turns:
        world.turn()
    assert b"".join(world.parsed) == data + b"behind"
    assert max(map(len, world.parsed)) == SLICE_BYTES
    assert world.reading


def test_nothing_is_parsed_for_an_app_that_has_paused() -> None:
    """Nor read; both go on, in order, when it asks for more."""
    world = World()
    world.intake.take(bytes(2 * SLICE_BYTES + 1))
    world.intake.pause_reading()
    world.turn()
    assert (len(world.parsed), world.turns) == (1, [])
    world.intake.resume_reading()
    assert not world.reading
    world.turn()
    world.turn()
    assert ([len(data) for data in world.parsed], world.reading) == ([SLICE_BYTES, SLICE_BYTES, 1], True)


def test_who_takes_the_socket_over_gets_the_rest() -> None:
    """No turn comes any more, and the socket is read."""
    world = World()
    world.intake.take(bytes(SLICE_BYTES) + b"rest")
    assert world.intake.release() == b"rest"
    assert (world.turns, world.reading, len(world.parsed)) == ([], True, 1)


def test_nothing_is_parsed_for_a_socket_that_is_closing() -> None:
    """Its requests could not be answered."""
    world = World()
    world.intake.take(bytes(SLICE_BYTES + 1))
    world.closing = True
    world.turn()
    assert (len(world.parsed), world.turns) == (1, [])


@given(st.lists(st.sampled_from(["take", "pause", "resume", "turn"]), max_size=40))
def test_the_order_is_kept_and_nothing_is_stuck(steps: list[str]) -> None:
    """However reading is paused and resumed in between, all of it arrives once it is resumed."""
    world, sent = World(), b""
    for number, step in enumerate(steps):
        if step == "take":
            data = bytes((number,)) * (SLICE_BYTES + number)
            sent += data
            world.intake.take(data)
        elif step == "pause":
            world.intake.pause_reading()
        elif step == "resume":
            world.intake.resume_reading()
        elif world.turns:
            world.turn()
        assert sent.startswith(b"".join(world.parsed))
    world.intake.resume_reading()
    while world.turns:
        world.turn()
    assert (b"".join(world.parsed), world.reading) == (sent, True)
