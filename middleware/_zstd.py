"""Everything that touches the ``zstandard`` package: dictionaries, compressing, and bounded decompressing.

1. A payload that would come out larger than the limit is refused before that much memory is taken, whatever the frame
   says about itself; only frames that stay within the limit are ever unpacked whole.
2. The work for one frame is bounded by its size and the limit, not by how its sender cut it up.
3. zstandard's objects keep their tables between calls and are not safe to share between threads, so there is one of each
   per thread and dictionary, and none per connection.

Private: ``compression.py`` and ``dictionaries.py`` are the public doors.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

import zstandard

from .close import BAD_PAYLOAD, MESSAGE_TOO_BIG, Close

__all__ = ["LEVELS", "Dictionary", "Undecodable", "Zstd", "train_dictionary"]

LEVELS = range(1, zstandard.MAX_COMPRESSION_LEVEL + 1)
MINIMUM_SAMPLES = 10
MINIMUM_SAMPLE_BYTES = 8
"""Shorter ones teach nothing, and a training set made of them only crashes libzstd."""
MINIMUM_DICTIONARY_BYTES = 256

_DICTIONARY_MAGIC = b"\x37\xa4\x30\xec"  # RFC 8878 §5
_WINDOW_BYTES = 8 * 1024 * 1024
"""The window that RFC 8878 §3.1.1.1.2 wants every decoder to support, and no more; only the part that is used becomes memory."""
_MAX_BLOCK_BYTES = 128 * 1024  # RFC 8878 §3.1.1.2.4
_MAX_BLOCKS = 1024
"""Blocks beyond those that a frame of the largest size needs. Each may bring its own tables, which take far longer to build
than the few bytes to describe them take to send."""
_FEW_BLOCKS_BYTES = 3 * _MAX_BLOCKS
"""A frame of this size has no room for more."""
_COUNTING_BYTES = 64 * 1024
_RLE_BLOCK = 1
_EMPTY_BODIES = (b"\x01\x00\x00", b"\x01\x00\x00\x99\xe9\xd8\x51")
"""One last raw block of no bytes, without and with a content checksum: the only bodies of a frame of nothing."""


class Undecodable(ValueError):
    """What a peer sent cannot be unpacked; ``close`` is how its connection ends."""

    def __init__(self, close: Close, detail: str) -> None:
        super().__init__(f"{close.reason}: {detail}")
        self.close = close


@dataclass(frozen=True, slots=True)
class Dictionary:
    """A trained zstd dictionary (RFC 8878 §5). ``id`` is the first 16 hex digits of its SHA-256, so it names this content only.

    Raises ``ValueError`` when ``data`` is not such a dictionary.
    """

    data: bytes = field(repr=False)
    id: str = field(init=False)

    def __post_init__(self) -> None:
        if self.data[:4] != _DICTIONARY_MAGIC:
            raise ValueError("not a trained zstd dictionary: it does not start with the bytes 37 A4 30 EC")
        try:
            zstandard.ZstdCompressionDict(self.data, dict_type=zstandard.DICT_TYPE_FULLDICT).precompute_compress(level=1)
        except zstandard.ZstdError as error:
            raise ValueError(f"a damaged zstd dictionary: {error}") from None
        object.__setattr__(self, "id", hashlib.sha256(self.data).hexdigest()[:16])


def train_dictionary(samples: Iterable[bytes], size_bytes: int = 16 * 1024) -> Dictionary:
    """Learn what ``samples`` (one message each) have in common, in at most ``size_bytes``.

    A hundred times ``size_bytes`` of samples is a good amount. Pieces of them end up in the dictionary as they are.
    Raises ``ValueError`` when there are too few, or when they share nothing worth keeping.
    """
    messages: list[bytes | bytearray | memoryview] = [sample for sample in samples if len(sample) >= MINIMUM_SAMPLE_BYTES]
    total = sum(map(len, messages))
    if size_bytes < MINIMUM_DICTIONARY_BYTES:
        raise ValueError(f"a dictionary needs at least {MINIMUM_DICTIONARY_BYTES} bytes, not {size_bytes}")
    if len(messages) < MINIMUM_SAMPLES:
        raise ValueError(
            f"{len(messages)} samples of {MINIMUM_SAMPLE_BYTES} bytes or more are too few: "
            f"give at least {MINIMUM_SAMPLES} messages, better a thousand"
        )
    if total < size_bytes:
        raise ValueError(
            f"{len(messages)} samples of {total} bytes in all are too few for a dictionary of {size_bytes} bytes: "
            f"collect about {100 * size_bytes} bytes of typical messages, or ask for a smaller one"
        )
    try:
        return Dictionary(zstandard.train_dictionary(size_bytes, messages).as_bytes())
    except zstandard.ZstdError as error:
        raise ValueError(f"no dictionary of {size_bytes} bytes can be made of these {len(messages)} samples: {error}") from None


class Zstd(threading.local):
    """A compressor and a decompressor for one level and dictionary; each thread that comes by gets its own pair."""

    def __init__(self, level: int, dictionary: Dictionary | None) -> None:
        shared = None
        if dictionary is not None:
            shared = zstandard.ZstdCompressionDict(dictionary.data, dict_type=zstandard.DICT_TYPE_FULLDICT)
            shared.precompute_compress(level=level)
        # The subprotocol has named the dictionary, so its number would only make every frame longer.
        self.compress = zstandard.ZstdCompressor(level, dict_data=shared, write_dict_id=False).compress
        self._decompressor = zstandard.ZstdDecompressor(dict_data=shared, max_window_size=_WINDOW_BYTES)

    def decompress(self, frame: bytes, limit_bytes: int) -> bytes:
        """The content of exactly one zstd frame (RFC 8878 §3.1.1) of at most ``limit_bytes``; raises ``Undecodable``."""
        try:
            size = zstandard.frame_content_size(frame)
            if len(frame) > _FEW_BLOCKS_BYTES:
                _check_blocks(frame, _MAX_BLOCKS + limit_bytes // _MAX_BLOCK_BYTES)
            if size < 0:
                size = self._count(frame, limit_bytes)
            if size > limit_bytes:
                raise Undecodable(MESSAGE_TOO_BIG, f"it unpacks to more than {limit_bytes} bytes")
            if size == 0:  # zstandard takes the header's word for this one
                return _nothing(frame)
            return self._decompressor.decompress(frame, max_output_size=size, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise Undecodable(BAD_PAYLOAD, str(error)) from None

    def _count(self, frame: bytes, limit_bytes: int) -> int:
        """Size of a frame that does not declare it, in bytes: unpacked piece by piece, keeping none, until past the limit."""
        if _window(frame) > _WINDOW_BYTES:
            raise Undecodable(MESSAGE_TOO_BIG, f"it needs a window of more than {_WINDOW_BYTES} bytes")
        size = 0
        with self._decompressor.stream_reader(frame) as reader:
            while size <= limit_bytes and (piece := reader.read(_COUNTING_BYTES)):
                size += len(piece)
        return size


def _check_blocks(frame: bytes, most: int) -> None:
    """Refuse a frame that is cut into more than ``most`` blocks (RFC 8878 §3.1.1.2); one that is not whole is judged later."""
    position = zstandard.frame_header_size(frame)
    for _ in range(most):
        header = int.from_bytes(frame[position : position + 3], "little")
        position += 4 if header >> 1 & 3 == _RLE_BLOCK else 3 + (header >> 3)
        if header & 1 or position >= len(frame):
            return
    raise Undecodable(MESSAGE_TOO_BIG, f"it is cut into more than {most} blocks")


def _window(frame: bytes) -> int:
    """The window in bytes that a frame without a content size asks for (RFC 8878 §3.1.1.1.2)."""
    exponent, mantissa = frame[5] >> 3, frame[5] & 7
    return (1 << 10 + exponent) * (8 + mantissa) // 8


def _nothing(frame: bytes) -> bytes:
    if frame[zstandard.frame_header_size(frame) :] not in _EMPTY_BODIES:
        raise Undecodable(BAD_PAYLOAD, "a frame that declares no content has some, or is not whole")
    return b""
