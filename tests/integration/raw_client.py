"""A client made of one socket: does what no library would, and costs little, so that there can be thousands."""

from __future__ import annotations

import asyncio
import socket
import struct

__all__ = ["RawClient", "frame", "handshake"]

MASK = b"\x01\x02\x03\x04"


def handshake(host: str, path: str, *headers: str) -> bytes:
    """A handshake's bytes; ``headers`` are further lines."""
    lines = [
        f"GET {path} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", *headers, "", "",
    ]  # fmt: skip
    return "\r\n".join(lines).encode("latin-1")


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """A masked frame (RFC 6455 §5.2) of less than 64 KiB."""
    masked = bytes(octet ^ MASK[index % 4] for index, octet in enumerate(payload))
    if len(payload) < 126:
        return bytes((0x80 | opcode, 0x80 | len(payload))) + MASK + masked
    return struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, len(payload)) + MASK + masked


class RawClient:
    """One TCP connection to ``host:port``; every wait has a deadline."""

    def __init__(self, address: str, *, receive_buffer_bytes: int | None = None) -> None:
        host, port = address.rsplit(":", 1)
        self.address = address
        self.received = b""
        """Everything that has come, the answer to the handshake included."""
        self.sock = socket.socket()
        if receive_buffer_bytes is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.sock.setblocking(False)
        self._peer = (host, int(port))

    async def __aenter__(self) -> RawClient:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.sock.close()

    async def connect(self) -> None:
        """Open the TCP connection."""
        try:
            async with asyncio.timeout(10):
                await asyncio.get_running_loop().sock_connect(self.sock, self._peer)
        except BaseException:
            self.sock.close()
            raise

    async def send(self, data: bytes) -> None:
        """Send everything."""
        async with asyncio.timeout(10):
            await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def shake_hands(self, path: str, *headers: str) -> int:
        """Send a handshake; returns the status of the answer, whose end has been read."""
        await self.send(handshake(self.address, path, *headers))
        return await self.status()

    async def status(self) -> int:
        """Read to the end of a response's head; its status, 0 when the server hung up."""
        while b"\r\n\r\n" not in self.received:
            if not await self.receive():
                return 0
        return int(self.received.split(b" ", 2)[1])

    async def receive(self) -> bytes:
        """What comes next; empty at the end of the stream or after a reset."""
        try:
            async with asyncio.timeout(10):
                data = await asyncio.get_running_loop().sock_recv(self.sock, 65_536)
        except OSError:
            data = b""
        self.received += data
        return data

    async def receive_all(self) -> bytes:
        """Read to the end; returns everything that has ever come."""
        while await self.receive():
            pass
        return self.received

    def finish(self) -> None:
        """Send a FIN and go on reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Throw the connection away with an RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()
