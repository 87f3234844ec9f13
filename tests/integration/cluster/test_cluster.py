"""A cluster of three nodes on each engine: what its clients hear, whatever becomes of nodes, engine and network.

Existing sockets stay; what is heard is in order and once; what is lost is counted by who lost it; readiness names the broker within
ten seconds of its failure; and everybody hears again ten seconds after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from functools import partial
from http.client import HTTPException
from typing import ClassVar

import pytest
import pytest_asyncio
from websockets.exceptions import InvalidStatus

from tests.integration.cluster.crowd import Crowd, Hole
from tests.integration.cluster.nodes import Figures, Node, eventually
from tests.proxies import Proxy
from tests.servers import Nats, Redis, Server

BACK_SECONDS = 10.0
"""In this time all hear again, and readiness tells the truth."""
FOUND_OUT_SECONDS = 30.0
"""In this time a connection that carries nothing is replaced."""


Seen = defaultdict[str, list[tuple[float, float]]]
"""How many gaps a node had counted, and when that was looked up."""


class Cluster:
    """Engine, nodes and clients. The first node reaches the engine through a proxy."""

    def __init__(self, engine: Server) -> None:
        self.engine = engine
        self.proxy = Proxy(engine.port)
        self.nodes: list[Node] = []
        self.crowd = Crowd(lambda: self.nodes)
        self._names = iter("abcdefghijklmnop")
        self._all: list[Node] = []
        self._gaps: Seen = defaultdict(list)
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.engine.start()
        await self.proxy.start()
        self.nodes = list(
            await asyncio.gather(self.node(self.engine.url_at(self.proxy.port)), *(self.node(self.engine.url) for _ in range(2)))
        )
        await self.crowd.come()
        self._watching = asyncio.create_task(self._watch())

    async def node(self, url: str) -> Node:
        node = Node(next(self._names), url)
        self._all.append(node)
        await node.start()
        return node

    async def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait((self._watching,))
        await self.crowd.go()
        for node in self._all:
            await node.close()
        await self.proxy.stop()
        self.engine.stop()

    async def figures(self) -> dict[str, Figures]:
        return {node.name: await node.figures() for node in self.nodes}

    async def ready(self, *expected: bool) -> bool:
        """Whether the nodes are ready, or not, as is expected of each."""
        told = await asyncio.gather(*(node.readiness() for node in self.nodes))
        return [one == ("" if ready else "broker") for one, ready in zip(told, expected, strict=True)] == [True] * len(told)

    def judge(self, before: dict[str, Figures], after: dict[str, Figures]) -> list[Hole]:
        """Nothing came twice or out of order, and each hole is counted where it arose; returns the holes."""
        assert not self.crowd.wrong
        holes = self.crowd.take_holes()
        return explained(holes, before, after, self._gaps)

    async def _watch(self) -> None:
        """Note when which node had counted how many gaps."""
        while True:
            for node in self.nodes:
                with contextlib.suppress(OSError, HTTPException):  # it may be dead
                    gaps = (await node.figures()).gaps
                    self._gaps[node.name].append((time.monotonic(), gaps))
            await asyncio.sleep(0.5)


@pytest_asyncio.fixture(scope="class", loop_scope="class")
async def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    made = Cluster(request.cls.engine(tmp_path_factory.mktemp("engine")))
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


@pytest.mark.asyncio(loop_scope="class")
class Scenarios:
    """What is to hold on any engine. The tests share a cluster and leave it whole."""

    engine: ClassVar[type[Redis] | type[Nats]]

    async def test_three_hundred_clients_hear_each_other(self, cluster: Cluster) -> None:
        """Over thirty rooms and three nodes; any node tells the nodes, the rooms and their members."""
        await cluster.crowd.all_hear(BACK_SECONDS)
        assert not cluster.crowd.take_holes()
        assert not cluster.crowd.wrong
        ids = {await node.id() for node in cluster.nodes}
        for node in cluster.nodes:
            await eventually(partial(tells_all, node, ids), BACK_SECONDS, f"node {node.name} tells of nodes, rooms and members")

    async def test_a_connection_is_closed_from_another_node(self, cluster: Cluster) -> None:
        """Whichever node is asked."""
        first, second, _ = cluster.nodes
        async with await first.connect("alone") as client:
            _, room = await first.gateway.get("/api/rooms/alone?local=true")
            status, answer = await second.gateway.request("DELETE", f"/api/connections/{room['connections'][0]}?reason=replaced")
            assert (status, answer["local"]) == (202, False)
            async with asyncio.timeout(BACK_SECONDS):
                await client.wait_closed()
            assert (client.close_code, client.close_reason) == (4001, "replaced")

    async def test_a_node_behind_a_black_hole(self, cluster: Cluster) -> None:
        """It alone is not ready, keeps its clients, and is back soon after; the others miss nothing of each other."""
        before, sessions = await cluster.figures(), cluster.crowd.sessions
        cluster.proxy.open.clear()
        await eventually(lambda: cluster.ready(False, True, True), BACK_SECONDS, "the first node alone not ready")
        cluster.proxy.open.set()
        await eventually(lambda: cluster.ready(True, True, True), BACK_SECONDS, "all nodes ready")
        await cluster.crowd.all_hear(BACK_SECONDS)
        holes = cluster.judge(before, await cluster.figures())
        assert all(cluster.nodes[0].name in (hole.member_node, hole.publisher_node) for hole in holes)
        assert cluster.crowd.sessions == sessions

    async def test_a_node_far_from_the_engine(self, cluster: Cluster) -> None:
        """What comes late comes in order and once, and nobody misses anything."""
        before, sessions = await cluster.figures(), cluster.crowd.sessions
        cluster.proxy.delay_seconds = 0.3
        try:
            for _ in range(2):
                await cluster.crowd.all_hear(BACK_SECONDS)
            await eventually(lambda: cluster.ready(True, True, True), BACK_SECONDS, "all nodes ready")
        finally:
            cluster.proxy.delay_seconds = 0.0  # the cluster is for the tests after this one, too
        await cluster.crowd.all_hear(BACK_SECONDS)
        assert not cluster.judge(before, await cluster.figures())
        assert cluster.crowd.sessions == sessions

    async def test_a_node_that_hears_nothing_through_a_healthy_connection(self, cluster: Cluster) -> None:
        """It finds out by itself, says so, and hears again soon after, be it with another connection."""
        before, sessions = await cluster.figures(), cluster.crowd.sessions
        as_it_is, cluster.proxy.to_client = cluster.proxy.to_client, lambda piece: b""
        try:
            await eventually(lambda: cluster.ready(False, True, True), BACK_SECONDS, "the first node alone not ready")
        finally:
            cluster.proxy.to_client = as_it_is
        await cluster.crowd.all_hear(FOUND_OUT_SECONDS)
        await eventually(lambda: cluster.ready(True, True, True), BACK_SECONDS, "all nodes ready")
        after = await cluster.figures()
        cluster.judge(before, after)
        assert after[cluster.nodes[0].name].gaps > before[cluster.nodes[0].name].gaps
        assert cluster.crowd.sessions == sessions

    async def test_a_node_whose_connections_are_cut(self, cluster: Cluster) -> None:
        """It connects again by itself, hears all its rooms again, and counts a gap; so do others, of what it may have lost."""
        before, sessions = await cluster.figures(), cluster.crowd.sessions
        cluster.proxy.cut()
        await eventually(lambda: gap_on(cluster.nodes[0], before), BACK_SECONDS, "a gap")
        await cluster.crowd.all_hear(BACK_SECONDS)
        await eventually(lambda: cluster.ready(True, True, True), BACK_SECONDS, "all nodes ready")
        after = await cluster.figures()
        cluster.judge(before, after)
        cut, *others = [after[node.name].gaps - before[node.name].gaps for node in cluster.nodes]
        unsent = after[cluster.nodes[0].name].unsent - before[cluster.nodes[0].name].unsent
        assert max(others) <= (cut if unsent else 0)
        assert cluster.crowd.sessions == sessions

    async def test_an_engine_that_is_frozen(self, cluster: Cluster) -> None:
        """For ten seconds: no node is ready, joining and publishing are refused with 503, sockets stay, nobody has a gap."""
        before, sessions = await cluster.figures(), cluster.crowd.sessions
        async with await cluster.nodes[0].connect("left"):
            pass  # its room is given up while the engine is frozen
        cluster.engine.signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(30):
                joined, *_ = await asyncio.gather(
                    refusal(cluster.nodes[2], "joined"),
                    eventually(lambda: cluster.ready(False, False, False), BACK_SECONDS, "all nodes not ready"),
                    asyncio.sleep(10),
                )
                status, _ = await cluster.nodes[1].gateway.publish("/api/rooms/room-1/messages", "x")
                with pytest.raises(InvalidStatus) as refused:
                    await cluster.nodes[1].connect("room-1")
            assert (status, joined, refused.value.response.status_code) == (503, 503, 503)
        finally:
            cluster.engine.signal(signal.SIGCONT)
        await cluster.crowd.all_hear(BACK_SECONDS)
        await eventually(lambda: cluster.ready(True, True, True), BACK_SECONDS, "all nodes ready")
        after = await cluster.figures()
        cluster.judge(before, after)
        assert {name: figures.gaps for name, figures in after.items()} == {name: figures.gaps for name, figures in before.items()}
        assert cluster.crowd.sessions == sessions

    async def test_an_engine_that_is_restarted_empty(self, cluster: Cluster) -> None:
        """All rooms are subscribed again, each node counts a gap, sockets stay."""
        before, sessions = await cluster.figures(), cluster.crowd.sessions
        cluster.engine.stop()
        await eventually(lambda: cluster.ready(False, False, False), BACK_SECONDS, "all nodes not ready")
        await asyncio.to_thread(cluster.engine.start)
        await cluster.crowd.all_hear(BACK_SECONDS)
        await eventually(lambda: cluster.ready(True, True, True), BACK_SECONDS, "all nodes ready")
        after = await cluster.figures()
        cluster.judge(before, after)
        assert all(after[name].gaps > before[name].gaps for name in after)
        assert cluster.crowd.sessions == sessions

    async def test_a_node_that_is_killed(self, cluster: Cluster) -> None:
        """The others miss nothing of each other and forget it; its clients come back elsewhere; a new node is known at once."""
        dead = cluster.nodes.pop(2)
        dead_id, before = await dead.id(), await cluster.figures()
        dead.gateway.process.kill()
        await cluster.crowd.all_hear(BACK_SECONDS)
        assert not cluster.judge(before, await cluster.figures())

        async def is_forgotten() -> bool:
            return not any([dead_id in await node.knows() for node in cluster.nodes])

        await eventually(is_forgotten, BACK_SECONDS, "the dead node is forgotten")
        cluster.nodes.append(await cluster.node(cluster.engine.url))
        ids = {await node.id() for node in cluster.nodes}
        await eventually(lambda: all_know(cluster, ids), BACK_SECONDS, "the new node is known")

    async def test_a_rolling_restart(self, cluster: Cluster) -> None:
        """One node after the other drains and is replaced: nobody misses anything, no node counts a gap, all end well."""
        before = await cluster.figures()
        for _ in range(3):
            old = cluster.nodes.pop(0)
            ended = asyncio.create_task(old.gateway.stop())
            cluster.nodes.append(await cluster.node(cluster.engine.url))
            assert await ended == 0
            await cluster.crowd.all_hear(2 * BACK_SECONDS)
            after = await cluster.figures()
            nobody = {node.name: Figures(0, 0) for node in cluster.nodes}
            assert {name: figures.gaps - before.get(name, nobody[name]).gaps for name, figures in after.items()} == dict.fromkeys(
                after, 0
            )
            assert not cluster.crowd.wrong
            assert not cluster.crowd.take_holes()
            assert not [event for event in old.gateway.log if event.get("exception")]


class TestRedis(Scenarios):
    engine = Redis


class TestNats(Scenarios):
    engine = Nats


def explained(holes: list[Hole], before: dict[str, Figures], after: dict[str, Figures], seen: Seen) -> list[Hole]:
    """The holes. For each there is a gap that its member's node told afterwards, or its publisher's node has lost so many messages.

    Figures do not tell a gap's rooms; one that was told before anything was missing is no explanation.
    """
    unsent: defaultdict[str, set[tuple[str, int]]] = defaultdict(set)
    for hole in holes:
        known = max([before[hole.member_node].gaps, *(gaps for at, gaps in seen[hole.member_node] if at <= hole.heard_before)])
        if after[hole.member_node].gaps <= known:
            unsent[hole.publisher_node].update((hole.publisher, number) for number in hole.missing)
    for name, messages in unsent.items():
        counted = after[name].unsent - before[name].unsent
        assert len(messages) <= counted, f"{len(messages)} losses on node {name}, which has counted {counted}: {holes}"
    return holes


async def tells_all(node: Node, ids: set[str]) -> bool:
    """Whether the node knows all nodes, and counts thirty rooms of ten over them."""
    _, answer = await node.gateway.get("/api/rooms")
    _, room = await node.gateway.get("/api/rooms/room-7")
    sizes = [one["members"] for one in answer["rooms"]]
    return sizes == [10] * 30 and answer["complete"] and len(room["connections"]) == 10 and await node.knows() == ids


async def refusal(node: Node, room: str) -> int:
    """The status with which a client is refused."""
    with pytest.raises(InvalidStatus) as caught:
        await node.connect(room)
    return caught.value.response.status_code


async def gap_on(node: Node, before: dict[str, Figures]) -> bool:
    return (await node.figures()).gaps > before[node.name].gaps


async def all_know(cluster: Cluster, ids: set[str]) -> bool:
    return all([await node.knows() == ids for node in cluster.nodes])
