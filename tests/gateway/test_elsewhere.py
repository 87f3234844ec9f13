"""Which other node to ask, said by the API: of one node and of two that hear of each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.api.elsewhere import Elsewhere
from gateway.cluster import Cluster
from gateway.explain import Explainer, Records
from gateway.hub import Hub
from gateway.server import WebSocketServer
from tests.gateway.api_helpers import Api, open_api
from tests.gateway.linked_brokers import Engine


def explainer_of(server: WebSocketServer) -> Explainer:
    records = Records()
    server.hub.observers.add(records)
    return Explainer(server.hub, records)


@asynccontextmanager
async def two_nodes() -> AsyncIterator[tuple[Engine, Api, Api]]:
    """Two nodes that hear of each other."""
    engine = Engine()
    servers = [WebSocketServer(broker=engine.broker(), node=node) for node in ("n1", "n2")]
    first, second = (explainer_of(server) for server in servers)
    async with open_api(servers[0], explainer=first) as one, open_api(servers[1], explainer=second) as two:
        async with asyncio.timeout(10):
            while [server.cluster.statistics().nodes for server in servers] != [2, 2]:
                await asyncio.sleep(0.01)
        yield engine, one, two


async def test_a_connection_of_another_node_is_not_found_and_its_node_is_named() -> None:
    """In the 404 and in the explanation alike, whether the node is heard of or not."""
    async with two_nodes() as (_, one, two):
        member = await two.join("r")
        detail = (await one.client.get(f"/api/connections/{member.id}")).json()["detail"]
        assert "of node n2 (heard of 0." in detail
        assert "ask the ops listener of that one" in detail
        found = (await one.client.get(f"/api/explain?connection={member.id}")).json()
        assert found["elsewhere"] == [{"node": "n2", "is_heard": True, "connections": []}]
        assert "of node n2 (heard" in " ".join(found["answer"])
        found = (await one.client.get("/api/explain?connection=gone-7")).json()
        assert found["elsewhere"] == [{"node": "gone", "is_heard": False, "connections": []}]
        assert found["answer"][-1].endswith("or has another broker. It hears of n2.")


@pytest.mark.parametrize(
    ("connection", "words"),
    [
        ("n1-77", "Its id is of this node, so it has ended, or never was."),
        ("pod-b-2-17", "Its id is of node pod-b-2, of which this node, n1, does not hear"),
        ("seventeen", "An id of a connection is its node's, a dash and a number; this node is n1."),
        ("%20", "can be no id"),
    ],
)
async def test_a_connection_that_nobody_knows(connection: str, words: str) -> None:
    """The 404 says what its id tells, also where there is one node alone."""
    async with open_api() as api:
        response = await api.client.get(f"/api/connections/{connection}")
        assert response.status_code == 404
        assert words in response.json()["detail"]


async def test_a_user_on_another_node_is_found_there() -> None:
    """The answer names the node and one of the connections; also where some of them are here, and for rooms."""
    async with two_nodes() as (engine, one, two):
        there = [await two.join("r", user="ann") for _ in range(2)]
        found = (await one.client.get("/api/explain?user=ann")).json()
        assert found["elsewhere"] == [{"node": "n2", "is_heard": True, "connections": sorted(member.id for member in there)}]
        assert f"Node n2 has 2 connections of it ({there[0].id} and others)" in " ".join(found["answer"])
        await one.join("r", user="ann")
        found = (await one.client.get("/api/explain?user=ann")).json()
        assert (len(found["connections"]), len(found["elsewhere"])) == (1, 1)
        found = (await one.client.get("/api/explain?room=r")).json()
        assert [node["node"] for node in found["elsewhere"]] == ["n2"]
        engine.down = True
        found = (await one.client.get("/api/explain?room=r")).json()
        assert "did not answer: n2." in found["answer"][-1]
        engine.down = False


async def test_alone_there_is_nobody_else_to_ask() -> None:
    """Nothing is asked and nothing said; a user's name that is longer than a room's is not asked about."""
    hub = Hub(node="n1")
    elsewhere = Elsewhere(Cluster(hub))
    assert await elsewhere.of_room("r") == ([], [])
    assert "It hears of no other node" in elsewhere.of_connection("other-1")[0]
    async with two_nodes() as (_, one, _two):
        found = (await one.client.get("/api/explain", params={"user": "u" * 256})).json()
        assert found["elsewhere"] == []
        assert "long to ask" in found["answer"][-1]
