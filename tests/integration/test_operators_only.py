"""What only operators may reach and know: metrics, the API, and how little of a client's choice gets into them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.integration.gateway_process import API_KEY, GatewayProcess, running
from tests.integration.raw_client import RawClient

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def gateway() -> AsyncIterator[GatewayProcess]:
    async with running(NAMESPACES="chat", LOG_LEVEL="warning") as made:
        yield made


async def ask(address: str, *lines: str) -> tuple[int, bytes]:
    """A request written by hand; status and all that was answered."""
    async with RawClient(address) as client:
        await client.send("\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1"))
        status = await client.status()
        client.finish()
        return status, await client.receive_all()


@pytest.mark.parametrize(
    "target",
    [
        "/metrics", "//metrics", "/metrics/", "/METRICS", "/ws/../metrics", "/healthz/../metrics", "/healthz/..%2fmetrics",
        "/%6detrics", "/metrics?x", "/metrics;x", "/healthz;/metrics", "/api/rooms", "/api", "/api/openapi.json", "/startupz",
        "/docs", "/ops/metrics", "http://{ops}/metrics", "http://{ops}/api/rooms", "/dictionaries/../metrics",
        "/dictionaries/..%2f..%2fetc%2fpasswd", "*",
    ],
)  # fmt: skip
async def test_the_public_listener_knows_nothing_of_operations(gateway: GatewayProcess, target: str) -> None:
    """Neither by another spelling of the path, nor by naming the other listener, nor with the right key."""
    for host in (gateway.public, gateway.ops, "localhost"):
        lines = f"GET {target.format(ops=gateway.ops)} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {API_KEY}"
        status, answer = await ask(gateway.public, *lines)
        assert status in (400, 404, 405), answer
        assert b"tidegate_" not in answer
        assert b'"rooms"' not in answer


@pytest.mark.parametrize("path", ["/ws/r", "/api/rooms", "/metrics", "/healthz"])
async def test_the_ops_listener_serves_no_sockets(gateway: GatewayProcess, path: str) -> None:
    """A handshake there is answered like the plain request it also is; nobody joins a room."""
    async with RawClient(gateway.ops) as client:
        assert await client.shake_hands(path, f"Authorization: Bearer {API_KEY}") != 101
    assert await gateway.metric("tidegate_registered_connections") == 0


KEYS = [
    [], ["Authorization: Bearer"], ["Authorization: Bearer "], ["Authorization: Bearer old-key"],
    [f"Authorization: Basic {API_KEY}"], [f"Authorization: {API_KEY}"],
    [f"Authorization: Bearer {API_KEY}x"], [f"Authorization: Bearer {API_KEY[:-1]}"],
    [f"Authorization: Bearer {API_KEY.upper()}"], [f"Authorization: Bearer {API_KEY}\x00"], [f"X-API-Key: {API_KEY}"],
    [f"Authorization: Bearer {API_KEY}", "Authorization: Bearer other"], [f"Authorization: Bearer {API_KEY}, Bearer other"],
    [f"Cookie: api_key={API_KEY}"], ["Authorization: Bearer \xff\xfe"], [f"authorization: bearer  {API_KEY} x"],
]  # fmt: skip


@pytest.mark.parametrize("headers", KEYS, ids=range(len(KEYS)))
async def test_only_the_exact_key_publishes_looks_and_closes(gateway: GatewayProcess, headers: list[str]) -> None:
    """No, old, other, cut, doubled or misplaced keys: 401 (or no HTTP at all), whatever is asked for."""
    async with gateway.connect("closed-shop") as member:
        for request in (
            "POST /api/rooms/closed-shop/messages", "POST /api/broadcast", "GET /api/rooms", "GET /api/node",
            "GET /api/no/such/thing", "DELETE /api/connections/x", "DELETE /api/users/x/connections",
        ):  # fmt: skip
            status, answer = await ask(gateway.ops, f"{request} HTTP/1.1", "Host: x", "Content-Length: 0", *headers)
            assert status in (400, 401), (request, answer)
            assert API_KEY.encode() not in answer
        await (await member.ping())
        assert await gateway.metric("tidegate_deliveries_accepted_total") == 0


async def test_a_key_in_the_address_is_no_key(gateway: GatewayProcess) -> None:
    """Addresses are written down in too many places."""
    status, _ = await ask(gateway.ops, f"GET /api/rooms?api_key={API_KEY}&access_token={API_KEY} HTTP/1.1", "Host: x")
    assert status == 401


@pytest.mark.parametrize(
    ("arguments", "settings", "names"),
    [
        (["--ops-host", "0.0.0.0"], {"API_KEY": "short"}, b"TIDEGATE_API_KEY"),
        ([], {"AUTH__MODE": "jwt", "AUTH__SECRET": "hunter2-hunter2"}, b"TIDEGATE_AUTH__SECRET"),
    ],
)
async def test_no_start_with_a_door_left_open(arguments: list[str], settings: dict[str, str], names: bytes) -> None:
    """Weak or missing secrets where others can reach us: exit code 2, the setting's name, and not the secret."""
    async with running(*arguments, wait=False, LOG_FORMAT="console", **settings) as gateway:
        assert await asyncio.wait_for(gateway.process.wait(), 30) == 2
    table = b"".join(gateway.log_lines)
    assert names in table
    for secret in settings.values():
        assert len(secret) < 5 or secret.encode() not in table


async def test_nothing_that_clients_choose_becomes_a_time_series(gateway: GatewayProcess) -> None:
    """Hundreds of rooms, paths, hosts, methods, agents, origins, codes and users: a handful of new series, a small page."""

    async def page() -> str:
        return str((await gateway.get("/metrics", Accept="application/openmetrics-text"))[1])

    async with gateway.connect("first", "?echo=1") as client:
        await client.send("x")
        await client.recv()
    before = (await page()).count("\n")

    async def vary(number: int) -> None:
        async with gateway.connect(f"ns{number}:room", user_agent_header=f"agent/{number}") as client:
            await client.send("x" * number)
            await client.close(4000 + number, f"reason-{number}")
        async with RawClient(gateway.public) as raw:
            await raw.shake_hands(f"/path{number}", f"Origin: https://o{number}.example", f"X-{number}: y")
        for address, target in ((gateway.public, f"/p{number}?q={number}"), (gateway.ops, f"/api/r{number}")):
            await ask(address, f"{'GPD'[number % 3]}ET{number} {target} HTTP/1.1", f"Host: h{number}.example")
            await ask(address, f"GET {target} HTTP/1.1", f"Host: h{number}.example", f"User-Agent: a{number}")

    for start in range(0, 300, 20):
        await asyncio.gather(*(vary(number) for number in range(start, start + 20)))
    text = await page()
    assert text.count("\n") - before < 20, "lines, among them a few endings and outcomes that were not seen before"
    assert len(text) < 200_000
    samples = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for word in ("ns1", ":room", "agent", "path1", "reason-", "o1.example", "h1.example", "ET1", "4001"):
        assert word not in samples, word
