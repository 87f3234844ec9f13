"""``tidegate serve`` as a process, driven with a real client over real sockets."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections import Counter
from typing import Any

import jwt
import pytest
import websockets
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.integration.gateway_process import GatewayProcess, hear, running, silence


async def test_rooms_relay_text_and_binary_to_the_others() -> None:
    """Two rooms hear nothing of each other; the sender hears itself only when it asked to."""
    async with running() as gateway, gateway.connect("a") as one, gateway.connect("a") as two, gateway.connect("b") as other:
        async with gateway.connect("a", "?echo=1") as echo:
            await one.send("hello")
            await one.send(b"\x00\xff")
            await one.send("")
            assert await hear(two, 3) == await hear(echo, 3) == ["hello", b"\x00\xff", ""]
            await echo.send("me too")
            assert [await hear(client) for client in (one, two, echo)] == [["me too"]] * 3
            assert await silence(one)
            assert await silence(other)


async def test_publishing_over_http_reaches_rooms_users_and_everyone() -> None:
    """The API says what it accepted and how many here get it; a key that is wrong gets nothing."""
    secret = "0123456789abcdef0123456789abcdef"
    token = jwt.encode({"sub": "ann", "exp": time.time() + 60, "rooms": ["chat:*"]}, secret, "HS256")
    async with running(AUTH__MODE="jwt", AUTH__SECRET=secret) as gateway:
        bearer = {"additional_headers": {"Authorization": f"Bearer {token}"}}
        async with gateway.connect("chat:1", **bearer) as one, gateway.connect("chat:2", **bearer) as two:
            status, published = await gateway.publish("/api/rooms/chat:1/messages", "hi")
            assert (status, published["recipients_local"]) == (200, 1)
            assert set(published) == {"id", "accepted_at", "recipients_local"}
            assert await hear(one) == ["hi"]
            await gateway.publish("/api/users/ann/messages", b"\x01\x02", "application/octet-stream")
            assert await hear(one) == await hear(two) == [b"\x01\x02"]
            await gateway.publish("/api/broadcast", '{"all": 1}', "application/json")
            assert json.loads((await hear(one))[0]) == json.loads((await hear(two))[0]) == {"all": 1}
            assert (await gateway.publish("/api/broadcast", "x", Authorization="Bearer wrong"))[0] == 401
            status, rooms = await gateway.get("/api/rooms")
            assert {room["name"] for room in rooms["rooms"]} == {"chat:1", "chat:2"}
            status, _ = await gateway.request("DELETE", "/api/users/ann/connections")
            assert status == 200
            for client in (one, two):
                with pytest.raises(ConnectionClosed):
                    await hear(client)
        for options in ({}, {"additional_headers": {"Authorization": "Bearer x.y.z"}}):
            with pytest.raises(InvalidStatus, match="401"):
                await gateway.connect("chat:1", **options)
        with pytest.raises(InvalidStatus, match="403"):
            await gateway.connect("other", **bearer)


async def test_without_a_key_the_api_says_how_to_set_one() -> None:
    """403 and the name of the setting."""
    async with running(API_KEY="") as gateway:
        status, problem = await gateway.publish("/api/rooms/a/messages", "x")
        assert status == 403
        assert "TIDEGATE_API_KEY" in problem["detail"]


@pytest.mark.parametrize(
    ("room", "status"),
    [("~user%2F1", 400), ("x" * 256, 400), ("a%00b", 400), ("a%0Ab", 400), ("..", 400), ("a/b", 400), ("%ff", 400), ("", 400)],
)
async def test_hostile_room_names_are_refused_with_a_status(gateway: GatewayProcess, room: str, status: int) -> None:
    """Reserved, too long, control characters, traversal, undecodable: a real HTTP answer and no 101."""
    with pytest.raises(InvalidStatus) as refused:
        await gateway.connect(room)
    assert refused.value.response.status_code == status
    assert b"room name" in refused.value.response.body


@pytest.fixture
async def gateway() -> Any:
    async with running() as made:
        yield made


async def test_wildcards_of_brokers_are_ordinary_letters(gateway: GatewayProcess) -> None:
    """A member of ``a.>`` hears nothing of ``a.b``."""
    async with gateway.connect("a.%3E") as wild, gateway.connect("%2A") as star, gateway.connect("a.b", "?echo=1") as plain:
        await plain.send("x")
        assert await hear(plain) == ["x"]
        assert await silence(wild)
        assert await silence(star)


async def test_messages_against_the_rules_end_with_their_reason() -> None:
    """Too big is 1009, the wrong kind 1003; the others lose nothing."""
    async with running(MESSAGE__MAX_BYTES="100", MESSAGE__ALLOW="text") as gateway, gateway.connect("r") as good:
        for payload, code in ((b"x", 1003), ("x" * 101, 1009)):
            async with gateway.connect("r") as bad:
                await bad.send(payload)
                with pytest.raises(ConnectionClosed) as closed:
                    await hear(bad)
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == code
        async with gateway.connect("r") as fine:
            await fine.send("x" * 100)
            assert await hear(good) == ["x" * 100]


async def test_a_member_that_never_reads_goes_and_fifty_others_lose_nothing() -> None:
    """The slow one is closed as slow-consumer within its deadline; every healthy one hears every message in order."""
    count, size = 300, 20_000
    async with running(OUTBOX__MAX_BYTES="200000", DRAIN__ABORT_AFTER_SECONDS="1") as gateway:
        healthy = [await gateway.connect("r") for _ in range(50)]
        host, port = gateway.public.rsplit(":", 1)
        slow = socket.create_connection((host, int(port)))
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(
            f"GET /ws/r HTTP/1.1\r\nHost: {gateway.public}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        assert b"101" in slow.recv(100)

        async def listen(client: Any) -> list[int]:
            return [int(message[:6]) for message in await hear_all(client)]

        async def hear_all(client: Any) -> list[Any]:
            async with asyncio.timeout(60):
                return [await client.recv() for _ in range(count)]

        listening = [asyncio.create_task(listen(client)) for client in healthy]
        for number in range(count):
            status, _ = await gateway.publish("/api/rooms/r/messages", f"{number:06}" + "x" * size)
            assert status == 200
        for heard in await asyncio.gather(*listening):
            assert heard == list(range(count))
        async with asyncio.timeout(10):
            while await gateway.metric("tidegate_closes_total", reason="slow-consumer") < 1:
                await asyncio.sleep(0.05)
        assert await gateway.metric("tidegate_registered_connections") == 50
        parts = ("expected_total", "written_total", "dropped_total", "closed_total", "buffered", "in_progress", "unaccounted")
        figures = await gateway.metrics(*(f"tidegate_deliveries_{part}" for part in parts))
        accounted = dict(zip(parts, figures, strict=True))
        assert accounted["dropped_total"] > 0
        assert accounted.pop("unaccounted") == 0
        assert accounted.pop("expected_total") == sum(accounted.values())
        before = gateway.descriptors()
        async with asyncio.timeout(5):  # abort_after_seconds is 1
            while gateway.descriptors() > before - 1 and b"x" in await asyncio.to_thread(_drain, slow):
                await asyncio.sleep(0.05)
        slow.close()
        await asyncio.gather(*(client.close() for client in healthy))


def _drain(sock: socket.socket) -> bytes:
    sock.settimeout(0.2)
    try:
        return sock.recv(65_536)
    except OSError:
        return b""


async def test_sigterm_drains_two_hundred_clients() -> None:
    """Readiness turns first, newcomers are told to come back, closes are paced, each client sees 1012, the exit code is 0."""
    settings = {"DRAIN__DELAY_SECONDS": "3", "DRAIN__PERIOD_SECONDS": "3", "DRAIN__ABORT_AFTER_SECONDS": "60"}
    async with running(**settings) as gateway:
        clients = [await gateway.connect(f"r{number % 7}") for number in range(200)]
        assert (await gateway.get("/readyz", public=True))[0] == 200
        closed_at: list[float] = []

        async def wait_for_close(client: Any) -> tuple[int, str]:
            try:
                await client.recv()
            except ConnectionClosed as error:
                closed_at.append(time.monotonic())
                assert error.rcvd is not None
                return error.rcvd.code, error.rcvd.reason
            raise AssertionError("a message came")

        waiting = [asyncio.create_task(wait_for_close(client)) for client in clients]
        gateway.process.send_signal(signal.SIGTERM)
        await gateway.event("draining")
        status, report = await gateway.get("/readyz", public=True)
        assert (status, report["status"]) == (503, "draining")
        async with gateway.connect("late"):  # the listener still accepts: load balancers have not noticed yet
            pass
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)  # now it is closing
        with pytest.raises(InvalidStatus) as refused:
            await gateway.connect("too-late")
        assert refused.value.response.status_code == 503
        assert int(refused.value.response.headers["Retry-After"]) >= 1
        endings = Counter(await asyncio.gather(*waiting))
        assert endings == {(1012, "restarting"): 200}
        assert closed_at[-1] - closed_at[0] > 1.0
        assert await gateway.stop(timeout_seconds=60) == 0
        assert gateway.events("drained")[0]["aborted"] == 0
        assert not [event for event in gateway.log if event["level"] in ("error", "critical") or "exception" in event]


async def test_a_second_signal_ends_at_once() -> None:
    """Nobody is waited for, and the log has no traceback."""
    async with running(DRAIN__PERIOD_SECONDS="60") as gateway:
        clients = [await gateway.connect("r") for _ in range(20)]
        gateway.process.send_signal(signal.SIGINT)
        await gateway.event("draining")  # two signals at once are one
        assert await gateway.stop(signal.SIGINT) == 0
        assert gateway.events("drained")[0]["at_once"] is True
        assert not [event for event in gateway.log if "exception" in event]
        for client in clients:
            with pytest.raises(ConnectionClosed):
                while True:
                    await hear(client)


async def test_stuck_readers_do_not_hold_up_the_end() -> None:
    """Clients that read nothing and answer nothing are cut off after their time."""
    async with running(DRAIN__ABORT_AFTER_SECONDS="1") as gateway:
        host, port = gateway.public.rsplit(":", 1)
        stuck = []
        for _ in range(3):
            sock = socket.create_connection((host, int(port)))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(
                f"GET /ws/r HTTP/1.1\r\nHost: {gateway.public}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
            )
            assert b"101" in sock.recv(100)
            stuck.append(sock)
        for _ in range(30):
            await gateway.publish("/api/rooms/r/messages", "x" * 100_000)
        assert await gateway.stop() == 0
        for sock in stuck:
            sock.close()


async def test_a_port_in_use_is_one_sentence_and_exit_code_1() -> None:
    """It names the port, the host and the setting."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        async with running(wait=False, PORT=port) as gateway:
            assert await asyncio.wait_for(gateway.process.wait(), 30) == 1
        (event,) = gateway.events("cannot start")
        assert f"port {port} on 127.0.0.1 is in use" in event["reason"]
        assert "TIDEGATE_PORT" in event["reason"]


async def test_exposing_without_a_decision_about_authentication_is_refused() -> None:
    """Another address than loopback without auth: exit code 2, and the table says why and what to do."""
    import sys

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "serve", "--host", "0.0.0.0", "--port", "0", "--ops-port", "0",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 2
    assert b"TIDEGATE_AUTH__MODE" in errors


async def test_a_limit_above_the_open_files_limit_is_told_with_both_numbers() -> None:
    """The warning names what to set."""
    async with running(CONNECTION_LIMIT__TOTAL="9000000") as gateway:
        (event,) = gateway.events("the open-files limit is below the connection limit")
        assert event["connection_limit"] == 9_000_000
        assert event["open_files"] < 9_000_000
        assert "TIDEGATE_CONNECTION_LIMIT__TOTAL" in event["hint"]


async def test_metrics_and_api_are_not_on_the_public_port(gateway: GatewayProcess) -> None:
    """Only health is; and a scrape in either format is well-formed."""
    for path in ("/metrics", "/api/rooms", "/startupz", "/console", "/"):
        assert (await gateway.get(path, public=True))[0] == 404
    assert (await gateway.get("/healthz", public=True))[0] == 200
    async with gateway.connect("r", "?echo=1") as client:
        await client.send("hello")
        await hear(client)
        assert await gateway.metric("tidegate_registered_connections") == 1
        assert await gateway.metric("tidegate_messages_total", direction="inbound") == 1
        assert await gateway.metric("tidegate_deliveries_written_total") == 1
        assert await gateway.metric("tidegate_build_info") == 1
    status, text = await gateway.get("/metrics", Accept="text/plain")
    assert status == 200
    assert "process_cpu_seconds_total" in text


async def test_rooms_and_clients_add_no_series() -> None:
    """A hundred rooms, agents and paths leave the number of series as it was."""
    async with running() as gateway:

        async def series() -> int:
            _, text = await gateway.get("/metrics")
            return sum(not line.startswith("#") for line in text.splitlines())

        async with gateway.connect("first"):
            pass
        before = await series()
        for number in range(100):
            async with gateway.connect(f"ns{number}:room", user_agent_header=f"agent/{number}") as client:
                await client.send("x")
            await gateway.get(f"/path/{number}", public=True)
        assert await series() < before + 10


async def test_one_event_per_connection_and_no_secret_in_the_log() -> None:
    """The wide event has times, counts and the ending; tokens never appear."""
    secret = "0123456789abcdef0123456789abcdef"
    token = jwt.encode({"sub": "ann", "exp": time.time() + 60}, secret, "HS256")
    async with running(AUTH__MODE="jwt", AUTH__SECRET=secret, AUTH__QUERY_TOKEN="true", LOG_LEVEL="debug") as gateway:
        async with gateway.connect("r", f"?token={token}&echo=1") as client:
            await client.send("x")
            await hear(client)
        with pytest.raises(InvalidStatus):
            await gateway.connect("r", "?token=nonsense.token.here")
        await gateway.event("websocket.closed")
        assert await gateway.stop() == 0
        (event,) = gateway.events("websocket.closed")
        assert event["user"] == "ann"
        text = json.dumps(gateway.log)
        for word in (token, secret, "nonsense.token.here", token.split(".")[2]):
            assert word not in text


async def test_idle_clients_are_pinged_and_dead_ones_noticed() -> None:
    """A client that answers pings stays; one that does not is gone after interval and timeout."""
    async with running(KEEPALIVE__INTERVAL_SECONDS="2", KEEPALIVE__TIMEOUT_SECONDS="2") as gateway:
        async with gateway.connect("r", ping_interval=None) as alive:
            host, port = gateway.public.rsplit(":", 1)
            dead = socket.create_connection((host, int(port)))
            dead.sendall(
                f"GET /ws/r HTTP/1.1\r\nHost: {gateway.public}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
            )
            async with asyncio.timeout(30):
                while await gateway.metric("tidegate_closes_total", reason="ping-timeout") < 1:
                    await asyncio.sleep(0.1)
            dead.close()
            await (await alive.ping())
            assert await gateway.metric("tidegate_registered_connections") == 1


async def test_connections_can_have_a_longest_life_and_a_longest_silence() -> None:
    """Both end with 1001 and their own slug."""
    for settings, reason in (({"KEEPALIVE__IDLE_SECONDS": "0.4"}, "idle"), ({"KEEPALIVE__MAX_AGE_SECONDS": "0.5"}, "max-age")):
        async with running(**settings) as gateway, gateway.connect("r") as client:
            with pytest.raises(ConnectionClosed) as closed:
                await hear(client)
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, reason)


async def test_a_foreign_page_cannot_connect(gateway: GatewayProcess) -> None:
    """Another origin gets 403; the gateway's own and clients without one get in."""
    with pytest.raises(InvalidStatus, match="403"):
        await gateway.connect("r", origin=websockets.Origin("https://evil.example"))
    async with gateway.connect("r", origin=websockets.Origin(f"http://{gateway.public}")), gateway.connect("r"):
        pass
