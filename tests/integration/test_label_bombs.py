"""Whoever tries to grow what is measured: names, paths, agents, traces and slow scrapers, against a real gateway."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.gateway_process import API_KEY, GatewayProcess, hear, running
from tests.integration.raw_client import RawClient, frame, handshake

SERIES = re.compile(r"^(tidegate_[^ ]+) ", re.MULTILINE)


async def series(gateway: GatewayProcess) -> set[str]:
    """Names and labels of all series of ours; with exemplars, if there were any, as nobody else scrapes."""
    _, text = await gateway.get("/metrics")
    return set(SERIES.findall(text))


def memory(gateway: GatewayProcess) -> int:
    """Resident bytes of the process."""
    return int(Path(f"/proc/{gateway.pid}/statm").read_text().split()[1]) * 4096


def bombs(count: int, chance: random.Random) -> Iterator[tuple[str, list[str]]]:
    """Paths and headers, all different: rooms with prefixes that nobody declared, other paths, agents, traces, users."""
    for number in range(count):
        room = f"ns{number}:{chance.getrandbits(64):x}%0a%22%7B%7D"
        path = (f"/ws/ns{number}:{number}", f"/{chance.getrandbits(64):x}/{number}", f"/ws/{room}", f"/ws/a%2F{number}")[number % 4]
        state = ",".join(f"k{part}=v{number}" for part in range(40))
        yield (
            f"{path}?token={number}&x={chance.getrandbits(32)}",
            [
                f"User-Agent: agent-{number}", f"Origin: http://evil-{number}.example", f"X-Request-Id: {number}",
                f"traceparent: 00-{chance.getrandbits(128):032x}-{chance.getrandbits(64):016x}-01", f"tracestate: {state}",
                f"Sec-WebSocket-Protocol: chat-{number}", f"X-Forwarded-For: 10.0.{number >> 8}.{number & 255}",
            ],
        )  # fmt: skip


async def attack(gateway: GatewayProcess, share: Iterator[tuple[str, list[str]]]) -> int:
    """Shake hands with everything in ``share``, say something where that works, and leave; how many got in."""
    entered = 0
    for path, headers in share:
        async with RawClient(gateway.public) as client:
            await client.send(handshake(gateway.public, path, *headers))
            if await client.status() == 101:
                entered += 1
                await client.send(frame(b"x") + frame(b"\x0f\xa0" + path.encode()[:100], 8))
                await client.receive()
            client.reset()
    return entered


async def test_ten_thousand_names_add_no_series() -> None:
    """Paths, rooms, prefixes, agents, origins, subprotocols, addresses, close reasons: the series are those of the start."""
    settings = {"NAMESPACES": "chat,game", "ALLOWED_ORIGINS": "*", "LOG_LEVEL": "error"}
    async with running(**settings) as gateway:
        before = await series(gateway)
        share = bombs(10_000, random.Random(3))
        warm = await attack(gateway, (next(share) for _ in range(400)))
        grown = memory(gateway)
        entered = warm + sum(await asyncio.gather(*(attack(gateway, share) for _ in range(20))))
        assert entered >= 2_500
        for number in range(50):
            await gateway.get(f"/api/rooms/nobody-{number}")
            await gateway.get(f"/{number}", public=True)
        status, _ = await gateway.get("/api/rooms")
        assert status == 200
        added = {one for one in await series(gateway) - before if not one.startswith("tidegate_api_requests_total")}
        assert not added
        api = await series(gateway) - before
        assert len(api) <= 4  # operations and statuses are closed sets: inspecting a room that there is, or is not, …
        assert await gateway.metric("tidegate_namespaces_overflow_total") > 0
        assert await gateway.metric("tidegate_observations_unknown_total") == 0
        assert memory(gateway) - grown < 48 * 1024 * 1024  # the explanations' memories, at their bound, are most of it
        assert not [event for event in gateway.log if "exception" in event]


async def test_undeclared_and_hostile_room_names_count_under_other() -> None:
    """A prefix is a label only when it was declared, to the letter; whoever is refused is counted once, as refused."""
    names = [
        "evil:1",
        "Chat:1",
        "chat",
        "chat :1",
        ":chat",
        "other:1",
        "chat%22%7D:1",
        "%F0%9F%8C%8A:1",
        "chat%0A:1",
        "~all",
        "%00",
        "a" * 300,
    ]
    async with running(NAMESPACES="chat") as gateway:
        before = await series(gateway)
        async with gateway.connect("chat:1") as one, gateway.connect("chat:1") as two:
            await one.send("counted")
            assert await hear(two) == ["counted"]
        for name in names:
            async with RawClient(gateway.public) as sender, RawClient(gateway.public) as receiver:
                if await receiver.shake_hands(f"/ws/{name}") == await sender.shake_hands(f"/ws/{name}") == 101:
                    await sender.send(frame(b"hello"))
                    while b"hello" not in receiver.received:
                        assert await receiver.receive()
        assert await gateway.metric("tidegate_deliveries_accepted_total", namespace="chat") == 1
        assert await gateway.metric("tidegate_deliveries_accepted_total", namespace="other") == 7
        assert await gateway.metric("tidegate_namespaces_overflow_total") == 6
        assert await gateway.metric("tidegate_handshakes_total", outcome="refused") >= 2 * 4 - 2
        assert await series(gateway) == before


@pytest.mark.parametrize(
    ("trace", "state"),
    [
        ("00-" + "a" * 32 + "-" + "b" * 16 + "-01", "k=" + "v" * 7_000),
        ("00-" + "a" * 7_000, "k=v"),
        ("00-" + "a" * 32 + "-" + "b" * 16 + "-01" + "-more" * 1_000, ",".join(f"k{n}=v" for n in range(1_000))),
        ("\x80\xff" * 27, "=,=,;;"),
        ("00-" + "0" * 32 + "-" + "0" * 16 + "-01", ""),
    ],
    ids=["long state", "long parent", "long parent of a later version", "no ASCII", "zeros"],
)
async def test_a_huge_trace_context_is_nobodys_trouble(trace: str, state: str) -> None:
    """At the handshake and at the API: served or refused in order, no traceback, and no memory of it in what others get."""
    async with running(TELEMETRY__MESSAGE_RATIO="1", TELEMETRY__OTLP_ENDPOINT="http://127.0.0.1:9") as gateway:
        async with gateway.connect("r") as listener, RawClient(gateway.public) as client:
            status = await client.shake_hands("/ws/r", f"traceparent: {trace}", f"tracestate: {state}")
            assert status in (101, 400, 431)
            if status == 101:
                await client.send(frame(b"by socket"))
                assert await hear(listener) == ["by socket"]
            async with RawClient(gateway.ops) as publisher:
                lines = [
                    "POST /api/rooms/r/messages HTTP/1.1", f"Host: {gateway.ops}", f"Authorization: Bearer {API_KEY}",
                    "Content-Type: text/plain", "Content-Length: 6", f"traceparent: {trace}", f"tracestate: {state}", "", "by api",
                ]  # fmt: skip
                await publisher.send("\r\n".join(lines).encode("latin-1"))
                answered = await publisher.status()
                assert answered in (200, 202, 400, 431)
            if answered < 300:
                assert await hear(listener) == ["by api"]
            assert await gateway.metric("tidegate_deliveries_unaccounted") == 0
        assert not any(b"Traceback" in line or b"a" * 100 in line for line in gateway.log_lines)


async def test_a_scraper_that_reads_slowly_stops_nobody() -> None:
    """Many that ask as often as one may, and read nothing: others are served meanwhile, and what waits for them is bounded."""
    async with running() as gateway, gateway.connect("r") as one, gateway.connect("r") as two:
        request = f"GET /metrics HTTP/1.1\r\nHost: {gateway.ops}\r\n\r\n".encode()
        before = memory(gateway)
        scrapers = [RawClient(gateway.ops, receive_buffer_bytes=2048) for _ in range(30)]
        for scraper in scrapers:
            await scraper.connect()
            await scraper.send(request * 15)
        for number in range(200):
            await one.send(f"{number}")
            assert await hear(two) == [f"{number}"]
        assert (await gateway.get("/readyz"))[0] == 200
        assert await gateway.metric("tidegate_deliveries_unaccounted") == 0
        assert memory(gateway) - before < 64 * 1024 * 1024
        for scraper in scrapers:
            scraper.reset()
        await one.send("still there")
        assert await hear(two) == ["still there"]
        assert not [event for event in gateway.log if "exception" in event]
