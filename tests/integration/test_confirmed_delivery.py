"""Confirmed deliveries over real sockets: a ping behind a message, and clients that answer it, partly or not at all."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import websockets

from gateway.app import Gateway, create_app
from gateway.settings import Settings
from gateway.wire import WireProtocol
from tests.integration.wire.servers import Raw, Served, serving
from tests.integration.wire.test_bounds import masked

PING, PONG, TEXT, CLOSE = 0x89, 0x8A, 0x81, 0x88
LONG = "the same tide again " * 40


@asynccontextmanager
async def gateway(
    *, per_second: float = 1000, keepalive_seconds: float | None = None, **wire: Any
) -> AsyncIterator[tuple[Gateway, Served]]:
    """A whole gateway in this process, on our wire; every delivery is asked about while the budget lasts."""
    settings = Settings(
        telemetry={"confirms_per_second": per_second},
        compression={"deflate": True},
        rate_limit={"messages_per_second": None},
        connection_limit={"per_client": None},
    )  # type: ignore[arg-type]  # the groups are validated
    made = create_app(settings)
    await made.start()
    try:
        timeout = {"ping_interval_seconds": keepalive_seconds, "ping_timeout_seconds": keepalive_seconds, "deflate": True}
        async with serving(
            made, **{**timeout, "deflate_minimum_bytes": 64, "close_timeout_seconds": 0.5, "abort_after_seconds": 1.0, **wire}
        ) as served:
            yield made, served
    finally:
        await made.stop()


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.005)


async def listener(served: Served) -> Raw:
    """A raw client in the room."""
    client = await Raw.connect(served.port)
    client.send(
        b"GET /ws/r HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
    return client


async def entered(made: Gateway, count: int) -> None:
    await until(lambda: len(made.server.registry.connections) == count)


async def test_the_ping_comes_right_behind_the_message_and_its_pong_confirms_it() -> None:
    """Bit by bit; until the pong comes the sample waits."""
    async with gateway() as (made, served):
        client = await listener(served)
        await entered(made, 1)
        await made.server.broadcast("r", "hello")
        assert await client.frame() == (TEXT, b"hello")
        first, payload = await client.frame()
        assert (first, len(payload), made.collector.confirms.waiting) == (PING, 8, 1)
        client.send(masked(PONG, payload))
        await until(lambda: made.collector.confirms.results["confirmed"] == 1)
        assert made.collector.confirms.waiting == 0
        await client.close()


async def test_a_client_that_answers_only_the_newest_ping_confirms_too() -> None:
    """The keepalive's ping came later; answering that one alone is all that RFC 6455 §5.5.3 asks for."""
    async with gateway(keepalive_seconds=0.2, ping_timeout_seconds=20.0) as (made, served):
        client = await listener(served)
        await entered(made, 1)
        await made.server.broadcast("r", "hello")
        pings: list[bytes] = []
        while len(pings) < 2 or len(pings[-1]) == 8:
            first, payload = await client.frame()
            if first == PING:
                pings.append(payload)
                if len(payload) != 8 and not any(len(ping) == 8 for ping in pings):
                    client.send(masked(PONG, payload))
        client.send(masked(PONG, pings[-1]))
        await until(lambda: made.collector.confirms.results["confirmed"] == 1)
        assert len(made.server.registry.connections) == 1
        await client.close()


async def test_who_never_answers_is_a_timeout_and_who_leaves_is_closed_before() -> None:
    """Each sample has one result, and an answer that comes late changes none."""
    async with gateway() as (made, served):
        results = made.collector.confirms.results
        leaving = await listener(served)
        await entered(made, 1)
        await made.server.broadcast("r", "hello")
        assert await leaving.frame() == (TEXT, b"hello")
        leaving.send(masked(CLOSE, b""))
        await until(lambda: results["closed_before"] == 1)
        await entered(made, 0)
        made.collector.confirms._timeout_seconds = 0.05
        mute = await listener(served)
        await entered(made, 1)
        await made.server.broadcast("r", "hello")
        frames = [await mute.frame() for _ in range(2)]
        await until(lambda: results["timeout"] == 1)
        mute.send(masked(PONG, frames[1][1]) + masked(TEXT, b"a sign"))
        await until(lambda: any(one.frames and one.frames.received_messages for one in made.server.registry.connections.values()))
        assert results == Counter({"timeout": 1, "closed_before": 1, "confirmed": 0})
        await mute.close()
        await leaving.close()


async def test_a_keepalive_ends_who_answers_no_ping_at_all() -> None:
    """A probe that waits neither delays that nor brings it about: the sample ends with the connection."""
    async with gateway(keepalive_seconds=0.2) as (made, served):
        client = await listener(served)
        await entered(made, 1)
        await made.server.broadcast("r", "hello")
        last = await client.frame()
        while last[0] != CLOSE:
            last = await client.frame()
        assert last == (CLOSE, b"\x03\xf3ping-timeout")
        assert made.collector.confirms.results["closed_before"] == 1
        await client.close()


@pytest.mark.parametrize("mode", ["plain", "deflate", "zstd"])
async def test_a_library_client_confirms_whatever_is_compressed(mode: str) -> None:
    """Many more than a client may send of control frames by itself: they were asked for. Messages keep their order and bytes."""
    count = 300
    async with gateway(keepalive_seconds=0.1, ping_timeout_seconds=20.0, per_second=10_000) as (made, served):
        options: dict[str, Any] = {"compression": "deflate" if mode == "deflate" else None, "max_queue": None}
        if mode == "zstd":
            options["subprotocols"] = ["zstd"]
        async with websockets.connect(f"ws://127.0.0.1:{served.port}/ws/r", proxy=None, **options) as client:
            await entered(made, 1)
            [member] = made.server.registry.connections.values()
            confirms = made.collector.confirms
            for number in range(count):
                await made.server.broadcast("r", f"{number} {LONG}")
                await until(lambda wanted=number + 1: confirms.results["confirmed"] >= wanted)  # type: ignore[misc]  # bound now
            heard = [await client.recv() for _ in range(count)]
            if mode == "zstd":
                assert isinstance(heard[0], bytes)
                assert client.subprotocol == "zstd"
                assert len(heard[0]) < len(LONG)
            else:
                assert heard == [f"{number} {LONG}" for number in range(count)]
            await until(lambda: member.frames.last_rtt_seconds)  # type: ignore[union-attr]  # it is our wire's
            assert isinstance(member.frames, WireProtocol)
            assert (member.frames.last_rtt_seconds or 0) > 0
            assert member.ending is None
        assert confirms.results["confirmed"] == count
        assert made.collector.histogram("delivery_confirm_seconds").buckets()[-1].cumulated == count


async def test_a_member_of_a_crowd_is_asked_and_the_others_get_the_same_bytes() -> None:
    """One ping for one of them; nobody else's stream differs by a bit."""
    async with gateway(per_second=1) as (made, served):
        clients = [await listener(served) for _ in range(5)]
        await entered(made, 5)
        await made.server.broadcast("r", "one")
        await made.server.broadcast("r", "two")
        for client in clients:
            client.send(masked(PING, b"end"))
        streams = []
        for client in clients:
            stream = [await client.frame()]
            while stream[-1] != (PONG, b"end"):
                stream.append(await client.frame())
            streams.append(stream)
        assert sum(first == PING for stream in streams for first, _ in stream) == 1
        assert [[one for one in stream if one[0] == TEXT] for stream in streams] == [[(TEXT, b"one"), (TEXT, b"two")]] * 5
        for client in clients:
            await client.close()
