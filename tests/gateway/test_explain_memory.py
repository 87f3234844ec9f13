"""What explanations cost in memory: what docs/observability.md says of a room and of a connection, measured when they are full."""

from __future__ import annotations

import gc
import itertools
import re
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.connection import Connection
from gateway.envelope import Envelope
from gateway.explain import Records
from gateway.fan_out import FanOut
from gateway.ledger import Ledger
from gateway.message import Message
from tests.gateway.connections import frame_connection

DOCS = " ".join(Path("docs/observability.md").read_text().split())
MANY = 100
OFTEN = 40
"""More than is remembered of anything."""

_numbers = itertools.count(1)


def told(pattern: str) -> float:
    """The bytes that the documentation names, in KiB there."""
    found = re.search(pattern, DOCS)
    assert found is not None, pattern
    return float(found[1]) * 1024


def publication(room: str) -> Envelope:
    """With strings of its own, as from another node, and traced."""
    number = next(_numbers)
    found = Envelope(room, Message("x"), f"0a088dd0-{number}", f"{number:08x}", number / 7)
    found.traceparent = f"00-{number:032x}-{number:016x}-01"
    return found


def made(number: int) -> Connection:
    return frame_connection(id=f"0a088dd0-{number}", user=f"user-{number}")[0]


def come(records: Records, connection: Connection, *rooms: str) -> None:
    for room in rooms:
        connection.rooms.add(room)
        records.joined(connection, room)


@pytest.fixture
def taken_by() -> Iterator[Callable[[Callable[[int], None]], float]]:
    """Measures what ``work`` leaves behind, per call."""

    def measure(work: Callable[[int], None]) -> float:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(MANY):
            work(number)
        gc.collect()
        return (tracemalloc.get_traced_memory()[0] - before) / MANY

    tracemalloc.start()
    yield measure
    tracemalloc.stop()


def test_a_full_room_takes_what_the_documentation_says(taken_by: Callable[[Callable[[int], None]], float]) -> None:
    """No more, with newcomers behind every message too, and not much less."""
    records, totals, member = Records(), Ledger().of_room("r"), made(0)

    def fill(number: int) -> None:
        room = f"a room with a longer name {number}"
        come(records, member, room)
        for _ in range(OFTEN):
            fan_out = FanOut.of(room, [publication(room)], totals, [member], {}, {}, {member: 1})
            records.fanned_out(fan_out)

    assert 0.7 < taken_by(fill) / told(r"A room takes at most (\d+) KiB") < 1


def test_a_full_connection_takes_what_the_documentation_says(taken_by: Callable[[Callable[[int], None]], float]) -> None:
    """No more, when it came and went and lost messages all the time, and little when nothing happened to it."""
    records, connections = Records(), [made(number) for number in range(MANY)]
    idle = taken_by(lambda number: come(records, connections[number], "r", "~all"))

    def fill(number: int) -> None:
        for turn in range(OFTEN):
            room = f"a room with a longer name {number} {turn}"
            come(records, connections[number], room)
            connections[number].rooms.discard(room)
            records.left(connections[number], room)
            records.confirmed(connections[number], publication(f"another {number} {turn}"), "timeout", turn / 7)

    assert idle < told(r"\((\d+) KiB when nothing has happened")
    assert 0.7 < (idle + taken_by(fill)) / told(r"a connection (\d+) KiB") < 1


def test_a_membership_takes_what_the_documentation_says(taken_by: Callable[[Callable[[int], None]], float]) -> None:
    """It grows with what the connection itself holds."""
    records, connection = Records(), made(0)
    for number in range(MANY):
        come(records, connection, f"a room with a longer name {number}")
    assert taken_by(lambda number: come(records, connection, f"some room {number}")) < told(r"and ([\d.]+) KiB for each room")
