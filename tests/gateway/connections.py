"""Connections without sockets, for tests of what is above them."""

from __future__ import annotations

import itertools
from typing import Any

from gateway.connection import Connection
from gateway.envelope import Envelope
from gateway.message import Batch, Message
from gateway.outlet import OutletOptions
from gateway.validation import Validation
from middleware.close import Close
from tests.middleware.asgi_helpers import Server, websocket_scope
from tests.middleware.fake_frames import FakeFrames

__all__ = ["BufferingFrames", "connection", "envelope", "frame_connection"]

_numbers = itertools.count(1)


class BufferingFrames(FakeFrames):
    """Frames whose peer reads only when told to: everything written stays buffered until ``drain``, unless it ``reads``."""

    def __init__(self, server: Server | None = None) -> None:
        super().__init__(server or Server(stay=True))
        self.accepted = True
        self.server.state = "open"
        self.buffered = 0
        self.reads = False
        self.high_water_bytes = 64 * 1024

    def write(self, data: bytes, messages: int = 1, payload_bytes: int = 0) -> int:
        if self.ending is None and not self.reads:
            self.buffered += len(data)
        return super().write(data, messages, payload_bytes)

    def buffered_bytes(self) -> int:
        return self.buffered

    def set_high_water(self, high_water_bytes: int) -> None:
        self.high_water_bytes = high_water_bytes

    def drain(self) -> None:
        was_paused, self.buffered = self.buffered > self.high_water_bytes, 0
        if was_paused and self.on_drained is not None:  # as transports do it: only below a mark that was passed
            self.on_drained()

    def stick(self, connection: Connection) -> None:
        """The peer stops reading with more in its buffer than any bound allows."""
        self.buffered = 1 << 30
        connection.write(Batch((Message("stuck"),)))
        self.written.clear()

    def close(self, close: Close) -> None:
        self.finish(close, "server")


def envelope(data: str | bytes, **fields: Any) -> Envelope:
    """A publication."""
    return Envelope(fields.pop("room", "r"), Message(data), id=f"m-{next(_numbers)}", node="node", **fields)


def connection(server: Server, **options: Any) -> Connection:
    """A connection over plain ASGI, already open."""
    made = Connection(
        options.pop("id", f"node-{next(_numbers)}"), websocket_scope(), server.receive, server.send,
        frames=None, reader=options.pop("reader", Validation()), outlet_options=options.pop("outlet", OutletOptions()), **options,
    )  # fmt: skip
    made.opened()
    return made


def frame_connection(frames: FakeFrames | None = None, **options: Any) -> tuple[Connection, BufferingFrames]:
    """A connection over the frames extension, already open."""
    frames = frames or BufferingFrames()
    made = Connection(
        options.pop("id", f"node-{next(_numbers)}"), websocket_scope(), frames.receive, frames.send,
        frames=frames, reader=options.pop("reader", Validation()), outlet_options=options.pop("outlet", OutletOptions()), **options,
    )  # fmt: skip
    made.opened()
    assert isinstance(frames, BufferingFrames)
    return made, frames
