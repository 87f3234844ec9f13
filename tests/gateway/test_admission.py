"""The first who come start the server; when that fails they are told together."""

from __future__ import annotations

import asyncio

import pytest

from gateway.broker import Deliver
from gateway.errors import BrokerUnavailable
from gateway.server import WebSocketServer
from tests.gateway.broker.brokers import MoodyBroker


class SlowToStart(MoodyBroker):
    """Its attempts to start wait for ``may_go_on``."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go_on = asyncio.Event()
        self.attempts = 0

    async def start(self, deliver: Deliver) -> None:
        self.attempts += 1
        await self.may_go_on.wait()
        await super().start(deliver)


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_those_who_wait_for_one_attempt_to_start_share_its_failure() -> None:
    """None of them repeats it; who comes later tries again."""
    broker = SlowToStart()
    broker.down = True
    server = WebSocketServer(broker=broker)
    waiting = [asyncio.create_task(server.start()) for _ in range(4)]
    await turn()
    broker.may_go_on.set()
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert [(type(error), str(error)) for error in errors] == [(BrokerUnavailable, "the broker is down")] * 4
    assert {error.retry_after for error in errors if isinstance(error, BrokerUnavailable)} == {3}
    assert broker.attempts == 1
    with pytest.raises(BrokerUnavailable):
        await server.start()
    broker.down = False
    await asyncio.gather(*(server.start() for _ in range(4)))
    assert broker.attempts == 3
    await server.stop()


async def test_who_goes_away_takes_no_failure_along() -> None:
    """When the one whose attempt it is leaves, the next one tries."""
    broker = SlowToStart()
    server = WebSocketServer(broker=broker)
    first, second = (asyncio.create_task(server.start()) for _ in range(2))
    await turn()
    first.cancel()
    broker.may_go_on.set()
    await second
    assert (first.cancelled(), broker.attempts, server.hub.started) == (True, 2, True)
    await server.stop()
