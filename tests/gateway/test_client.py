"""``gateway.cli.client`` and ``client_http``: publishing, listening with reconnection, asking for health, against real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import http.server
import json
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from gateway.cli.client import Backoff, ClientError, Ended, healthy, listen, publish, reason_of, request, room_url
from tests.needs import free_port

Handler = Callable[[ServerConnection], Awaitable[None]]


# ── Backoff ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_backoff_doubles_up_to_its_bound_and_starts_again_after_a_success() -> None:
    """With the dice at their highest the waits are 1, 2, 4, 5, 5 …, and 1 again after a success."""
    backoff = Backoff(first_seconds=1, most_seconds=5, rng=lambda: 1.0)
    assert [backoff.next_seconds() for _ in range(5)] == [1, 2, 4, 5, 5]
    backoff.reset()
    assert backoff.next_seconds() == 1


@given(dice=st.floats(0, 1), asked=st.floats(0, 100), attempts=st.integers(1, 40))
def test_backoff_stays_within_what_was_asked_and_its_bound(dice: float, asked: float, attempts: int) -> None:
    """Never sooner than the server asked, never more than the bound later, however often it failed."""
    backoff = Backoff(first_seconds=0.5, most_seconds=30, rng=lambda: dice)
    for _ in range(attempts):
        assert asked + 0.1 <= backoff.next_seconds(asked) <= asked + 30


def test_backoff_never_comes_back_at_once() -> None:
    """However the dice fall."""
    assert Backoff(rng=lambda: 0.0).next_seconds() == 0.1


@pytest.mark.parametrize("bounds", [(0, 1), (-1, 1), (2, 1)])
def test_backoff_refuses_impossible_bounds(bounds: tuple[float, float]) -> None:
    """The first wait is above 0 and at most the longest."""
    with pytest.raises(ValueError, match="first_seconds"):
        Backoff(first_seconds=bounds[0], most_seconds=bounds[1])


# ── listen ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Script:
    """A WebSocket server whose n-th connection runs the n-th handler; refusals are ``(status, headers)``."""

    def __init__(self, *steps: Handler | tuple[int, dict[str, str]]) -> None:
        self.steps = list(steps)
        self.requests: list[Request] = []
        self.url = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Script]:
        async with serve(self._handle, "127.0.0.1", 0, process_request=self._judge) as server:
            self.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield self

    async def _judge(self, _connection: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request)
        if callable(self.steps[0]):
            return None
        status, headers = self.steps.pop(0)  # type: ignore[misc]
        body = json.dumps({"title": HTTPStatus(status).phrase, "detail": "not today"}).encode()
        return Response(status, HTTPStatus(status).phrase, Headers({**headers, "Content-Length": str(len(body))}), body)

    async def _handle(self, connection: ServerConnection) -> None:
        await self.steps.pop(0)(connection)  # type: ignore[operator]


def says(*messages: str | bytes, code: int = 1000, reason: str = "") -> Handler:
    """A handler that sends these and closes."""

    async def handler(connection: ServerConnection) -> None:
        for message in messages:
            await connection.send(message)
        await connection.close(code, reason)

    return handler


async def vanishes(connection: ServerConnection) -> None:
    """A handler that drops the socket without a close frame."""
    connection.transport.abort()


async def heard(script: Script, **options: Any) -> tuple[list[str | bytes], str, list[float], list[str]]:
    """All messages, the final ending, the waits in between, what was said."""
    waits: list[float] = []
    said: list[str] = []
    messages: list[str | bytes] = []

    async def no_sleep(seconds: float) -> None:
        waits.append(seconds)

    async with script.running():
        backoff = Backoff(first_seconds=1, most_seconds=4, rng=lambda: 1.0)
        stream = listen(room_url(script.url, "a/b c"), backoff=backoff, sleep=no_sleep, say=said.append, **options)
        end = ""
        try:
            async for message in stream:
                messages.append(message)
        except Ended as ended:
            end = str(ended)
    assert end, "a stream of messages only ends by raising"
    return messages, end, waits, said


async def test_messages_come_as_they_were_sent() -> None:
    """Text as str, binary as bytes, the empty message too; a normal end is the end."""
    messages, end, waits, _ = await heard(Script(says("a", b"\x00", "")))
    assert messages == ["a", b"\x00", ""]
    assert end == "closed by the server: 1000 normal"
    assert waits == []


async def test_who_has_heard_enough_leaves_normally() -> None:
    """Closing the stream closes the connection with 1000."""
    codes: list[int | None] = []

    async def handler(connection: ServerConnection) -> None:
        await connection.send("enough")
        await connection.wait_closed()
        codes.append(connection.close_code)

    async with Script(handler).running() as script, contextlib.aclosing(listen(script.url)) as stream:
        assert await anext(stream) == "enough"
    assert codes == [1000]


async def test_the_room_and_the_token_reach_the_server() -> None:
    """The room is percent-encoded in the path; the token travels in a header, not in the address."""
    script = Script(says())
    await heard(script, token="t.o.k")
    assert script.requests[0].path == "/ws/a%2Fb%20c"
    assert script.requests[0].headers["Authorization"] == "Bearer t.o.k"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (1001, "going-away"),
        (1008, "rate-limited"),
        (1011, "internal-error"),
        (1012, "restarting"),
        (1013, "slow-consumer"),
        (1013, ""),
    ],
)
async def test_it_comes_back_after_an_ending_that_allows_it(code: int, reason: str) -> None:
    """Endings with ``retry`` lead to another connection after a wait that grows."""
    messages, _, waits, said = await heard(
        Script(says("1", code=code, reason=reason), says("2", code=code, reason=reason), says("3"))
    )
    assert messages == ["1", "2", "3"]
    assert waits == [1, 2]
    assert f"closed by the server: {code}" in said[1]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (1000, "bye"),
        (1002, ""),
        (1003, ""),
        (1007, ""),
        (1008, ""),
        (1008, "forbidden"),
        (1009, ""),
        (4001, "replaced"),
        (4401, ""),
        (4999, "x"),
    ],
)
async def test_it_stays_away_after_an_ending_that_would_repeat(code: int, reason: str) -> None:
    """Endings without ``retry`` are final."""
    messages, end, waits, _ = await heard(Script(says("1", code=code, reason=reason)))
    assert messages == ["1"]
    assert end.startswith(f"closed by the server: {code}")
    assert waits == []


async def test_a_lost_connection_is_made_again() -> None:
    """A socket that goes without a close frame counts as 1006 and is retried."""
    messages, _, waits, said = await heard(Script(vanishes, says("back")))
    assert messages == ["back"]
    assert len(waits) == 1
    assert "1006" in said[1]


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_a_refusal_that_would_repeat_is_final(status: int) -> None:
    """The user is told the status and the server's own words; of an address that does not exist also what ``--url`` is."""
    _, end, waits, _ = await heard(Script((status, {})))
    assert end.startswith(f"refused: {status} not today")
    assert ("is this the public listener?" in end) == (status == 404)
    assert waits == []


@pytest.mark.parametrize(
    ("header", "wait"), [({"Retry-After": "7"}, 8), ({}, 1), ({"Retry-After": "soon"}, 1), ({"Retry-After": "9" * 40}, 3601)]
)
async def test_a_full_server_is_asked_again_when_it_said(header: dict[str, str], wait: float) -> None:
    """503 and 429 are retried, not before Retry-After, and never more than an hour later."""
    for status in (503, 429):
        messages, _, waits, _ = await heard(Script((status, header), says("in")))
        assert messages == ["in"]
        assert waits == [wait]


async def test_a_room_in_the_address_of_the_gateway_is_told() -> None:
    """``--url`` with ``/ws/lobby`` is refused as a wrong room: what is meant by it is said beside."""
    async with Script((400, {})).running() as script:
        with pytest.raises(Ended, match=r"not today \(is this the public listener\? --url is its address alone"):
            await anext(listen(room_url(f"{script.url}/ws/lobby", "lobby")))


async def test_nobody_there_is_retried() -> None:
    """A refused connection is not the end: the gateway may be starting."""
    url = f"ws://127.0.0.1:{free_port()}"
    waits: list[float] = []
    said: list[str] = []

    async def thrice(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        async for _ in listen(url, sleep=thrice, say=said.append, backoff=Backoff(rng=lambda: 1.0)):
            pass
    assert said[0] == "no connection: connection refused; is the gateway running (--url)?; again in 0.5 s"
    assert said[1] == "no connection: connection refused; again in 1.0 s"
    assert waits == [0.5, 1.0, 2.0]


async def test_an_address_that_is_none_ends_at_once() -> None:
    """A wrong scheme cannot get better."""
    with pytest.raises(Ended, match=r"http://127\.0\.0\.1/ws/x is not a ws:// or wss:// address"):
        await anext(listen("http://127.0.0.1/ws/x"))


# ── HTTP ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Ops:
    """A stand-in for the ops listener that records requests and answers as told."""

    def __init__(self, status: int, body: bytes) -> None:
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        ops = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body_in = self.rfile.read(int(self.headers.get("content-length") or 0))
                ops.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body_in))
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST  # noqa: N815 - the name that http.server looks for

            def log_message(self, *args: Any) -> None:
                """Quiet."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Ops:
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def ops(request: pytest.FixtureRequest) -> Iterator[Ops]:
    """An ops listener that answers with the test's ``(status, body)``."""
    with Ops(*getattr(request, "param", (200, b'{"id": "1"}'))) as listener:
        yield listener


def test_publish_posts_the_payload_with_key_and_type(ops: Ops) -> None:
    """One POST to the room's address, percent-encoded, with the key as a bearer token; the answer is returned."""
    answer = publish(ops.url + "/", "chat:ü/1", b"\x00x", content_type="application/octet-stream", api_key="k", idempotency_key="i")
    assert answer == {"id": "1"}
    ((method, path, headers, body),) = ops.seen
    assert (method, path, body) == ("POST", "/api/rooms/chat%3A%C3%BC%2F1/messages", b"\x00x")
    assert headers["authorization"] == "Bearer k"
    assert headers["content-type"] == "application/octet-stream"
    assert headers["idempotency-key"] == "i"


@pytest.mark.parametrize(
    ("ops", "words"),
    [
        ((401, b'{"title": "Unauthorized", "detail": "no key"}'), "not published: 401 no key .the key is TIDEGATE_API_KEY"),
        ((403, b'{"title": "Forbidden", "detail": "set TIDEGATE_API_KEY"}'), "not published: 403 set TIDEGATE_API_KEY"),
        ((413, b'{"title": "Content Too Large"}'), "not published: 413 Content Too Large"),
        ((404, b'{"title": "Not Found", "detail": "There is nothing at this address."}'), "address. .is this the ops address"),
        ((500, b"<html>"), "not published: 500 Internal Server Error"),
        ((502, b"[]"), "not published: 502 Bad Gateway"),
        ((200, b"<html>"), "is this the ops address"),
        ((200, b"3"), "is this the ops address"),
    ],
    indirect=["ops"],
)
def test_publish_says_why_it_did_not_work(ops: Ops, words: str) -> None:
    """The problem document's detail, its title, or the status; and an answer that is not the gateway's."""
    with pytest.raises(ClientError, match=words):
        publish(ops.url, "r", b"", content_type="text/plain", api_key=None)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 1)"), "connection refused"),
        (OSError(f"Multiple exceptions: [Errno {errno.ECONNREFUSED}] Connect call failed ('::1', 1)"), "connection refused"),
        (socket.gaierror(-2, "Name or service not known"), "name or service not known"),
        (OSError("Multiple exceptions: [Errno 113] No route, [Errno 101] No network"), "multiple exceptions: no route, no network"),
        (TimeoutError(), "timeouterror"),
    ],
)
def test_the_reason_is_in_words(error: OSError, words: str) -> None:
    """Without the numbers of the system, whether there was one address or several."""
    assert reason_of(error) == words


@pytest.mark.parametrize("ops", [(503, b'{"ready": false}')], indirect=True)
def test_healthy_returns_what_the_gateway_says(ops: Ops) -> None:
    """The status decides; the body is kept for the user."""
    reply = healthy(ops.url, "/readyz")
    assert (reply.status, reply.body) == (503, b'{"ready": false}')
    assert ops.seen[0][:2] == ("GET", "/readyz")


@pytest.mark.parametrize("url", ["ftp://x", "127.0.0.1:9000", "http://h:port", ""])
def test_an_address_that_is_none_is_said_to_be(url: str) -> None:
    """Neither a traceback nor a lookup for what is no http address."""
    with pytest.raises(ClientError, match="not an http"):
        request("GET", url)


def test_nobody_there_is_one_sentence() -> None:
    """A refused connection names the address."""
    port = free_port()
    with pytest.raises(ClientError, match=f"no answer from http://127.0.0.1:{port}: connection refused; is the gateway running"):
        healthy(f"http://127.0.0.1:{port}")


def test_the_client_loads_nothing_of_the_server() -> None:
    """Importing the clients imports neither settings, Starlette, uvicorn nor the server's modules."""
    code = (
        "import sys, gateway.cli.client, gateway.cli.client_http\n"
        "print(sorted(n for n in sys.modules if n.split('.')[0] in {'starlette', 'uvicorn', 'pydantic', 'msgspec'}"
        " or n in {'gateway.server', 'gateway.settings', 'gateway.errors', 'gateway.api', 'gateway.app'}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "[]"
