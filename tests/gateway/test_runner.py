"""A worker leaves the port that it shares."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from gateway import Settings, create_app
from gateway.listening import bind
from gateway.runner import GatewayServer, Place


async def test_a_worker_that_leaves_its_port_takes_those_who_wait_in_its_queue() -> None:
    """They are answered, and whoever comes now is not its client any more."""
    reading, writing = os.pipe()
    public, ops = bind("127.0.0.1", 0, "TIDEGATE_PORT", shared=True), bind("127.0.0.1", 0, "TIDEGATE_OPS_PORT")
    server = GatewayServer(create_app(Settings()), ops, Place(0, "n", reading, lambda: None))
    server.config.load()
    await server._gateway.start()
    loop, address = asyncio.get_running_loop(), public.getsockname()
    server.servers = [await loop.create_server(lambda: server._protocol(server.config), sock=public, backlog=8)]
    clients = [socket.create_connection(address, 5) for _ in range(3)]  # the loop has not had a turn since
    await server._leave_the_port(public)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, 5)
    for client in clients:
        client.setblocking(False)
        await loop.sock_sendall(client, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert (await loop.sock_recv(client, 4096)).startswith(b"HTTP/1.1 200 ")
        client.close()
    await server._gateway.stop()
    for one in (reading, writing):
        os.close(one)
    ops.close()
