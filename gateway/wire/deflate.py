"""permessage-deflate (RFC 7692) that keeps nothing per connection.

Both sides are held to ``no_context_takeover``. So a compressed message does not depend on what a connection sent before,
is the same for every recipient with the same window, and is made once: ``DeflateEncoder`` is a ``middleware.asgi.Encoder``
that all such connections share. Inflating is bounded by the message limit before memory is taken (``websockets`` does it).
"""

from __future__ import annotations

import functools
import time
import zlib
from collections.abc import Mapping

from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import Frame

from ..frame import BINARY, TEXT

__all__ = ["DeflateEncoder", "deflate_encoder", "deflate_totals", "inflating", "offer", "windows"]

RSV1 = 0x40
_TAIL = b"\x00\x00\xff\xff"


class Totals:
    """What this process has deflated, or inflated: encoders are shared by all connections, and so are these."""

    __slots__ = ("messages", "raw_bytes", "seconds", "wire_bytes")

    def __init__(self) -> None:
        self.messages = self.raw_bytes = self.wire_bytes = 0
        self.seconds = 0.0


_OUTBOUND, _INBOUND = Totals(), Totals()


def deflate_totals() -> Mapping[str, Mapping[tuple[str, ...], float]]:
    """The totals as values of metrics, by name and direction."""
    both = {("inbound",): _INBOUND, ("outbound",): _OUTBOUND}
    return {
        "deflate_messages_total": {direction: totals.messages for direction, totals in both.items()},
        "deflate_raw_bytes_total": {direction: totals.raw_bytes for direction, totals in both.items()},
        "deflate_wire_bytes_total": {direction: totals.wire_bytes for direction, totals in both.items()},
        "deflate_seconds_total": {direction: totals.seconds for direction, totals in both.items()},
    }


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
        began = time.perf_counter()
        body = self._compressor.compress(payload) + self._compressor.flush(zlib.Z_FULL_FLUSH)
        _OUTBOUND.seconds += time.perf_counter() - began
        assert body.endswith(_TAIL), "a flush ends with an empty stored block (RFC 7692 §7.2.1)"
        if self._minimum_bytes and len(body) - 4 >= len(payload):
            return first_byte, payload
        _OUTBOUND.messages += 1
        _OUTBOUND.raw_bytes += len(payload)
        _OUTBOUND.wire_bytes += len(body) - 4
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


class _Inflating(PerMessageDeflate):
    """Counts what it inflates."""

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        size, began = len(frame.data), time.perf_counter()
        decoded = super().decode(frame, max_size=max_size)
        if decoded is not frame:  # what is not compressed is handed back as it is
            _INBOUND.seconds += time.perf_counter() - began
            _INBOUND.messages += decoded.fin
            _INBOUND.raw_bytes += len(decoded.data)
            _INBOUND.wire_bytes += size
        return decoded


def inflating(window_bits: int) -> list[Extension]:
    """What a parser decodes with; it knows something only while a message is unfinished."""
    return [_Inflating(True, True, window_bits, 15)]
