"""``gateway.api``: publish, look and close over HTTP, against a real server with real connections."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.api.idempotency import IdempotencyTable
from gateway.api.problems import Problem, problem_of
from gateway.api.requests import REASONS, traceparent_of
from gateway.broker import MemoryBroker
from gateway.cluster import NODES_ROOM
from gateway.envelope import Envelope
from gateway.errors import BrokerUnavailable, TooBigForBroker
from gateway.explain import Explainer, Records
from gateway.server import WebSocketServer
from tests.gateway.api_helpers import KEY, MAX_BODY_BYTES, VERSION, Api, open_api, settle
from tests.gateway.linked_brokers import Engine

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    """The API of a started server without connections, with the right key shown."""
    async with open_api() as api:
        yield api


def problem(response: httpx.Response, status: int) -> str:
    """The detail of a problem document that is complete and has this status."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    body = response.json()
    assert body["type"] == "about:blank"
    assert body["title"]
    assert body["status"] == status
    detail: str = body["detail"]
    assert detail
    return detail


class RecordingBroker(MemoryBroker):
    """A memory broker that keeps what was published (no heartbeats), fails or hangs when told so, and knows of other nodes."""

    local = False

    def __init__(self) -> None:
        super().__init__()
        self.published: list[Envelope] = []
        self.failure: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def publish(self, envelope: Envelope) -> None:
        if envelope.room == NODES_ROOM:
            return
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.published.append(envelope)
        await super().publish(envelope)


# -- publishing


async def test_text_reaches_every_member_as_a_text_message(api: Api) -> None:
    """text/plain is sent as text to everybody in the room and to nobody else; the answer names id, time and local recipients."""
    ann, bob, other = await api.join("lobby"), await api.join("lobby"), await api.join("elsewhere")
    response = await api.publish("/api/rooms/lobby/messages", "wäre")
    assert response.status_code == 200
    answer = response.json()
    assert answer.keys() == {"id", "accepted_at", "recipients_local"}
    assert answer["id"].startswith("n1-")
    assert answer["recipients_local"] == 2
    assert ann.payloads == bob.payloads == ["wäre"]
    assert other.payloads == []


async def test_json_is_sent_as_it_is(api: Api) -> None:
    """application/json is checked but neither reformatted nor reordered."""
    ann = await api.join("lobby")
    body = '{ "b": 1.50, "a": [1e400, "\\u00e4"] }'
    assert (await api.publish("/api/rooms/lobby/messages", body, content_type="application/json")).status_code == 200
    assert ann.payloads == [body]


async def test_octets_are_a_binary_message(api: Api) -> None:
    """application/octet-stream is sent as bytes; also no bytes at all."""
    ann = await api.join("lobby")
    for body in (b"\x00\xff", b""):
        await api.publish("/api/rooms/lobby/messages", body, content_type="application/octet-stream")
    assert ann.payloads == [b"\x00\xff", b""]


async def test_the_empty_text_is_a_message(api: Api) -> None:
    """An empty text/plain body is the empty message."""
    ann = await api.join("lobby")
    assert (await api.publish("/api/rooms/lobby/messages", "")).status_code == 200
    assert ann.payloads == [""]


@pytest.mark.parametrize("content_type", ["text/plain; charset=UTF-8", 'TEXT/PLAIN;charset="utf8"', "text/plain;charset=us-ascii"])
async def test_utf8_may_be_said_aloud(api: Api, content_type: str) -> None:
    """A charset parameter that is UTF-8 or part of it changes nothing."""
    assert (await api.publish("/api/rooms/lobby/messages", content_type=content_type)).status_code == 200


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/html", "text/plain;charset=latin-1", "", ";="])
async def test_other_types_are_refused_with_the_ones_there_are(api: Api, content_type: str) -> None:
    """415 names the three types; nothing is sent."""
    ann = await api.join("lobby")
    detail = problem(await api.publish("/api/rooms/lobby/messages", content_type=content_type), 415)
    assert "text/plain" in detail
    assert "application/json" in detail
    assert "application/octet-stream" in detail
    assert ann.payloads == []


async def test_a_compressed_body_is_refused(api: Api) -> None:
    """Content-Encoding other than identity is 415: nobody unpacks bombs here."""
    problem(await api.publish("/api/rooms/lobby/messages", b"x", content_encoding="gzip"), 415)


@pytest.mark.parametrize("body", [b"", b"{", b"{'a': 1}", b"NaN", b"[1,]", b"1 2", b"\xff", b'"\xff"', b"[" * 900], ids=repr)
async def test_what_is_not_json_is_refused(api: Api, body: bytes) -> None:
    """A body that says it is JSON and is not gets 400 and is not sent."""
    ann = await api.join("lobby")
    problem(await api.publish("/api/rooms/lobby/messages", body, content_type="application/json"), 400)
    assert ann.payloads == []


async def test_json_nested_beyond_reason_is_refused() -> None:
    """A megabyte of opening brackets is an answer, not a stack overflow."""
    async with open_api(max_body_bytes=1 << 20) as api:
        response = await api.publish("/api/rooms/lobby/messages", "[" * (1 << 20), content_type="application/json")
        assert "deeply" in problem(response, 400)


async def test_text_that_is_not_utf8_is_refused(api: Api) -> None:
    """A text message is UTF-8 (RFC 6455 §5.6); the answer says where it is not."""
    assert "byte 2" in problem(await api.publish("/api/rooms/lobby/messages", b"ab\xff"), 400)


async def test_exclude_leaves_out_one_connection(api: Api) -> None:
    """?exclude= names a connection that does not get the message."""
    ann, bob = await api.join("lobby"), await api.join("lobby")
    response = await api.publish(f"/api/rooms/lobby/messages?exclude={ann.id}")
    assert response.json()["recipients_local"] == 1
    assert (ann.payloads, bob.payloads) == ([], ["hello"])


async def test_a_user_gets_it_on_all_connections(api: Api) -> None:
    """POST /api/users/{user}/messages reaches every connection of the user, whatever room; ids may hold a slash."""
    desk, phone, other = await api.join("a", "org/ann"), await api.join("b", "org/ann"), await api.join("a", "bob")
    response = await api.publish("/api/users/org%2Fann/messages")
    assert response.json()["recipients_local"] == 2
    assert desk.payloads == phone.payloads == ["hello"]
    assert other.payloads == []


async def test_broadcast_reaches_everybody(api: Api) -> None:
    """POST /api/broadcast reaches every connection once, whatever rooms it is in."""
    members = [await api.join("a"), await api.join("b", "ann"), await api.join("b")]
    assert (await api.publish("/api/broadcast")).json()["recipients_local"] == 3
    assert [member.payloads for member in members] == [["hello"]] * 3


async def test_nobody_there_is_no_error(api: Api) -> None:
    """A message to an empty room is accepted: who is there is another node's to know."""
    assert (await api.publish("/api/rooms/empty/messages")).json()["recipients_local"] == 0


@pytest.mark.parametrize(
    "room",
    ["~all", "~user%2Fann", "%2e%2e", "a%2Fb", "a%00b", "a%0d%0ab", "%ff", "%ED%A0%80", "x" * 256, "%C3%A4" * 128],
)
async def test_wrong_room_names_are_refused(api: Api, room: str) -> None:
    """Reserved names, slashes, control characters, what is not UTF-8, and more than 255 bytes are 400, with the rule."""
    ann = await api.join("lobby", "ann")
    assert "room name" in problem(await api.publish(f"/api/rooms/{room}/messages"), 400)
    assert "room name" in problem(await api.client.get(f"/api/rooms/{room}"), 400)
    assert ann.payloads == []


@pytest.mark.parametrize("user", ["a%00b", "%ff", "x" * 257])
async def test_wrong_users_are_refused(api: Api, user: str) -> None:
    """A user is at most 256 characters of UTF-8 without control characters, wherever one is named."""
    problem(await api.publish(f"/api/users/{user}/messages"), 400)
    problem(await api.client.delete(f"/api/users/{user}/connections"), 400)


async def test_international_room_names_work(api: Api) -> None:
    """A name is what its percent-encoding stands for."""
    ann = await api.join("küche:日本")
    await api.publish("/api/rooms/k%C3%BCche%3A%E6%97%A5%E6%9C%AC/messages")
    assert ann.payloads == ["hello"]


# -- bounds of a body


async def test_a_body_that_declares_too_much_is_not_read(api: Api) -> None:
    """A Content-Length above the bound is 413 before a byte of the body is asked for, and the connection is given up."""
    asked = []

    async def body() -> AsyncIterator[bytes]:
        asked.append(True)
        yield b"x"

    for declared in (str(MAX_BODY_BYTES + 1), "9" * 30):
        headers = {"content-type": "text/plain", "content-length": declared}
        response = await api.client.post("/api/broadcast", content=body(), headers=headers)
        assert str(MAX_BODY_BYTES) in problem(response, 413)
        assert response.headers["connection"] == "close"
    assert asked == []


async def test_a_body_that_grows_too_large_is_cut_off(api: Api) -> None:
    """Without a declared length the bytes are counted as they come, and reading ends at the bound."""
    read = []

    async def body() -> AsyncIterator[bytes]:
        for _ in range(1000):
            read.append(100)
            yield b"x" * 100

    problem(await api.client.post("/api/broadcast", content=body(), headers={"content-type": "text/plain"}), 413)
    assert sum(read) <= MAX_BODY_BYTES + 200


async def test_the_largest_body_is_accepted(api: Api) -> None:
    """The bound itself is allowed."""
    assert (await api.publish("/api/broadcast", "x" * MAX_BODY_BYTES)).status_code == 200


async def test_a_slow_body_is_given_up() -> None:
    """A client that does not finish its body gets 408."""
    async with open_api(body_timeout_seconds=0.01) as api:

        async def body() -> AsyncIterator[bytes]:
            yield b"x"
            await asyncio.Event().wait()

        response = await api.client.post("/api/broadcast", content=body(), headers={"content-type": "text/plain"})
        problem(response, 408)
        assert response.headers["connection"] == "close"


async def test_a_client_that_leaves_in_the_middle_publishes_nothing() -> None:
    """Half a body is no message, and no traceback."""
    broker = RecordingBroker()
    async with open_api(WebSocketServer(broker=broker)) as api:
        events = [{"type": "http.request", "body": b"hal", "more_body": True}, {"type": "http.disconnect"}]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return events.pop(0)

        async def send(event: Any) -> None:
            sent.append(event)

        app = api.client._transport.app  # type: ignore[attr-defined]
        await app(_request_scope("POST", "/api/broadcast", (b"content-type", b"text/plain")), receive, send)
        assert broker.published == []
        assert sent[0]["status"] == 400


def _request_scope(method: str, path: str, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "root_path": "", "scheme": "http",
        "query_string": b"", "headers": [(b"authorization", f"Bearer {KEY}".encode()), *headers], "http_version": "1.1",
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
    }  # fmt: skip


# -- trace context


async def test_the_trace_context_travels_with_the_message() -> None:
    """A well-formed traceparent is in the envelope; one that is not is left out, and the message is sent all the same."""
    broker = RecordingBroker()
    async with open_api(WebSocketServer(broker=broker)) as api:
        await api.publish("/api/rooms/a/messages", traceparent=TRACEPARENT)
        await api.publish("/api/users/ann/messages", traceparent=TRACEPARENT)
        await api.publish("/api/rooms/a/messages", traceparent="junk")
        await api.publish("/api/rooms/a/messages")
    assert [envelope.traceparent for envelope in broker.published] == [TRACEPARENT, TRACEPARENT, "", ""]


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        (TRACEPARENT, TRACEPARENT),
        (TRACEPARENT.replace("00-", "01-", 1) + "-more", TRACEPARENT.replace("00-", "01-", 1)),
        (TRACEPARENT + "-more", ""),
        (TRACEPARENT.replace("00-", "ff-", 1), ""),
        (TRACEPARENT.upper(), ""),
        (TRACEPARENT + "\n", ""),
        ("00-" + "0" * 32 + "-00f067aa0ba902b7-01", ""),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01", ""),
        (TRACEPARENT[:-1], ""),
        ("", ""),
    ],
)
def test_trace_context_is_taken_only_when_well_formed(value: str, taken: str) -> None:
    """W3C Trace Context §3.2.2: four lower-case fields, no zero ids, no version ff; later versions may have more fields."""
    assert traceparent_of([value]) == taken


def test_two_trace_contexts_are_none() -> None:
    """A request that names two parents has none."""
    assert traceparent_of([TRACEPARENT, TRACEPARENT]) == ""
    assert traceparent_of([]) == ""


@given(st.text(max_size=70))
@settings(max_examples=100)
def test_no_text_is_taken_that_could_break_a_header(text: str) -> None:
    """Whatever comes, what is passed on is empty or 55 harmless characters."""
    taken = traceparent_of([text])
    assert taken == "" or (len(taken) == 55 and set(taken) <= set("0123456789abcdef-"))


# -- idempotency


async def test_a_repeated_request_is_answered_as_before_and_sends_nothing() -> None:
    """Same key, same request: the same bytes, said to be replayed, and one message."""
    async with open_api() as api:
        ann = await api.join("lobby")
        first = await api.publish("/api/rooms/lobby/messages", idempotency_key="k1")
        again = await api.publish("/api/rooms/lobby/messages", idempotency_key="k1")
        assert (first.status_code, first.content) == (again.status_code, again.content)
        assert "idempotency-replayed" not in first.headers
        assert again.headers["idempotency-replayed"] == "true"
        assert ann.payloads == ["hello"]


@pytest.mark.parametrize(
    ("path", "body", "content_type"),
    [
        ("/api/rooms/lobby/messages", "other", "text/plain"),
        ("/api/rooms/lobby/messages", "hello", "application/octet-stream"),
        ("/api/rooms/lobby/messages?exclude=x", "hello", "text/plain"),
        ("/api/rooms/elsewhere/messages", "hello", "text/plain"),
        ("/api/broadcast", "hello", "text/plain"),
    ],
)
async def test_a_key_stands_for_one_request(api: Api, path: str, body: str, content_type: str) -> None:
    """The same key with another body, kind, exclusion or address is 422 and sends nothing."""
    await api.publish("/api/rooms/lobby/messages", "hello", idempotency_key="k1")
    ann = await api.join("lobby")
    problem(await api.publish(path, body, content_type=content_type, idempotency_key="k1"), 422)
    assert ann.payloads == []


async def test_repetitions_at_the_same_time_wait_for_the_first() -> None:
    """While the first is under way the others wait; all get one answer and one message is sent."""
    broker = RecordingBroker()
    async with open_api(WebSocketServer(broker=broker)) as api:
        broker.gate = asyncio.Event()
        requests = [asyncio.create_task(api.publish("/api/broadcast", idempotency_key="k")) for _ in range(5)]
        await settle()
        assert not any(request.done() for request in requests)
        broker.gate.set()
        answers = await asyncio.gather(*requests)
        assert len({answer.content for answer in answers}) == 1
        assert len(broker.published) == 1


async def test_a_failed_request_may_be_repeated() -> None:
    """A failure is not remembered: the repetition with the same key is tried afresh."""
    broker = RecordingBroker()
    async with open_api(WebSocketServer(broker=broker)) as api:
        broker.failure = BrokerUnavailable("away")
        problem(await api.publish("/api/broadcast", idempotency_key="k"), 503)
        broker.failure = None
        assert (await api.publish("/api/broadcast", idempotency_key="k")).status_code == 200
        assert len(broker.published) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "two words", "ä".encode().decode("latin-1")])
async def test_wrong_idempotency_keys_are_refused(api: Api, key: str) -> None:
    """A key is 1 to 255 visible ASCII characters."""
    headers = [(b"content-type", b"text/plain"), (b"idempotency-key", key.encode("latin-1"))]
    problem(await api.client.post("/api/broadcast", content="x", headers=headers), 400)


async def test_a_table_of_unfinished_requests_refuses_more() -> None:
    """When every remembered key is still under way a new one gets 503 with Retry-After; without a key it goes through."""
    broker = RecordingBroker()
    table = IdempotencyTable(max_entries=1)
    async with open_api(WebSocketServer(broker=broker), idempotency=table) as api:
        broker.gate = asyncio.Event()
        first = asyncio.create_task(api.publish("/api/broadcast", idempotency_key="a"))
        await settle()
        refused = await api.publish("/api/broadcast", idempotency_key="b")
        problem(refused, 503)
        assert refused.headers["retry-after"] == "1"
        broker.gate.set()
        assert (await api.publish("/api/broadcast")).status_code == 200
        assert (await first).status_code == 200


# -- broker


async def test_a_broker_that_is_away_is_503_with_the_time_to_try_again() -> None:
    """BrokerUnavailable is 503 and Retry-After in whole seconds, rounded up; its text, which may name hosts, is not told."""
    broker = RecordingBroker()
    async with open_api(WebSocketServer(broker=broker)) as api:
        broker.failure = BrokerUnavailable("cannot reach redis://user:secret@10.0.0.1", retry_after=2.2)
        for response in (await api.publish("/api/broadcast"), await api.client.delete("/api/users/ann/connections")):
            assert "10.0.0.1" not in problem(response, 503)
            assert response.headers["retry-after"] == "3"


async def test_a_message_that_the_engine_cannot_take_is_413() -> None:
    """Trying again would not help."""
    broker = RecordingBroker()
    async with open_api(WebSocketServer(broker=broker)) as api:
        broker.failure = TooBigForBroker("NATS at 10.0.0.1:4222 takes at most 100 bytes")
        assert "10.0.0.1" not in problem(await api.publish("/api/broadcast"), 413)


async def test_a_broker_that_hangs_holds_no_request_for_ever() -> None:
    """A broker that does not answer in time is as one that is away."""
    broker = RecordingBroker()
    async with open_api(WebSocketServer(broker=broker), broker_timeout_seconds=0.01) as api:
        broker.gate = asyncio.Event()
        problem(await api.publish("/api/broadcast"), 503)
        problem(await api.client.delete("/api/users/ann/connections"), 503)
        problem(await api.client.delete("/api/connections/n2-1"), 503)


# -- looking


async def test_rooms_are_listed_by_name_page_by_page(api: Api) -> None:
    """GET /api/rooms: names and member counts in order, `next` leads through, and the gateway's own rooms are not told."""
    for room in ("c", "a", "b", "a"):
        await api.join(room, "ann")
    whole = (await api.client.get("/api/rooms")).json()
    assert whole == {
        "rooms": [{"name": name, "members": count, "members_local": count} for name, count in (("a", 2), ("b", 1), ("c", 1))],
        "total": 3, "total_local": 3, "next": None, "complete": True, "silent": [],
    }  # fmt: skip
    first = (await api.client.get("/api/rooms?limit=2")).json()
    assert [room["name"] for room in first["rooms"]] == ["a", "b"]
    rest = (await api.client.get("/api/rooms", params={"limit": 2, "after": first["next"]})).json()
    assert ([room["name"] for room in rest["rooms"]], rest["next"]) == (["c"], None)


async def test_a_full_last_page_has_no_next(api: Api) -> None:
    """`next` is null when nothing follows, also when the page is full."""
    for room in ("a", "b"):
        await api.join(room)
    assert (await api.client.get("/api/rooms?limit=2")).json()["next"] is None


async def test_a_room_lists_its_members(api: Api) -> None:
    """GET /api/rooms/{room}: how many, and their connection ids page by page."""
    ids = sorted([(await api.join("lobby")).id for _ in range(5)])
    seen: list[str] = []
    after = ""
    for _ in range(3):
        page = (await api.client.get("/api/rooms/lobby", params={"limit": 2, "after": after})).json()
        assert (page["name"], page["members"]) == ("lobby", 5)
        seen += page["connections"]
        after = page["next"]
    assert (seen, after) == (ids, None)


async def test_a_room_without_members_is_empty(api: Api) -> None:
    """A room is there while somebody is in it; asking for another is no error."""
    room = (await api.client.get("/api/rooms/nobody")).json()
    figures = {"members": 0, "members_local": 0, "messages": 0}
    assert room == {"name": "nobody", **figures, "connections": [], "next": None, "complete": True, "silent": []}


async def test_rooms_and_members_are_those_of_all_nodes() -> None:
    """Sums over the nodes, and what of them is here; ``?local=true`` asks this node alone; a node that is silent is named."""
    engine = Engine()
    servers = [WebSocketServer(broker=engine.broker(), node=node) for node in ("n1", "n2")]
    async with open_api(servers[0]) as one, open_api(servers[1]) as two:
        async with asyncio.timeout(10):
            while [server.cluster.statistics().nodes for server in servers] != [2, 2]:
                await asyncio.sleep(0.01)
        here, there = await one.join("r"), [await two.join("r"), await two.join("s")]
        for api, local in ((one, {"r": 1, "s": 0}), (two, {"r": 1, "s": 1})):
            rooms = (await api.client.get("/api/rooms")).json()["rooms"]
            assert rooms == [{"name": name, "members": n, "members_local": local[name]} for name, n in (("r", 2), ("s", 1))]
        room = (await one.client.get("/api/rooms/r")).json()
        assert (room["members"], room["members_local"]) == (2, 1)
        assert room["connections"] == sorted([here.id, there[0].id])
        assert (await one.client.get("/api/rooms/r?local=true")).json()["connections"] == [here.id]
        assert [room["name"] for room in (await one.client.get("/api/rooms?local=true")).json()["rooms"]] == ["r"]
        problem(await one.client.get("/api/rooms?local=perhaps"), 400)
        engine.down = True
        answer = (await one.client.get("/api/rooms")).json()
        assert (answer["complete"], answer["silent"], answer["total"]) == (False, ["n2"], 1)
        engine.down = False


async def test_nodes_are_told(api: Api) -> None:
    """GET /api/nodes: this one first, with its figures."""
    await api.join("lobby")
    (node,) = (await api.client.get("/api/nodes")).json()["nodes"]
    assert (node["id"], node["connections"], node["rooms"], node["draining"]) == ("n1", 1, 1, False)


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", "1e3", "", "9" * 5000, "٣"])
@pytest.mark.parametrize("path", ["/api/rooms", "/api/rooms/lobby"])
async def test_a_page_has_a_size(api: Api, path: str, limit: str) -> None:
    """limit is a number from 1 to 1000."""
    assert "1000" in problem(await api.client.get(path, params={"limit": limit}), 400)


async def test_a_connection_is_described(api: Api) -> None:
    """GET /api/connections/{id}: who, where, and its traffic."""
    ann = await api.join("lobby", "ann")
    await api.publish("/api/rooms/lobby/messages", "hello")
    told = (await api.client.get(f"/api/connections/{ann.id}")).json()
    assert told["id"] == ann.id
    assert (told["user"], told["state"], told["rooms"]) == ("ann", "open", ["lobby"])
    assert (told["sent_messages"], told["sent_bytes"]) == (1, 5)


@pytest.mark.parametrize("connection_id", ["n1-999", "n2-1", "x", "%00", "a%2Fb", "%ff"])
async def test_an_unknown_connection_is_not_found(api: Api, connection_id: str) -> None:
    """404 for an id that is not on this node."""
    problem(await api.client.get(f"/api/connections/{connection_id}"), 404)


async def test_the_node_tells_its_figures(api: Api) -> None:
    """GET /api/node: id, version, uptime and running totals."""
    await api.join("lobby", "ann")
    bob = await api.join("lobby")
    await api.client.delete(f"/api/connections/{bob.id}?reason=replaced")
    node = (await api.client.get("/api/node")).json()
    assert (node["id"], node["version"], node["draining"]) == ("n1", VERSION, False)
    assert node["uptime_seconds"] >= 0
    statistics = node["statistics"]
    assert (statistics["connections"], statistics["rooms"], statistics["users"], statistics["memberships"]) == (1, 1, 1, 1)
    assert (statistics["opened"], statistics["closed"]) == (2, {"replaced": {"server": 1}})


async def test_head_answers_like_get(api: Api) -> None:
    """HEAD is allowed wherever GET is."""
    assert (await api.client.head("/api/rooms")).status_code == 200


# -- closing


async def test_a_connection_is_closed(api: Api) -> None:
    """DELETE /api/connections/{id} closes that one normally, and the others stay."""
    ann, bob = await api.join("lobby"), await api.join("lobby")
    response = await api.client.delete(f"/api/connections/{ann.id}")
    assert response.json() == {"id": ann.id, "reason": "normal", "local": True}
    await asyncio.wait_for(ann.task, 1)
    assert ann.client.close == (1000, "normal")
    assert bob.client.close is None
    problem(await api.client.delete(f"/api/connections/{ann.id}"), 404)


@pytest.mark.parametrize("reason", REASONS)
async def test_the_reason_can_be_chosen(api: Api, reason: str) -> None:
    """?reason= is what the client is told."""
    ann = await api.join("lobby")
    assert (await api.client.delete(f"/api/connections/{ann.id}", params={"reason": reason})).json()["reason"] == reason
    await asyncio.wait_for(ann.task, 1)
    assert ann.client.close is not None
    assert ann.client.close[1] == reason


@pytest.mark.parametrize("reason", ["", "abnormal", "slow-consumer", "whatever", "NORMAL", "x\r\ny"])
async def test_only_reasons_from_the_set_are_taken(api: Api, reason: str) -> None:
    """Another reason is 400, names the set, and closes nothing."""
    ann = await api.join("lobby", "ann")
    for path in (f"/api/connections/{ann.id}", "/api/users/ann/connections"):
        assert "replaced" in problem(await api.client.delete(path, params={"reason": reason}), 400)
    assert ann.connection.ending is None


async def test_all_connections_of_a_user_are_closed(api: Api) -> None:
    """DELETE /api/users/{user}/connections closes them all and tells how many there were here."""
    desk, phone, bob = await api.join("a", "ann"), await api.join("b", "ann"), await api.join("a", "bob")
    response = await api.client.delete("/api/users/ann/connections?reason=unauthorized")
    assert response.json() == {"user": "ann", "reason": "unauthorized", "closed_local": 2}
    for member in (desk, phone):
        await asyncio.wait_for(member.task, 1)
        assert member.client.close == (4401, "unauthorized")
    assert bob.client.close is None


async def test_a_connection_elsewhere_is_closed_through_the_broker() -> None:
    """An id of another node is passed on, 202; the node's own name may have dashes."""
    broker = RecordingBroker()
    async with open_api(WebSocketServer(broker=broker, node="pod-a-1")) as api:
        response = await api.client.delete("/api/connections/pod-b-2-17?reason=replaced")
        assert (response.status_code, response.json()["local"]) == (202, False)
        (envelope,) = broker.published
        assert (envelope.room, envelope.target) == ("~node/pod-b-2", "pod-b-2-17")
        problem(await api.client.delete("/api/connections/pod-a-1-17"), 404)


@pytest.mark.parametrize("connection_id", ["a%2F..%2Fb-1", "a*-1", "a%20b-1", "%3E-1", "x" * 256 + "-1", "nodash"])
async def test_an_id_that_is_none_goes_to_no_broker(connection_id: str) -> None:
    """What could not be an id is 404 here and never becomes an address in a broker."""
    broker = RecordingBroker()
    async with open_api(WebSocketServer(broker=broker)) as api:
        problem(await api.client.delete(f"/api/connections/{connection_id}"), 404)
        assert broker.published == []


# -- parameters


@pytest.mark.parametrize(
    ("method", "path", "parameter", "nearest"),
    [
        ("GET", "/api/rooms?limt=2", "limt", "limit"),
        ("GET", "/api/rooms?LIMIT=2", "LIMIT", "limit"),
        ("HEAD", "/api/rooms?limt=2", None, None),
        ("GET", "/api/rooms/lobby?limit=2&loca=true", "loca", "local"),
        ("GET", "/api/rooms/lobby/stream?limit=2", "limit", None),
        ("POST", "/api/broadcast?exlude=n1-1", "exlude", "exclude"),
        ("POST", "/api/rooms/lobby/messages?reason=x", "reason", None),
        ("DELETE", "/api/connections/n1-1?raeson=normal", "raeson", "reason"),
        ("GET", "/api/node?verbose", "verbose", None),
        ("GET", "/api/node?verbose=1", "verbose", None),
        ("GET", "/api/nodes?local=true", "local", None),
        ("GET", "/api/explain?conection=n1-1", "conection", "connection"),
        ("GET", "/api/openapi.json?v=3", "v", None),
        ("GET", f"/api/rooms?{'x' * 1000}=1", "x" * 64, None),
        ("GET", "/api/rooms?=1", "", None),
        ("GET", "/api/rooms?limit=1&limit=2", "limit", None),
    ],
)
async def test_a_parameter_that_an_address_does_not_have_is_named(
    method: str, path: str, parameter: str | None, nearest: str | None
) -> None:
    """400 with the parameter and the one that is most like it, and nothing is done; one that comes twice, too."""
    server = WebSocketServer(node="n1")
    async with open_api(server, explainer=Explainer(server.hub, Records())) as api:
        ann = await api.join("lobby")
        response = await api.client.request(method, path, content=b"x", headers={"content-type": "text/plain"})
        if parameter is None:  # HEAD has no body
            assert response.status_code == 400
            return
        problem(response, 400)
        assert (response.json()["parameter"], response.json().get("nearest")) == (parameter, nearest)
        assert (ann.payloads, ann.connection.ending) == ([], None)


# -- the key


EVERYTHING = [
    ("POST", "/api/rooms/lobby/messages"), ("POST", "/api/users/ann/messages"), ("POST", "/api/broadcast"),
    ("GET", "/api/rooms"), ("GET", "/api/rooms/lobby"), ("GET", "/api/connections/n1-1"), ("DELETE", "/api/connections/n1-1"),
    ("DELETE", "/api/users/ann/connections"), ("GET", "/api/node"), ("GET", "/api/nothing"), ("GET", "/api/"), ("GET", "/api"),
    ("GET", "/api/nodes"), ("PUT", "/api/rooms"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), EVERYTHING)
@pytest.mark.parametrize("key", [None, ""])
async def test_without_a_key_the_api_is_off_and_says_how_to_set_one(method: str, path: str, key: str | None) -> None:
    """No key configured: 403 everywhere, whatever is shown, and the answer names TIDEGATE_API_KEY."""
    for shown in ({}, {"authorization": "Bearer "}, {"authorization": "Bearer x"}):
        async with open_api(key=key, show=shown) as api:
            assert "TIDEGATE_API_KEY" in problem(await api.client.request(method, path), 403)


@pytest.mark.parametrize(("method", "path"), EVERYTHING)
async def test_without_the_key_nothing_is_told_or_done(method: str, path: str) -> None:
    """A missing key is 401 with a challenge, also where there is nothing."""
    async with open_api(show={}) as api:
        response = await api.client.request(method, path)
        problem(response, 401)
        assert response.headers["www-authenticate"] == 'Bearer realm="tidegate"'


@pytest.mark.parametrize(
    "shown",
    [f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer", "Bearer ", f"Basic {KEY}", KEY, f"Bearer {KEY.upper()}", "Bearer \xff"],
)
async def test_a_wrong_key_is_refused(shown: str) -> None:
    """Another key, part of the key or another scheme is 401, and the key is not repeated."""
    async with open_api(show={}) as api:
        ann = await api.join("lobby")
        headers = [(b"authorization", shown.encode("latin-1")), (b"content-type", b"text/plain")]
        response = await api.client.post("/api/rooms/lobby/messages", content="x", headers=headers)
        problem(response, 401)
        assert KEY not in response.text
        assert 'error="invalid_token"' in response.headers["www-authenticate"]
        assert ann.payloads == []


async def test_two_keys_are_none() -> None:
    """A request that shows two keys is refused, though one is right."""
    async with open_api(show={}) as api:
        headers = [("authorization", f"Bearer {KEY}"), ("authorization", "Bearer other")]
        problem(await api.client.get("/api/rooms", headers=headers), 401)


async def test_the_scheme_may_be_written_in_any_case() -> None:
    """RFC 9110 §11.1: the scheme is case-insensitive. The key may be any UTF-8."""
    async with open_api(key="schlüssel", show={}) as api:
        headers = [(b"authorization", "bEARER schlüssel".encode())]
        assert (await api.client.get("/api/rooms", headers=headers)).status_code == 200


async def test_the_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison is hmac.compare_digest over digests of one length, whatever was shown."""
    compared: list[tuple[int, int]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return one == other

    monkeypatch.setattr("gateway.api.requests.hmac.compare_digest", compare)
    for shown in ("x", KEY, "y" * 500):
        async with open_api(show={"authorization": f"Bearer {shown}"}) as api:
            await api.client.get("/api/rooms")
    assert compared == [(32, 32)] * 3


async def test_the_key_is_asked_for_before_the_body_is_read() -> None:
    """Who has no key cannot make the process read."""
    async with open_api(show={}) as api:
        asked = []

        async def body() -> AsyncIterator[bytes]:
            asked.append(True)
            yield b"x"

        problem(await api.client.post("/api/broadcast", content=body()), 401)
        assert asked == []


# -- addresses and failures


@pytest.mark.parametrize(
    "path", ["/api", "/api/", "/api/nothing", "/api/rooms/", "/api/rooms//messages", "/api/rooms/a/b", "/%61pi/rooms", "/api/%0a"]
)
async def test_nothing_there_is_a_problem_document(api: Api, path: str) -> None:
    """404 that says where the description is; no redirect to wherever a Host header says."""
    assert "openapi.json" in problem(await api.client.get(path), 404)


async def test_a_wrong_method_is_told_which_are_right(api: Api) -> None:
    """405 with Allow naming every method of the address."""
    for path, allowed in {
        "/api/rooms": "GET, HEAD",
        "/api/broadcast": "POST",
        "/api/connections/n1-1": "DELETE, GET, HEAD",
        "/api/rooms/lobby/messages": "POST",
    }.items():
        response = await api.client.put(path)
        problem(response, 405)
        assert response.headers["allow"] == allowed


async def test_a_fault_of_the_gateway_is_told_without_its_details(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """500 is a problem document without a trace of the trace; the log has it."""
    monkeypatch.setattr(api.server.registry, "public_rooms", lambda: 1 / 0)
    with caplog.at_level(logging.ERROR, "tidegate.api"):
        response = await api.client.get("/api/rooms")
    assert "ZeroDivision" not in problem(response, 500) + response.text
    assert "ZeroDivisionError" in caplog.text


async def test_every_answer_is_reported_with_its_operation() -> None:
    """The observer gets the operation from a closed set, the status and the time."""
    seen: list[tuple[str, int]] = []

    def on_request(operation: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        seen.append((operation, status))

    async with open_api(on_request=on_request) as api:
        await api.publish("/api/rooms/lobby/messages")
        await api.client.get("/api/connections/x")
        await api.client.get("/api/whatever/the/client/wants")
        await api.client.put("/api/rooms")
        await api.client.get("/api/rooms", headers={"authorization": "x"})
    assert seen == [("publish_to_room", 200), ("connection", 404), ("other", 404), ("other", 405), ("other", 401)]


async def test_a_websocket_finds_nothing_under_the_api(api: Api) -> None:
    """A handshake to the API is refused before accept."""
    app = api.client._transport.app  # type: ignore[attr-defined]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(event: Any) -> None:
        sent.append(event)

    await app({**_request_scope("GET", "/api/rooms"), "type": "websocket", "subprotocols": []}, receive, send)
    assert [event["type"] for event in sent] == ["websocket.close"]


def test_wrong_options_are_refused_with_a_sentence() -> None:
    """A bound of nothing would refuse everything, so it is refused itself."""
    from gateway.api import api_routes

    with pytest.raises(ValueError, match="max_body_bytes"):
        api_routes(WebSocketServer(), api_key=KEY, max_body_bytes=0, version=VERSION)


def test_a_problem_is_a_problem() -> None:
    """A status that says all is well is no problem; an unknown error is nobody's fault but ours."""
    with pytest.raises(ValueError, match="400 to 599"):
        Problem(200, "fine")
    assert problem_of(RuntimeError()) is None


_SEGMENT = st.sampled_from(["rooms", "users", "connections", "messages", "broadcast", "lobby", "n1-1", "", "%2e%2e", "~all"])
_NAME = st.binary(max_size=6).map(lambda raw: "".join(f"%{byte:02x}" for byte in raw))
_VALUE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20)
_HEADER = st.sampled_from(["content-type", "idempotency-key", "traceparent", "content-encoding", "authorization", "content-length"])


@given(
    method=st.sampled_from(["GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS", "BREW"]),
    segments=st.lists(_SEGMENT | _NAME, max_size=4),
    query=st.dictionaries(st.sampled_from(["limit", "after", "reason", "exclude"]), st.text(max_size=8) | st.just("1"), max_size=3),
    headers=st.lists(st.tuples(_HEADER, _VALUE | st.sampled_from(["text/plain", "application/json"])), max_size=3),
    body=st.binary(max_size=30),
)
@settings(max_examples=150, deadline=None)
def test_no_request_is_a_fault_of_the_gateway(
    method: str, segments: list[str], query: dict[str, str], headers: list[tuple[str, str]], body: bytes
) -> None:
    """Whatever is asked for, the answer is a success or a problem document that blames the request."""

    async def main() -> None:
        async with open_api() as api:
            raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
            url = httpx.URL("http://ops/api/" + "/".join(segments), params=query)
            response = await api.client.request(method, url, headers=raw, content=body)
            if response.status_code not in (200, 202):
                assert 400 <= response.status_code < 500
                assert response.headers["content-type"] == "application/problem+json"

    asyncio.run(main())
