"""``Envelope``: what travels through a broker, and its bytes.

Layout of version 1: ``version (1) · flags (1) · header length (2, big-endian) · header (MessagePack array) · payload``.
The payload stands behind the header as it is, so nothing is escaped or copied twice. A reader refuses versions it does not
know and ignores header fields behind those it knows, so that fields can be added.
"""

from __future__ import annotations

import struct
import time
from typing import Literal

import msgspec

from middleware.close import Close

from .errors import InvalidEnvelope
from .message import Message

__all__ = ["Envelope", "is_sampled", "trace_id_of"]

VERSION = 1
_PREFIX = struct.Struct("!BBH")
_TEXT, _CLOSE = 0x01, 0x02
_TRACEPARENT_LENGTH = 55


class _Header(msgspec.Struct, array_like=True, frozen=True):
    room: str
    id: str
    node: str
    published_at: float
    exclude: str = ""
    target: str = ""
    traceparent: str = ""
    close_code: int = 0
    close_reason: str = ""
    close_retry: bool = False


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Header)


class Envelope(msgspec.Struct, gc=False, eq=False):
    """A message on its way to a room, or the order to close a room's connections."""

    room: str
    """Whom it is for; users and nodes are rooms too."""
    message: Message
    """The payload; empty for a close."""
    id: str
    """Unique, made by the publishing node."""
    node: str
    """The publishing node."""
    published_at: float = msgspec.field(default_factory=time.time)
    """Seconds since the epoch, when it was accepted for publishing."""
    exclude: str = ""
    """A connection that is not to get it."""
    target: str = ""
    """The only connection that is to get it (node rooms)."""
    traceparent: str = ""
    """W3C trace context of the publisher, or ``""``."""
    close: Close | None = None
    """Close the room's connections (or the target's) with this instead of sending."""

    @property
    def kind(self) -> Literal["message", "close"]:
        return "message" if self.close is None else "close"

    def encode(self) -> bytes:
        """The envelope's bytes."""
        close = self.close
        header = _encoder.encode(
            _Header(
                self.room, self.id, self.node, self.published_at, self.exclude, self.target, self.traceparent,
                *((close.code, close.reason, close.retry) if close else ()),
            )
        )  # fmt: skip
        flags = (_TEXT if self.message.is_text else 0) | (_CLOSE if close else 0)
        return b"".join((_PREFIX.pack(VERSION, flags, len(header)), header, self.message.payload))

    @classmethod
    def decode(cls, data: bytes) -> Envelope:
        """The envelope in ``data``. Raises ``InvalidEnvelope`` for anything else."""
        try:
            version, flags, length = _PREFIX.unpack_from(data)
            if version != VERSION:
                raise InvalidEnvelope(f"envelope version {version}, this node reads {VERSION}")
            start = _PREFIX.size + length
            if len(data) < start:
                raise InvalidEnvelope("truncated envelope")
            header = _decoder.decode(memoryview(data)[_PREFIX.size : start])
            payload = data[start:]
            message = Message(payload.decode() if flags & _TEXT else payload)
            close = Close(header.close_code, header.close_reason, header.close_retry) if flags & _CLOSE else None
        except InvalidEnvelope:
            raise
        except (struct.error, msgspec.MsgspecError, ValueError) as error:  # no UTF-8, or a close that cannot be
            raise InvalidEnvelope(f"not an envelope: {error}") from error
        return cls(
            header.room, message, id=header.id, node=header.node, published_at=header.published_at,
            exclude=header.exclude, target=header.target, traceparent=header.traceparent, close=close,
        )  # fmt: skip


def trace_id_of(traceparent: str) -> str:
    """The trace id in a well-formed ``traceparent`` (W3C Trace Context §3.2.2): 32 hexadecimal digits."""
    return traceparent[3:35]


def is_sampled(traceparent: str) -> bool:
    """The sampled flag (W3C Trace Context §3.2.2.5.1): there are spans to look at. What came through a broker may be anything."""
    return len(traceparent) == _TRACEPARENT_LENGTH and traceparent[-1] in "13579bdf"
