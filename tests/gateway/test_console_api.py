"""The addresses of the console: the page, the figures, and a room's messages as a stream; who may have which."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from gateway.api import watching
from gateway.api.events import EventStream, Write, event
from gateway.broker.memory import MemoryBroker
from gateway.console import console_routes
from gateway.console.page import ASSETS
from gateway.errors import BrokerUnavailable
from gateway.server import WebSocketServer
from middleware.close import RESTARTING
from tests.gateway.api_helpers import KEY, Api, open_api, settle
from tests.gateway.console_helpers import feed_of

# -- a stream, from the client's side


class Stream:
    """A request to a streaming address, and the events that come."""

    def __init__(self, api: Api, path: str, *, method: str = "GET", key: str | None = KEY) -> None:
        headers = [(b"authorization", f"Bearer {key}".encode())] if key else [(b"host", b"127.0.0.1:9000")]
        self.scope = {
            "type": "http", "asgi": {"version": "3.0"}, "method": method, "path": path, "raw_path": path.encode(),
            "query_string": b"", "headers": headers, "root_path": "", "scheme": "http", "server": ("ops", 80),
            "client": ("127.0.0.1", 1),
        }  # fmt: skip
        self._left = asyncio.Event()
        self._asked = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.text = ""
        self.complete = False
        self.stuck = False
        app: Any = api.client._transport.app  # type: ignore[attr-defined]
        self.task = asyncio.ensure_future(app(self.scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if self.stuck:
            await self._left.wait()  # as a server waits until the client has read, or has gone
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.text += message["body"].decode()
            self.complete = not message["more_body"]

    @property
    def events(self) -> list[tuple[str, Any]]:
        found = re.findall(r"(?:event: (\w+)\n)?data: (.*)\n\n", self.text)
        return [(name, json.loads(data)) for name, data in found]

    async def until(self, name: str) -> None:
        """Wait for an event."""
        async with asyncio.timeout(5):
            while name not in [found for found, _ in self.events]:
                await asyncio.sleep(0)

    async def leave(self) -> None:
        self._left.set()
        async with asyncio.timeout(5):
            await self.task


@asynccontextmanager
async def watched_api(**options: Any) -> AsyncIterator[Api]:
    server = options.pop("server", None) or WebSocketServer(node="n1")
    async with open_api(server, **{"feed": feed_of(server), **options}) as api:
        yield api


# -- the page


@asynccontextmanager
async def the_page() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(Starlette(routes=console_routes())), base_url="http://ops"
    ) as client:
        yield client


async def test_the_page_and_its_parts_are_served() -> None:
    """Everything that the page asks for is there, and everything that is there is asked for."""
    async with the_page() as client:
        page = await client.get("/console")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        asked = set(re.findall(r'(?:src|href)="console/([^"]+)"', page.text))
        for name in tuple(asked):
            if name.endswith(".js"):
                asked |= set(re.findall(r'from "\./([^"]+)"|import "\./([^"]+)"', (await client.get(f"/console/{name}")).text)[0])
        for name in ASSETS.keys() - {"console.html"}:
            part = await client.get(f"/console/{name}")
            assert (part.status_code, part.headers["content-type"]) == (200, ASSETS[name])
            asked |= {one for pair in re.findall(r'from "\./([^"]+)"|import "\./([^"]+)"', part.text) for one in pair}
        assert asked - {""} == ASSETS.keys() - {"console.html"}


@pytest.mark.parametrize("path", ["/console/nothing", "/console/../app.py", "/console/%2e%2e/feed.py", "/console/console.html"])
async def test_nothing_else_is_served(path: str) -> None:
    """The names are a closed set; an address is never a path of a file."""
    async with the_page() as client:
        assert (await client.get(path)).status_code == 404


async def test_the_page_can_do_no_harm() -> None:
    """Scripts and styles of its own only, no frame, no foreign address, no markup made of text; nothing inline to allow."""
    async with the_page() as client:
        for name in ("console", "console/console.js"):
            headers = (await client.get(f"/{name}")).headers
            policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
            assert policy["default-src"] == "'none'"
            assert {policy[part] for part in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}
            assert {policy[part] for part in ("frame-ancestors", "base-uri", "form-action")} == {"'none'"}
            assert policy["require-trusted-types-for"] == "'script'"
            assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        page = (await client.get("/console")).text
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=|https?://", page)


@pytest.mark.parametrize("word", ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "new Function", "http"])
async def test_no_script_makes_markup_of_text(word: str) -> None:
    """What the process says reaches the page as text; there is no way of doing it otherwise in the scripts."""
    async with the_page() as client:
        for name in ASSETS:
            if name.endswith(".js"):
                text = (await client.get(f"/console/{name}")).text.replace("http://www.w3.org/2000/svg", "")
                assert word not in text


# -- the figures


async def test_the_figures_in_one_answer() -> None:
    """GET /api/stats: a snapshot with rates."""
    async with watched_api() as api:
        await api.join("lobby")
        answer = await api.client.get("/api/stats")
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
        assert answer.json()["interval_seconds"] == 1.0
        assert [room["name"] for room in answer.json()["rooms"]["top_by_members"]] == ["lobby"]


async def test_the_figures_as_they_come() -> None:
    """GET /api/stats/stream: an event per snapshot until the client leaves, and nobody watches any more."""
    feed = feed_of()
    async with watched_api(feed=feed) as api:
        stream = Stream(api, "/api/stats/stream")
        async with asyncio.timeout(5):
            while len(stream.events) < 3:
                await asyncio.sleep(0)
        assert (stream.status, stream.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert "content-length" not in stream.headers
        intervals = [snapshot["interval_seconds"] for _, snapshot in stream.events]
        assert intervals[0] is None
        assert all(interval > 0 for interval in intervals[1:])
        assert feed.statistics().watchers == 1
        await stream.leave()
        assert feed.statistics().watchers == 0


async def test_a_drain_that_is_done_ends_the_streams() -> None:
    """An open console holds up no shutdown: it gets a last snapshot and its answer ends."""
    over = False
    async with watched_api(feed=feed_of(is_over=lambda: over)) as api:
        stream = Stream(api, "/api/stats/stream")
        await stream.until("")
        over = True
        async with asyncio.timeout(5):
            await stream.task
        assert stream.complete


async def test_a_watcher_that_does_not_read_is_dropped() -> None:
    """Who takes nothing for so long is let go, whatever it may still be sent."""
    left: list[None] = []

    async def produce(write: Write) -> None:
        while True:
            await write(event(b"{}"))

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    stream = EventStream(produce, lambda: left.append(None), write_timeout_seconds=0.01)
    async with asyncio.timeout(5):
        await stream({"type": "http", "method": "GET"}, receive, send)
    assert left


async def test_the_end_of_a_stream_waits_for_nobody_either() -> None:
    """What was written last may be unread when it ends; the answer is given up as any other write."""

    async def produce(write: Write) -> None:
        await write(event(b"1"))

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        if message.get("more_body") is False:
            await asyncio.Event().wait()

    async with asyncio.timeout(5):
        await EventStream(produce, lambda: None, write_timeout_seconds=0.01)({"type": "http", "method": "GET"}, receive, send)


async def test_silence_is_broken_by_a_comment() -> None:
    """So that a client which has vanished is found out; events say what they are."""
    sent: list[bytes] = []
    enough = asyncio.Event()

    async def produce(write: Write) -> None:
        await enough.wait()
        await write(event(b"1", "last"))

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))
        if len(sent) == 3:
            enough.set()

    await EventStream(produce, lambda: None, heartbeat_seconds=0.001)({"type": "http", "method": "GET"}, receive, send)
    assert sent[:3] == [b"", b":\n\n", b":\n\n"]
    assert sent[-2:] == [b"event: last\ndata: 1\n\n", b""]


async def test_a_producer_that_fails_is_a_fault_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A bug ends the stream without its end, and the log says more."""

    async def produce(write: Write) -> None:
        raise ZeroDivisionError

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await EventStream(produce, lambda: None)({"type": "http", "method": "GET"}, receive, send)
    assert "ZeroDivisionError" in caplog.text
    assert [message["type"] for message in sent] == ["http.response.start"]


async def test_head_begins_no_stream() -> None:
    """HEAD is answered as GET would be, and is over."""
    async with watched_api() as api:
        for path in ("/api/stats/stream", "/api/rooms/lobby/stream"):
            stream = Stream(api, path, method="HEAD")
            async with asyncio.timeout(5):
                await stream.task
            assert (stream.status, stream.text, stream.complete) == (200, "", True)
        assert len(api.server.registry) == 0


async def test_watchers_are_bounded() -> None:
    """One console too many is told to come back later."""
    async with watched_api(feed=feed_of(most_watchers=1)) as api:
        stream = Stream(api, "/api/stats/stream")
        await stream.until("")
        for path in ("/api/stats", "/api/stats/stream"):
            answer = await api.client.get(path)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        await stream.leave()
        assert (await api.client.get("/api/stats")).status_code == 200


async def test_a_stream_is_reported_when_it_is_over_with_the_time_to_its_beginning() -> None:
    """The histogram of answers is about answering, not about how long somebody watches."""
    seen: list[tuple[str, int, float]] = []
    async with watched_api(on_request=lambda *arguments: seen.append(arguments)) as api:
        stream = Stream(api, "/api/stats/stream")
        await stream.until("")
        await stream.leave()
    assert [(operation, status) for operation, status, _ in seen] == [("stats_stream", 200)]


# -- who may look


STATISTICS = ["/api/stats", "/api/stats/stream"]


@pytest.mark.parametrize("path", [*STATISTICS, "/api/rooms/lobby/stream"])
async def test_a_key_that_is_set_is_asked_for(path: str) -> None:
    """With a key set there are no figures and no messages without it, from wherever one asks."""
    for show in ({}, {"authorization": "Bearer wrong"}):
        async with watched_api(show={"host": "127.0.0.1:9000", **show}) as api:
            assert (await api.client.get(path)).status_code == 401


async def test_without_a_key_there_are_figures_and_nothing_else() -> None:
    """While no key is set the figures are shown to who asks by address; a room's messages are not."""
    async with watched_api(key=None, show={}) as api:
        for host in ("127.0.0.1:9000", "localhost", "LocalHost:9000", "[::1]:9000", "10.0.0.7"):
            answer = await api.client.get("/api/stats", headers={"host": host})
            assert answer.status_code == 200, host
            assert answer.json()["node"]["api_key_set"] is False
        answer = await api.client.get("/api/rooms/lobby/stream", headers={"host": "127.0.0.1"})
        assert (answer.status_code, "TIDEGATE_API_KEY" in answer.text) == (403, True)


@pytest.mark.parametrize("path", STATISTICS)
@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:9000"},
        {"host": "localhost.evil.example"},
        {"host": "127.0.0.1.evil.example"},
        {"host": ""},
        {"host": "[::1"},
        {"host": "127.0.0.1", "sec-fetch-site": "cross-site"},
        {"host": "127.0.0.1", "sec-fetch-site": "same-site"},
    ],
)
async def test_without_a_key_no_foreign_page_sees_a_figure(path: str, headers: dict[str, str]) -> None:
    """A name that was made to point here (DNS rebinding) and a request from another site are refused, and told why."""
    async with watched_api(key=None, show={}) as api:
        answer = await api.client.get(path, headers=headers)
        assert (answer.status_code, "TIDEGATE_API_KEY" in answer.text) == (403, True)


async def test_without_a_feed_there_are_no_addresses_for_it() -> None:
    """An app that has the API alone has no figures, and its description does not promise any."""
    async with open_api() as api:
        assert (await api.client.get("/api/stats")).status_code == 404
        document = (await api.client.get("/api/openapi.json")).json()
        assert not [path for path in document["paths"] if "stats" in path]
        assert not [name for name in document["components"]["schemas"] if "Statistics" in name]


# -- listening


async def test_a_listener_hears_its_room_and_nothing_else() -> None:
    """Text as text, octets in base64, in order; the listener is a member like any other while it is there."""
    async with watched_api() as api:
        ann = await api.join("lobby")
        stream = Stream(api, "/api/rooms/lobby/stream")
        await stream.until("joined")
        assert (await api.client.get("/api/rooms/lobby")).json()["members"] == 2
        await api.publish("/api/rooms/lobby/messages", "grüß\ngott\n\ndata: no")
        await api.publish("/api/rooms/other/messages", "not this")
        await api.publish("/api/rooms/lobby/messages", b"\x00\xff", content_type="application/octet-stream")
        await settle()
        joined, *messages = stream.events
        assert joined[1]["room"] == "lobby"
        assert messages == [
            ("message", {"text": "grüß\ngott\n\ndata: no"}),
            ("message", {"base64": base64.b64encode(b"\x00\xff").decode()}),
        ]
        await stream.leave()
        assert api.server.registry.members("lobby") == frozenset({ann.connection})


async def test_a_listener_is_sent_away_like_anybody() -> None:
    """Closed by the API or by a drain it is told why, and its answer ends."""
    async with watched_api() as api:
        stream = Stream(api, "/api/rooms/lobby/stream")
        await stream.until("joined")
        await api.client.delete(f"/api/connections/{stream.events[0][1]['connection']}?reason=replaced")
        async with asyncio.timeout(5):
            await stream.task
        assert (stream.events[-1], stream.complete) == (("closed", {"code": 4001, "reason": "replaced"}), True)
        stream = Stream(api, "/api/rooms/lobby/stream")
        await stream.until("joined")
        await api.server.drain(close=RESTARTING)
        async with asyncio.timeout(5):
            await stream.task
        assert stream.events[-1] == ("closed", {"code": 1012, "reason": "restarting"})
        assert (await api.client.get("/api/rooms/lobby/stream")).status_code == 503


async def test_a_listener_that_does_not_read_ends_alone() -> None:
    """What waits for it is bounded by the outbox; past it the listener is closed, and the others hear everything."""
    from gateway.outlet import OutletOptions

    server = WebSocketServer(node="n1", outbox=OutletOptions(max_bytes=1000, abort_after_seconds=0.01))
    async with watched_api(server=server) as api:
        ann = await api.join("lobby")
        stream = Stream(api, "/api/rooms/lobby/stream")
        await stream.until("joined")
        stream.stuck = True
        for _ in range(10):
            await api.publish("/api/rooms/lobby/messages", "x" * 300)
        assert len(ann.payloads) == 10
        assert api.server.registry.members("lobby") == frozenset({ann.connection})
        await stream.leave()


async def test_listeners_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is told to come back later, and comes in when another has left."""
    monkeypatch.setattr(watching, "MOST_LISTENERS", 1)
    async with watched_api() as api:
        stream = Stream(api, "/api/rooms/lobby/stream")
        await stream.until("joined")
        answer = await api.client.get("/api/rooms/lobby/stream")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        await stream.leave()
        again = Stream(api, "/api/rooms/lobby/stream")
        await again.until("joined")
        await again.leave()


@pytest.mark.parametrize("room", ["~all", "a%2Fb", "%00", "~user%2Fann"])
async def test_only_rooms_can_be_listened_to(room: str) -> None:
    """Users, nodes and everyone are addresses of the gateway's own; a name that is none is 400."""
    async with watched_api() as api:
        assert (await api.client.get(f"/api/rooms/{room}/stream")).status_code == 400


async def test_a_room_that_cannot_be_joined_now_says_so() -> None:
    """When the broker is away the stream ends with the reason."""

    class Away(MemoryBroker):
        async def subscribe(self, room: str) -> None:
            if room == "lobby":
                raise BrokerUnavailable("away")

    async with watched_api(server=WebSocketServer(node="n1", broker=Away())) as api:
        stream = Stream(api, "/api/rooms/lobby/stream")
        async with asyncio.timeout(5):
            await stream.task
        assert (stream.events, stream.complete) == ([("closed", {"code": 1013, "reason": "unavailable"})], True)
