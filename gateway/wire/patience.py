"""``Patience``: how long an HTTP answer waits for a client that does not read it.

An app cannot drop a socket through ASGI, and closing one waits until everything is sent: for a client that has stopped reading,
for ever. So: while the transport's buffer is above its high-water mark, or anything is unsent on a socket that is to be closed, the
client has to read ``SLOWEST_READ_BYTES`` every so often.
"""

from __future__ import annotations

import asyncio

from .outbound import SLOWEST_READ_BYTES

__all__ = ["Patience"]


class Patience:
    """Watches one transport between ``begin`` and ``end``; both may be called again and again."""

    __slots__ = ("_loop", "_seconds", "_timer", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._transport = transport
        self._loop = loop
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """There is something that has to be read."""
        if self._timer is None:
            self._wait()

    def end(self) -> None:
        """There is not any more, or the connection is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        waiting = self._transport.get_write_buffer_size()
        self._timer = self._loop.call_later(self._seconds, self._judge, waiting)

    def _judge(self, before: int) -> None:
        if self._transport.get_write_buffer_size() > before - SLOWEST_READ_BYTES:
            self._timer = None
            self._transport.abort()
        else:
            self._wait()
