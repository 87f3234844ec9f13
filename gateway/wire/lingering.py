"""``Lingering``: the last moments of a socket that was refused.

Closing a socket with unread bytes resets the connection, and the reset may overtake the answer. So: FIN behind the answer,
throw away what comes, until the client's FIN or the deadline.
"""

from __future__ import annotations

import asyncio
from typing import Any

from .inbound import MAX_THROWN_AWAY_BYTES
from .wheel import wheel_of

__all__ = ["Lingering"]


class Lingering(asyncio.Protocol):
    """Reads a socket to its end for ``seconds`` at most."""

    __slots__ = ("_bytes", "_connections", "_transport", "_wheel", "wheel_tick")

    def __init__(self, transport: asyncio.Transport, connections: set[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._connections = connections
        self._wheel = wheel_of(loop)
        self.wheel_tick: int | None = None
        self._bytes = 0

    @classmethod
    def take_over(
        cls, transport: asyncio.Transport, connections: set[Any], loop: asyncio.AbstractEventLoop, seconds: float
    ) -> None:
        """FIN behind what is buffered on ``transport``, and the rest from here."""
        lingering = cls(transport, connections, loop)
        connections.add(lingering)
        transport.set_protocol(lingering)
        transport.resume_reading()
        lingering._wheel.schedule(lingering, loop.time() + seconds)
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def data_received(self, data: bytes) -> None:
        """Thrown away, within limits."""
        self._bytes += len(data)
        if self._bytes > MAX_THROWN_AWAY_BYTES:
            self._transport.abort()

    def on_timer(self, now: float) -> None:
        """Long enough (``wheel.Timed``)."""
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._wheel.cancel(self)
        self._connections.discard(self)

    def shutdown(self) -> None:
        """The server stops: the deadline is short anyway."""
