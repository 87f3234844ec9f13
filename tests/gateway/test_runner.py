"""A gateway that cannot start says so, and a worker leaves the port that it shares."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from typing import Any

import pytest
import structlog

from gateway import Settings, create_app
from gateway.broker import Deliver, MemoryBroker
from gateway.errors import BrokerUnavailable, StartupError
from gateway.listening import bind, bind_all
from gateway.logs import configure_logging
from gateway.runner import GatewayServer, Place, cannot_start


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_what_keeps_it_from_starting_is_said_once(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    """A sentence for people; where events are for machines, an event."""
    configure_logging("info", log_format)
    try:
        assert cannot_start(StartupError("port 1 is in use")) == 1
    finally:
        structlog.reset_defaults()
        for handler in list(logging.getLogger().handlers):
            if "gateway" in type(handler).__module__:
                logging.getLogger().removeHandler(handler)
    said = capsys.readouterr().err
    assert said.count("\n") == said.count("port 1 is in use") == 1
    if log_format == "console":
        assert said == "tidegate: port 1 is in use\n"
    else:
        assert json.loads(said)["event"] == "cannot start"


async def test_a_broker_that_is_away_at_the_start_is_said_once_with_what_to_set(capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence names the engine, the variable and the option."""

    class Away(MemoryBroker):
        async def start(self, deliver: Deliver) -> None:
            raise BrokerUnavailable("Redis at h:1 cannot be used: it is away.")

    public, ops = bind_all([("127.0.0.1", 0, "TIDEGATE_PORT"), ("127.0.0.1", 0, "TIDEGATE_OPS_PORT")])
    server = GatewayServer(create_app(Settings(), broker=Away()), ops)
    await server.startup([public])
    assert server.should_exit
    assert capsys.readouterr().err == (
        "tidegate: Redis at h:1 cannot be used: it is away; start it, or name another with TIDEGATE_BROKER or --broker\n"
    )
    public.close()


class Queue:
    """A listener; ``first`` are those at the head of its queue: sockets, or why they cannot be taken."""

    def __init__(self, public: socket.socket, *first: socket.socket | OSError) -> None:
        self._public = public
        self._first = list(first)

    def accept(self) -> tuple[socket.socket, Any]:
        if not self._first:
            return self._public.accept()
        first = self._first.pop(0)
        if isinstance(first, OSError):
            raise first
        return first, None


async def test_a_worker_that_leaves_its_port_takes_those_who_wait_in_its_queue() -> None:
    """They are answered, whoever has gone away among them, and whoever comes now is not its client any more."""
    reading, writing = os.pipe()
    public, ops = bind("127.0.0.1", 0, "TIDEGATE_PORT", shared=True), bind("127.0.0.1", 0, "TIDEGATE_OPS_PORT")
    server = GatewayServer(create_app(Settings()), ops, Place(0, "n", reading, lambda: None))
    server.config.load()
    await server._gateway.start()
    loop, address = asyncio.get_running_loop(), public.getsockname()
    server.servers = [await loop.create_server(lambda: server._protocol(server.config), sock=public, backlog=8)]
    clients = [socket.create_connection(address, 5) for _ in range(3)]  # the loop has not had a turn since
    gone = socket.socket()
    gone.close()
    await server._leave_the_port(Queue(public, ConnectionAbortedError(), gone))  # type: ignore[arg-type]  # all it needs
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
