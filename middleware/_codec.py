"""The compressed mode's messages: how a payload is packed, packed once for many, and unpacked.

A message in compressed mode is one binary message: a byte of flags, then the payload. Bit 0: the payload is one zstd frame
(RFC 8878). Bit 1: it is text, UTF-8. The other bits are zero. What is short, or does not get smaller, travels as it is.

1. A ``Codec`` is shared by all connections that use its level and dictionary. It knows nothing of them but which are open, to count
   what they were sent: what was sent and not packed had been packed before.
2. The memo holds the payload itself beside what it was packed into, so that an ``id`` in it cannot pass to another object.

Private to ``compression.py``.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from time import perf_counter

from ._zstd import Dictionary, Undecodable, Zstd
from .close import BAD_PAYLOAD, MESSAGE_TOO_BIG
from .layer import Link

__all__ = [
    "COMPRESSION_CACHE_HITS",
    "COMPRESSION_MESSAGES",
    "COMPRESSION_RAW_BYTES",
    "COMPRESSION_SECONDS",
    "COMPRESSION_WIRE_BYTES",
    "DECOMPRESSION_MESSAGES",
    "DECOMPRESSION_RAW_BYTES",
    "DECOMPRESSION_SECONDS",
    "DECOMPRESSION_WIRE_BYTES",
    "Codec",
]

COMPRESSION_MESSAGES = "compression_messages"
"""Messages packed; one that goes to many counts once."""
COMPRESSION_RAW_BYTES = "compression_raw_bytes"
COMPRESSION_WIRE_BYTES = "compression_wire_bytes"
COMPRESSION_SECONDS = "compression_seconds"
"""Time spent packing, in seconds."""
COMPRESSION_CACHE_HITS = "compression_cache_hits"
"""Messages that were sent and had been packed already, by the memo's or by a server's cache of frames."""
DECOMPRESSION_MESSAGES = "decompression_messages"
DECOMPRESSION_RAW_BYTES = "decompression_raw_bytes"
DECOMPRESSION_WIRE_BYTES = "decompression_wire_bytes"
DECOMPRESSION_SECONDS = "decompression_seconds"

_COMPRESSED = 1
_TEXT = 2
_PREFIX = (b"\x00", b"\x01", b"\x02", b"\x03")
_ENTRY_BYTES = 200
"""What an entry of the memo takes beside the two objects it keeps alive."""
_FINAL_BINARY_FRAME = 0x82  # FIN and opcode 2, RFC 6455 §5.2


class Codec:
    """Packs and unpacks messages of one compression level and dictionary; an ``asgi.Encoder``."""

    __slots__ = ("_limit_bytes", "_minimum_bytes", "_thread", "_zstd")

    def __init__(
        self, dictionary: Dictionary | None, *, level: int, minimum_bytes: int, max_message_bytes: int, memo_bytes: int | None
    ) -> None:
        self._zstd = Zstd(level, dictionary)
        self._thread = _PerThread(memo_bytes or 0)
        self._minimum_bytes = minimum_bytes
        self._limit_bytes = max_message_bytes

    def encode(self, payload: bytes, *, text: bool) -> tuple[int, bytes]:
        return _FINAL_BINARY_FRAME, self._pack(payload, _TEXT if text else 0)

    def pack(self, payload: str | bytes) -> bytes:
        """The message that carries ``payload``: the one made before, when this very object was packed a moment ago."""
        if len(payload) < self._minimum_bytes or type(payload) not in (str, bytes):
            return self._pack_any(payload)  # joining two short strings costs less than remembering; a bytearray may change
        memo = self._thread.memo
        packed = memo.get(payload)
        if packed is None:
            packed = self._pack_any(payload)
            memo.put(payload, packed)
        return packed

    def unpack(self, message: bytes | None) -> str | bytes:
        """The payload of ``message`` (``None``: it came as text); raises ``Undecodable``."""
        if not message:
            raise Undecodable(BAD_PAYLOAD, "a message in compressed mode is binary and starts with a byte of flags")
        flags, payload = message[0], message[1:]
        if flags > _COMPRESSED | _TEXT:
            raise Undecodable(BAD_PAYLOAD, f"the flags {flags:#04x} are not known")
        figures = self._thread.figures
        if flags & _COMPRESSED:
            started = perf_counter()
            payload = self._zstd.decompress(payload, self._limit_bytes)
            figures.unpacking_seconds += perf_counter() - started
        elif len(payload) > self._limit_bytes:
            raise Undecodable(MESSAGE_TOO_BIG, f"it has more than {self._limit_bytes} bytes")
        figures.unpacked += 1
        figures.unpacked_raw_bytes += len(payload)
        figures.unpacked_wire_bytes += len(message)
        return _text(payload) if flags & _TEXT else payload

    def opened(self, link: Link) -> None:
        """A connection was accepted in compressed mode."""
        self._thread.open.add(link)

    def closed(self, link: Link) -> None:
        """It is over."""
        thread = self._thread
        thread.open.discard(link)
        thread.figures.sent(link.channel.sent_messages)
        self.report(link)

    def report(self, link: Link) -> None:
        """Tell ``link`` what was done on this thread since the last report, whichever connection it was done for."""
        self._thread.figures.report(link.observe)

    def report_all(self) -> None:
        """As ``report``, with what the open connections of this thread were sent so far; when there is none all is told already.

        On a thread without connections, as that of a scrape's own server, this tells nothing: they tell as they send and close.
        """
        thread = self._thread
        if thread.open:
            thread.figures.count_hits(sum([link.channel.sent_messages for link in thread.open]))
            self.report(next(iter(thread.open)))

    def _pack_any(self, payload: str | bytes) -> bytes:
        return self._pack(payload.encode(), _TEXT) if isinstance(payload, str) else self._pack(payload, 0)

    def _pack(self, payload: bytes, flags: int) -> bytes:
        message = _PREFIX[flags] + payload
        figures = self._thread.figures
        if len(payload) >= self._minimum_bytes:
            started = perf_counter()
            frame = self._zstd.compress(payload)
            figures.packing_seconds += perf_counter() - started
            if len(frame) < len(payload):
                message = _PREFIX[flags | _COMPRESSED] + frame
        figures.packed += 1
        figures.packed_raw_bytes += len(payload)
        figures.packed_wire_bytes += len(message)
        return message


def _text(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        raise Undecodable(BAD_PAYLOAD, str(error)) from None


class _Memo:
    """What was packed last, by the identity of the payload; the oldest leave when ``limit_bytes`` are exceeded.

    The newest stays whatever its size, since it may be on its way to many.
    """

    __slots__ = ("_entries", "_limit_bytes", "_used_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self._entries: dict[int, tuple[str | bytes, bytes]] = {}
        self._limit_bytes = limit_bytes
        self._used_bytes = 0

    def get(self, payload: str | bytes) -> bytes | None:
        entry = self._entries.get(id(payload))
        return None if entry is None else entry[1]

    def put(self, payload: str | bytes, packed: bytes) -> None:
        if not self._limit_bytes:
            return
        entries = self._entries
        entries[id(payload)] = (payload, packed)
        self._used_bytes += _size_of(payload, packed)
        while self._used_bytes > self._limit_bytes and len(entries) > 1:
            self._used_bytes -= _size_of(*entries.pop(next(iter(entries))))


def _size_of(payload: str | bytes, packed: bytes) -> int:
    return sys.getsizeof(payload) + sys.getsizeof(packed) + _ENTRY_BYTES


class _Figures:
    """What was done since the last report."""

    __slots__ = (
        "_hits", "_packed", "_sent", "cache_hits", "packed", "packed_raw_bytes", "packed_wire_bytes", "packing_seconds",
        "unpacked", "unpacked_raw_bytes", "unpacked_wire_bytes", "unpacking_seconds",
    )  # fmt: skip

    def __init__(self) -> None:
        self.packed = self.packed_raw_bytes = self.packed_wire_bytes = self.cache_hits = 0
        self.unpacked = self.unpacked_raw_bytes = self.unpacked_wire_bytes = 0
        self.packing_seconds = self.unpacking_seconds = 0.0
        self._hits = self._packed = self._sent = 0
        """Totals: hits that were counted, messages packed that were reported, and messages sent to connections that are over."""

    def sent(self, messages: int) -> None:
        """A connection is over that was sent so many."""
        self._sent += messages
        self.count_hits(0)

    def count_hits(self, messages: int) -> None:
        """Open connections were sent so many; messages that were packed and reached nobody make it a little less than the truth."""
        hits = max(0, self._sent + messages - self._packed - self.packed - self._hits)
        self._hits += hits
        self.cache_hits += hits

    def report(self, observe: Callable[[str, float], None]) -> None:
        """Tell what there is to tell, and start again. Called for every message, so without a list or an object."""
        if self.packed:
            observe(COMPRESSION_MESSAGES, self.packed)
            observe(COMPRESSION_RAW_BYTES, self.packed_raw_bytes)
            observe(COMPRESSION_WIRE_BYTES, self.packed_wire_bytes)
            observe(COMPRESSION_SECONDS, self.packing_seconds)
            self._packed += self.packed
            self.packed = self.packed_raw_bytes = self.packed_wire_bytes = 0
            self.packing_seconds = 0.0
        if self.cache_hits:
            observe(COMPRESSION_CACHE_HITS, self.cache_hits)
            self.cache_hits = 0
        if self.unpacked:
            observe(DECOMPRESSION_MESSAGES, self.unpacked)
            observe(DECOMPRESSION_RAW_BYTES, self.unpacked_raw_bytes)
            observe(DECOMPRESSION_WIRE_BYTES, self.unpacked_wire_bytes)
            observe(DECOMPRESSION_SECONDS, self.unpacking_seconds)
            self.unpacked = self.unpacked_raw_bytes = self.unpacked_wire_bytes = 0
            self.unpacking_seconds = 0.0


class _PerThread(threading.local):
    """Memo, figures and open connections of one thread, so that no two event loops change the same ones."""

    def __init__(self, memo_bytes: int) -> None:
        self.memo = _Memo(memo_bytes)
        self.figures = _Figures()
        self.open: set[Link] = set()
