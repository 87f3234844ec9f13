"""Attacks over real sockets: half-open handshakes, clients that do not read, floods, a shutdown with the stuck."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
import websockets

from middleware.close import Close

from .servers import Raw, echo, request, serving


def masked(first: int, payload: bytes) -> bytes:
    size = len(payload)
    head = bytes((first, 0x80 | size)) if size < 126 else bytes((first, 0xFE)) + size.to_bytes(2, "big")
    return head + b"\x00\x00\x00\x00" + payload


async def until(condition: Any) -> None:
    """Wait for something that is about to happen."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


# Pending handshakes


@pytest.mark.parametrize("head", [request()[:-2], b"GET / HTTP/1.1\r\nHost: a\r\n", b"", b"\r\n"])
async def test_half_open_handshakes_are_dropped_at_the_deadline(head: bytes) -> None:
    """Dripped bytes do not extend it: 408, FIN, nothing left."""
    async with serving(handshake_timeout_seconds=0.4) as served:
        client = await Raw.connect(served.port)
        client.send(head)

        async def drip() -> None:
            for _ in range(100):
                client.send(b"X: y\r\n" if head.strip() else b"\r\n")
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        answer = await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), 10)
        dripping.cancel()
        assert answer.startswith(b"HTTP/1.1 408 ")
        await client.close()
        await until(lambda: not served.connections)
        assert len(served.http.admission) == 0


async def test_a_body_that_does_not_come_has_a_deadline() -> None:
    """The head is there, the body is not: 408."""
    async with serving(body_timeout_seconds=0.2) as served:
        client = await Raw.connect(served.port)
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n123")
        assert (await client.rest()).startswith(b"HTTP/1.1 408 ")
        await client.close()


async def test_an_app_that_does_not_accept_in_time() -> None:
    """The deadline is for the whole way to the 101: 503, and the app is told."""
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        told.append(await receive())
        told.append(await receive())

    async with serving(app, handshake_timeout_seconds=1.0) as served:
        client = await Raw.connect(served.port)
        client.send(request())
        assert (await client.rest()).startswith(b"HTTP/1.1 503 ")
        await client.close()
    assert told == [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1006, "reason": ""}]


async def test_one_client_has_few_pending_handshakes() -> None:
    """The next is refused with 503 and Retry-After at once; accepted connections do not count."""
    async with serving(pending_handshakes_per_client=3) as served:
        opened = [await Raw.connect(served.port) for _ in range(3)]
        for client in opened:
            await client.upgrade()
        pending = [await Raw.connect(served.port) for _ in range(3)]
        await until(lambda: len(served.http.admission) == 3)
        refused = await Raw.connect(served.port)
        answer = await refused.rest()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in answer
        await pending[0].close()
        await until(lambda: len(served.http.admission) == 2)
        late = await Raw.connect(served.port)
        assert (await late.upgrade()).startswith(b"HTTP/1.1 101 ")
        for client in (*opened, *pending, refused, late):
            await client.close()


async def test_a_fresh_client_gets_in_past_a_crowd_of_silent_ones() -> None:
    """At the total the longest silent connection makes room."""
    async with serving(pending_handshakes=20, pending_handshakes_per_client=None) as served:
        silent = [await Raw.connect(served.port) for _ in range(20)]
        await until(lambda: len(served.http.admission) == 20)
        await asyncio.sleep(1.1)
        fresh = await Raw.connect(served.port)
        assert (await fresh.upgrade()).startswith(b"HTTP/1.1 101 ")
        assert (await silent[0].rest()).startswith(b"HTTP/1.1 503 ")
        for client in (*silent, fresh):
            await client.close()


# Clients that do not read


async def flood_of_messages(scope: Any, receive: Any, send: Any) -> None:
    """Sends as much as ``send`` lets it; echoes on another path."""
    if scope["path"] != "/flood":
        await echo(scope, receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        await send({"type": "websocket.send", "bytes": bytes(64_000)})


async def test_a_client_that_does_not_read_is_dropped() -> None:
    """Within the write deadline the descriptor is free again; another client does not notice."""
    ended: list[tuple[Close, str]] = []
    async with serving(
        flood_of_messages, write_timeout_seconds=0.3, on_ended=lambda close, by: ended.append((close, by))
    ) as served:  # fmt: skip
        frozen = await Raw.connect(served.port, receive_buffer=4096)
        frozen.writer.transport.pause_reading()  # type: ignore[attr-defined]
        frozen.send(request(target=b"/flood"))
        async with websockets.connect(served.url) as healthy:
            for number in range(50):
                await healthy.send(str(number))
                assert await healthy.recv() == str(number)
            await until(lambda: ended)
            assert [(close.reason, by) for close, by in ended] == [("slow-consumer", "server")]
            await until(lambda: len(served.connections) == 1)
        await frozen.close()


async def an_answer_without_end(scope: Any, receive: Any, send: Any) -> None:
    """Plain HTTP that writes until the client has gone."""
    assert scope["type"] == "http"
    leaving = asyncio.ensure_future(left(receive))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while not leaving.done():
        await send({"type": "http.response.body", "body": bytes(64_000), "more_body": True})
        await asyncio.sleep(0)


async def left(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def test_a_client_that_does_not_read_its_answer_is_dropped() -> None:
    """Plain HTTP has the write deadline, too: socket and task are gone, and the app is told that the client has left."""
    async with serving(an_answer_without_end, write_timeout_seconds=0.3) as served:
        frozen = await Raw.connect(served.port, receive_buffer=4096)
        frozen.writer.transport.pause_reading()  # type: ignore[attr-defined]
        frozen.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await until(lambda: served.server.server_state.tasks)
        await until(lambda: not served.connections and not served.server.server_state.tasks)
        await frozen.close()


async def test_a_million_pings_queue_nothing() -> None:
    """A client that pings without reading is closed after a hundred."""
    async with serving() as served:
        client = await Raw.connect(served.port, receive_buffer=4096)
        await client.upgrade()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        with pytest.raises(ConnectionError):
            for _ in range(200):
                client.send(masked(0x89, b"p" * 100) * 5000)
                await asyncio.wait_for(client.writer.drain(), 10)
                (connection,) = served.connections or {None}
                if connection is None:
                    raise ConnectionResetError
                assert connection.transport.get_write_buffer_size() < 128 * 1024
        await client.close()


async def test_tiny_frames_do_not_keep_others_waiting() -> None:
    """A megabyte of one-byte messages and a megabyte of one-byte fragments: another client is served meanwhile."""
    async with serving() as served:
        loud, fragments = await Raw.connect(served.port), await Raw.connect(served.port)
        await loud.upgrade()
        await fragments.upgrade()
        async with websockets.connect(served.url) as other:
            loud.send(masked(0x81, b"x") * 150_000)
            fragments.send(masked(0x01, b"x") + masked(0x00, b"x") * 150_000)
            for _ in range(20):
                await other.send("ping")
                assert await asyncio.wait_for(other.recv(), 5) == "ping"
        first, payload = await fragments.frame()
        assert (first, int.from_bytes(payload[:2], "big")) == (0x88, 1009)
        await loud.close()
        await fragments.close()


async def test_a_deflate_bomb_over_a_socket() -> None:
    """A gigabyte of zeros in a megabyte: 1009."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(compressor.compress(bytes(2**20)) for _ in range(256)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    async with serving(deflate=True) as served:
        client = await Raw.connect(served.port)
        client.send(request(extra=b"Sec-WebSocket-Extensions: permessage-deflate\r\n"))
        assert b"permessage-deflate" in await client.reader.readuntil(b"\r\n\r\n")
        client.send(b"\xc2\xff" + len(bomb[:-4]).to_bytes(8, "big") + bytes(4) + bomb[:-4])
        first, payload = await client.frame()
        assert (first, int.from_bytes(payload[:2], "big")) == (0x88, 1009)
        await client.close()


# Endings


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999, None])
async def test_the_clients_code_reaches_the_app(code: int | None) -> None:
    """And is answered in kind, with a FIN behind it."""
    events: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        events.append(await receive())

    async with serving(app) as served:
        client = await Raw.connect(served.port)
        await client.upgrade()
        payload = b"" if code is None else code.to_bytes(2, "big") + b"why"
        client.send(masked(0x88, payload))
        assert await client.frame() == (0x88, payload)
        assert await client.rest() == b""
        await client.close()
    assert events == [{"type": "websocket.disconnect", "code": code or 1005, "reason": "why" if code else ""}]


async def test_the_end_is_a_fin_although_the_client_keeps_sending() -> None:
    """After an error of the client's: close frame and FIN, while what it still sends is thrown away; no reset."""
    async with serving(max_message_bytes=1000) as served:
        client = await Raw.connect(served.port)
        await client.upgrade()
        client.send(masked(0x82, bytes(1001)) + masked(0x82, bytes(900)) * 2000)
        first, payload = await client.frame()
        assert (first, payload) == (0x88, b"\x03\xf1message-too-big")
        client.send(masked(0x82, bytes(900)) * 2000)
        assert await client.rest() == b""
        await client.close()


async def test_shutdown_says_1012_and_ends_with_a_fin() -> None:
    """A clean close for who answers, with everything before it delivered."""
    async with serving() as served:
        clients = [await websockets.connect(served.url) for _ in range(20)]
        for client in clients:
            await client.send("last")
    for client in clients:
        assert await client.recv() == "last"
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1012, "restarting")
        assert client.close_code == 1012


async def test_shutdown_with_two_stuck_readers_ends_in_time() -> None:
    """They are aborted ``abort_after_seconds`` after the close frame that they do not read."""
    async with serving(flood_of_messages, grace=5, close_timeout_seconds=0.3, abort_after_seconds=1.0) as served:
        stuck = [await Raw.connect(served.port, receive_buffer=4096) for _ in range(2)]
        for client in stuck:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            client.send(request(target=b"/flood"))
        await until(lambda: sum(getattr(one, "_write_paused", False) for one in served.connections) == 2)
    for client in stuck:
        await client.close()


async def test_pings_are_answered_and_measured() -> None:
    """The keepalive of ours against the client's library; the round trip is told."""
    rtts: list[float] = []
    async with serving(ping_interval_seconds=0.1, ping_timeout_seconds=2.0, on_rtt=rtts.append) as served:
        async with websockets.connect(served.url) as client:
            await until(lambda: len(rtts) >= 3)
            await client.send("still here")
            assert await client.recv() == "still here"
    assert all(0 < rtt < 2 for rtt in rtts)


async def test_a_silent_peer_is_dropped() -> None:
    """No pong within the timeout: 1011 ``ping-timeout``."""
    async with serving(ping_interval_seconds=0.1, ping_timeout_seconds=0.2) as served:
        client = await Raw.connect(served.port)
        await client.upgrade()
        assert (await client.frame())[0] == 0x89
        assert await client.frame() == (0x88, b"\x03\xf3ping-timeout")
        await client.close()


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"idle_seconds": 0.2}, b"\x03\xe9idle"), ({"max_age_seconds": 0.2}, b"\x03\xe9max-age")],
)
async def test_idle_and_age_limits(options: dict[str, Any], reason: bytes) -> None:
    """1001 with the reason."""
    async with serving(**options) as served:
        client = await Raw.connect(served.port)
        await client.upgrade()
        assert await client.frame() == (0x88, reason)
        await client.close()


async def test_nothing_is_left_of_connections_however_they_ended() -> None:
    """Clean, reset, FIN, mid-handshake, mid-message: no connection, task, pending handshake or timer remains."""
    async with serving(close_timeout_seconds=0.2, abort_after_seconds=0.4) as served:
        tasks = len(asyncio.all_tasks())
        for number in range(50):
            client = await Raw.connect(served.port)
            match number % 5:
                case 0:
                    await client.upgrade()
                    client.send(masked(0x88, b""))
                    await client.rest()
                case 1:
                    await client.upgrade()
                    client.writer.transport.abort()  # type: ignore[attr-defined]
                case 2:
                    await client.upgrade()
                    client.writer.write_eof()
                    await client.rest()
                case 3:
                    client.send(request()[:40])
                case 4:
                    await client.upgrade(behind=masked(0x81, b"abc")[:-1])
            await client.close()
        await until(lambda: not served.connections)
        await until(lambda: not served.server.server_state.tasks)
        assert len(served.http.admission) == 0
        await until(lambda: len(asyncio.all_tasks()) <= tasks)


@pytest.mark.parametrize(
    "attack",
    [
        test_a_body_that_does_not_come_has_a_deadline, test_an_app_that_does_not_accept_in_time,
        test_one_client_has_few_pending_handshakes, test_a_client_that_does_not_read_is_dropped,
        test_a_million_pings_queue_nothing, test_tiny_frames_do_not_keep_others_waiting,
        test_the_end_is_a_fin_although_the_client_keeps_sending, test_shutdown_says_1012_and_ends_with_a_fin,
        test_shutdown_with_two_stuck_readers_ends_in_time, test_a_silent_peer_is_dropped,
        test_nothing_is_left_of_connections_however_they_ended,
    ],
)  # fmt: skip
def test_under_uvloop_too(attack: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Its transports buffer and end in their own ways; the bounds are the same."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(attack())
