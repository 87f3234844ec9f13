"""The sockets that the gateway listens with."""

from __future__ import annotations

import asyncio
import socket

from gateway.listening import bind


async def test_nothing_waits_for_nagle_whichever_event_loop_serves() -> None:
    """What follows a message in a write of its own, a ping or the next message, leaves at once."""
    accepted: asyncio.Queue[int] = asyncio.Queue()

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            sock = transport.get_extra_info("socket")
            accepted.put_nowait(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            transport.close()

    listener = bind("127.0.0.1", 0, "TIDEGATE_PORT")
    async with await asyncio.get_running_loop().create_server(Protocol, sock=listener):
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        assert await accepted.get() != 0
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
