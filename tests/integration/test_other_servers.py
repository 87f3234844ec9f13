"""The gateway under ASGI servers that know nothing of it: the same behaviour, through ``AsgiOutlet``."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import websockets
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.integration.gateway_process import hear, silence
from tests.integration.other_servers import COMMANDS, MAX_MESSAGE_BYTES, ROOM_MEMBERS, OtherServer

TELLS_CODES = {"uvicorn", "granian"}
"""Servers that tell the app with which code a client has closed; hypercorn says 1006 of every end."""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, OtherServer]]:
    folder = tmp_path_factory.mktemp("other-servers")
    started = {name: OtherServer(name, folder) for name in COMMANDS}
    yield started
    for server in started.values():
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait(5)


@pytest.fixture(params=COMMANDS)
def server(servers: dict[str, OtherServer], request: pytest.FixtureRequest) -> OtherServer:
    found = servers[request.param]
    found.wait_until_ready()
    return found


async def ending(client: Any) -> tuple[int, str]:
    """How the server closed, whatever came before."""
    async with asyncio.timeout(10):
        try:
            while True:
                await client.recv()
        except ConnectionClosed as closed:
            assert closed.rcvd is not None, "no close frame came"
            return closed.rcvd.code, closed.rcvd.reason


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not await asyncio.to_thread(holds):
            await asyncio.sleep(0.03)


async def test_rooms_relay_text_and_binary_to_the_others(server: OtherServer) -> None:
    """Two rooms hear nothing of each other; the sender hears itself only when it asked to; the empty message is one."""
    async with server.connect("/ws/a") as one, server.connect("/ws/a?echo=1") as two, server.connect("/ws/b") as other:
        messages: list[str | bytes] = ["hello", b"\x00\xff", "", b"", "häl/lo" * 5_000, "last"]
        for message in messages:
            await one.send(message)
        assert await hear(two, len(messages)) == messages
        await two.send("me too")
        assert await hear(one) == await hear(two) == ["me too"]
        assert await silence(one)
        assert await silence(other)


async def test_order_is_kept_for_every_sender_and_every_member(server: OtherServer) -> None:
    """Several talk at once as fast as they can: each member hears all of each other one's messages, in order."""
    count = 200
    clients = [await server.connect("/ws/order") for _ in range(5)]

    async def talk(name: int, client: Any) -> None:
        for number in range(count):
            await client.send(json.dumps([name, number]))

    async def listen(client: Any) -> dict[int, list[int]]:
        heard: dict[int, list[int]] = {}
        for message in await hear(client, count * (len(clients) - 1)):
            name, number = json.loads(message)
            heard.setdefault(name, []).append(number)
        return heard

    hearing = [asyncio.create_task(listen(client)) for client in clients]
    await asyncio.gather(*(talk(name, client) for name, client in enumerate(clients)))
    for own, heard in enumerate(await asyncio.gather(*hearing)):
        assert heard == {name: list(range(count)) for name in range(len(clients)) if name != own}
    await asyncio.gather(*(client.close() for client in clients))


async def test_publishing_over_http_reaches_a_room_one_connection_and_everyone(server: OtherServer) -> None:
    """The API says how many here get it, can leave one out, and can close a connection with a reason."""
    async with server.connect("/ws/news") as one, server.connect("/ws/news") as two, server.connect("/ws/else") as other:
        publish = "/ops/api/rooms/news/messages"
        status, published = await asyncio.to_thread(server.request, "POST", publish, b"hi")
        assert (status, published["recipients_local"]) == (200, 2)
        assert await hear(one) == await hear(two) == ["hi"]
        _, room = await asyncio.to_thread(server.request, "GET", "/ops/api/rooms/news")
        assert room["members"] == 2
        gone = room["connections"][0]
        await asyncio.to_thread(server.request, "POST", f"{publish}?exclude={gone}", b"\x00", "application/octet-stream")
        status, _ = await asyncio.to_thread(server.request, "DELETE", f"/ops/api/connections/{gone}?reason=replaced")
        assert status == 200
        closed, stays = (one, two) if await hear_or_end(one) == (4001, "replaced") else (two, one)
        assert await ending(closed) == (4001, "replaced")
        assert closed is one or await hear(stays) == [b"\x00"]
        _, all_of_them = await asyncio.to_thread(server.request, "POST", "/ops/api/broadcast", b"all")
        assert all_of_them["recipients_local"] == 2
        assert await hear(other) == ["all"]


async def hear_or_end(client: Any) -> Any:
    try:
        return await hear(client)
    except ConnectionClosed:
        return await ending(client)


@pytest.mark.parametrize(
    ("path", "status", "options"),
    [
        ("/ws/~all", 400, {}),
        ("/ws/a%00b", 400, {}),
        ("/ws/" + "x" * 256, 400, {}),
        ("/elsewhere", 404, {}),
        ("/ws/r", 403, {"origin": websockets.Origin("https://evil.example")}),
        ("/strict/~all", 400, {}),
    ],
)
async def test_refusals_have_a_status_and_no_101(server: OtherServer, path: str, status: int, options: dict[str, Any]) -> None:
    """The client is told what is wrong with its handshake, by a status and a problem document."""
    with pytest.raises(InvalidStatus) as refused:
        await server.connect(path, **options)
    assert refused.value.response.status_code == status
    problem = json.loads(refused.value.response.body)
    assert (problem["status"], problem["reason"]) == (status, "forbidden")


async def test_a_full_room_refuses_and_recovers_at_once(server: OtherServer) -> None:
    """503 and Retry-After for one too many; the place is free as soon as a member has left."""
    members = [await server.connect("/ws/full") for _ in range(ROOM_MEMBERS)]
    with pytest.raises(InvalidStatus) as refused:
        await server.connect("/ws/full")
    assert refused.value.response.status_code == 503
    assert int(refused.value.response.headers["Retry-After"]) >= 1
    await members.pop().close()
    await until(lambda: server.request("GET", "/ops/api/rooms/full")[1]["members"] < ROOM_MEMBERS)
    members.append(await server.connect("/ws/full"))
    await asyncio.gather(*(member.close() for member in members))


async def test_messages_against_the_rules_end_with_their_reason(server: OtherServer) -> None:
    """Too big is 1009, the wrong kind 1003, each with its slug; the others lose nothing."""
    async with server.connect("/ws/rules") as good:
        async with server.connect("/ws/rules") as bad:
            await bad.send("x" * (MAX_MESSAGE_BYTES + 1))
            assert await ending(bad) == (1009, "message-too-big")
        async with server.connect("/ws/rules") as fine:
            await fine.send("x" * MAX_MESSAGE_BYTES)
            assert await hear(good) == ["x" * MAX_MESSAGE_BYTES]
    async with server.connect("/strict/rules?echo=1") as bad:
        await bad.send("text")
        await bad.send(b"binary")
        assert await hear(bad) == ["text"]
        assert await ending(bad) == (1003, "unsupported-data")


async def test_closes_are_counted_as_the_clients_and_by_reason(server: OtherServer) -> None:
    """A normal close, a code of the client's own, and a client that vanishes: three ends, none of ours."""

    def closes(**labels: str) -> float:
        return server.metric("tidegate_closes_total", **labels)

    before = {reason: await asyncio.to_thread(closes, reason=reason) for reason in ("normal", "other")}
    by_clients = await asyncio.to_thread(closes, initiator="client")
    await (await server.connect("/ws/closes")).close()
    await (await server.connect("/ws/closes")).close(4123, "my reason")
    (await server.connect("/ws/closes")).transport.abort()
    await until(lambda: closes(initiator="client") == by_clients + 3)
    if server.name in TELLS_CODES:
        for reason, count in before.items():
            assert await asyncio.to_thread(closes, reason=reason) > count
    await until(lambda: server.request("GET", "/ops/api/rooms/closes")[1]["members"] == 0)


async def test_a_member_that_never_reads_goes_and_the_others_lose_nothing(server: OtherServer) -> None:
    """The slow one is ended as slow-consumer and forgotten; every healthy one hears every message in order."""
    count, size = 250, 30_000
    healthy = [await server.connect("/ws/slow") for _ in range(5)]
    slow = never_reading(server.address, "/ws/slow")
    ended = await asyncio.to_thread(server.metric, "tidegate_closes_total", reason="slow-consumer")

    async with server.connect("/ws/slow") as speaker:
        for number in range(count):
            await speaker.send(f"{number:06}" + "x" * size)
            assert [(await hear(client))[0][:6] for client in healthy] == [f"{number:06}"] * len(healthy)
    await until(lambda: server.metric("tidegate_closes_total", reason="slow-consumer") == ended + 1)
    await until(lambda: server.request("GET", "/ops/api/rooms/slow")[1]["members"] == len(healthy))
    slow.close()
    await asyncio.gather(*(client.close() for client in healthy))


def never_reading(address: str, path: str) -> socket.socket:
    """A client that finishes its handshake and reads nothing more."""
    host, port = address.rsplit(":", 1)
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect((host, int(port)))
    slow.sendall(
        f"GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    assert b" 101 " in slow.recv(100)
    return slow


async def test_a_route_that_calls_the_methods_one_by_one(server: OtherServer) -> None:
    """Register, read, answer; what is invalid or too much is told and skipped; leaving unregisters by itself."""
    async with server.connect("/routes/lobby") as client:
        hello = json.loads((await hear(client))[0])
        assert hello["here"] == 1
        await client.send('{"a": 1}')
        await client.send("{nonsense")
        for _ in range(5):
            await client.send("7")
        answers = [json.loads(answer) for answer in await hear(client, 7)]
        assert answers[0] == {"heard": {"a": 1}}
        assert answers[1]["error"]["reason"] == "bad-payload"
        assert [answer for answer in answers[2:] if "heard" in answer] == [{"heard": 7}] * 3
        assert {answer["error"]["reason"] for answer in answers[2:] if "error" in answer} == {"rate-limited"}
    await until(lambda: server.notes()[-1] == "left")


async def test_health_is_told_and_sees_that_sockets_work(server: OtherServer) -> None:
    """The readiness report holds a real WebSocket's way through the whole chain."""
    status, report = await asyncio.to_thread(server.request, "GET", "/ops/readyz?verbose")
    assert (status, report["status"]) == (200, "ready")
    assert report["checks"]["broker"]["ok"]
    assert report["checks"]["websocket"]["ok"]


async def test_nothing_is_left_behind(server: OtherServer) -> None:
    """After many clients that left in three ways, no connection, room or task is left."""
    await until(lambda: server.metric("tidegate_registered_connections") == 0)
    before = (await asyncio.to_thread(server.request, "GET", "/tasks"))[1]
    for _ in range(4):
        clients = [await server.connect(f"/ws/left{number % 3}") for number in range(15)]
        for number, client in enumerate(clients):
            if number % 3 == 0:
                client.transport.abort()
            elif number % 3 == 1:
                await client.close()
            else:
                client.transport.write_eof()
                client.transport.close()
    for gauge in ("tidegate_registered_connections", "tidegate_rooms", "tidegate_memberships", "tidegate_slots_taken"):
        await until(lambda: server.metric(gauge) == 0)  # noqa: B023
    await until(lambda: server.request("GET", "/tasks")[1] <= before)


async def test_draining_sends_everybody_away_and_refuses_newcomers(server: OtherServer) -> None:
    """Each client is told to come back (1012), each newcomer that there is nobody to come to (503)."""
    clients = [await server.connect(f"/leaving/ws/{number % 3}") for number in range(12)]
    endings = [asyncio.create_task(ending(client)) for client in clients]
    assert await asyncio.to_thread(server.request, "POST", "/leave") == (200, {"closed": 12})
    assert Counter(await asyncio.gather(*endings)) == {(1012, "restarting"): 12}
    with pytest.raises(InvalidStatus) as refused:
        await server.connect("/leaving/ws/late")
    assert refused.value.response.status_code == 503
    assert int(refused.value.response.headers["Retry-After"]) >= 1
    async with server.connect("/ws/stays?echo=1") as other:
        await other.send("still here")
        assert await hear(other) == ["still here"]


async def test_the_lifespan_starts_and_stops_the_gateway_and_no_task_is_left_to_complain(server: OtherServer) -> None:
    """Startup completes before anything is served, shutdown after all; nothing of ours is in the server's log."""
    client = await server.connect("/ws/last")
    await asyncio.to_thread(server.stop)
    with pytest.raises(ConnectionClosed):
        await hear(client)
    notes = [note for note in server.notes() if note.startswith("lifespan")]
    assert notes == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    log = server.log.read_text()
    for word in ("/gateway/", "/middleware/", "never retrieved", "was destroyed"):
        assert word not in log, log
