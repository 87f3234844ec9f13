"""``GET /api/explain`` of a real gateway: asked as an operator asks, and as nobody should."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import pytest

from tests.integration.gateway_process import API_KEY, hear, running


async def test_an_operator_asks_why() -> None:
    """Publish, then ask by connection and by message, for people and for machines."""
    async with running() as gateway, gateway.connect("r") as client:
        _, published = await gateway.publish("/api/rooms/r/messages", "hello")
        assert await hear(client) == ["hello"]
        _, room = await gateway.get("/api/rooms/r")
        connection = room["connections"][0]
        status, found = await gateway.get(f"/api/explain?connection={connection}&message={published['id']}")
        assert status == 200
        assert found["connections"][0]["deliveries"][0]["verdict"] in ("written", "confirmed")
        _, text = await gateway.get(f"/api/explain?connection={connection}", Accept="text/plain")
        assert text.startswith(f"Connection {connection} is open since ")
        assert published["id"] in text
        for asked in ("connection", "message"):
            _, found = await gateway.get(f"/api/explain?{asked}={published['id']}")
            assert [one["name"] for one in found["rooms"]] == ["r"]
            assert (len(found["answer"]), found["elsewhere"]) == (2, [])
        _, found = await gateway.get("/api/explain?message=other-1")
        assert (found["rooms"], len(found["answer"])) == ([], 1)


async def test_a_listener_of_the_api_is_named_among_the_members() -> None:
    """A console that listens is a member of the room, but among no figure of connections."""
    async with running() as gateway, gateway.connect("r"):
        host, _, port = gateway.ops.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        asked = f"GET /api/rooms/r/stream HTTP/1.1\r\nHost: {gateway.ops}\r\nAuthorization: Bearer {API_KEY}\r\n\r\n"
        writer.write(asked.encode())
        await reader.readuntil(b"event: joined")
        _, text = await gateway.get("/api/explain?room=r", Accept="text/plain")
        assert "has 2 members on this node, of whom 1 listens by HTTP, as the console does." in text
        writer.close()


async def test_a_broadcast_that_arrived_is_not_denied() -> None:
    """Asked by its id and without."""
    async with running() as gateway, gateway.connect("r") as client:
        _, published = await gateway.publish("/api/broadcast", "hello")
        assert await hear(client) == ["hello"]
        _, room = await gateway.get("/api/rooms/r")
        connection = room["connections"][0]
        for query in (f"connection={connection}&message={published['id']}", f"connection={connection}"):
            _, found = await gateway.get(f"/api/explain?{query}")
            [delivery] = found["connections"][0]["deliveries"]
            assert (delivery["message"], delivery["got"]) == (published["id"], True)


@pytest.mark.parametrize(
    "query",
    ["", "?message=a%20b", "?room=" + quote("a/b"), "?room=~all", "?user=%00", "?connection=a%20b", "?room=r&else=1", "?user="],
)
async def test_what_makes_no_sense_is_400(query: str) -> None:
    """With a sentence; hostile names are told back to nobody."""
    async with running(TELEMETRY__CONFIRMS_PER_SECOND="0") as gateway:
        status, problem = await gateway.get(f"/api/explain{query}")
        assert (status, problem["status"]) == (400, 400)


async def test_it_can_be_switched_off() -> None:
    """The address says how to switch it on."""
    async with running(TELEMETRY__EXPLAIN="false") as gateway:
        status, problem = await gateway.get("/api/explain?room=r")
        assert status == 404
        assert "TIDEGATE_TELEMETRY__EXPLAIN" in problem["detail"]
