"""Every layer, alone and all together, in four frameworks under four real servers, driven by a real client.

One process per server carries every stack in every framework (``everywhere_app.py``), with a judge around them that sees
what the server would see.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from .everywhere_app import FRAMEWORKS, SECRET, STACKS
from .everywhere_servers import COMMANDS, RunningServer, start

TOKEN = jwt.encode({"sub": "ann", "exp": 4_000_000_000}, SECRET, "HS256")
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RunningServer]]:
    """All servers; at the end each is stopped, must have shut every app's lifespan down, and have logged no traceback."""
    folder = tmp_path_factory.mktemp("servers")
    servers = {name: start(name, folder) for name in COMMANDS}
    try:
        for server in servers.values():
            server.wait_until_ready()
        yield servers
    finally:
        for server in servers.values():
            server.process.terminate()
        for server in servers.values():
            server.stop()
    for server in servers.values():
        assert "Traceback" not in server.log.read_text(), f"{server.name} logged:\n{server.log.read_text()[-4000:]}"
        assert server.stopped_file.read_text() == str(len(FRAMEWORKS) * len(STACKS)), f"{server.name}: a lifespan did not end"


@pytest.fixture(params=list(COMMANDS))
def server(request: pytest.FixtureRequest, running: dict[str, RunningServer]) -> RunningServer:
    """Each server in turn."""
    return running[request.param]


@pytest.fixture(params=list(FRAMEWORKS))
def framework(request: pytest.FixtureRequest) -> str:
    """Each framework in turn."""
    return str(request.param)


@pytest.fixture(params=list(STACKS))
def stack(request: pytest.FixtureRequest) -> str:
    """No layer, each alone, and all."""
    return str(request.param)


@asynccontextmanager
async def socket(server: RunningServer, path: str, **options: Any) -> AsyncIterator[ClientConnection]:
    """A client's connection, with a valid token and without compression by the transport."""
    options = {"additional_headers": AUTHORIZED, "compression": None, "proxy": None, "close_timeout": 5, **options}
    async with asyncio.timeout(20), connect(f"ws://{server.address}{path}", **options) as client:
        yield client


async def refusal(server: RunningServer, path: str, **options: Any) -> Any:
    """The HTTP response that a refused handshake gets."""
    with pytest.raises(InvalidStatus) as caught:
        async with socket(server, path, **options):
            pass
    return caught.value.response


async def closing(client: ClientConnection) -> tuple[int | None, str | None]:
    """Code and reason of the close frame that the server sends."""
    try:
        while True:
            await client.recv()
    except ConnectionClosed as closed:
        return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (None, None)


async def nothing_left(server: RunningServer) -> None:
    """Every app and every guard has ended, and the judge has seen nothing wrong."""
    report: dict[str, Any] = {}
    for _ in range(60):
        report = json.loads((await asyncio.to_thread(server.get, "/report"))[1])
        if not report["running"] and not report["opened"]:
            break
        await asyncio.sleep(0.05)
    assert (report["complaints"], report["running"], report["opened"]) == ([], 0, 0)


async def test_messages_pass_unchanged(server: RunningServer, framework: str, stack: str) -> None:
    """Text, binary, empty and not so small messages come back as they were; a client that leaves leaves nothing behind."""
    messages: list[str | bytes] = ["hello", b"\0\xff", "", b"", "häl/lo" * 5000, "last"]
    async with socket(server, f"/{framework}/{stack}/ws") as client:
        assert client.subprotocol is None
        for message in messages:
            await client.send(message)
        assert [await client.recv() for _ in messages] == messages
    await nothing_left(server)


async def test_http_passes_unchanged_and_the_lifespan_has_run(server: RunningServer, framework: str, stack: str) -> None:
    """No layer has anything to do with HTTP; start-up reached the app, and what it stored is there."""
    assert await asyncio.to_thread(server.get, f"/{framework}/{stack}/") == (200, "True")


async def test_the_apps_own_close_is_the_clients(server: RunningServer, framework: str, stack: str) -> None:
    """Code and reason travel unchanged through every layer."""
    async with socket(server, f"/{framework}/{stack}/ws") as client:
        await client.send("leave")
        assert await closing(client) == (4002, "mine")
    await nothing_left(server)


async def test_a_client_that_vanishes_is_noticed(server: RunningServer, framework: str) -> None:
    """A connection that is cut without a close frame gives every guard back."""
    async with socket(server, f"/{framework}/all/ws") as client:
        await client.send("x")
        await client.recv()
        client.transport.abort()
    await nothing_left(server)


@pytest.mark.parametrize("stack", ["probe", "all"])
async def test_a_refusal_is_an_http_response(server: RunningServer, framework: str, stack: str) -> None:
    """With its status, its headers and a problem document, before any upgrade."""
    response = await refusal(server, f"/{framework}/{stack}/ws?refuse")
    assert (response.status_code, response.headers["retry-after"]) == (503, "7")
    assert response.headers["content-type"] == "application/problem+json"
    await nothing_left(server)


@pytest.mark.parametrize("stack", ["probe", "all"])
async def test_a_layers_close_ends_the_socket(server: RunningServer, framework: str, stack: str) -> None:
    """With the layer's code and reason, whether the layer decides on a message or by the clock."""
    async with socket(server, f"/{framework}/{stack}/ws?close") as client:
        await client.send("too much")
        assert await closing(client) == (1008, "rate-limited")
    async with socket(server, f"/{framework}/{stack}/ws?deadline") as client:
        assert await closing(client) == (1001, "max-age")
    await nothing_left(server)


async def test_a_peer_that_ignores_our_close_keeps_nothing_open(server: RunningServer) -> None:
    """The guards and the app end with our close frame; they do not wait for an answer that may never come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        b"GET /plain/probe/ws?deadline HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(2 + 2 + 7) == b"\x88\x09\x03\xe9max-age"
    await nothing_left(server)
    writer.close()


async def test_hold_is_backpressure_without_loss(server: RunningServer, framework: str) -> None:
    """A burst far above what the layer lets through arrives complete and in order."""
    burst = [str(number) for number in range(60)]
    async with socket(server, f"/{framework}/all/ws?hold") as client:
        for message in burst:
            await client.send(message)
        assert [await client.recv() for _ in burst] == burst
    await nothing_left(server)


async def test_drop_drops_one_message_and_no_other(server: RunningServer, framework: str) -> None:
    """The app does not hear it; what comes behind it arrives."""
    async with socket(server, f"/{framework}/all/ws?drop") as client:
        for message in ("a", "drop me", "b"):
            await client.send(message)
        assert [await client.recv(), await client.recv()] == ["a", "b"]
    await nothing_left(server)


async def test_where_the_server_offers_it_hooks_run_where_the_bytes_are(server: RunningServer, framework: str) -> None:
    """With the frames extension nothing is wrapped, elsewhere ``receive`` and ``send`` are: every test here tries both.

    Litestar wraps every socket itself, which parts the layers from the server's object.
    """
    async with socket(server, f"/{framework}/all/ws"):
        pass
    await nothing_left(server)
    direct = json.loads((await asyncio.to_thread(server.get, "/report"))[1])["direct"]
    assert (f"/{framework}/all" in direct) is (server.name == "wire" and framework != "litestar")


@pytest.mark.parametrize("stack", ["auth", "all"])
async def test_no_token_is_401(server: RunningServer, framework: str, stack: str) -> None:
    """And it says how to authenticate (RFC 9110 §11.6.1)."""
    response = await refusal(server, f"/{framework}/{stack}/ws", additional_headers={})
    assert response.status_code == 401
    assert "bearer" in response.headers["www-authenticate"].lower()


@pytest.mark.parametrize("stack", ["origin", "all"])
async def test_a_foreign_page_is_403(server: RunningServer, framework: str, stack: str) -> None:
    """Its own pages are welcome."""
    assert (await refusal(server, f"/{framework}/{stack}/ws", origin="https://evil.example")).status_code == 403
    async with socket(server, f"/{framework}/{stack}/ws", origin=f"http://{server.address}") as client:
        await client.send("x")
        assert await client.recv() == "x"
    await nothing_left(server)


@pytest.mark.parametrize("stack", ["connection_limit", "all"])
async def test_one_too_many_is_503_and_a_slot_comes_back(server: RunningServer, framework: str, stack: str) -> None:
    """Two fit; the third is told to come back later; when one has left, another fits."""
    path = f"/{framework}/{stack}/ws"
    async with socket(server, path):
        async with socket(server, path):
            response = await refusal(server, path)
            assert (response.status_code, int(response.headers["retry-after"]) > 0) == (503, True)
        await nothing_but_one(server)
        async with socket(server, path):
            pass
    await nothing_left(server)


async def nothing_but_one(server: RunningServer) -> None:
    """One app is running."""
    for _ in range(60):
        if json.loads((await asyncio.to_thread(server.get, "/report"))[1])["running"] == 1:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("a connection that was left is still running")


@pytest.mark.parametrize("stack", ["rate_limit", "all"])
async def test_too_many_handshakes_are_429(server: RunningServer, framework: str, stack: str) -> None:
    """From one client, past its burst; others go on."""
    path, greedy = f"/{framework}/{stack}/ws", {**AUTHORIZED, "X-Client": "greedy"}
    for _ in range(2):
        async with socket(server, path, additional_headers=greedy):
            pass
    response = await refusal(server, path, additional_headers=greedy)
    assert (response.status_code, int(response.headers["retry-after"]) > 0) == (429, True)
    async with socket(server, path):
        pass
    await nothing_left(server)


@pytest.mark.parametrize("stack", ["compression", "all"])
async def test_the_app_sees_no_trace_of_compression(server: RunningServer, framework: str, stack: str) -> None:
    """The client negotiates ``chat+zstd``; the app chooses ``chat``; frames carry a flag byte."""
    async with socket(server, f"/{framework}/{stack}/ws", subprotocols=["chat+zstd", "chat"]) as client:
        assert client.subprotocol == "chat+zstd"
        await client.send(b"\x02short")
        assert await client.recv() == b"\x02short"
    await nothing_left(server)
