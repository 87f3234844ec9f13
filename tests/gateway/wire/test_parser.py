"""``FrameParser`` and ``ControlFinder``: one frame at a time, and control frames from afar."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.parser import ControlFinder, FrameParser, ParserPool

from .clients import BINARY, CONT, PING, PONG, TEXT, frame

PIECES = st.tuples(st.sampled_from([TEXT, BINARY, CONT, PING, PONG]), st.binary(max_size=300), st.booleans())


def test_it_stops_behind_every_frame() -> None:
    """So that its owner can stop there, too."""
    parser = FrameParser(max_message_bytes=1000, fragment_charge_bytes=0)
    one, two = frame(TEXT, b"one"), frame(BINARY, bytes(200))
    assert parser.feed(one + two, 0) == len(one)
    assert (parser.message, parser.message_bytes) == ("one", 3)
    assert parser.idle
    assert parser.feed(one + two, len(one)) == len(one + two)
    assert parser.message == bytes(200)


def test_parsers_are_lent_only_between_messages() -> None:
    """An idle parser goes back and serves another connection."""
    pool = ParserPool(max_message_bytes=1000, fragment_charge_bytes=0)
    parser = pool.take([])
    parser.feed(frame(TEXT, b"x", fin=False), 0)
    assert not parser.idle
    assert pool.take([]) is not parser
    parser.feed(frame(CONT, b"y"), 0)
    assert parser.message == "xy"
    pool.give_back(parser)
    assert pool.take([]) is parser


@settings(max_examples=80, deadline=None)
@given(st.lists(PIECES, max_size=12), st.integers(1, 400), st.integers(0, 50))
def test_control_frames_are_found_however_the_bytes_are_cut(pieces: list[tuple[int, bytes, bool]], size: int, skip: int) -> None:
    """Behind the rest of a frame, between others, cut anywhere; legal or not, data is stepped over."""
    pieces = [(opcode, data[:125] if opcode >= 8 else data, fin) for opcode, data, fin in pieces]
    stream = bytes(skip) + b"".join(frame(opcode, data, fin=fin) for opcode, data, fin in pieces)
    finder, found = ControlFinder(skip), []
    for at in range(0, len(stream), size):
        found += finder.feed(stream[at : at + size])
    assert found == [(opcode, data) for opcode, data, _ in pieces if opcode >= 8]


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=400), st.integers(1, 50))
def test_any_bytes_are_judged_not_crashed_on(data: bytes, size: int) -> None:
    """Random bytes end in a verdict or wait for more; the finder keeps no more than one frame's head and control payload."""
    parser, finder = FrameParser(max_message_bytes=100, fragment_charge_bytes=16), ControlFinder()
    for start in range(0, len(data), size):
        chunk = data[start : start + size]
        finder.feed(chunk)
        assert len(finder._rest) <= 139
        at = 0
        while at < len(chunk) and parser.failure is None and not parser._closed:
            at = parser.feed(chunk, at)
