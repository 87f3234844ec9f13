"""How many clients do not keep up: clients, not messages, under every outbox policy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.connection import Connection
from gateway.hub import Hub
from gateway.outlet import OutletOptions, Policy
from gateway.telemetry import GatewayCollector
from gateway.telemetry.slow import AGAIN_SECONDS, SlowConsumers
from middleware.close import FORBIDDEN, SLOW_CONSUMER
from tests.gateway.connections import BufferingFrames, frame_connection


class Watched:
    """A hub whose slow consumers are counted, by a clock of our own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.hub = Hub(node="n")
        self.slow = SlowConsumers(clock=lambda: self.now)
        self.hub.observers.add(self.slow)

    async def enter(self, policy: Policy, *, reads: bool = False) -> tuple[Connection, BufferingFrames]:
        made, frames = frame_connection(id=self.hub.new_id(), outlet=OutletOptions(max_bytes=10, policy=policy))
        await self.hub.hold(("r",))
        self.hub.enter(made, ("r",))
        if reads:
            frames.reads = True
        else:
            frames.stick(made)
        return made, frames

    async def say(self, messages: int) -> int:
        """Publish so many in one batch; returns how many clients were counted in all."""
        for _ in range(messages):
            await self.hub.publish("r", "x" * 20)
        await asyncio.sleep(0)
        return self.slow.total


@pytest.fixture
async def on() -> AsyncIterator[Watched]:
    made = Watched()
    await made.hub.start()
    yield made
    await made.hub.stop()


@pytest.mark.parametrize("policy", ["close", "drop", "latest"])
async def test_a_client_counts_once_however_many_messages_it_does_not_get(on: Watched, policy: Policy) -> None:
    """Closed, or left without messages: thirty in one batch and more after; who reads does not count."""
    await on.enter(policy)
    await on.enter(policy, reads=True)
    assert await on.say(30) == 1
    assert await on.say(30) == 1
    await on.enter(policy)
    assert await on.say(30) == 2


@pytest.mark.parametrize("policy", ["drop", "latest"])
async def test_a_client_that_is_slow_for_long_counts_again_after_a_while(on: Watched, policy: Policy) -> None:
    """So that the increase over that while is the number of clients that are slow in it."""
    await on.enter(policy)
    assert await on.say(2) == 1
    on.now = AGAIN_SECONDS - 1
    assert await on.say(2) == 1
    on.now = AGAIN_SECONDS
    assert await on.say(2) == 2


async def test_whoever_closes_it_for_that_it_counts_and_for_anything_else_it_does_not(on: Watched) -> None:
    """The wire closes who reads nothing at all; nothing is kept of who is over."""
    (slow, _), (gone, _), (dropping, _) = await on.enter("drop"), await on.enter("drop"), await on.enter("drop")
    slow.close(SLOW_CONSUMER)
    gone.close(FORBIDDEN)
    assert on.slow.total == 1
    await on.say(1)
    assert on.slow.total == 2
    dropping.close(SLOW_CONSUMER)
    assert on.slow.total == 2
    assert on.slow._counted_at == {}


async def test_it_is_scraped() -> None:
    """From 0, so that the first one is seen as an increase."""
    assert GatewayCollector(Hub(node="n")).values()["slow_consumers_total"] == {(): 0}
