"""The client's side of the tests: frames built by hand, frames taken apart, and a transport that goes nowhere."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.wire import WireOptions, WireProtocol, wire_protocol

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = (
    b"GET /ws/room?a=1 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n"
)


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bytes | None = b"\x01\x02\x03\x04", rsv: int = 0) -> bytes:
    """A client's frame; ``mask=None`` leaves it unmasked, which is illegal."""
    first = (0x80 if fin else 0) | rsv | opcode
    size, bit = len(payload), 0x80 if mask is not None else 0
    if size < 126:
        head = bytes((first, bit | size))
    elif size < 65536:
        head = bytes((first, bit | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, bit | 127)) + size.to_bytes(8, "big")
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[at & 3] for at, byte in enumerate(payload))


def frames_in(data: bytes) -> list[tuple[int, bytes]]:
    """``(first byte, payload)`` of every server frame in ``data``; all of it must be whole frames."""
    found, at = [], 0
    while at < len(data):
        size, start = data[at + 1], at + 2
        if size == 126:
            size, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
        elif size == 127:
            size, start = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
        assert start + size <= len(data), "a frame was cut"
        found.append((data[at], data[start : start + size]))
        at = start + size
    return found


def close_of(payload: bytes) -> tuple[int, str]:
    """Code and reason of a close frame's payload."""
    return int.from_bytes(payload[:2], "big"), payload[2:].decode()


class FakeTransport(asyncio.Transport):
    """Keeps what is written; ``stuck`` bytes pretend to wait for the kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""
        self.stuck = 0
        self.reading = True
        self.eof = self.closed = self.aborted = False
        self.protocol: asyncio.BaseProtocol | None = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("192.0.2.7", 4711), "sockname": ("192.0.2.1", 80)}.get(name, default)

    def write(self, data: Any) -> None:
        assert not any((self.eof, self.closed, self.aborted)), "nothing is written behind the end"
        self.data += bytes(data)

    def take(self) -> bytes:
        data, self.data = self.data, b""
        return data

    def get_write_buffer_size(self) -> int:
        return self.stuck

    def pause_reading(self) -> None:
        assert self.reading, "reading is paused once"
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol


class Peer:
    """One connection without a network: ``send`` bytes as the client, read ``frames`` of the server, be the app."""

    def __init__(self, app: Any, **options: Any) -> None:
        self.app = app
        self.transport = FakeTransport()
        self.state = ServerState()
        self.ended: list[tuple[Any, str]] = []
        options.setdefault("on_ended", lambda close, by: self.ended.append((close, by)))
        options.setdefault("ping_interval_seconds", None)
        options.setdefault("turn_seconds", 3600.0)  # else what one read leads to depends on how fast the machine is
        config = Config(app, lifespan="off", log_config=None, interface="asgi3")
        config.load()
        protocol_class: type[WireProtocol] = wire_protocol(WireOptions(**options))
        self.wire = protocol_class(config, self.state, {}, asyncio.get_running_loop())
        self.wire.connection_made(self.transport)

    def send(self, data: bytes) -> None:
        self.wire.data_received(data)

    def frames(self) -> list[tuple[int, bytes]]:
        return frames_in(self.transport.take())

    async def open(self, extra: bytes = b"", behind: bytes = b"") -> bytes:
        """Shake hands; returns the head of the response."""
        self.send(UPGRADE + extra + b"\r\n" + behind)
        await turns()
        head, _, rest = self.transport.take().partition(b"\r\n\r\n")
        self.transport.data = rest
        return head

    def lose(self) -> None:
        """The socket is gone."""
        self.wire.connection_lost(None)


async def turns(count: int = 5) -> None:
    """Let the event loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


class App:
    """An app that accepts, notes every event, and does what it is told: ``await app.frames`` gives the extension."""

    def __init__(self, *, echo: bool = False) -> None:
        self.events: list[Any] = []
        self.echo = echo
        self.scope: Any = None
        self.send: Any = None
        self.wire: WireProtocol | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope, self.send = scope, send
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            event = await receive()
            self.events.append(event)
            if event["type"] == "websocket.disconnect":
                return
            if self.echo:
                await send({**event, "type": "websocket.send"})

    @property
    def messages(self) -> list[str | bytes]:
        return [event.get("text", event.get("bytes")) for event in self.events if event["type"] == "websocket.receive"]

    @property
    def disconnect(self) -> tuple[int, str] | None:
        last = self.events[-1] if self.events else {"type": ""}
        return (last["code"], last["reason"]) if last["type"] == "websocket.disconnect" else None
