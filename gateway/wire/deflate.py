"""permessage-deflate (RFC 7692) that keeps nothing per connection.

Both sides are held to ``no_context_takeover``. So a compressed message does not depend on what a connection sent before,
is the same for every recipient with the same window, and is made once: ``DeflateEncoder`` is a ``middleware.asgi.Encoder``
that all such connections share. Inflating is bounded by the message limit before memory is taken (``websockets`` does it).
"""

from __future__ import annotations

import functools
import zlib

from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory

from ..frame import BINARY, TEXT

__all__ = ["DeflateEncoder", "deflate_encoder", "inflating", "offer", "windows"]

RSV1 = 0x40
_TAIL = b"\x00\x00\xff\xff"


class DeflateEncoder:
    """One compressor for every connection with this level and window.

    A full flush after each message makes the compressor forget what it has seen, which is what context takeover is about:
    nothing of one message can be guessed from the size of another. It costs less than a new compressor per message.
    """

    __slots__ = ("_compressor", "_minimum_bytes")

    def __init__(self, *, level: int, window_bits: int, minimum_bytes: int) -> None:
        self._compressor = zlib.compressobj(level, zlib.DEFLATED, -window_bits, 8)
        self._minimum_bytes = minimum_bytes

    def encode(self, payload: bytes, *, text: bool) -> tuple[int, bytes]:
        """``(first byte, body)``; small payloads and those that do not shrink stay as they are (with a minimum of 0: none)."""
        first_byte = TEXT if text else BINARY
        if len(payload) < self._minimum_bytes:
            return first_byte, payload
        if not payload:
            return first_byte | RSV1, b"\x00"  # RFC 7692 §7.2.3.6
        body = self._compressor.compress(payload) + self._compressor.flush(zlib.Z_FULL_FLUSH)
        assert body.endswith(_TAIL), "a flush ends with an empty stored block (RFC 7692 §7.2.1)"
        if self._minimum_bytes and len(body) - 4 >= len(payload):
            return first_byte, payload
        return first_byte | RSV1, body[:-4]


@functools.cache  # seven windows at most, for the levels in use
def deflate_encoder(level: int, window_bits: int, minimum_bytes: int) -> DeflateEncoder:
    """The shared encoder for this level and window."""
    return DeflateEncoder(level=level, window_bits=window_bits, minimum_bytes=minimum_bytes)


def offer() -> ServerPerMessageDeflateFactory:
    """What the handshake negotiates with: no context takeover; a smaller window when the client asks for one."""
    return ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)


def windows(extensions: list[Extension]) -> tuple[int, int] | None:
    """``(client's window bits, server's window bits)`` if permessage-deflate was agreed on.

    A window of 8 bits counts as not agreed on: zlib cannot keep it.
    """
    for extension in extensions:
        if isinstance(extension, PerMessageDeflate) and extension.local_max_window_bits > 8:
            return extension.remote_max_window_bits, extension.local_max_window_bits
    return None


def inflating(window_bits: int) -> list[Extension]:
    """What a parser decodes with; it knows something only while a message is unfinished."""
    return [PerMessageDeflate(True, True, window_bits, 15)]
