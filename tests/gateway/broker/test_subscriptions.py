"""Subscriptions follow the need for them, and a teardown never waits."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.broker import Subscriptions
from gateway.errors import BrokerUnavailable
from tests.gateway.broker.brokers import MoodyBroker
from tests.middleware.virtual_time import run_virtual

LINGER = 5.0


async def make() -> tuple[MoodyBroker, Subscriptions]:
    broker = MoodyBroker()
    await broker.start(lambda envelope: None)
    return broker, Subscriptions(broker, linger_seconds=LINGER)


async def test_many_holders_share_one_subscription() -> None:
    """However many join at once, the broker is asked once, and all wait for its answer."""
    broker, subscriptions = await make()
    broker.gate = asyncio.Event()
    holding = [asyncio.create_task(subscriptions.hold("r")) for _ in range(5)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in holding)
    broker.gate.set()
    await asyncio.gather(*holding)
    assert broker.subscribed == ["r"]
    await subscriptions.close()


async def test_a_slow_room_does_not_hold_up_another() -> None:
    """The lock is per room."""
    broker, subscriptions = await make()
    broker.gate = asyncio.Event()
    waiting = asyncio.create_task(subscriptions.hold("slow"))
    await asyncio.sleep(0)
    broker.gate, gate = None, broker.gate
    await asyncio.wait_for(subscriptions.hold("quick"), 1)
    gate.set()
    await waiting
    await subscriptions.close()


def test_a_room_lingers_after_its_last_holder_and_comes_back_for_free() -> None:
    """Who reconnects within the linger time costs the broker nothing; afterwards the room is given up."""

    async def play() -> None:
        broker, subscriptions = await make()
        await subscriptions.hold("r")
        for _ in range(3):
            subscriptions.release("r")
            await asyncio.sleep(LINGER - 1)
            await subscriptions.hold("r")
        assert (broker.subscribed, broker.unsubscribed) == (["r"], [])
        subscriptions.release("r")
        await asyncio.sleep(LINGER + 1)
        assert (broker.unsubscribed, len(subscriptions)) == (["r"], 0)
        await subscriptions.hold("r")
        assert broker.subscribed == ["r", "r"]
        await subscriptions.close()

    run_virtual(lambda _: play())


async def test_joining_and_leaving_without_end_does_not_fill_the_queue() -> None:
    """A room is queued for the reaper once, however often it is left."""
    _, subscriptions = await make()
    for _ in range(1000):
        await subscriptions.hold("r")
        subscriptions.release("r")
    assert len(subscriptions._idle) <= 1
    await subscriptions.close()


async def test_a_failing_broker_leaves_nothing_behind() -> None:
    """The error reaches the joiner; the next one tries again."""
    broker, subscriptions = await make()
    broker.down = True
    with pytest.raises(BrokerUnavailable):
        await subscriptions.hold("r")
    broker.down = False
    await subscriptions.hold("r")
    assert broker.subscribed == ["r"]
    subscriptions.release("r")
    with pytest.raises(AssertionError):
        subscriptions.release("r")
    await subscriptions.close()


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["hold", "cancel", "fail", "release", "wait"])), max_size=30))
@settings(max_examples=60, deadline=None)
def test_any_history_ends_with_the_broker_subscribed_to_what_is_held(history: list[tuple[str, str]]) -> None:
    """Holds that are cancelled or fail, releases and pauses in any order: in the end only held rooms are subscribed."""

    async def play() -> None:
        broker, subscriptions = await make()
        held: dict[str, int] = {"a": 0, "b": 0}
        for room, event in history:
            if event == "hold":
                await subscriptions.hold(room)
                held[room] += 1
            elif event == "cancel":
                active = subscriptions._rooms.get(room)
                broker.gate = asyncio.Event()
                task = asyncio.create_task(subscriptions.hold(room))
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                broker.gate = None
                if not task.cancelled():
                    assert active is not None
                    held[room] += 1
            elif event == "fail":
                broker.down = True
                try:
                    await subscriptions.hold(room)
                    held[room] += 1
                except BrokerUnavailable:
                    pass
                broker.down = False
            elif event == "release" and held[room]:
                subscriptions.release(room)
                held[room] -= 1
            elif event == "wait":
                await asyncio.sleep(LINGER / 2)
        await asyncio.sleep(3 * LINGER)
        assert broker._rooms == {room for room, count in held.items() if count}
        assert set(subscriptions._rooms) == broker._rooms
        await subscriptions.close()

    run_virtual(lambda _: play())
