"""Every handshake is answered: 101, or the right error at once and a FIN behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from .servers import Raw, Served, request, serving

CASES = {
    "plain": (request(), 101),
    "keep-alive, Upgrade": (request(without=b"Connection", extra=b"Connection: keep-alive, Upgrade\r\n"), 101),
    "two connection headers": (request(without=b"Conn", extra=b"Connection: keep-alive\r\nConnection: upgrade\r\n"), 101),
    "WebSocket in capitals": (request(without=b"Upgrade", extra=b"Upgrade: WebSocket\r\n"), 101),
    "WebSocket among others": (request(without=b"Upgrade", extra=b"Upgrade: foo/1, WebSocket\r\nUpgrade: h2c\r\n"), 101),
    "space behind values": (request(without=b"Host", extra=b"Host: localhost \t\r\n"), 101),
    "another WebSocket": (request(without=b"Upgrade", extra=b"Upgrade: websocket/13\r\n"), 426),
    "absolute target": (request(target=b"http://localhost/ws?a=1"), 101),
    "content-length 0": (request(extra=b"Content-Length: 0\r\n"), 101),
    "header of 16 KB": (request(extra=b"X-Big: " + b"a" * 16384 + b"\r\n"), 431),
    "header of 1 MB": (request(extra=b"X-Big: " + b"a" * 2**20 + b"\r\n"), 431),
    "200 headers": (request(extra=b"".join(b"X-%d: y\r\n" % at for at in range(200))), 431),
    "100,000 headers": (request(extra=b"X: y\r\n" * 100_000), 431),
    "100 KB of headers": (request(extra=b"".join(b"X-%d: %s\r\n" % (at, b"y" * 4000) for at in range(25))), 431),
    "endless header line": (b"GET /ws HTTP/1.1\r\nX: " + b"a" * 500_000, 431),
    "endless header name": (b"GET /ws HTTP/1.1\r\n" + b"a" * 500_000, 431),
    "URL of 64 KB": (request(target=b"/" + b"a" * 65536), 414),
    "endless URL": (b"GET /" + b"a" * 500_000, 414),
    "query of 16 KB": (request(target=b"/ws?" + b"a" * 16384), 414),
    "body": (request(extra=b"Content-Length: 5\r\n") + b"hello", 400),
    "body to come": (request(extra=b"Content-Length: 5\r\n"), 400),
    "chunked body": (request(extra=b"Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n", 400),
    "both lengths": (request(extra=b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"), 400),
    "1,000 extensions": (request(extra=b"Sec-WebSocket-Extensions: " + b", ".join([b"a"] * 1000) + b"\r\n"), 400),
    "subprotocols of 32 KB": (request(extra=b"Sec-WebSocket-Protocol: b" + b" " * 32768 + b"\r\n"), 431),
    "subprotocols that are none": (request(extra=b"Sec-WebSocket-Protocol: a b, \x80\r\n"), 400),
    "no host": (request(without=b"Host"), 400),
    "two hosts": (request(extra=b"Host: other\r\n"), 400),
    "odd host": (request(without=b"Host", extra=b"Host: a/b@c d\r\n"), 400),
    "NUL in a header": (request(extra=b"X: a\x00b\r\n"), 400),
    "folded header": (request(extra=b"X: a\r\n b\r\n"), None),
    "POST": (request(method=b"POST"), 405),
    "version 8": (request(without=b"Sec-WebSocket-V", extra=b"Sec-WebSocket-Version: 8\r\n"), 426),
    "no version": (request(without=b"Sec-WebSocket-V"), 400),
    "no key": (request(without=b"Sec-WebSocket-K"), 400),
    "short key": (request(without=b"Sec-WebSocket-K", extra=b"Sec-WebSocket-Key: YWJj\r\n"), 400),
    "two keys": (request(extra=b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), 400),
    "no connection header": (request(without=b"Connection"), 426),
    "no upgrade header": (request(without=b"Upgrade"), 426),
    "HTTP/1.0": (request(version=b"HTTP/1.0"), 505),
    "a target that is no path": (request(target=b"*"), 400),
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20, 400),
}  # fmt: skip


VERSION_TOLD = {"version 8", "no version", "no key", "short key", "two keys", "no connection header", "no upgrade header"}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=[False, True], ids=["plain", "deflate"])
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    """One server for all the cases."""
    async with serving(deflate=request.param) as served:
        yield served


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", CASES)
async def test_it_is_answered_and_closed(name: str, served: Served) -> None:
    """The status, ``Sec-WebSocket-Version: 13`` where that helps, then a FIN, never a reset, never silence."""
    data, status = CASES[name]
    client = await Raw.connect(served.port)
    client.send(data)
    head = await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), 10)
    assert head.startswith(b"HTTP/1.1 ")
    answered = int(head[9:12])
    assert answered == status or (status is None and answered in (101, 400))
    if answered == 101:
        client.send(b"\x81\x82\x00\x00\x00\x00hi")
        assert await client.frame() == (0x81, b"hi")
    else:
        assert b"connection: close" in head
        assert (b"sec-websocket-version: 13" in head) or name not in VERSION_TOLD
        await client.rest()
    await client.close()


@pytest.mark.parametrize("name", ["plain", "version 8", "no key", "two hosts", "no host", "POST", "URL of 64 KB"])
async def test_under_uvicorns_own_http_class_too(name: str) -> None:
    """``--ws`` alone is enough for the rules of the handshake itself."""
    data, status = CASES[name]
    async with serving(stock_http=True) as served:
        client = await Raw.connect(served.port)
        client.send(data)
        head = await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), 10)
        assert int(head[9:12]) == status
        await client.close()


async def test_plain_http_is_served_and_bounded() -> None:
    """Keep-alive, a body, a crowd of headers, two hosts, a flood of pipelined requests."""
    async with serving() as served:
        client = await Raw.connect(served.port)
        for _ in range(2):
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n" + bytes(200_000))
            assert (await client.reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        assert (await client.rest()).startswith(b"HTTP/1.1 400")
        await client.close()
        client = await Raw.connect(served.port)
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 10_000)
        try:
            await client.rest()
        except ConnectionError:
            pass
        await client.close()
        client = await Raw.connect(served.port)
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (await client.rest()).startswith(b"HTTP/1.1 200")
        await client.close()


async def test_refusing_pipelined_requests_ends_the_one_that_is_being_answered(caplog: pytest.LogCaptureFixture) -> None:
    """Its app may go on; nothing it sends afterwards reaches the closed socket, and nothing is logged as an error."""
    go_on = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"late"})

    async with serving(slow) as served:
        client = await Raw.connect(served.port)
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 20)
        assert (await client.rest()).startswith(b"HTTP/1.1 503")
        go_on.set()
        await asyncio.sleep(0)
        await client.close()
        other = await Raw.connect(served.port)
        other.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert b"late" in await other.rest()
        await other.close()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_refusals_are_told() -> None:
    """``on_refused`` hears every status that the wire answered by itself."""
    refused: list[int] = []
    async with serving(on_refused=refused.append) as served:
        for name in ("header of 16 KB", "version 8", "no key", "not HTTP"):
            client = await Raw.connect(served.port)
            client.send(CASES[name][0])
            await client.rest()
            await client.close()
    assert refused == [431, 426, 400, 400]


async def test_the_scope_is_what_asgi_says() -> None:
    """Path decoded once, raw path kept, headers in lower case, subprotocols split, both extensions offered."""
    scopes: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await receive()
        await send({"type": "websocket.accept", "subprotocol": "b", "headers": [(b"x-a", b"1"), (b"x-a", b"2")]})

    async with serving(app) as served:
        client = await Raw.connect(served.port)
        client.send(
            request(target=b"/a%20b/%C3%BC?q=%20", extra=b"Sec-WebSocket-Protocol: a, b\r\nX-Name: \xfc\r\nX-Name: 2\r\n")
        )  # fmt: skip
        head = await client.reader.readuntil(b"\r\n\r\n")
        await client.close()
    (scope,) = scopes
    assert (scope["type"], scope["path"], scope["raw_path"]) == ("websocket", "/a b/ü", b"/a%20b/%C3%BC")
    assert (scope["query_string"], scope["scheme"], scope["http_version"]) == (b"q=%20", "ws", "1.1")
    assert scope["subprotocols"] == ["a", "b"]
    assert [value for name, value in scope["headers"] if name == b"x-name"] == [b"\xfc", b"2"]
    assert scope["client"][0] == "127.0.0.1"
    assert scope["server"] == ("127.0.0.1", served.port)
    assert set(scope["extensions"]) == {"websocket.http.response", "tidegate.frames"}
    assert b"sec-websocket-protocol: b\r\n" in head
    assert b"x-a: 1\r\n" in head
    assert b"x-a: 2\r\n" in head
    assert b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head


async def test_an_app_cannot_break_the_response_with_a_header() -> None:
    """A line break in a header's value is the app's error: 500, logged, and nothing of it on the wire."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept", "headers": [(b"x", b"1\r\nset-cookie: a=b")]})

    async with serving(app) as served:
        client = await Raw.connect(served.port)
        client.send(request())
        answer = await client.rest()
        await client.close()
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"set-cookie" not in answer


@pytest.mark.parametrize("more", [False, True])
async def test_a_denial_response(more: bool) -> None:
    """Status, headers and body of the app's choice; the client's socket is closed with a FIN; the app hears 1006."""
    events: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        events.append(await receive())
        await send({"type": "websocket.http.response.start", "status": 429, "headers": [(b"retry-after", b"7")]})
        if more:
            await send({"type": "websocket.http.response.body", "body": b"slow ", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"down"})
        events.append(await receive())

    async with serving(app) as served:
        client = await Raw.connect(served.port)
        client.send(request() + b"\x81\x82\x00\x00\x00\x00hi")
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
        await client.close()
    assert head.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert b"retry-after: 7" in head
    assert (b"content-length: 4" in head) == (not more)
    assert body == (b"slow down" if more else b"down")
    assert events == [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1006, "reason": ""}]


@pytest.mark.parametrize("fails", [True, False])
async def test_a_denial_that_never_comes_to_its_body_is_answered_all_the_same(fails: bool) -> None:
    """An app that stops behind the response's start leaves its client with a 500, not with silence."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.http.response.start", "status": 429, "headers": []})
        if fails:
            raise ConnectionResetError("quiet")

    async with serving(app) as served:
        client = await Raw.connect(served.port)
        client.send(request())
        answer = await client.rest()
        await client.close()
    assert answer.startswith(b"HTTP/1.1 500 ")


async def test_closing_before_accept_is_403() -> None:
    """As the ASGI specification says."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.close", "code": 4000})

    async with serving(app) as served:
        client = await Raw.connect(served.port)
        client.send(request())
        assert (await client.rest()).startswith(b"HTTP/1.1 403 ")
        await client.close()


@pytest.mark.parametrize("fails", [True, False])
async def test_an_app_that_does_not_answer(fails: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Failing or returning before accept: 500 and one error in the log."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if fails:
            raise RuntimeError("oops")

    async with serving(app) as served:
        client = await Raw.connect(served.port)
        client.send(request())
        assert (await client.rest()).startswith(b"HTTP/1.1 500 ")
        await client.close()
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
