"""``FrameParser``, ``whole_control`` and ``ControlFinder``: one frame at a time, and control frames from afar."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Opcode

from gateway.wire.control import MAX_FRAMES, ControlFinder, whole_control
from gateway.wire.parser import FrameParser, ParserPool

from .clients import BINARY, CLOSE, CONT, PING, PONG, TEXT, frame

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
@given(st.lists(PIECES, max_size=12), st.integers(1, 400), st.integers(0, 50), st.sampled_from([Opcode.PONG, Opcode.PING]))
def test_control_frames_are_found_however_the_bytes_are_cut(
    pieces: list[tuple[int, bytes, bool]], size: int, skip: int, wanted: Opcode
) -> None:
    """Behind the rest of a frame, between others, cut anywhere; legal or not, data is stepped over."""
    pieces = [(opcode, data[:125] if opcode >= 8 else data, fin) for opcode, data, fin in pieces]
    stream = bytes(skip) + b"".join(frame(opcode, data, fin=fin) for opcode, data, fin in pieces)
    finder, found = ControlFinder(skip), []
    for at in range(0, len(stream), size):
        found += finder.feed(stream[at : at + size], wanted)
    assert found == [data for opcode, data, _ in pieces if opcode == wanted]


@pytest.mark.parametrize("opcode", [PING, PONG, TEXT])
def test_who_sends_thousands_of_frames_is_not_looked_through(opcode: int) -> None:
    """A finder takes a bounded number of steps in all, and unmasks only what it is asked for; large frames are one step each."""
    finder = ControlFinder()
    assert finder.feed(frame(opcode) * (MAX_FRAMES - 1) + frame(CLOSE, b"x"), Opcode.CLOSE) == [b"x"]
    assert finder.feed(frame(CLOSE, b"y"), Opcode.CLOSE) == []
    assert not finder._rest
    finder = ControlFinder()
    for _ in range(100):
        assert not finder.feed(frame(BINARY, bytes(20_000)), Opcode.CLOSE)
    assert finder.feed(frame(CLOSE, b"z"), Opcode.CLOSE) == [b"z"]


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=400), st.integers(1, 50))
def test_any_bytes_are_judged_not_crashed_on(data: bytes, size: int) -> None:
    """Random bytes end in a verdict or wait for more; the finder keeps no more than one frame's head and control payload."""
    parser, finder = FrameParser(max_message_bytes=100, fragment_charge_bytes=16), ControlFinder()
    for start in range(0, len(data), size):
        chunk = data[start : start + size]
        finder.feed(chunk, Opcode.PONG)
        assert len(finder._rest) <= 139
        at = 0
        while at < len(chunk) and parser.failure is None and not parser._closed:
            at = parser.feed(chunk, at)


def test_a_control_frame_in_order_needs_no_parser() -> None:
    """The usual close, an empty one, pings and pongs are taken whole, from where they stand to where they end."""
    for opcode, payload in ((CLOSE, b"\x03\xe8bye"), (CLOSE, b""), (PING, b"x" * 125), (PONG, b"")):
        data = b"before" + frame(opcode, payload)
        found = whole_control(data + b"behind", 6)
        assert found is not None
        assert (found[0].opcode, found[0].data, found[1]) == (opcode, payload, len(data))


CODES = st.sampled_from([999, 1000, 1001, 1004, 1005, 1006, 1007, 1014, 1015, 1016, 2999, 3000, 4999, 5000]) | st.integers(0, 65535)
CLOSES = st.builds(lambda code, reason: code.to_bytes(2, "big") + reason, CODES, st.binary(max_size=10))


@settings(max_examples=300, deadline=None)
@given(
    opcode=st.sampled_from([CLOSE, CLOSE, PING, PONG, TEXT, CONT, 11]),
    payload=CLOSES | st.binary(max_size=130),
    fin=st.booleans() | st.just(True),
    masked=st.booleans() | st.just(True),
    rsv=st.sampled_from([0, 0, 0, 0x40, 0x20, 0x10]),
    cut=st.integers(0, 8),
)
def test_what_is_taken_without_a_parser_is_what_a_parser_makes_of_it(
    opcode: int, payload: bytes, fin: bool, masked: bool, rsv: int, cut: int
) -> None:
    """Legal or not, whole or cut: a frame that is taken at once is one that the library takes, and the same."""
    data = frame(opcode, payload, fin=fin, mask=b"\x01\x02\x03\x04" if masked else None, rsv=rsv)
    data = data[: len(data) - cut]
    found = whole_control(data, 0)
    parser = FrameParser(max_message_bytes=1000, fragment_charge_bytes=0)
    end = parser.feed(data, 0)
    if found is not None:
        assert parser.failure is None
        assert (parser.control, end) == found
    else:
        assert parser.control is None, "a control frame that a parser takes is taken at once"
