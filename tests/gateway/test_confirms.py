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


def watched(per_second: float) -> tuple[Confirms, Seen]:
    """A sampler, and what it tells."""
    seen: Seen = []

    class Watching(Observer):
        def confirmed(self, connection: Connection, envelope: Envelope, result: str, seconds: float) -> None:
            seen.append((connection, envelope, result, seconds))

    observers = Observers()
    observers.add(Watching())
    return Confirms(per_second=per_second, observers=observers), seen


async def room_of(count: int, sampler: Confirms, **options: Any) -> tuple[Hub, list[tuple[Connection, BufferingFrames]]]:
    hub = Hub(node="n")
    await hub.start()
    hub.observers.add(sampler)
    made = [frame_connection(id=hub.new_id(), **options) for _ in range(count)]
    for member, frames in made:
        frames.reads = True
        await hub.hold(("r", EVERYONE))
        hub.enter(member, ("r", EVERYONE))
    return hub, made


def tick(sampler: Confirms) -> None:
    """A second is over now."""
    assert sampler._timer is not None
    sampler._timer.cancel()
    sampler._tick()


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


async def test_who_is_asked_for_another_reason_is_given_up_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace asks besides the samples: its timeout needs no sample to come."""
    monkeypatch.setattr(confirms, "TICK_SECONDS", 0.002)
    asked = Confirms(per_second=1000, timeout_seconds=0.001)

    class Asking(Observer):
        def fanned_out(self, fan_out: FanOut) -> None:
            asked.ask(fan_out.recipients[0], fan_out, 0)

    hub, _ = await room_of(1, Confirms())
    hub.observers.add(Asking())
    await hub.publish("r", "x")
    async with asyncio.timeout(5):
        while not asked.results["timeout"]:
            await asyncio.sleep(0.001)
    assert asked.waiting == 0
    await hub.stop()


async def test_there_is_a_budget_and_one_sample_at_a_time_per_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood costs no more pings than the budget of the second."""
    monkeypatch.setattr(confirms, "TICK_SECONDS", 3600)  # which this one is, however slow the machine
    sampler = Confirms(per_second=3)
    hub, made = await room_of(10, sampler)
    for _ in range(50):
        await hub.publish("r", "x")
        await asyncio.sleep(0)
    assert sum(len(frames.pings) for _, frames in made) == 3
    await hub.stop()
    alone = Confirms(per_second=100)
    hub, [(_, frames)] = await room_of(1, alone)
    for _ in range(10):
        await hub.publish("r", "x")
        await asyncio.sleep(0)
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


async def test_every_delivery_is_as_likely_to_be_asked_about_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Big rooms and small ones, early and late members: their shares of the samples are their shares of the deliveries."""
    random.seed(7)
    monkeypatch.setattr(confirms, "TICK_SECONDS", 1e6)  # the share stays what it is
    sampler, seen = watched(per_second=1e9)
    hub, made = await room_of(20, sampler)
    sampler._share, sampler._skip = 0.05, 0
    for _ in range(2000):
        await hub.publish("r", "x")
        await asyncio.sleep(0)
        for _, frames in made:
            if frames.pings:
                frames.pong()
    asked = Counter(member.id for member, *_ in seen)
    assert sum(asked.values()) == pytest.approx(2000 * 20 * 0.05, rel=0.15)
    assert min(asked.values()) > 0.5 * 100
    assert max(asked.values()) < 1.6 * 100
    await hub.stop()


async def test_the_share_follows_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a second at many deliveries few are asked about, and the timer rests when nothing is delivered."""
    monkeypatch.setattr(confirms, "TICK_SECONDS", 3600)
    sampler = Confirms(per_second=5 / 3600)  # 5 per tick
    hub, _ = await room_of(100, sampler)
    for _ in range(50):
        await hub.publish("r", "x")
        await asyncio.sleep(0)
    assert sampler._share == 1.0
    tick(sampler)
    assert sampler._share == 5 / 5000
    sampler._waiting.clear()
    tick(sampler)
    assert sampler._timer is None
    await hub.stop()


async def test_every_delivery_of_a_second_is_counted_whatever_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next share follows from what there was: before, between and behind the samples, and when the budget is gone."""
    monkeypatch.setattr(confirms, "TICK_SECONDS", 3600)
    sampler = Confirms(per_second=2 / 3600)
    sampler._budget = 2
    hub, made = await room_of(7, sampler)
    for _ in range(50):
        await hub.publish("r", "x")
        await asyncio.sleep(0)
    assert sampler._drawn - sampler._skip == 50 * 7
    monkeypatch.setattr(random, "random", lambda: 0.5)
    tick(sampler)
    assert sampler._share == pytest.approx(2 / 350)
    await hub.publish("r", "x")
    await asyncio.sleep(0)
    assert sampler._drawn - sampler._skip == 7
    assert sum(len(frames.pings) for _, frames in made) == 2
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
    assert 5 <= len(asked) <= 16 + 4 * 5
    assert sampler._drawn - sampler._skip == 2000
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
