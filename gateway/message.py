"""``Message``, a payload that remembers its encoded frames; ``Batch``, what one write carries; and room names.

1. A message never changes. Its frame for a given encoder is built at most once, whoever it goes to: a server's frame is
   unmasked, hence the same bytes for every recipient (RFC 6455 §5.3).
2. A batch keeps the order of its messages.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from middleware.asgi import Encoder, Event

from .errors import InvalidRoomName
from .frame import server_frame

if TYPE_CHECKING:
    from .envelope import Envelope
    from .ledger import NamespaceTotals, Taken

__all__ = ["MAX_ROOM_BYTES", "Batch", "Message", "check_room", "node_room", "self_room", "user_room"]

logger = logging.getLogger("tidegate.message")

TEXT_FRAME, BINARY_FRAME = 0x81, 0x82
"""First byte of an unfragmented text and binary frame: FIN and opcode (RFC 6455 §5.2)."""

MAX_ROOM_BYTES = 255
_NOT_YET = object()
_FORBIDDEN_IN_ROOM = re.compile("[\x00-\x1f\x7f-\x9f/\ufffd\ud800-\udfff\u2028\u2029]")


class Message:
    """A text or binary payload.

    Args:
        data: ``str`` is sent as a text message, ``bytes`` as a binary one.
    """

    __slots__ = ("_frames", "_plain", "data", "payload")

    def __init__(self, data: str | bytes) -> None:
        self.data = data
        self.payload: bytes = data.encode() if isinstance(data, str) else data
        """The payload's bytes; UTF-8 for text."""
        self._plain: bytes | None = None
        self._frames: dict[Encoder, bytes] | None = None

    @classmethod
    def of(cls, value: Any) -> Message:
        """A message of ``value``: text and bytes as they are, anything else as JSON text (``TypeError`` when it has none)."""
        if isinstance(value, Message):
            return value
        if isinstance(value, str | bytes):
            return cls(value)
        if isinstance(value, bytearray | memoryview):
            return cls(bytes(value))
        return cls(msgspec.json.encode(value).decode())

    @property
    def is_text(self) -> bool:
        return isinstance(self.data, str)

    def frame(self, encoder: Encoder | None = None) -> bytes:
        """The whole frame for connections that share ``encoder``; built once."""
        if encoder is None:
            if self._plain is None:
                self._plain = server_frame(TEXT_FRAME if isinstance(self.data, str) else BINARY_FRAME, self.payload)
            return self._plain
        if self._frames is None:
            self._frames = {}
        frame = self._frames.get(encoder)
        if frame is None:
            frame = self._frames[encoder] = server_frame(*encoder.encode(self.payload, text=self.is_text))
        return frame

    def event(self) -> Event:
        """The ``websocket.send`` event."""
        return {"type": "websocket.send", "text" if self.is_text else "bytes": self.data}

    def __repr__(self) -> str:
        return f"<Message {'text' if self.is_text else 'binary'} {len(self.payload)} bytes>"


class Batch(msgspec.Struct, eq=False, gc=False):
    """Messages that are written together; their joined frames are built once per encoder."""

    messages: Sequence[Message]
    totals: NamespaceTotals | None = None
    """Where they are accounted for: messages of a room are, what an app sends to a connection by itself is not."""
    envelopes: Sequence[Envelope] = ()
    """Those that they came in, one each, where they are publications."""
    encoder: object = _NOT_YET
    """Whose ``blob`` and ``blob_bytes`` are at hand, those of the first that asked: most rooms have one encoder."""
    blob: bytes = b""
    blob_bytes: int = 0
    others: dict[Encoder | None, tuple[bytes, int] | None] | None = None
    """What other encoders made of it; ``None`` where one failed."""
    names: Sequence[Taken] | None = None
    """Of its publications; made by who first needs them (``backlog.named``)."""

    def __len__(self) -> int:
        return len(self.messages)

    @property
    def payload_bytes(self) -> int:
        """Of all its messages."""
        return sum([len(message.payload) for message in self.messages])

    def newest(self) -> Batch:
        """The last of its messages alone."""
        return Batch(self.messages[-1:], self.totals, self.envelopes[-1:])

    def encoded(self, encoder: Encoder | None) -> tuple[bytes, int] | None:
        """For connections that share ``encoder``: all frames, one behind the other, and the bytes of their bodies.

        ``None`` when the encoder fails, which is logged once however many connections ask.
        """
        if encoder is self.encoder:
            return self.blob, self.blob_bytes
        if self.others is not None and encoder in self.others:
            return self.others[encoder]
        try:
            encoded = self._encode(encoder)
        except Exception:
            logger.exception("an encoder failed")
            encoded = None
        if encoded is not None and self.encoder is _NOT_YET:
            self.blob, self.blob_bytes = encoded
            self.encoder = encoder
        else:
            self.others = {**(self.others or {}), encoder: encoded}
        return encoded

    def _encode(self, encoder: Encoder | None) -> tuple[bytes, int]:
        if encoder is None and len(self.messages) == 1:  # most are: no list, no copy
            return self.messages[0].frame(), len(self.messages[0].payload)
        frames = [message.frame(encoder) for message in self.messages]
        size = self.payload_bytes if encoder is None else sum([len(frame) - _header_bytes(frame) for frame in frames])
        return b"".join(frames), size


def _header_bytes(frame: bytes) -> int:
    """How long the header of a server's frame is (RFC 6455 §5.2: no mask)."""
    return {126: 4, 127: 10}.get(frame[1], 2)


def check_room(name: str) -> str:
    """Return ``name`` when it is one that a client may use.

    The rules: 1 to 255 bytes in UTF-8; no control characters, no ``/``, no undecodable bytes; not ``.`` or ``..``; names
    that begin with ``~`` are Tidegate's own (``~user/…``, ``~node/…``).

    Raises:
        InvalidRoomName: with a sentence that names the rule.
    """
    if not name:
        raise InvalidRoomName("a room name must not be empty")
    if len(name) > MAX_ROOM_BYTES or len(name.encode("utf-8", "surrogatepass")) > MAX_ROOM_BYTES:
        raise InvalidRoomName(f"a room name is at most {MAX_ROOM_BYTES} bytes long")
    if name[0] == "~":
        raise InvalidRoomName("room names that begin with '~' are reserved")
    if _FORBIDDEN_IN_ROOM.search(name) or name in (".", ".."):
        raise InvalidRoomName("a room name has no control characters, no '/' and is valid UTF-8")
    return name


def user_room(user: str) -> str:
    """The room that every connection of ``user`` is in."""
    return f"~user/{user}"


def node_room(node: str) -> str:
    """The room through which one node is addressed."""
    return f"~node/{node}"


def self_room(node: str) -> str:
    """The room in which a node talks to itself to see whether sockets work."""
    return f"~self/{node}"
