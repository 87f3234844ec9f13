"""permessage-deflate (RFC 7692) that keeps nothing per connection.

Both sides are held to ``no_context_takeover``. So a compressed message does not depend on what a connection sent before,
is the same for every recipient with the same window, and is made once: ``DeflateEncoder`` is a ``middleware.asgi.Encoder``
that all such connections share. Inflating is bounded by the message limit before memory is taken (``websockets`` does it).

Deflating happens in the event loop, so it is bounded, too: there are two windows, and what is large stays as it is.
"""

from __future__ import annotations

import functools
import time
import zlib
from collections.abc import Mapping, Sequence

from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import Frame
from websockets.typing import ExtensionParameter

from ..frame import BINARY, TEXT

__all__ = ["MAX_BYTES", "DeflateEncoder", "deflate_encoder", "deflate_totals", "inflating", "offer", "windows"]

MAX_BYTES = 256 * 1024
"""The largest payload that is deflated: a megabyte can take 130 ms at level 6, and 60 with the small window at any level."""
LARGE_WINDOW_BITS, SMALL_WINDOW_BITS = 15, 9
"""The windows of what is deflated: each that is in use costs another pass over every message."""
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
        """``(first byte, body)``; payloads that are small (with a minimum of 0: none), large, or do not shrink stay as they are."""
        first_byte = TEXT if text else BINARY
        if not self._minimum_bytes <= len(payload) <= MAX_BYTES:
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


@functools.cache  # two windows, for the levels in use
def deflate_encoder(level: int, window_bits: int, minimum_bytes: int) -> DeflateEncoder:
    """The shared encoder for this level and window."""
    return DeflateEncoder(level=level, window_bits=window_bits, minimum_bytes=minimum_bytes)


class _Offer(ServerPerMessageDeflateFactory):
    """Answers a client that asks for a window between ours with the smaller (RFC 7692 §7.1.2.1: it may be smaller still)."""

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], PerMessageDeflate]:
        between = [str(bits) for bits in range(SMALL_WINDOW_BITS, LARGE_WINDOW_BITS)]
        asked = [
            (name, str(SMALL_WINDOW_BITS) if name == "server_max_window_bits" and value in between else value)
            for name, value in params
        ]
        return super().process_request_params(asked, accepted_extensions)


def offer() -> ServerPerMessageDeflateFactory:
    """What the handshake negotiates with: no context takeover; the smaller window when the client asks for less than the large."""
    return _Offer(server_no_context_takeover=True, client_no_context_takeover=True)


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
