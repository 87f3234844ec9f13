"""A gateway whose clients vanish without a word, and one that has no file descriptor left."""

from __future__ import annotations

import asyncio
import os
import resource
from collections import Counter
from pathlib import Path

from tests.integration.gateway_process import GatewayProcess, running
from tests.integration.raw_client import RawClient, frame


async def test_whoever_vanishes_is_let_go_exactly_once() -> None:
    """Resets, and peers from which nothing comes any more: one event each with the reason, nothing left, others untouched."""
    each = 15
    async with (
        running(KEEPALIVE__INTERVAL_SECONDS="2", KEEPALIVE__TIMEOUT_SECONDS="2") as gateway,
        gateway.connect("r") as alive,
    ):
        tasks = await gateway.metric("tidegate_event_loop_tasks")
        clients = [RawClient(gateway.public) for _ in range(2 * each)]
        for client in clients:
            await client.connect()
            assert await client.shake_hands("/ws/r") == 101
        for client in clients[:each]:
            client.reset()
        for number in range(50):  # the room goes on talking to those who are not there
            await gateway.publish("/api/rooms/r/messages", f"{number}")
        async with asyncio.timeout(30):
            assert [await alive.recv() for _ in range(50)] == [f"{number}" for number in range(50)]
            while len(gateway.events("websocket.closed")) < 2 * each:
                await asyncio.sleep(0.05)
        events = gateway.events("websocket.closed")
        assert Counter(event["connection_id"] for event in events).most_common(1)[0][1] == 1
        assert Counter(event["close_reason"] for event in events) == {"abnormal": each, "ping-timeout": each}
        assert await gateway.metric("tidegate_registered_connections") == 1
        async with asyncio.timeout(10):
            while await gateway.metric("tidegate_event_loop_tasks") > tasks:
                await asyncio.sleep(0.05)
        for client in clients[each:]:
            client.sock.close()


def cpu_seconds(gateway: GatewayProcess) -> float:
    """What the process has used so far."""
    fields = Path(f"/proc/{gateway.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_without_a_descriptor_left_the_gateway_lives_rests_and_recovers() -> None:
    """Newcomers are refused or wait, those who are in are served, the processor is left alone; then all is as before."""
    async with running() as gateway, gateway.connect("in", "?echo=1") as inside:
        soft, hard = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)
        for spare in (0, 3):
            highest = max(int(link.name) for link in Path(f"/proc/{gateway.pid}/fd").iterdir())
            resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (highest + 1 + spare, hard))
            newcomers = [RawClient(gateway.public) for _ in range(60)]
            for newcomer in newcomers:
                await newcomer.connect()
                await newcomer.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            await asyncio.sleep(0.2)
            before = cpu_seconds(gateway)
            await asyncio.sleep(0.6)
            assert cpu_seconds(gateway) - before < 0.3, "it spins"
            for number in range(20):
                await inside.send(f"{number}")
                async with asyncio.timeout(5):
                    assert await inside.recv() == f"{number}"
            for newcomer in newcomers:
                newcomer.sock.close()
            resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (soft, hard))
            async with asyncio.timeout(10):
                while True:
                    async with RawClient(gateway.public) as again:
                        if await again.shake_hands("/ws/in") == 101:
                            await again.send(frame(b"hello"))
                            assert await inside.recv() == "hello"
                            break
                    await asyncio.sleep(0.1)
        assert (await gateway.get("/readyz"))[0] == 200
        assert len(gateway.log_lines) < 200, "the log is not flooded either"
        assert not [event for event in gateway.log if event["level"] == "critical"]
