"""Clients that pretend to be somebody or somewhere else, and more clients than there is room for."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from urllib.parse import quote

import jwt
import pytest
import pytest_asyncio
import websockets
from websockets.exceptions import InvalidHandshake, InvalidStatus

from tests.integration.gateway_process import GatewayProcess, running
from tests.integration.raw_client import RawClient, frame

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = "0123456789abcdef0123456789abcdef"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def gateway() -> AsyncIterator[GatewayProcess]:
    """Open to pages of one origin and to whoever is no browser."""
    async with running(ALLOWED_ORIGINS="https://good.example") as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def few_per_client() -> AsyncIterator[GatewayProcess]:
    """Three connections per client; nobody is a trusted proxy."""
    async with running(CONNECTION_LIMIT__PER_CLIENT="3") as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def behind_a_proxy() -> AsyncIterator[GatewayProcess]:
    """Three connections per client, who is named by a proxy on this machine."""
    async with running(CONNECTION_LIMIT__PER_CLIENT="3", TRUSTED_PROXIES="127.0.0.1") as made:
        yield made


async def no_one_is_in(gateway: GatewayProcess) -> None:
    async with asyncio.timeout(10):
        while await gateway.metric("tidegate_registered_connections") or await gateway.metric("tidegate_slots_taken"):
            await asyncio.sleep(0.03)


FOREIGN = [
    "https://evil.example", "https://good.example.evil.example", "https://evilgood.example", "http://good.example",
    "https://good.example:8443", "https://GOOD.example", "https://good.example/", "https://good.example@evil.example", "null", "",
    "https://good.example, https://evil.example", "https://good.example\xad",
]  # fmt: skip


async def test_pages_of_other_origins_are_refused_counted_and_logged(gateway: GatewayProcess) -> None:
    """Whatever resembles the one good origin, one refusal, one count and one line each; the good one gets in."""
    before = await gateway.metric("tidegate_origin_refused_total")
    for origin in FOREIGN:
        async with RawClient(gateway.public) as client:
            assert await client.shake_hands("/ws/r", f"Origin: {origin}") == 403, origin
    async with RawClient(gateway.public) as client:
        assert await client.shake_hands("/ws/r", "Origin: https://good.example", "Origin: https://good.example") == 400
    assert await gateway.metric("tidegate_origin_refused_total") == before + len(FOREIGN)
    async with asyncio.timeout(5):
        while len([event for event in gateway.events("websocket.refused") if event["status"] == 403]) < len(FOREIGN):
            await asyncio.sleep(0.02)
    assert len(gateway.events("websocket.refused")) == len(FOREIGN)
    for welcome in (["Origin: https://good.example"], [f"Origin: http://{gateway.public}"], []):
        async with RawClient(gateway.public) as client:
            assert await client.shake_hands("/ws/r", *welcome) == 101


async def test_the_room_is_the_one_in_the_path_whatever_the_host_says() -> None:
    """A token for one room opens no other, with an odd Host, a second one, or a whole address as the request's target."""
    async with running(AUTH__MODE="jwt", AUTH__SECRET=SECRET) as gateway:
        token = jwt.encode({"sub": "ann", "exp": 4_000_000_000, "rooms": ["open"]}, SECRET, "HS256")
        bearer = f"Authorization: Bearer {token}"
        requests = {
            "odd host": ("GET /ws/open HTTP/1.1", "Host: x/ws/closed?"),
            "odd host, other path": ("GET /ws/closed HTTP/1.1", "Host: x/ws/open?"),
            "fragment": ("GET /ws/closed#/ws/open HTTP/1.1", "Host: x"),
            "absolute": ("GET http://x/ws/closed HTTP/1.1", "Host: x"),
            "absolute, other host": ("GET http://x/ws/closed HTTP/1.1", "Host: x/ws/open"),
            "two hosts": ("GET /ws/closed HTTP/1.1", "Host: x", "Host: y/ws/open"),
            "two slashes": ("GET //ws/closed HTTP/1.1", "Host: x"),
            "parameters": ("GET /ws/closed;/../open HTTP/1.1", "Host: x"),
            "dots": ("GET /ws/open/../closed HTTP/1.1", "Host: x"),
            "rewritten": ("GET /ws/closed HTTP/1.1", "Host: x", "X-Original-URL: /ws/open", "X-Rewrite-URL: /ws/open"),
        }
        for name, lines in requests.items():
            async with RawClient(gateway.public) as client:
                head = [
                    *lines, "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
                    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", bearer, "", "",
                ]  # fmt: skip
                await client.send("\r\n".join(head).encode())
                status = await client.status()
                if status == 101:
                    _, rooms = await gateway.get("/api/rooms")
                    assert [room["name"] for room in rooms["rooms"]] == ["open"], name
                else:
                    assert 400 <= status < 500, name
        assert (await gateway.get("/readyz"))[0] == 200  # its own check needs no token


@pytest.mark.parametrize(
    "offered",
    [
        "chat", "chat, superchat", "tidegate.raw, chat", "chat, tidegate.raw", "TIDEGATE.RAW", "tidegate.raw;x=1", "", ",", " , ,",
        "t\xe9l\xe9", "a b", '"quoted"', "b" + " " * 7_000 + "c", ", ".join(f"p{number}" for number in range(900)), "x" * 8_000,
    ],
)  # fmt: skip
async def test_a_subprotocol_is_one_of_ours_or_none(gateway: GatewayProcess, offered: str) -> None:
    """What a client offers is never given back to it unless we have it; odd offers are refused or not heard."""
    async with RawClient(gateway.public) as client:
        status = await client.shake_hands("/ws/r?echo=1", f"Sec-WebSocket-Protocol: {offered}")
        assert status in (101, 400, 431)
        head = client.received.partition(b"\r\n\r\n")[0].lower()
        if status == 101:
            given = [line for line in head.split(b"\r\n") if line.startswith(b"sec-websocket-protocol:")]
            assert given in ([], [b"sec-websocket-protocol: tidegate.raw"])
            await client.send(frame(b"hello"))
            while b"\x81\x05hello" not in client.received:  # a ping may stand behind it
                assert await client.receive()


@pytest.mark.parametrize(
    "path", ["..%2F..%2Fetc%2Fpasswd", "%2e%2e", ".", "%2e", "a%2F..%2Fb", "a%5Cb%0d%0a", "%C0%AE", "x" * 7_000, "%7Eall"]
)
async def test_hostile_names_are_no_rooms_for_clients_nor_for_publishers(gateway: GatewayProcess, path: str) -> None:
    """Traversal, encoded or not, bad UTF-8, line breaks, endless and reserved names: refused on both listeners."""
    async with RawClient(gateway.public) as client:
        assert await client.shake_hands(f"/ws/{path}") in (400, 404, 414)
    status, _ = await gateway.publish(f"/api/rooms/{path}/messages", "x")
    assert status in (400, 404, 414)


async def test_a_name_is_decoded_once_and_means_nothing_to_anybody(gateway: GatewayProcess) -> None:
    """Percent signs, wildcards, braces and separators of brokers and caches are letters; publishing finds the same room."""
    names = ["%2e%2e", "%2F", "a.>", "*", "room.*", "{tag}", "ns:{x}:y", "[a-z]", "a b", "ü", "a?b#c", "$SYS"]
    members = {name: await gateway.connect(quote(name, safe="")) for name in names}
    _, rooms = await gateway.get("/api/rooms")
    assert set(names) <= {room["name"] for room in rooms["rooms"]}
    for name in names:
        status, published = await gateway.publish(f"/api/rooms/{quote(name, safe='')}/messages", name)
        assert (status, published["recipients_local"]) == (200, 1), name
    for name, member in members.items():
        async with asyncio.timeout(5):
            assert await member.recv() == name
        await (await member.ping())
        assert not member.recv_messages.frames, "something of another room came"  # nothing waits to be read
        await member.close()


FORGED = [
    "X-Forwarded-For: 203.0.113.{}", "X-Forwarded-For: 198.51.100.1, 203.0.113.{}", "Forwarded: for=203.0.113.{}",
    "X-Real-IP: 203.0.113.{}", "X-Client-IP: 203.0.113.{}", "CF-Connecting-IP: 203.0.113.{}", "True-Client-IP: 203.0.113.{}",
]  # fmt: skip


@pytest.mark.parametrize("header", FORGED)
async def test_a_client_that_names_itself_differently_each_time_is_one_client(few_per_client: GatewayProcess, header: str) -> None:
    """Without a trusted proxy no header moves a limit: as many get in as without it, the rest get 429."""
    statuses, clients = await knock(few_per_client, [header.format(number) for number in range(6)])
    assert statuses == {101: 3, 429: 3}
    await leave(few_per_client, clients)


async def test_behind_a_trusted_proxy_the_client_it_names_is_limited(behind_a_proxy: GatewayProcess) -> None:
    """The last address that is not a proxy's counts, whatever the client has put before it."""
    gateway = behind_a_proxy
    statuses, clients = await knock(gateway, [f"X-Forwarded-For: 10.9.8.{number}, 203.0.113.7" for number in range(6)])
    assert statuses == {101: 3, 429: 3}
    others, more = await knock(gateway, [f"X-Forwarded-For: 203.0.113.{number}" for number in range(20, 26)])
    assert others == {101: 6}
    await leave(gateway, clients + more)


async def test_a_network_of_ipv6_addresses_is_one_client(behind_a_proxy: GatewayProcess) -> None:
    """A /64 is what one site has to spend."""
    statuses, clients = await knock(behind_a_proxy, [f"X-Forwarded-For: 2001:db8:1:2::{number:x}" for number in range(1, 7)])
    assert statuses == {101: 3, 429: 3}
    await leave(behind_a_proxy, clients)


async def knock(gateway: GatewayProcess, headers: list[str]) -> tuple[Counter[int], list[RawClient]]:
    """One handshake per header, one after the other; the answers' statuses, and the clients, still open."""
    clients = []
    statuses: Counter[int] = Counter()
    for header in headers:
        client = RawClient(gateway.public)
        await client.connect()
        statuses[await client.shake_hands("/ws/r", header)] += 1
        clients.append(client)
    return statuses, clients


async def leave(gateway: GatewayProcess, clients: list[RawClient]) -> None:
    for client in clients:
        client.sock.close()
    await no_one_is_in(gateway)


async def test_beyond_the_total_exactly_the_surplus_is_refused_and_places_come_back_at_once() -> None:
    """503 and Retry-After for those that do not fit; the gauge never passes the limit; full is still ready."""
    limit, surplus = 40, 50
    async with running(CONNECTION_LIMIT__TOTAL=str(limit)) as gateway:
        taken: list[float] = []

        async def watch() -> None:
            while True:
                taken.append(await gateway.metric("tidegate_slots_taken"))

        watching = asyncio.create_task(watch())
        results = await asyncio.gather(*(come(gateway, f"r{number % 5}") for number in range(limit + surplus)))
        watching.cancel()
        refused = [error for error in results if isinstance(error, InvalidHandshake)]
        clients = [client for client in results if not isinstance(client, InvalidHandshake)]
        assert (len(clients), len(refused)) == (limit, surplus)
        for error in refused:
            assert isinstance(error, InvalidStatus)
            assert error.response.status_code == 503
            assert int(error.response.headers["Retry-After"]) >= 1
        assert max([*taken, await gateway.metric("tidegate_slots_taken")]) == limit
        assert await gateway.metric("tidegate_slots_refused_total", limit="total") == surplus
        assert (await gateway.get("/readyz"))[0] == 200
        for client in clients[:5]:
            await client.close()
        again = [await gateway.connect("r0") for _ in range(5)]
        for client in clients + again:
            await client.close()
        await no_one_is_in(gateway)


async def come(gateway: GatewayProcess, room: str) -> websockets.ClientConnection | InvalidHandshake:
    """A connection, or how it was refused."""
    try:
        return await gateway.connect(room)
    except InvalidHandshake as refused:
        return refused
