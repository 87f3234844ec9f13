"""One server frame: the header of RFC 6455 §5.2 in front of a payload that is not masked.

Frames from a server are not masked, hence identical for every recipient; ``Message`` builds one per encoding and keeps it.
This file imports nothing, so that everything that writes frames may import it.
"""

from __future__ import annotations

from struct import Struct

__all__ = ["BINARY", "TEXT", "server_frame"]

TEXT = 0x81
"""First byte of a whole, plain text frame: FIN and opcode 1."""
BINARY = 0x82
"""First byte of a whole, plain binary frame: FIN and opcode 2."""

_MEDIUM = Struct("!BBH").pack
_LARGE = Struct("!BBQ").pack


def server_frame(first_byte: int, payload: bytes) -> bytes:
    """The frame that carries ``payload``; ``first_byte`` holds FIN, the reserved bits and the opcode."""
    size = len(payload)
    if size < 126:
        return bytes((first_byte, size)) + payload
    if size < 65536:
        return _MEDIUM(first_byte, 126, size) + payload
    return _LARGE(first_byte, 127, size) + payload
