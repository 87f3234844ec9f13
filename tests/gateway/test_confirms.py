"""Delivery confirmations: sampled, bounded, and each with a result."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from gateway import fan_out
from gateway.connection import Connection
from gateway.envelope import Envelope
from gateway.fan_out import FanOut
from gateway.hub import Hub
from gateway.observer import Observer, Observers
from gateway.outlet import OutletOptions, Policy
from gateway.registry import EVERYONE
from gateway.telemetry import confirms
from gateway.telemetry.confirms import Confirms
from middleware.close import FORBIDDEN
from tests.gateway.connections import BufferingFrames, frame_connection

Seen = list[tuple[Connection, Envelope, str, float]]


def watched(per_second: float, **options: Any) -> tuple[Confirms, Seen]:
    """A sampler, and what it tells."""
    seen: Seen = []

    class Watching(Observer):
        def confirmed(self, connection: Connection, envelope: Envelope, result: str, seconds: float) -> None:
            seen.append((connection, envelope, result, seconds))

    observers = Observers()
    observers.add(Watching())
    return Confirms(per_second=per_second, observers=observers, **options), seen


async def room_of(count: int, sampler: Confirms, **options: Any) -> tuple[Hub, list[tuple[Connection, BufferingFrames]]]:
    hub = Hub(node="n")
    await hub.start()
    hub.observers.add(sampler)
    return hub, await members_of(hub, "r", count, **options)


async def members_of(hub: Hub, room: str, count: int, **options: Any) -> list[tuple[Connection, BufferingFrames]]:
    made = [frame_connection(id=hub.new_id(), **options) for _ in range(count)]
    for member, frames in made:
        frames.reads = True
        await hub.hold((room, EVERYONE))
        hub.enter(member, (room, EVERYONE))
    return made


def tick(sampler: Confirms) -> None:
    """A second is over now."""
    if sampler._timer is not None:
        sampler._timer.cancel()
        sampler._tick()


async def said(hub: Hub, *rooms: str) -> None:
    """One message to each of the rooms, written to everybody."""
    for room in rooms:
        await hub.publish(room, "x")
    for _ in range(8):
        await asyncio.sleep(0)


def answer(made: list[tuple[Connection, BufferingFrames]]) -> None:
    """Whoever was asked answers."""
    for _, frames in made:
        if frames.pings:
            frames.pong()


async def test_a_pong_confirms_the_message_before_the_ping() -> None:
    """The time counts from accepting the message for publishing; the trace comes along."""
    sampler, seen = watched(per_second=1)
    hub, [(_, frames)] = await room_of(1, sampler)
    await hub.publish("r", "x", traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    await asyncio.sleep(0)
    assert (len(frames.pings), sampler.waiting) == (1, 1)
    frames.pong()
    assert (sampler.results["confirmed"], sampler.waiting) == (1, 0)
    [(_, envelope, result, seconds)] = seen
    assert (result, envelope.traceparent[:7], seconds >= 0) == ("confirmed", "00-aaaa", True)
    await hub.stop()


async def test_a_connection_that_ends_first_has_not_confirmed() -> None:
    """Its sample ends at once, and only once."""
    sampler = Confirms(per_second=1)
    hub, [(_, frames)] = await room_of(1, sampler)
    await hub.publish("r", "x")
    await asyncio.sleep(0)
    frames.finish(FORBIDDEN, "client")
    assert sampler.results == Counter({"closed_before": 1, "confirmed": 0, "timeout": 0})
    await hub.stop()


async def test_a_pong_that_does_not_come_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pong after it counts for nothing."""
    monkeypatch.setattr(confirms, "TICK_SECONDS", 0.002)
    sampler = Confirms(per_second=1000, timeout_seconds=0.001)
    hub, [(_, frames)] = await room_of(1, sampler)
    await hub.publish("r", "x")
    async with asyncio.timeout(5):
        while not sampler.results["timeout"]:
            await asyncio.sleep(0.001)
    frames.pong()
    assert (sampler.results["timeout"], sampler.results["confirmed"]) == (1, 0)
    await hub.stop()


class Asking(Observer):
    """Asks the first recipient of everything, as a trace may."""

    def __init__(self, asked: Confirms) -> None:
        self.asked = asked

    def fanned_out(self, fan_out: FanOut) -> None:
        self.asked.ask(fan_out.recipients[0], fan_out, 0)


async def test_who_is_asked_for_another_reason_is_given_up_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace asks besides the samples: its timeout needs no sample to come, and is none of theirs."""
    monkeypatch.setattr(confirms, "TICK_SECONDS", 0.002)
    asked, seen = watched(per_second=1000, timeout_seconds=0.001)
    hub, _ = await room_of(1, Confirms())
    hub.observers.add(Asking(asked))
    await hub.publish("r", "x")
    async with asyncio.timeout(5):
        while not seen:
            await asyncio.sleep(0.001)
    assert [result for *_, result, _ in seen] == ["timeout"]
    assert (asked.waiting, asked.results.total()) == (0, 0)
    await hub.stop()


async def test_there_is_a_budget_and_one_sample_at_a_time_per_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood costs no more pings than the budget of the second; who asks besides has as much, and takes none of it."""
    monkeypatch.setattr(confirms, "TICK_SECONDS", 3600)  # which this one is, however slow the machine
    for besides in (0, 3):
        sampler, seen = watched(per_second=3 / 3600)
        hub, made = await room_of(9, sampler)
        if besides:
            hub.observers.add(Asking(sampler))
        for _ in range(50):
            await said(hub, "r")
            answer(made)
        assert len(seen) == 3 + besides
        assert sampler.results["confirmed"] == 3
        await hub.stop()
    alone = Confirms(per_second=100)
    hub, [(_, frames)] = await room_of(1, alone)
    for _ in range(10):
        await said(hub, "r")
    assert (len(frames.pings), alone.waiting) == (1, 1)
    await hub.stop()


async def test_a_publisher_is_never_asked_about_its_own_message() -> None:
    """It did not get it."""
    sampler = Confirms(per_second=100)
    hub, made = await room_of(2, sampler)
    await hub.publish("r", "x", exclude=made[0][0])
    await asyncio.sleep(0)
    assert [len(frames.pings) for _, frames in made] == [0, 1]
    await hub.stop()


@pytest.mark.parametrize("policy", ["drop", "latest"])
async def test_what_did_not_get_through_is_not_confirmed(policy: Policy) -> None:
    """A full outbox: what was left out was never sent, and what waits for its turn would be overtaken by the ping."""
    sampler = Confirms(per_second=100)
    hub, made = await room_of(2, sampler, outlet=OutletOptions(max_bytes=1, policy=policy))
    made[0][1].reads = False
    made[0][1].stick(made[0][0])
    await hub.publish("r", "x")
    await asyncio.sleep(0)
    assert [len(frames.pings) for _, frames in made] == [0, 1]
    await hub.stop()


async def test_who_left_before_its_turn_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is among the recipients of the fan-out, and did not get it."""
    monkeypatch.setattr(fan_out, "MEMBERS_PER_TURN", 1)
    sampler, seen = Confirms(per_second=100), []

    class Watching(Observer):
        def fanned_out(self, fan_out: FanOut) -> None:
            seen.append(fan_out)

    hub, made = await room_of(2, Confirms())
    hub.observers.add(Watching())
    await hub.publish("r", "x")
    await asyncio.sleep(0)
    [(late, frames)] = [(member, frames) for member, frames in made if not frames.written]
    hub.leave(late, "r")
    await asyncio.sleep(0)
    for member, _ in made:
        sampler.ask(member, seen[0], 0)
    assert [len(frames.pings) for member, frames in made if member is not late] == [1]
    assert not frames.pings
    await hub.stop()


@pytest.mark.parametrize("pause", [1, 2, 5])
@pytest.mark.parametrize("members_per_turn", [500, 15])
@pytest.mark.parametrize("traced", [False, True])
async def test_a_message_now_and_then_is_not_confirmed_by_the_same_members_every_time(
    monkeypatch: pytest.MonkeyPatch, pause: int, members_per_turn: int, traced: bool
) -> None:
    """Every member is as likely to be asked as any other, wherever it stands, also after seconds without a message."""
    random.seed(7)
    monkeypatch.setattr(confirms, "TICK_SECONDS", 3600)
    monkeypatch.setattr(fan_out, "MEMBERS_PER_TURN", members_per_turn)
    sampler = Confirms(per_second=5 / 3600)
    hub, made = await room_of(40, sampler)
    if traced:
        hub.observers.add(Asking(sampler))
    asked: Counter[int] = Counter()
    for _ in range(300):
        await said(hub, "r")
        asked.update(place for place, (member, _) in enumerate(made) if member in sampler._waiting and is_sample(sampler, member))
        answer(made)
        for _ in range(pause):
            tick(sampler)
    assert asked.total() == sampler.results["confirmed"] == 300 * 5
    assert 18 <= min(asked[place] for place in range(40)) <= max(asked.values()) <= 60  # 37.5 on average, deviation 5.7
    await hub.stop()


def is_sample(sampler: Confirms, member: Connection) -> bool:
    return sampler._waiting[member].is_sample


@pytest.mark.parametrize(("chatter", "tolerance"), [(False, 0.1), (True, 0.25)])
async def test_rooms_have_the_share_of_the_samples_that_they_have_of_the_deliveries(
    monkeypatch: pytest.MonkeyPatch, chatter: bool, tolerance: float
) -> None:
    """Whichever is written to first; what two say to each other between the bursts does not make the sampler forget those."""
    random.seed(7)
    monkeypatch.setattr(confirms, "TICK_SECONDS", 3600)
    sampler, seen = watched(per_second=6 / 3600)
    hub, made = await room_of(0, sampler)
    for room, count in (("first", 30), ("second", 30), ("third", 60), ("two", 2)):
        made += await members_of(hub, room, count)
    for _ in range(300):
        await said(hub, "first", "second", "third")
        answer(made)
        tick(sampler)
        if chatter:
            await said(hub, "two")
            answer(made)
        tick(sampler)
    asked = Counter(envelope.room for _, envelope, *_ in seen)
    assert asked["first"] / 30 == pytest.approx(asked["second"] / 30, rel=0.1)
    assert asked["first"] / 30 == pytest.approx(asked["third"] / 60, rel=tolerance)
    assert 300 * 5 <= asked.total() - asked["two"] <= 300 * 6
    await hub.stop()


async def test_the_interval_follows_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up at once and down slowly; a second without deliveries changes nothing, and the timer rests then."""
    monkeypatch.setattr(confirms, "TICK_SECONDS", 3600)
    sampler = Confirms(per_second=5 / 3600)
    hub, made = await room_of(100, sampler)
    for _ in range(10):
        await said(hub, "r")
        answer(made)
    tick(sampler)
    assert sampler._interval == 1000 / 5
    tick(sampler)
    assert sampler._timer is None
    await said(hub, "r")
    assert sampler._interval == 1000 / 5
    answer(made)
    tick(sampler)
    assert sampler._interval == 950 / 5
    sampler._timer.cancel()  # type: ignore[union-attr]  # it is set while there is something to wait for
    await hub.stop()


async def test_a_rate_below_the_budget_has_every_delivery_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to choose."""
    monkeypatch.setattr(confirms, "TICK_SECONDS", 3600)
    sampler = Confirms(per_second=5 / 3600)
    hub, made = await room_of(5, sampler)
    for _ in range(4):
        await said(hub, "r")
        answer(made)
        tick(sampler)
    assert sampler.results["confirmed"] == 4 * 5
    await hub.stop()


async def test_a_crowd_of_whom_nobody_can_confirm_is_not_asked_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a server that cannot send pings: there are few tries in a second, however big rooms are."""
    asked: list[Connection] = []

    def refuse(member: Connection, _: object) -> bool:
        asked.append(member)
        return False

    monkeypatch.setattr(Connection, "confirm", refuse)
    sampler = Confirms(per_second=5)
    hub, _ = await room_of(100, sampler)
    for _ in range(20):
        await hub.publish("r", "x")
        await asyncio.sleep(0)
    assert len(asked) == 5
    await hub.stop()


async def test_shared_frames_stay_shared() -> None:
    """Whoever is asked has the same bytes as the others, and a ping of its own behind them."""
    sampler = Confirms(per_second=1)
    hub, made = await room_of(5, sampler)
    await hub.publish("r", "x")
    await asyncio.sleep(0)
    assert len({id(frames.written[0]) for _, frames in made}) == 1
    assert sum(len(frames.pings) for _, frames in made) == 1
    await hub.stop()
