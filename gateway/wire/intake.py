"""``Intake``: what was read from one HTTP connection, on its way to the parser.

A chunk of a body may be one byte, and costs a few calls all the same. So one turn of the event loop parses ``SLICE_BYTES``:

1. Bytes are parsed in their order, in slices, each in a turn of its own; none while the reading is paused.
2. The socket is read while nothing waits here and nobody has paused the reading.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from uvicorn.protocols.http.flow_control import FlowControl

__all__ = ["SLICE_BYTES", "Intake"]

SLICE_BYTES = 16 * 1024


class Intake(FlowControl):
    """The ``FlowControl`` that uvicorn's requests pause and resume; see the module."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, parse: Callable[[bytes], None]) -> None:
        super().__init__(transport)
        self._loop = loop
        self._parse: Callable[[bytes], None] | None = parse
        self._unparsed = b""
        self._turn: asyncio.Handle | None = None
        self._reading = True

    def take(self, data: bytes) -> None:
        """Bytes from the socket; the first slice is parsed at once, unless others wait."""
        self._unparsed += data
        if self._turn is None:
            self._go_on()

    def pause_reading(self) -> None:
        """Until ``resume_reading``."""
        self.read_paused = True
        self._settle()

    def resume_reading(self) -> None:
        """What waits here goes first."""
        self.read_paused = False
        self._settle()

    def release(self) -> bytes:
        """Whoever has the socket now reads it; returns what was not parsed, and lets the parser go."""
        self._parse = None
        unparsed, self._unparsed = self._unparsed, b""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        self.resume_reading()
        return unparsed

    def _go_on(self) -> None:
        self._turn = None
        if self._parse is not None and not self.read_paused and not self._transport.is_closing():
            data, self._unparsed = self._unparsed[:SLICE_BYTES], self._unparsed[SLICE_BYTES:]
            self._parse(data)
            self._settle()

    def _settle(self) -> None:
        if self._transport.is_closing():
            return
        if self._unparsed and not self.read_paused and self._turn is None:
            self._turn = self._loop.call_soon(self._go_on)
        reading = not self._unparsed and not self.read_paused
        if reading != self._reading:
            self._reading = reading
            if reading:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()
