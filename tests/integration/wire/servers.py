"""Real servers for the wire's integration tests: in this process (``serving``) or in one of their own (``Process``)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from gateway.listening import bind
from gateway.wire import WireOptions, WireProtocol, http_protocol, wire_protocol

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="


@dataclass
class Served:
    """A server under test."""

    port: int
    websocket: type[WireProtocol]
    http: Any
    server: uvicorn.Server

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def connections(self) -> set[Any]:
        return self.server.server_state.connections  # type: ignore[return-value]


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Plain HTTP is answered with 200, a message with itself."""
    if scope["type"] == "http":
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})


@asynccontextmanager
async def serving(
    app: Any = echo,
    *,
    stock_http: bool = False,
    grace: float = 10,
    uvicorn_options: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Served]:
    """Serve ``app`` on a free port; ends inside ``grace`` seconds, which is checked."""
    wire_options = WireOptions(**options)
    websocket = wire_protocol(wire_options)
    http = "httptools" if stock_http else http_protocol(wire_options, websocket)
    config = uvicorn.Config(
        app, ws=websocket, http=http, lifespan="off", log_config=None, access_log=False, interface="asgi3",
        **(uvicorn_options or {}),
    )  # fmt: skip
    server = uvicorn.Server(config)
    listener = bind("127.0.0.1", 0, "")
    task = asyncio.create_task(server._serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield Served(listener.getsockname()[1], websocket, http, server)
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, grace)


class Raw:
    """A client made of bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int, *, receive_buffer: int | None = None) -> Raw:
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        return cls(*await asyncio.open_connection(sock=sock))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def upgrade(self, behind: bytes = b"") -> bytes:
        """Shake hands; returns the response's head."""
        self.send(request() + behind)
        return await self.reader.readuntil(b"\r\n\r\n")

    async def frame(self) -> tuple[int, bytes]:
        """The next frame: ``(first byte, payload)``."""
        first, size = await self.reader.readexactly(2)
        if size == 126:
            size = int.from_bytes(await self.reader.readexactly(2), "big")
        elif size == 127:
            size = int.from_bytes(await self.reader.readexactly(8), "big")
        return first, await self.reader.readexactly(size)

    async def rest(self) -> bytes:
        """Everything up to the server's FIN; a reset is a ``ConnectionError``."""
        return await asyncio.wait_for(self.reader.read(), 20)

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass


def request(
    method: bytes = b"GET", target: bytes = b"/ws", version: bytes = b"HTTP/1.1", without: bytes = b"", extra: bytes = b""
) -> bytes:
    """An upgrade; ``without`` drops the lines that begin with it, ``extra`` lines follow."""
    lines = [
        b"Host: localhost", b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: " + KEY,
    ]  # fmt: skip
    kept = [line for line in lines if not without or not line.startswith(without)]
    return b" ".join((method, target, version)) + b"\r\n" + b"".join(line + b"\r\n" for line in kept) + extra + b"\r\n"
