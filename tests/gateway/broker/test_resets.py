"""Connections that are reset while much is published: under either event loop every message has an end, and is heard or counted."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from gateway.errors import BrokerUnavailable
from tests.gateway.broker.conftest import Engines
from tests.gateway.broker.test_contract import envelope
from tests.gateway.broker.test_failing_engines import QUICK, Make, node
from tests.proxies import Proxy

__all__ = ["node"]

RESETS = 30
CLOSE_WITH_A_RESET = struct.pack("ii", 1, 0)


class ResettingProxy(Proxy):
    """Ends connections as a firewall does, or a server that dies with something unread."""

    def __init__(self, target_port: int) -> None:
        super().__init__(target_port)
        self._clients: list[asyncio.StreamWriter] = []

    def reset(self) -> None:
        for client in self._clients:
            if not client.is_closing():
                client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, CLOSE_WITH_A_RESET)
                client.transport.abort()
        self._clients.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.append(writer)
        await super()._serve(reader, writer)


@pytest.mark.parametrize("kind", ["redis", "nats"])
async def test_nothing_is_lost_in_silence_when_connections_are_reset(kind: str, engines: Engines, node: Make) -> None:
    """What was taken was heard or counted as lost, whoever waited was told, and nothing stays in the queue."""
    server = engines(kind)
    proxy = ResettingProxy(server.port)
    await proxy.start()
    one = await node(f"{server.url_at(proxy.port)}?prefix=resets", QUICK).start("r")
    taken = 0
    for _ in range(RESETS):
        asyncio.get_running_loop().call_later(0.02, proxy.reset)
        waiting = []
        while one.broker.statistics().up:
            try:
                one.broker.post(envelope("r"))
                taken += 1
            except BrokerUnavailable:  # the queue is full
                pass
            waiting = waiting or [asyncio.create_task(one.broker.publish(envelope("r")))]
            await asyncio.sleep(0)
        told = await asyncio.gather(*waiting, return_exceptions=True)
        assert "not confirmed" not in str(told)
        await one.until_up()
    await one.hears_itself("r")
    statistics = one.broker.statistics()
    assert (statistics.queue_messages, statistics.queue_bytes, statistics.reconnects) == (0, 0, RESETS)
    assert len(one.listener.got) + statistics.errors["publish"] >= taken
    await proxy.stop()
