"""``Deadlines``: by when what must have happened on one connection. Values on the loop's clock; the wheel asks for the earliest."""

from __future__ import annotations

import math

__all__ = ["NEVER", "Deadlines"]

NEVER = math.inf


class Deadlines:
    """One connection's deadlines; ``NEVER`` while there is none."""

    __slots__ = ("abort", "age", "close", "handshake", "idle", "message", "ping", "pong", "write")

    def __init__(self) -> None:
        self.abort = self.age = self.close = self.handshake = self.idle = NEVER
        self.message = self.ping = self.pong = self.write = NEVER

    def earliest(self) -> float:
        """When to look again."""
        return min(
            self.abort, self.age, self.close, self.handshake, self.idle, self.message, self.ping, self.pong, self.write
        )  # fmt: skip

    def only_the_end(self) -> None:
        """The connection is closing: nothing but that still has a deadline."""
        self.age = self.handshake = self.idle = self.message = self.ping = self.pong = self.write = NEVER
