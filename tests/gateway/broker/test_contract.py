"""What every broker promises (``gateway/broker/base.py``), over the memory of one process and over real engines.

A new engine is one more entry of ``conftest.KINDS``. What nodes promise each other is tested with two brokers.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable

import pytest

from gateway.broker import Broker, MemoryBroker, Subscriptions, open_broker
from gateway.envelope import Envelope
from gateway.errors import BrokerUnavailable
from gateway.message import Message, check_room
from middleware.close import RESTARTING
from tests.gateway.broker.conftest import KINDS, Engines

ODD_NAMES = [
    "a", "a.b", "a.>", "*", ">", "a*", "?", "[ab]", "{tag}", "{}x", "{", "}{", "ü", "u\u0308", " ", "a b", "a:b", "%2e", "=2E", "=",
    "$x", "\\", '"', "A", "~user/1", "~user/{1}.*", "\U0001f30a", "x" * 255,
]  # fmt: skip

Make = Callable[[], Broker]


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


@pytest.fixture(params=["memory", *KINDS])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes brokers that reach each other, and nobody else's."""
    if request.param == "memory":
        return MemoryBroker
    engines: Engines = request.getfixturevalue("engines")
    url = f"{engines(request.param).url}?prefix=t{secrets.token_hex(4)}"
    return lambda: open_broker(url)


@pytest.fixture
async def broker(make: Make) -> AsyncIterator[Broker]:
    made = make()
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
    await asyncio.gather(*(broker.subscribe(f"r{number}") for number in range(10_000)))
    for number in range(10_000):
        broker.post(envelope(f"r{number}", str(number)))
    got = await listener.wait_for(10_000)
    assert {one.room.removeprefix("r") for one in got} == {one.message.data for one in got}
    assert len({one.room for one in got}) == 10_000


async def test_a_broker_can_be_started_again(broker: Broker, listener: Listener) -> None:
    """After a close it knows no rooms and works as before."""
    await broker.subscribe("old")
    await broker.close()
    again = Listener()
    await broker.start(again)
    await broker.subscribe("new")
    for room in ("old", "new"):
        await broker.publish(envelope(room, room))
    assert [one.room for one in await again.wait_for(1)] == ["new"]
    assert not listener.got


async def test_a_join_that_is_cancelled_leaves_no_subscription(broker: Broker, listener: Listener) -> None:
    """At whichever moment the client goes away, the room is not heard in the end."""
    await broker.subscribe("end")
    for turns in range(6):
        joining = asyncio.create_task(broker.subscribe(f"r{turns}"))
        for _ in range(turns):
            await asyncio.sleep(0)
        if not joining.done():
            joining.cancel()
        await asyncio.wait([joining])
        if not joining.cancelled():  # memory has no moment in between
            await broker.unsubscribe(f"r{turns}")
        await broker.publish(envelope(f"r{turns}", "not heard"))
    await broker.publish(envelope("end"))
    await listener.wait_for(1)
    assert {one.room for one in listener.got} == {"end"}


async def test_subscriptions_come_and_go_with_those_who_need_them(broker: Broker, listener: Listener) -> None:
    """Joining confirms first; the last one to leave waits for nobody; after the linger time the room is not heard."""
    subscriptions = Subscriptions(broker, linger_seconds=0.01)
    await broker.subscribe("end")
    await asyncio.gather(*(subscriptions.hold("r") for _ in range(5)))
    await broker.publish(envelope("r", "while held"))
    for _ in range(5):
        subscriptions.release("r")
    async with asyncio.timeout(5):
        while len(subscriptions):
            await asyncio.sleep(0.005)
    await broker.publish(envelope("r", "too late"))
    await broker.publish(envelope("end", "end"))
    got = await listener.wait_for(2)
    assert [one.message.data for one in got] == ["while held", "end"]
    await subscriptions.close()


@pytest.mark.parametrize("make", KINDS, indirect=True)
async def test_two_nodes_hear_the_same(make: Make, request: pytest.FixtureRequest) -> None:
    """Both, and each of them itself too, hear the same messages, each publisher's in order; over Redis all of them in one order."""
    nodes, heard = [make(), make()], [Listener(), Listener()]
    for node, listener in zip(nodes, heard, strict=True):
        await node.start(listener)
        await node.subscribe("r")

    async def talk(name: str, node: Broker) -> None:
        for number in range(200):
            node.post(Envelope("r", Message(f"{name} {number}"), id=f"{name}-{number}", node=name))
            if number % 7 == 0:
                await asyncio.sleep(0)

    await asyncio.gather(talk("a", nodes[0]), talk("b", nodes[1]))
    first, second = [[one.id for one in await listener.wait_for(400)] for listener in heard]
    for heard_by_one in (first, second):
        for name in "ab":
            assert [one for one in heard_by_one if one[0] == name] == [f"{name}-{number}" for number in range(200)]
    if "nats" not in request.node.name:  # its servers know no order between publishers
        assert first == second
    for node in nodes:
        await node.close()


@pytest.mark.parametrize("make", KINDS, indirect=True)
async def test_what_a_node_took_before_it_closed_arrives(make: Make) -> None:
    """``close`` sends first what waits."""
    node, listener, other = make(), Listener(), make()
    await node.start(listener)
    await node.subscribe("r")
    await other.start(Listener())
    for number in range(3000):
        other.post(envelope("r", str(number)))
    await other.close()
    got = await listener.wait_for(3000)
    assert [one.message.data for one in got] == [str(number) for number in range(3000)]
    await node.close()
