"""Envelopes survive their bytes, and no bytes survive being no envelope."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.envelope import Envelope
from gateway.errors import InvalidEnvelope
from gateway.message import Message
from middleware.close import Close

payloads = st.text() | st.binary()
names = st.text(max_size=40)


def _fields(envelope: Envelope) -> tuple[object, ...]:
    return tuple(getattr(envelope, name) for name in Envelope.__slots__ if name != "message") + (envelope.message.data,)


@given(names, payloads, names, names, st.floats(0, 1e12), names)
def test_an_envelope_is_its_bytes_again(room: str, payload: str | bytes, exclude: str, target: str, at: float, trace: str) -> None:
    """Every field and every payload comes back as it was."""
    sent = Envelope(
        room, Message(payload), id="n-1", node="n", published_at=at, exclude=exclude, target=target, traceparent=trace
    )  # fmt: skip
    assert _fields(Envelope.decode(sent.encode())) == _fields(sent)


def test_a_remote_close_travels_as_code_reason_and_retry() -> None:
    """The ending that another node is to apply arrives whole."""
    close = Close(4001, "replaced", retry=True)
    received = Envelope.decode(Envelope("r", Message(b""), id="1", node="n", close=close).encode())
    assert (received.kind, received.close) == ("close", close)


@given(st.binary(max_size=80))
def test_any_other_bytes_are_refused(data: bytes) -> None:
    """Garbage from a broker is an InvalidEnvelope and nothing else."""
    try:
        Envelope.decode(data)
    except InvalidEnvelope:
        pass


@given(st.integers(0, 60))
def test_a_truncated_envelope_is_refused_or_only_shorter(cut: int) -> None:
    """Cutting into the header is noticed."""
    data = Envelope("room", Message(b"0123456789"), id="n-1", node="n").encode()
    try:
        received = Envelope.decode(data[:cut])
    except InvalidEnvelope:
        return
    assert received.room == "room"
    assert b"0123456789".startswith(received.message.payload)


def test_another_version_is_refused() -> None:
    """A node does not guess at what a newer one says."""
    data = bytearray(Envelope("r", Message("x"), id="1", node="n").encode())
    data[0] = 9
    with pytest.raises(InvalidEnvelope, match="version 9"):
        Envelope.decode(bytes(data))


def test_a_close_that_cannot_be_is_refused() -> None:
    """The flag says close, the code is none: an InvalidEnvelope like any other nonsense."""
    data = bytearray(Envelope("r", Message(b""), id="1", node="n").encode())
    data[1] |= 0x02
    with pytest.raises(InvalidEnvelope, match="close code"):
        Envelope.decode(bytes(data))


def test_text_that_is_no_utf8_is_refused() -> None:
    """The text flag is a promise."""
    data = Envelope("r", Message("x"), id="1", node="n").encode()[:-1] + b"\xff"
    with pytest.raises(InvalidEnvelope):
        Envelope.decode(data)
