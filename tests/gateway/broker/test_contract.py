"""What every broker promises (``gateway/broker/base.py``). A new broker is one more factory in ``BROKERS``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from gateway.broker import Broker, MemoryBroker, open_broker
from gateway.envelope import Envelope
from gateway.errors import BrokerUnavailable, StartupError
from gateway.message import Message, check_room
from middleware.close import RESTARTING

BROKERS: dict[str, Callable[[], Broker]] = {"memory": MemoryBroker}
ODD_NAMES = ["a", "a.b", "*", ">", "a.>", "a*", "{tag}", "[ab]", "ü", " ", "a:b", "%2e", "$x", "~user/1", "\U0001f30a"]


class Listener:
    """Collects what a broker delivers."""

    def __init__(self) -> None:
        self.got: list[Envelope] = []

    def __call__(self, envelope: Envelope) -> None:
        self.got.append(envelope)

    async def wait_for(self, count: int) -> list[Envelope]:
        async with asyncio.timeout(5):
            while len(self.got) < count:
                await asyncio.sleep(0.001)
        return self.got


@pytest.fixture(params=BROKERS)
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    made = BROKERS[request.param]()
    yield made
    await made.close()


@pytest.fixture
async def listener(broker: Broker) -> Listener:
    made = Listener()
    await broker.start(made)
    return made


def envelope(room: str, payload: str | bytes = "x", **fields: object) -> Envelope:
    return Envelope(room, Message(payload), id="n-1", node="n", **fields)  # type: ignore[arg-type]


async def test_order_is_kept_per_room(broker: Broker, listener: Listener) -> None:
    """What one publisher says to a room is heard in that order, once, whichever way it was handed over."""
    await broker.subscribe("r")
    for number in range(100):
        if number % 3:
            broker.post(envelope("r", str(number)))
        else:
            await broker.publish(envelope("r", str(number)))
    got = await listener.wait_for(100)
    assert [one.message.data for one in got] == [str(number) for number in range(100)]


async def test_everything_an_envelope_says_arrives(broker: Broker, listener: Listener) -> None:
    """Text, binary, exclusion, target, times, trace and a remote close come through intact."""
    await broker.subscribe("r")
    sent = [
        envelope("r", "täxt\x00", exclude="n-7", published_at=12.5, traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01"),
        envelope("r", b"\x00\xff", target="n-9"),
        envelope("r", "", close=RESTARTING),
        envelope("r", b"x" * 1_000_000),
    ]
    for one in sent:
        await broker.publish(one)
    got = await listener.wait_for(len(sent))
    assert [one.encode() for one in got] == [one.encode() for one in sent]


async def test_after_subscribe_has_returned_nothing_is_missed(broker: Broker, listener: Listener) -> None:
    """There is no gap between the confirmation and the first message."""
    for number in range(20):
        await broker.subscribe(f"r{number}")
        broker.post(envelope(f"r{number}", str(number)))
    got = await listener.wait_for(20)
    assert [one.message.data for one in got] == [str(number) for number in range(20)]


async def test_only_subscribed_rooms_are_heard(broker: Broker, listener: Listener) -> None:
    """Neither other rooms, nor rooms that were given up."""
    await broker.subscribe("mine")
    await broker.subscribe("old")
    await broker.unsubscribe("old")
    for room in ("other", "old", "mine"):
        await broker.publish(envelope(room, room))
    got = await listener.wait_for(1)
    await asyncio.sleep(0.01)
    assert [one.room for one in got] == ["mine"]


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_a_name_is_a_name_and_never_a_pattern(broker: Broker, listener: Listener, name: str) -> None:
    """Wildcards, dots, braces and other odd characters match themselves alone."""
    if not name.startswith("~"):
        check_room(name)
    await broker.subscribe(name)
    for room in ODD_NAMES:
        await broker.publish(envelope(room, room))
    await broker.publish(envelope(name, "end"))
    got = await listener.wait_for(2)
    assert [one.message.data for one in got] == [name, "end"]


async def test_a_broker_that_is_not_started_says_so(broker: Broker) -> None:
    """Publishing fails at once and the readiness check names the reason."""
    with pytest.raises(BrokerUnavailable):
        broker.post(envelope("r"))
    with pytest.raises(BrokerUnavailable):
        await broker.publish(envelope("r"))
    with pytest.raises(BrokerUnavailable):
        await broker.check()


async def test_nothing_is_delivered_after_close(broker: Broker, listener: Listener) -> None:
    """Closing is final, and closing twice is harmless."""
    await broker.subscribe("r")
    await broker.check()
    await broker.close()
    await broker.close()
    with pytest.raises(BrokerUnavailable):
        broker.post(envelope("r"))
    assert not listener.got


async def test_ten_thousand_rooms(broker: Broker, listener: Listener) -> None:
    """Every one of them hears its own message."""
    for number in range(10_000):
        await broker.subscribe(f"r{number}")
    for number in range(10_000):
        broker.post(envelope(f"r{number}", str(number)))
    got = await listener.wait_for(10_000)
    assert {one.room.removeprefix("r") for one in got} == {one.message.data for one in got}


def test_an_engine_that_this_version_has_not_is_refused_in_a_sentence() -> None:
    """The message names the setting and the way out."""
    assert isinstance(open_broker("memory://"), MemoryBroker)
    with pytest.raises(StartupError, match=r"TIDEGATE_BROKER.*memory"):
        open_broker("redis://127.0.0.1")
