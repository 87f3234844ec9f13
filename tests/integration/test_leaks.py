"""Ten thousand connections that end in every way leave nothing behind."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.integration.gateway_process import GatewayProcess, running
from tests.integration.raw_client import RawClient, frame, handshake

CONNECTIONS = 10_000
AT_ONCE = 40
ROOMS = 300
HALF_A_FRAME = frame(b"x" * 50_000)[:20_000]
MiB = 1024 * 1024
GAUGES = (
    "tidegate_registered_connections",
    "tidegate_rooms",
    "tidegate_memberships",
    "tidegate_users",
    "tidegate_subscriptions",
    "tidegate_slots_taken",
    "tidegate_event_loop_tasks",
)


async def clean_close(client: RawClient, path: str) -> None:
    """A message, a close frame, and the server's FIN is waited for."""
    assert await client.shake_hands(path) == 101
    await client.send(frame(b"hello") + frame(struct.pack("!H", 1000), opcode=8))
    await client.receive_all()


async def reset(client: RawClient, path: str) -> None:
    """An RST in the middle of a conversation."""
    assert await client.shake_hands(path) == 101
    await client.send(frame(b"hello"))
    client.reset()


async def fin_without_close(client: RawClient, path: str) -> None:
    """A FIN without a close frame."""
    assert await client.shake_hands(path) == 101
    client.finish()
    await client.receive_all()


async def cut_in_handshake(client: RawClient, path: str) -> None:
    """Half a request, then nothing more; every second time with an RST."""
    request = handshake(client.address, path)
    await client.send(request[: len(request) // 2])
    if path.endswith("1"):
        client.reset()
    else:
        client.finish()
        await client.receive_all()


async def cut_in_message(client: RawClient, path: str) -> None:
    """A frame that announces more than ever comes; every second time with an RST."""
    assert await client.shake_hands(path) == 101
    await client.send(HALF_A_FRAME)
    if path.endswith("1"):
        client.reset()
    else:
        client.finish()
        await client.receive_all()


WAYS: tuple[Callable[[RawClient, str], Awaitable[None]], ...] = (
    clean_close,
    reset,
    fin_without_close,
    cut_in_handshake,
    cut_in_message,
)


async def open_and_end(gateway: GatewayProcess, count: int) -> None:
    """``count`` connections, a few at once, in all the ways by turns."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            async with RawClient(gateway.public) as client:
                await WAYS[number % len(WAYS)](client, f"/ws/room-{number % ROOMS}?echo={number % 2}")

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())


async def levels(gateway: GatewayProcess) -> dict[str, float]:
    """What must come back to where it was."""
    found = {gauge: await gateway.metric(gauge) for gauge in GAUGES}
    return {**found, "descriptors": gateway.descriptors()}


def resident_bytes(gateway: GatewayProcess) -> int:
    """The process's memory in RAM."""
    return int(Path(f"/proc/{gateway.pid}/statm").read_text().split()[1]) * 4096


async def test_ten_thousand_connections_that_end_in_five_ways_leave_nothing_behind() -> None:
    """Registry, rooms, subscriptions, slots, tasks and descriptors are back where they were, and memory stops growing."""
    async with running(LOG_LEVEL="warning", DRAIN__ABORT_AFTER_SECONDS="2") as gateway:
        async with gateway.connect("warm", "?echo=1") as client:
            await client.send("up")
            await client.recv()
        await settled(gateway, dict.fromkeys(GAUGES[:4], 0.0))
        before = await levels(gateway)
        memory = []
        for _ in range(8):
            await open_and_end(gateway, CONNECTIONS // 4)
            memory.append(resident_bytes(gateway))
        opened = CONNECTIONS * (len(WAYS) - 1) // len(WAYS)
        assert await gateway.metric("tidegate_handshakes_total", outcome="accepted") > opened
        await settled(gateway, before)
        # The collector runs every few rounds, so memory goes up and down; what it comes down to must not rise.
        growth = min(memory[5:]) - min(memory[2:5])
        assert growth < 8 * MiB, f"resident after each round: {[size // MiB for size in memory]} MiB"
        async with gateway.connect("warm", "?echo=1") as client:
            await client.send("still fine")
            assert await client.recv() == "still fine"
        assert not [event for event in gateway.log if event["level"] in ("error", "critical") or "exception" in event]


async def settled(gateway: GatewayProcess, expected: dict[str, float]) -> None:
    """Wait until every level is at most what it was; rooms stay subscribed for a few seconds after their last member."""
    now: dict[str, float] = {}
    try:
        async with asyncio.timeout(20):
            while True:
                now = await levels(gateway)
                if all(now[name] <= level for name, level in expected.items()):
                    return
                await asyncio.sleep(0.2)
    except TimeoutError:
        left = {name: (level, now[name]) for name, level in expected.items() if now[name] > level}
        raise AssertionError(f"left behind (before, now): {left}") from None
