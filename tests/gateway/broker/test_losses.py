"""What one node may have lost on its way out is a gap to the others, who cannot know of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.broker.losses import GAPS_ROOM, MOST_BYTES, MOST_ROOMS, Losses
from gateway.envelope import Envelope
from gateway.errors import InvalidEnvelope
from gateway.message import Message
from tests.gateway.broker.engines import FakeEngine
from tests.gateway.broker.test_contract import envelope
from tests.gateway.broker.test_engine import OPTIONS, play
from tests.gateway.broker.test_engine import Node as FakeNode
from tests.gateway.broker.test_failing_engines import QUICK, WITHOUT_CLUSTER, Make, Node, node
from tests.middleware.virtual_time import run_virtual
from tests.proxies import Proxy
from tests.servers import Redis, Server

__all__ = ["node"]


def told(losses: Losses, mine: set[str]) -> set[str]:
    """Which of ``mine`` another node takes the notice to mean."""
    notice = losses.notice()
    assert notice is not None
    return set(Losses("other").heard(Envelope.decode(notice.encode()), mine))


def test_a_notice_names_the_rooms_and_is_said_once() -> None:
    """Who has members of none of them has no gap."""
    losses = Losses("me")
    assert losses.notice() is None
    losses.add(["a", "b", "a"])
    assert told(losses, {"b", "c"}) == {"b"}
    losses.said(confirmed=True)
    assert losses.notice() is None


@pytest.mark.parametrize("rooms", [MOST_ROOMS + 1, 20])
def test_what_is_kept_is_bounded_and_means_all_rooms_beyond(rooms: int) -> None:
    """By the number of rooms and by the bytes of their names; never larger than an engine takes."""
    losses = Losses("me")
    size = 8 if rooms > MOST_ROOMS else MOST_BYTES // 10
    losses.add(f"{number}".zfill(size) for number in range(rooms))
    losses.add(["one more"])
    assert told(losses, {"x", "y"}) == {"x", "y"}


def test_a_notice_that_is_lost_is_said_again_with_what_came_meanwhile() -> None:
    """One is under way at a time."""
    losses = Losses("me")
    losses.add(["a"])
    assert told(losses, {"a", "b"}) == {"a"}
    losses.add(["b"])
    assert losses.notice() is None
    losses.said(confirmed=False)
    assert told(losses, {"a", "b", "c"}) == {"a", "b"}


def test_ones_own_notice_means_nothing_and_another_ones_is_looked_at() -> None:
    """It is a gap already told; and what is no notice is refused."""
    losses = Losses("me")
    losses.add(["a"])
    notice = losses.notice()
    assert notice is not None
    assert losses.heard(notice, {"a"}) == frozenset()
    with pytest.raises(InvalidEnvelope):
        losses.heard(Envelope(GAPS_ROOM, Message(b"\xff\x00"), id="x", node=""), {"a"})


@pytest.fixture
async def proxy(own_engine: Server) -> AsyncIterator[Proxy]:
    between = Proxy(own_engine.port)
    await between.start()
    yield between
    await between.stop()


async def lose(one: Node, proxy: Proxy, *rooms: str) -> None:
    """Let ``one`` publish into a black hole, and end its connection there."""
    proxy.open.clear()
    for room in rooms:
        one.broker.post(envelope(room))
    await asyncio.sleep(0)
    proxy.cut()
    await one.until_down()
    proxy.open.set()
    await one.until_up()


@WITHOUT_CLUSTER
async def test_rooms_of_lost_publications_are_a_gap_on_other_nodes(own_engine: Server, proxy: Proxy, node: Make) -> None:
    """Only there where somebody is in them; the node that has lost them tells its own gap, once."""
    one = await node(own_engine.url.replace(str(own_engine.port), str(proxy.port)), QUICK).start("a", "b")
    two, three = await node(own_engine.url).start("b", "c"), await node(own_engine.url).start("c")
    await lose(one, proxy, "b")
    await two.until(lambda: two.gaps == [{"b"}])
    await three.hears_itself("c")
    assert (one.gaps, three.gaps) == ([{"a", "b"}], [])
    assert one.broker.statistics().errors["publish"] >= 1
    assert two.broker.statistics().gaps == 1
    assert {message.room for message in two.listener.got} <= {"b", "c"}


async def test_what_a_demoted_master_has_confirmed_is_a_gap_for_those_who_had_left_it_before(tmp_path: Path, node: Make) -> None:
    """They were told of their own gap before it was published, and cannot know that more was missed since."""
    old, new = Redis(tmp_path), Redis(tmp_path)
    for server in (old, new):
        server.start()
    ways = [Proxy(old.port), Proxy(old.port)]
    for way in ways:
        await way.start()
    try:
        first, second = [await node(old.url_at(way.port)).start("r") for way in ways]
        ways[0].target_port = new.port
        ways[0].cut()
        await first.until(lambda: first.gaps == [{"r"}])
        await second.hears_itself("r")
        ways[1].target_port = new.port
        old.ask(f"REPLICAOF 127.0.0.1 {new.port}")
        await first.until(lambda: first.gaps == [{"r"}, {"r"}])
        assert first.listener.got == []
    finally:
        for way in ways:
            await way.stop()
        for server in (old, new):
            server.stop()


@pytest.mark.parametrize("carries", [True, False])
def test_what_a_deaf_connection_has_confirmed_is_a_gap_for_all(carries: bool) -> None:
    """Nobody knows since when; of a connection that is just lost it is known what was under way."""

    async def scene(one: FakeNode) -> None:
        await one.broker.publish(envelope("r"))
        if carries:
            one.engine.link.events.lost("gone")
        one.engine.deaf = not carries
        await asyncio.sleep(OPTIONS.probe_timeout_seconds + OPTIONS.probe_interval_seconds + 1)
        one.engine.deaf = False
        await one.until_up()
        await asyncio.sleep(0.1)
        notices = [batch for batch in one.engine.link.batches if GAPS_ROOM in batch]
        assert (len(one.engine.links) > 1, bool(notices)) == (True, not carries)

    play(scene)


@pytest.mark.parametrize("why", ["it carries nothing", "it is a replica"])
def test_a_link_that_was_never_live_has_lost_nothing_for_anybody(why: str) -> None:
    """Nothing was taken while it lasted: no notice, neither at once nor hours later."""

    async def run() -> None:
        engine = FakeEngine()
        engine.deaf = True
        one = FakeNode(engine, replace(OPTIONS, start_seconds=100))
        starting = asyncio.create_task(one.start())
        await asyncio.sleep(1)
        if why == "it is a replica":
            engine.link.events.misled(why)
        await asyncio.sleep(OPTIONS.probe_timeout_seconds + OPTIONS.probe_interval_seconds)
        engine.deaf = False
        await starting
        engine.link.events.lost("gone")
        await asyncio.sleep(0)
        await one.until_up()
        await asyncio.sleep(0.1)
        assert len(engine.links) > 2
        assert not [batch for link in engine.links for batch in link.batches if GAPS_ROOM in batch]
        await one.broker.close()

    run_virtual(lambda _: run())


def test_what_was_lost_before_a_broker_was_closed_is_told_when_it_is_started_again() -> None:
    """At once, not behind the next reconnect."""

    async def scene(one: FakeNode) -> None:
        await asyncio.sleep(0.1)
        one.engine.frozen.clear()
        one.broker.post(envelope("r"))
        await one.broker.close()
        one.engine.frozen.set()
        await one.start()
        await asyncio.sleep(0.1)
        assert [batch for batch in one.engine.link.batches if GAPS_ROOM in batch]

    play(scene)


@WITHOUT_CLUSTER
async def test_nothing_under_way_is_no_gap_elsewhere(own_engine: Server, proxy: Proxy, node: Make) -> None:
    """A broken connection alone has lost nothing for anybody else."""
    one = await node(own_engine.url.replace(str(own_engine.port), str(proxy.port)), QUICK).start("a")
    two = await node(own_engine.url).start("a")
    await lose(one, proxy)
    await one.hears_itself("a")
    assert (one.gaps, two.gaps) == ([{"a"}], [])


@WITHOUT_CLUSTER
async def test_more_rooms_than_are_kept_are_a_gap_for_all(own_engine: Server, proxy: Proxy, node: Make) -> None:
    """At the bound one notice means every room."""
    one = await node(own_engine.url.replace(str(own_engine.port), str(proxy.port)), QUICK).start("a")
    two = await node(own_engine.url).start("x", "y")
    await lose(one, proxy, *(f"room-{number}" for number in range(MOST_ROOMS + 1)))
    await two.until(lambda: two.gaps == [{"x", "y"}])
