"""Control frames (RFC 6455 §5.5) found without a parser: one that stands at a frame boundary, or those in bytes that must wait.

No I/O and no clock.
"""

from __future__ import annotations

from websockets.exceptions import ProtocolError
from websockets.frames import Close, Frame, Opcode
from websockets.speedups import apply_mask

__all__ = ["MAX_FRAMES", "ControlFinder", "whole_control"]

MAX_FRAMES = 10_000
"""How many frames a finder walks past, some milliseconds' worth: who sends that many tiny ones is not looked through further."""

_CONTROLS = {0x80 | opcode: opcode for opcode in (Opcode.CLOSE, Opcode.PING, Opcode.PONG)}
"""By a frame's first byte: final, and without an extension."""


def whole_control(data: bytes, at: int) -> tuple[Frame, int] | None:
    """The control frame at ``at``, a frame boundary, and where it ends; ``None`` when it is not there, not whole or not in order.

    A parser judges all that is not in order. What is needs none, so that a connection's usual end makes none.
    """
    if len(data) - at < 6 or data[at] not in _CONTROLS or not 0x80 <= data[at + 1] <= 0x80 + 125:
        return None
    start = at + 6
    end = start + data[at + 1] - 0x80
    if end > len(data):
        return None
    frame = Frame(_CONTROLS[data[at]], apply_mask(data[start:end], data[at + 2 : start]))
    if frame.opcode is Opcode.CLOSE:
        try:
            Close.parse(frame.data)
        except (ProtocolError, UnicodeDecodeError):
            return None
    return frame, end


class ControlFinder:
    """Finds control frames in bytes that are not parsed (yet): pongs behind held-back messages, the close reply.

    It walks from header to header and judges nothing; what is not asked for is skipped. After ``MAX_FRAMES`` it finds nothing more.
    """

    __slots__ = ("_frames_left", "_rest", "_skip")

    def __init__(self, skip_bytes: int = 0, rest: bytes = b"") -> None:
        self._skip = skip_bytes
        self._rest = rest
        self._frames_left = MAX_FRAMES

    def feed(self, data: bytes, wanted: Opcode) -> list[bytes]:
        """The unmasked payload of each control frame with this opcode that ``data`` completes."""
        found: list[bytes] = []
        if not self._frames_left:
            return found
        data, self._rest = self._rest + data, b""
        at, end, left = self._skip, len(data), self._frames_left
        while left and end - at >= 2:
            size, start = data[at + 1] & 0x7F, at + 6
            if size > 125:
                start = at + (8 if size == 126 else 14)
                size = int.from_bytes(data[at + 2 : start - 4], "big")
            if start > end:
                break
            opcode = data[at] & 0x0F
            if opcode >= 8 and size <= 125:
                if start + size > end:
                    break
                if opcode == wanted:
                    found.append(apply_mask(data[start : start + size], data[start - 4 : start]))
            at = start + size
            left -= 1
        self._frames_left = left
        self._skip = max(0, at - end)
        self._rest = data[at:] if left else b""
        return found
