"""``tidegate serve --workers 3`` on a real engine: one port, three nodes, one supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import websockets
from websockets.exceptions import ConnectionClosed

from tests.integration.cluster.nodes import eventually
from tests.integration.gateway_process import GatewayAt, GatewayProcess, hear, running
from tests.servers import Redis

CLIENTS = 60


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    redis = Redis(tmp_path)
    redis.start()
    try:
        async with running("--workers", "3", BROKER=redis.url, DRAIN__PERIOD_SECONDS="1") as made:
            yield made
    finally:
        redis.stop()


async def counts(gateway: GatewayProcess) -> list[int]:
    """How many connections each worker has."""
    nodes = [await worker.get("/api/node") for worker in gateway.workers]
    return [node["statistics"]["connections"] for _, node in nodes]


async def is_whole(gateway: GatewayProcess) -> bool:
    """Whether all workers are ready and know each other."""

    async def knows(worker: GatewayAt) -> bool:
        try:
            ready, _ = await worker.get("/readyz")
            _, answer = await worker.get("/api/nodes")
        except OSError:
            return False
        return ready == 200 and len(answer["nodes"]) == 3

    return all(await asyncio.gather(*map(knows, gateway.workers)))


async def test_workers_share_the_clients_of_one_port(gateway: GatewayProcess) -> None:
    """Each has some of them, all hear each other, and each worker's log lines carry its number and node."""
    await eventually(lambda: is_whole(gateway), 30, "three workers that know each other")
    clients = [await gateway.connect("r", "?echo=1") for _ in range(CLIENTS)]
    found = await counts(gateway)
    assert sum(found) == CLIENTS
    assert min(found) > 0
    await clients[0].send("hello")
    assert await asyncio.gather(*(hear(client) for client in clients)) == [["hello"]] * CLIENTS

    async def counts_all() -> bool:
        _, room = await gateway.workers[1].get("/api/rooms/r")
        return bool(room["members"] == CLIENTS)

    await eventually(counts_all, 10, "one worker counts the members on all")
    for client in clients:
        await client.close()
    serving = gateway.events("serving")
    assert {event["worker"] for event in serving} == {0, 1, 2}
    assert len({event["node"] for event in serving}) == 3


async def test_a_worker_that_is_killed_is_replaced_at_its_address(gateway: GatewayProcess) -> None:
    """The clients of the others stay; those of the dead one may come back at once; the new one is a node again."""
    clients = [await gateway.connect("r") for _ in range(CLIENTS)]
    dead = max(range(3), key=(await counts(gateway)).__getitem__)
    lost = (await counts(gateway))[dead]
    (pid,) = [event["pid"] for event in gateway.events("serving") if event["worker"] == dead]
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(30):
        while sum(client.close_code is not None for client in clients) < lost:
            await asyncio.sleep(0.05)
    again = [await gateway.connect("r") for _ in range(lost)]
    await eventually(lambda: is_whole(gateway), 30, "three workers that know each other")
    living = [client for client in [*clients, *again] if client.close_code is None]
    assert len(living) == CLIENTS
    await gateway.workers[dead].publish("/api/rooms/r/messages", "hello")
    assert await asyncio.gather(*(hear(client) for client in living)) == [["hello"]] * CLIENTS
    assert [event["worker"] for event in gateway.events("a worker died")] == [dead]
    for client in living:
        await client.close()


async def test_a_rolling_restart_by_hand_refuses_nobody(gateway: GatewayProcess) -> None:
    """A worker that drains has left the port: newcomers are the others' while its own clients go, and a new one takes its place."""
    clients = [await gateway.connect("r") for _ in range(CLIENTS)]
    old = gateway.events("serving")[0]
    os.kill(old["pid"], signal.SIGTERM)
    await gateway.event("left the shared port")
    while not gateway.events("stopped"):
        async with gateway.connect("r"):
            pass
    await eventually(lambda: is_whole(gateway), 30, "three workers that know each other")
    (replaced,) = gateway.events("a worker has drained and is replaced")
    assert (replaced["worker"], replaced["pid"], replaced["level"]) == (old["worker"], old["pid"], "info")
    assert not gateway.events("a worker died")
    for client in clients:
        await client.close()


async def test_one_sigterm_drains_all_workers(gateway: GatewayProcess) -> None:
    """Every client is told to come back, nobody is cut off, and the exit code is 0."""
    clients = [await gateway.connect("r") for _ in range(CLIENTS)]
    ended = asyncio.create_task(gateway.stop())
    codes = await asyncio.gather(*map(close_code, clients))
    assert codes == [1012] * CLIENTS
    assert await ended == 0


async def close_code(client: websockets.ClientConnection) -> int | None:
    async with asyncio.timeout(30):
        with pytest.raises(ConnectionClosed):
            await client.recv()
    return client.close_code
