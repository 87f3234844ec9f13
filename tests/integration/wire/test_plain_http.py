"""Plain HTTP over real sockets: what a connection may hold between, before and behind its requests."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .servers import Raw, echo, request, serving
from .test_bounds import masked, until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Answers at once, whatever is still to come of the request."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


# Time


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (GET, b""),
        (GET, b"\r\n"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na", b"b"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", b"0\r\n\r\n"),
    ],
    ids=["silence", "line ends", "the rest of a body", "the last chunk"],
)
async def test_an_answered_client_has_so_long_to_begin_its_next_request(first: bytes, then: bytes) -> None:
    """Bytes that begin none do not keep the connection, whether they come between two requests or end the last one late."""
    async with serving(answer, uvicorn_options={"timeout_keep_alive": 0.3}) as served:
        client = await Raw.connect(served.port)
        client.send(first)
        assert (await client.reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")
        client.send(then)

        async def drip() -> None:
            while then:
                await asyncio.sleep(0.05)
                client.send(b"\r\n")

        dripping = asyncio.create_task(drip())
        await until(lambda: not served.connections)
        dripping.cancel()
        await client.close()


async def test_a_body_that_has_no_deadline_has_one_when_it_is_answered() -> None:
    """With ``body_timeout_seconds`` off, too, nobody keeps a connection by the rest of a request that is answered."""
    async with serving(answer, body_timeout_seconds=None, uvicorn_options={"timeout_keep_alive": 0.3}) as served:
        client = await Raw.connect(served.port)
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na")
        assert (await client.reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")
        await until(lambda: not served.connections)
        await client.close()


async def test_a_next_request_in_time_is_answered() -> None:
    """Each answer begins the time anew; the app's own time is not counted."""

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.5)
        await answer(scope, receive, send)

    async with serving(slow, uvicorn_options={"timeout_keep_alive": 0.3}) as served:
        client = await Raw.connect(served.port)
        for _ in range(3):
            client.send(GET)
            assert (await client.reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")
            await asyncio.sleep(0.1)
        await client.close()


async def test_a_client_is_not_late_while_nobody_reads_it() -> None:
    """A body behind a request that the app takes its time for is there, and is read when its turn has come."""

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.5)
        await echo(scope, receive, send)

    async with serving(slow, body_timeout_seconds=0.1) as served:
        client = await Raw.connect(served.port)
        client.send(GET + b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000))
        for _ in range(2):
            assert (await client.reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")
        await client.close()


# Pending


async def test_a_second_request_counts_as_the_first_did() -> None:
    """A connection that was answered is pending again when its next head begins: 503 past the cap, and the caps hold."""
    async with serving(pending_handshakes_per_client=3) as served:
        clients = []
        for _ in range(4):
            clients.append(await Raw.connect(served.port))
            clients[-1].send(GET)
            await clients[-1].reader.readuntil(b"ok")
        assert len(served.http.admission) == 0
        for client in clients[:3]:
            client.send(GET[:20])
        await until(lambda: len(served.http.admission) == 3)
        clients[3].send(GET[:20])
        assert (await clients[3].rest()).startswith(b"HTTP/1.1 503 ")
        clients[0].send(GET[20:])
        await clients[0].reader.readuntil(b"ok")
        await until(lambda: len(served.http.admission) == 2)
        for client in clients:
            await client.close()
        await until(lambda: len(served.http.admission) == 0)


async def test_an_upgrade_on_a_kept_connection_is_pending_until_it_is_accepted() -> None:
    """What waits in the app is counted, wherever its connection has been before."""
    accept = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await accept.wait()
        await echo(scope, receive, send)

    async with serving(app, pending_handshakes_per_client=2) as served:
        clients = []
        for number in (1, 2):
            clients.append(await Raw.connect(served.port))
            clients[-1].send(GET)
            await clients[-1].reader.readuntil(b"ok")
            clients[-1].send(request())
            await until(lambda number=number: len(served.http.admission) == number)  # type: ignore[misc]
        refused = await Raw.connect(served.port)
        assert (await refused.rest()).startswith(b"HTTP/1.1 503 ")
        accept.set()
        for client in clients:
            assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert len(served.http.admission) == 0
        for client in (*clients, refused):
            await client.close()


async def test_nothing_of_the_request_outlives_the_upgrade_but_its_headers() -> None:
    """The scope has them; the object that read them is gone without a garbage collector."""
    scopes: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await echo(scope, receive, send)

    async with serving(app) as served:
        client = await Raw.connect(served.port)
        await until(lambda: served.connections)
        (http,) = map(weakref.ref, served.connections)
        gc.disable()
        try:
            await client.upgrade()
            assert http() is None
            assert gc.get_referrers(scopes[0]["headers"]) == [scopes[0]]
        finally:
            gc.enable()
        await client.close()


async def test_who_leaves_with_requests_in_the_pipeline_has_left() -> None:
    """The app that is answering the first of them is told, and the others are not begun."""
    paths: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        paths.append(scope["path"])
        while (await receive())["type"] != "http.disconnect":
            pass

    async with serving(app) as served:
        client = await Raw.connect(served.port)
        client.send(GET + GET + b"GET /last HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: paths)
        client.writer.transport.abort()  # type: ignore[attr-defined]
        await until(lambda: not served.server.server_state.tasks)
    assert paths == ["/"]


# Heads

H2C = b"Host: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"


async def said(scope: Any, receive: Any, send: Any) -> None:
    """Answers with method, path and body."""
    body, more = b"", True
    while more:
        event = await receive()
        body, more = body + event["body"], event["more_body"]
    text = b"%s %s %s;" % (scope["method"].encode(), scope["raw_path"], body)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text))]})
    await send({"type": "http.response.body", "body": text})


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize(
    ("body", "seen"),
    [
        (b"\r\n", b""),
        (b"Content-Length: 24\r\n\r\nGET /inner HTTP/1.1\r\n\r\n\n", b"GET /inner HTTP/1.1\r\n\r\n\n"),
        (b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", b"ab"),
        (b"Connection: close\r\nContent-Length: 2\r\n\r\nab", b"ab"),
    ],
    ids=["no body", "a length", "chunks", "the last request"],
)
async def test_an_upgrade_to_something_else_is_ignored(body: bytes, seen: bytes, version: bytes) -> None:
    """RFC 9110 §7.8: the request is answered as if it had not asked; its body is its body, and what comes behind is the next."""
    async with serving(said) as served:
        client = await Raw.connect(served.port)
        client.send(b"POST /a HTTP/" + version + b"\r\n" + H2C + body + GET.replace(b"a", b"a\r\nConnection: close"))
        answers = await client.rest()
        await client.close()
    assert answers.startswith(b"HTTP/1.1 200 ")
    assert b"POST /a " + seen + b";" in answers
    only = version == b"1.0" or b"close" in body
    assert answers.count(b"HTTP/1.1 ") == (1 if only else 2)
    assert answers.endswith(b";" if only else b"GET / ;")


@pytest.mark.parametrize("split", [1, 40, 90, 140])
async def test_it_is_ignored_however_it_comes(split: int) -> None:
    """In parts, and one behind the other."""
    data = (b"GET /a HTTP/1.1\r\n" + H2C + b"\r\n") * 3
    async with serving(said) as served:
        client = await Raw.connect(served.port)
        client.send(data[:split])
        await asyncio.sleep(0.05)
        client.send(data[split:])
        for _ in range(3):
            assert (await client.reader.readuntil(b"GET /a ;")).startswith(b"HTTP/1.1 200 ")
        assert len(served.http.admission) == 0
        await client.close()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a b/c@d\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\nHost: a/b\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\nHost: [::1]:80 \r\n\r\n", 200),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
)
async def test_the_rules_of_heads(head: bytes, status: int) -> None:
    """A ``Host`` is a host, as in a handshake; a proxy or HTTP/2 is not what is spoken here."""
    async with serving(answer) as served:
        client = await Raw.connect(served.port)
        client.send(head)
        assert (await client.reader.readline()).startswith(b"HTTP/1.1 %d " % status)
        await client.close()


# Behind an answer that is not read


async def long_answer(scope: Any, receive: Any, send: Any) -> None:
    """Eight megabytes over HTTP; over a WebSocket, as much as ``send`` takes."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            await send({"type": "websocket.send", "bytes": bytes(64_000)})
            await asyncio.sleep(0)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"8000000")]})
    await send({"type": "http.response.body", "body": bytes(8_000_000)})


async def test_an_upgrade_behind_an_unread_answer_waits_for_it() -> None:
    """Nothing is added to what the client does not read, and the write deadline ends it."""
    async with serving(long_answer, write_timeout_seconds=0.5) as served:
        client = await Raw.connect(served.port, receive_buffer=4096)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(GET)
        await until(lambda: any(getattr(one, "_patience", None) for one in served.connections))
        client.send(request())
        largest = 0

        def over() -> bool:
            nonlocal largest
            largest = max([largest, *(one.transport.get_write_buffer_size() for one in served.connections)])
            return not served.connections and not served.server.server_state.tasks

        await until(over)
        assert largest < 8_000_000
        await client.close()


async def test_a_client_that_reads_the_answer_has_its_upgrade() -> None:
    """The answer's deadline ends with the answer; the connection behind it stays."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (long_answer if scope["type"] == "http" else echo)(scope, receive, send)

    async with serving(app, write_timeout_seconds=0.3) as served:
        client = await Raw.connect(served.port)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(GET)
        await until(lambda: any(getattr(one, "_patience", None) for one in served.connections))
        client.send(request())
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        await client.reader.readexactly(8_000_000)
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        await asyncio.sleep(0.7)
        client.send(masked(0x81, b"hi"))
        assert await client.frame() == (0x81, b"hi")
        await client.close()


@pytest.mark.parametrize("last", [b"", b"Connection: close\r\n"], ids=["kept", "closed"])
async def test_the_end_of_an_answer_that_is_not_read_has_a_deadline_too(last: bytes) -> None:
    """Closing waits for what is unsent, little as it is; not for ever."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"20000")]})
        await send({"type": "http.response.body", "body": bytes(20_000)})

    async with serving(app, write_timeout_seconds=0.3, uvicorn_options={"timeout_keep_alive": 0.3}) as served:
        client = await Raw.connect(served.port, receive_buffer=4096)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: served.connections)
        (connection,) = served.connections
        connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        while not connection.transport.get_write_buffer_size():
            client.send(GET.replace(b"a\r\n", b"a\r\n" + last))
            await asyncio.sleep(0.05)
        assert connection.transport.get_write_buffer_size() < 64 * 1024
        await until(lambda: not served.connections)
        await client.close()


# Bodies


async def test_a_body_of_tiny_chunks_is_handed_over_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole and in order, and so is what comes behind it: a request in the pipeline, an upgrade, and its first message."""
    pieces = 0
    bodies: list[bytes] = []
    hand_over = HttpToolsProtocol.on_body

    def on_body(self: HttpToolsProtocol, body: bytes) -> None:
        nonlocal pieces
        pieces += 1
        hand_over(self, body)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await echo(scope, receive, send)
            return
        body, more = b"", True
        while more:
            event = await receive()
            body, more = body + event["body"], event["more_body"]
        bodies.append(body)
        await answer(scope, receive, send)

    monkeypatch.setattr(HttpToolsProtocol, "on_body", on_body)
    digits = b"0123456789" * 5000
    post = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(b"1\r\n%c\r\n" % digit for digit in digits)
    async with serving(app) as served:
        client = await Raw.connect(served.port)
        client.send(post + chunks + b"0\r\n\r\n" + GET)
        for _ in range(2):
            assert (await client.reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")
        client.send(post + b"1\r\nx\r\n0\r\n\r\n")
        await client.reader.readuntil(b"ok")
        client.send(request() + masked(0x81, b"hi") + masked(0x82, bytes(40_000)))
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert await client.frame() == (0x81, b"hi")
        assert await client.frame() == (0x82, bytes(40_000))
        await client.close()
    assert bodies == [digits, b"", b"x"]
    assert pieces < 200


@pytest.mark.parametrize(
    "test",
    [
        test_a_body_that_has_no_deadline_has_one_when_it_is_answered, test_a_second_request_counts_as_the_first_did,
        test_an_upgrade_on_a_kept_connection_is_pending_until_it_is_accepted,
        test_who_leaves_with_requests_in_the_pipeline_has_left, test_an_upgrade_behind_an_unread_answer_waits_for_it,
        test_a_client_that_reads_the_answer_has_its_upgrade,
    ],
)  # fmt: skip
def test_under_uvloop_too(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Its transports pause and end in their own ways."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())
