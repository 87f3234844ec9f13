"""Several servers of one NATS cluster: what holds between nodes on different servers, and that a lost route is no secret."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path

import pytest

from gateway.broker import open_broker
from gateway.cluster import Cluster
from gateway.connection import Connection
from gateway.hub import Hub
from gateway.registry import EVERYONE
from tests.gateway.connections import BufferingFrames, frame_connection
from tests.nats_cluster import NatsPair

BEAT = 0.1


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[NatsPair]:
    made = NatsPair(tmp_path)
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


class Node:
    """A node on one of the servers."""

    def __init__(self, url: str) -> None:
        self.gaps: list[set[str]] = []
        self.hub = Hub(open_broker(url), on_gap=self._on_gap)
        self.cluster = Cluster(self.hub, heartbeat_seconds=BEAT)

    def _on_gap(self, rooms: Collection[str]) -> None:
        self.gaps.append(set(rooms))

    async def start(self) -> None:
        await self.hub.start()
        self.cluster.start()

    async def stop(self) -> None:
        await self.cluster.stop()
        await self.hub.stop()

    async def member(self, room: str) -> tuple[Connection, BufferingFrames]:
        """A connection that has joined."""
        connection, frames = frame_connection(id=self.hub.new_id())
        await self.hub.hold((room,))
        self.hub.enter(connection, (room,))
        return connection, frames

    async def knows(self, count: int) -> None:
        """Wait until it hears of so many nodes, itself too."""
        await until(lambda: self.cluster.statistics().nodes == count)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def nodes(pair: NatsPair) -> AsyncIterator[tuple[Node, Node, Node]]:
    """Two on the first server, one on the second."""
    made = [Node(pair.servers[number].url) for number in (0, 0, 1)]
    try:
        for node in made:
            await node.start()
        for node in made:
            await node.knows(3)
        yield made[0], made[1], made[2]
    finally:
        for node in made:
            await node.stop()


def heard(frames: BufferingFrames) -> bytes:
    return b"".join(frames.written)


async def test_a_join_is_known_to_its_own_server_at_once_and_to_others_before_what_is_said_next(
    pair: NatsPair, nodes: tuple[Node, Node, Node]
) -> None:
    """However long the way between the servers: who answers to something that was said behind the join is heard."""
    here, beside, far = nodes
    pair.route.delay_seconds = 0.2
    _, asked = await far.member(EVERYONE)  # all nodes hear it since they started
    _, frames = await here.member("r")
    await beside.hub.publish("r", "from the same server")
    await here.hub.publish(EVERYONE, "who is there?")
    await until(lambda: b"who is there?" in heard(asked))
    await far.hub.publish("r", "from the other server")
    await until(lambda: b"from the other server" in heard(frames))
    assert b"from the same server" in heard(frames)


async def test_what_a_broken_route_has_lost_is_a_gap(pair: NatsPair, nodes: tuple[Node, Node, Node]) -> None:
    """On both sides of it, in all rooms, when they hear each other again; each server served its own nodes all the while."""
    here, beside, far = nodes
    _, frames = await here.member("r")
    _, others = await far.member("r")
    pair.route.open.clear()
    await far.knows(1)
    await here.knows(2)
    await here.hub.publish("r", "lost")
    await until(lambda: b"lost" in heard(frames))
    for node in nodes:
        await node.hub.broker.check()
    pair.route.cut()
    pair.route.open.set()
    for node in nodes:
        await node.knows(3)
        await until(lambda node=node: node.gaps)
    assert "r" in far.gaps[0]
    assert b"lost" not in heard(others)
    await here.hub.publish("r", "again")
    await until(lambda: b"again" in heard(others))
