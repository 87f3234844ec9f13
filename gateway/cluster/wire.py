"""What nodes tell each other, and its bytes: MessagePack arrays in the payload of an envelope.

1. Whatever is decoded is within its bounds; everything else raises ``InvalidControl`` and is ignored by whoever listens.
2. Fields behind those this version knows are ignored, so that fields can be added; so is a kind that it does not know.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal

import msgspec

__all__ = ["LARGEST_CONTROL_BYTES", "Answer", "Ask", "Control", "Gone", "Here", "InvalidControl", "decode", "encode", "is_node_id"]

LARGEST_CONTROL_BYTES = 96 * 1024
"""The largest payload that is looked at. Answers carry at most ``pages.LARGEST_PART_BYTES`` of names."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 48)]
_Number = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
_Word = Annotated[str, msgspec.Meta(max_length=64)]
_Name = Annotated[str, msgspec.Meta(max_length=255)]


class Here(msgspec.Struct, array_like=True, tag="here", frozen=True):
    """A heartbeat: the node is there."""

    instance: _Word
    """Made when the node started: tells two processes of the same id apart."""
    version: _Word
    age_seconds: _Number
    interval_seconds: Annotated[float, msgspec.Meta(ge=0.05, le=60)]
    """When the next one is due."""
    connections: _Count
    rooms: _Count
    load: _Number
    """CPU seconds per second since the last heartbeat; 1 is one core in full."""
    is_draining: bool = False
    is_new: bool = False
    """It has just come and knows nobody: everybody please say that they are here."""
    number: _Count = 0
    """How many heartbeats of this process the engine had confirmed before: who hears a jump has missed some."""


class Gone(msgspec.Struct, array_like=True, tag="gone", frozen=True):
    """The node stops."""

    instance: _Word


class Ask(msgspec.Struct, array_like=True, tag="ask", frozen=True):
    """A question to every node, to be answered to the asker's own room."""

    number: _Count
    about: Literal["rooms", "members"]
    room: _Name
    """Whose members; empty for rooms."""
    after: _Name
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)]


class Answer(msgspec.Struct, array_like=True, tag="answer", frozen=True):
    """One node's part of a page: its own names behind ``after``, in order, and how often it has each."""

    number: _Count
    total: _Count
    names: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=1000)]
    counts: Annotated[tuple[_Count, ...], msgspec.Meta(max_length=1000)]
    """As long as ``names``, or empty where each name counts once."""
    more: bool
    """It has names behind the last of these."""


Control = Here | Gone | Ask | Answer

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Control] = msgspec.msgpack.Decoder(Control)


class InvalidControl(ValueError):
    """Bytes that say nothing to this node."""


def encode(control: Control) -> bytes:
    """The payload's bytes."""
    return _encoder.encode(control)


def decode(payload: bytes) -> Control:
    """What ``payload`` says. Raises ``InvalidControl``."""
    if len(payload) > LARGEST_CONTROL_BYTES:
        raise InvalidControl(f"{len(payload)} bytes are more than a node says")
    try:
        control = _decoder.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # no UTF-8, or nested without end
        raise InvalidControl(f"not a message of nodes: {error}") from None
    if isinstance(control, Here) and not all(
        math.isfinite(number) for number in (control.age_seconds, control.interval_seconds, control.load)
    ):
        raise InvalidControl("a figure that is no number")
    if isinstance(control, Answer) and not _is_page(control):
        raise InvalidControl("an answer that is not in order")
    return control


def _is_page(answer: Answer) -> bool:
    names = answer.names
    is_sorted = all(one < other for one, other in pairwise(names))
    return is_sorted and len(answer.counts) in (0, len(names)) and not (answer.more and not names)


def is_node_id(text: str) -> bool:
    """Whether ``text`` can be the id of a node: short and printable."""
    return 0 < len(text) <= 128 and text.isprintable() and text.isascii()
