"""The access log: one event per connection that says what happened, and nothing that a client wants written."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from middleware.access_log import AccessLogMiddleware, redact_tokens
from middleware.asgi import CONNECTION_ID, SELF_CHECK, TRACE_ID, ASGIApp, Event, Receive, Scope, Send
from middleware.auth import AuthMiddleware, User
from middleware.close import AT_CAPACITY, NORMAL, SLOW_CONSUMER, Close
from middleware.layer import Guard, Layer, Link, Refuse
from middleware.origin import OriginMiddleware

from .asgi_helpers import Clock, Server, binary, disconnect, echo, http_scope, run, text, websocket_scope

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbmEifQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
TRACE = "0af7651916cd43dd8448eb211c80319c"


class Book:
    """Collects events."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def __call__(self, event: str, /, **fields: Any) -> None:
        self.events.append({"event": event, **fields})

    @property
    def last(self) -> dict[str, Any]:
        return self.events[-1]


class Refusing(Layer):
    """Refuses every handshake."""

    def __init__(self, app: ASGIApp, refusal: Refuse | None = None) -> None:
        super().__init__(app)
        self.refusal = refusal or Refuse(503, AT_CAPACITY, retry_after=1)

    async def open(self, link: Link) -> Guard | None:
        raise self.refusal


async def logged(scope: Scope, *script: Event, app: ASGIApp = echo, **options: Any) -> dict[str, Any]:
    """The event of one connection."""
    book = Book()
    await run(AccessLogMiddleware(app, emit=book, **options), scope, *script)
    assert len(book.events) == 1
    return book.last


async def test_the_event_of_a_refusal_says_why() -> None:
    """What the client was told, and what only operators are; both are cleaned and cut like what clients send."""
    refusal = Refuse(429, AT_CAPACITY, detail="too many", because=f"of \n{JWT} " + "x" * 300)
    event = await logged(websocket_scope(), app=Refusing(echo, refusal))
    assert event["detail"].startswith("too many: of \\n[redacted] xxx")
    assert len(event["detail"]) == 257
    assert "detail" not in await logged(websocket_scope(), app=Refusing(echo))


async def test_one_event_tells_the_whole_connection() -> None:
    """Who, where, how long, how much each way, and who ended it how."""
    clock = Clock()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = type("Route", (), {"path": "/ws/{room}"})()
        await receive()
        clock.advance(0.25)
        await send({"type": "websocket.accept", "subprotocol": "chat"})
        for _ in range(2):
            await send({**await receive(), "type": "websocket.send"})
        await send({"type": "websocket.send", "text": "grüße"})
        clock.advance(12)
        await receive()

    scope = websocket_scope(
        "/ws/lobby",
        query_string=b"a=secret",
        headers=[(b"origin", b"https://example.com"), (b"traceparent", f"00-{TRACE}-b7ad6b7169203331-01".encode())],
        subprotocols=["chat"],
        client=("203.0.113.9", 40000),
        user=User("ana"),
    )
    event = await logged(
        scope, text("hello"), binary(b"\x00\x01\x02"), disconnect(1001, "going-away"), app=app, clock=clock, new_id=lambda: "n-1"
    )
    assert event == {
        "event": "websocket.closed",
        "connection_id": "n-1",
        "user": "ana",
        "route": "/ws/{room}",
        "path": "/ws/lobby",
        "client": "203.0.113.9",
        "origin": "https://example.com",
        "trace_id": TRACE,
        "subprotocol": "chat",
        "handshake_seconds": 0.25,
        "duration_seconds": 12.25,
        "received_messages": 2,
        "received_bytes": 8,
        "sent_messages": 3,
        "sent_bytes": 15,
        "close_code": 1001,
        "close_reason": "going-away",
        "initiator": "client",
    }


async def test_a_refusal_has_its_status_and_reason() -> None:
    """And no times or subprotocol of a connection that never was."""
    event = await logged(websocket_scope(), app=Refusing(echo))
    assert event["event"] == "websocket.refused"
    assert (event["status"], event["close_reason"], event["initiator"]) == (503, "at-capacity", "server")
    assert not event.keys() & {"handshake_seconds", "subprotocol"}


async def test_the_layers_further_in_are_seen_when_they_refuse() -> None:
    """A foreign page's origin and a wrong token each leave one event, with the origin but without the token."""
    layers = OriginMiddleware(AuthMiddleware(echo, secret="x" * 32), allowed=["https://example.com"])
    event = await logged(websocket_scope(headers=[(b"origin", b"https://evil.example")]), app=layers)
    assert (event["status"], event["close_reason"], event["origin"]) == (403, "forbidden", "https://evil.example")
    event = await logged(websocket_scope(headers=[(b"authorization", b"Bearer " + JWT.encode())]), app=layers)
    assert (event["status"], event["close_reason"]) == (401, "unauthorized")
    assert "eyJ" not in json.dumps(event)


async def test_how_a_connection_ends_is_told_apart() -> None:
    """By the client, by the server, by the app's close, by a failure, by a cancellation, and before it began."""

    async def close(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 1013, "reason": "slow-consumer"})

    async def turn_away(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.close"})

    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("a mistake")

    async def hear_out(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await receive()

    def told(event: dict[str, Any]) -> tuple[Any, ...]:
        return event["event"], event["close_code"], event["close_reason"], event["initiator"]

    assert told(await logged(websocket_scope())) == ("websocket.closed", 1000, "normal", "client")
    assert told(await logged(websocket_scope(), app=close)) == (
        "websocket.closed", SLOW_CONSUMER.code, SLOW_CONSUMER.reason, "server",
    )  # fmt: skip
    assert told(await logged(websocket_scope(), app=turn_away)) == ("websocket.refused", 1008, "forbidden", "server")
    assert told(await logged(websocket_scope(), app=hear_out)) == ("websocket.abandoned", 1000, "normal", "client")
    book = Book()
    with pytest.raises(RuntimeError, match="a mistake"):
        await run(AccessLogMiddleware(fail, emit=book), websocket_scope())
    assert told(book.last) == ("websocket.failed", 1011, "internal-error", "server")
    server = Server(stay=True)
    task = asyncio.create_task(AccessLogMiddleware(echo, emit=book)(websocket_scope(), server.receive, server.send))
    while not server.accepted:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told(book.last) == ("websocket.closed", 1001, "going-away", "server")


# -- ids


async def test_a_made_id_is_in_the_scope_for_everybody_further_in() -> None:
    """``new_id`` makes it, unless somebody outside has."""
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope.get(CONNECTION_ID))
        await echo(scope, receive, send)

    assert (await logged(websocket_scope(), app=app, new_id=lambda: "n-1"))["connection_id"] == "n-1"
    outside = websocket_scope(**{CONNECTION_ID: "given"})
    assert (await logged(outside, app=app, new_id=lambda: "n-1"))["connection_id"] == "given"
    assert seen == ["n-1", "given"]
    assert (await logged(websocket_scope(), app=Refusing(echo), new_id=lambda: "n-2"))["connection_id"] == "n-2"


async def test_without_one_the_apps_own_id_counts_or_one_is_made_up_for_the_event() -> None:
    """The app may name the connection in the scope or in its state; an id made up here is nobody else's business."""
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(dict(scope))
        scope["state"]["connection_id"] = "mine"
        await echo(scope, receive, send)

    async def other(scope: Scope, receive: Receive, send: Send) -> None:
        scope[CONNECTION_ID] = "the server's"
        await echo(scope, receive, send)

    assert (await logged(websocket_scope(), app=app))["connection_id"] == "mine"
    assert CONNECTION_ID not in seen[0]
    assert (await logged(websocket_scope(), app=other))["connection_id"] == "the server's"
    made_up = {(await logged(websocket_scope()))["connection_id"] for _ in range(3)}
    assert len(made_up) == 3


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (f"00-{TRACE}-b7ad6b7169203331-01", TRACE),
        (f"42-{TRACE}-b7ad6b7169203331-01-more", TRACE),
        (f"ff-{TRACE}-b7ad6b7169203331-01", None),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", None),
        (f"00-{TRACE.upper()}-b7ad6b7169203331-01", None),
        (f"00-{TRACE}-b7ad6b7169203331-01\n", None),
        ("garbage", None),
        ("0" * 100_000, None),
    ],
)
async def test_the_trace_id_comes_from_tracing_or_from_a_valid_traceparent(header: str, expected: str | None) -> None:
    """What the client sends counts only as 32 hexadecimal digits; what tracing says counts first."""
    scope = websocket_scope(headers=[(b"traceparent", header.encode())])
    assert (await logged(scope)).get("trace_id") == expected
    assert (await logged({**scope, TRACE_ID: "f" * 32}))["trace_id"] == "f" * 32

    class Tracing(Layer):
        async def open(self, link: Link) -> None:
            link.set(**{TRACE_ID: "e" * 32})

    book = Book()
    await run(Tracing(AccessLogMiddleware(Refusing(echo), emit=book)), scope)
    assert book.last["trace_id"] == "e" * 32


async def test_the_client_behind_a_trusted_proxy_is_named() -> None:
    """And nobody else's header is believed."""
    scope = websocket_scope(client=("10.0.0.1", 1), headers=[(b"x-forwarded-for", b"198.51.100.7")])
    assert (await logged(scope))["client"] == "10.0.0.1"
    assert (await logged(scope, trusted_proxies=["10.0.0.0/8"]))["client"] == "198.51.100.7"


# -- what a client must not be able to write


async def test_no_secret_of_a_handshake_is_in_an_event() -> None:
    """Query, headers and cookies are not written at all; a token in the path or the subprotocol is struck out."""

    async def careless(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept", "subprotocol": scope["subprotocols"][0]})
        await receive()

    scope = websocket_scope(
        f"/ws/{JWT}/bearer s3cret-value",
        query_string=b"token=s3cret-value&access_token=" + JWT.encode(),
        headers=[(b"authorization", b"Bearer s3cret-value"), (b"cookie", b"session=s3cret-value"), (b"origin", JWT.encode())],
        subprotocols=["bearer.s3cret-value"],
    )
    event = await logged(scope, app=careless)
    assert event["path"] == "/ws/[redacted]/bearer [redacted]"
    assert event["subprotocol"] == "bearer [redacted]"
    assert "s3cret" not in str(event)
    assert "eyJ" not in str(event)


def test_a_token_is_recognised_anywhere_in_a_text_and_ordinary_names_are_not() -> None:
    """A JSON Web Token whole, cut off, or inside a longer word; not a room name that happens to be long."""
    assert redact_tokens(f"a {JWT} b") == "a [redacted] b"
    assert redact_tokens(f"/x/{JWT[:60]}") == "/x/[redacted]"
    assert redact_tokens(f"token.{JWT}") == "[redacted]"
    ordinary = "/ws/a-room-with-a-very-long-name.that-goes-on/550e8400-e29b-41d4-a716-446655440000"
    assert redact_tokens(ordinary) == ordinary


async def test_an_apps_own_secrets_can_be_struck_out() -> None:
    """``redact`` sees every text before it is written."""
    event = await logged(websocket_scope("/invite/9f86d081"), redact=lambda value: re.sub(r"/invite/\w+", "/invite/…", value))
    assert event["path"] == "/invite/…"


async def test_control_characters_are_written_out() -> None:
    """Line breaks, escapes, other line separators and marks that turn the direction of what follows."""
    event = await logged({**websocket_scope(), "path": "/a\r\nb\x1b[31m\x00\x7f\x85\u2028\u202e\udc80ü"})
    assert event["path"] == r"/a\r\nb\x1b[31m\x00\x7f\x85\u2028\u202e\udc80ü"


async def test_every_text_is_cut_and_says_so() -> None:
    """A megabyte of path is a line of ordinary length."""
    event = await logged(websocket_scope("/" + "a/" * 500_000), max_length=100)
    assert event["path"] == ("/" + "a/" * 50)[:100] + "…"


@settings(max_examples=150)
@given(
    path=st.text(max_size=200),
    origin=st.binary(max_size=50),
    subprotocol=st.text(max_size=50),
    user=st.text(max_size=300),
    traceparent=st.binary(max_size=70),
)
def test_whatever_a_client_sends_an_event_is_one_short_line(
    path: str, origin: bytes, subprotocol: str, user: str, traceparent: bytes
) -> None:
    """For any text in any field: printable, bounded, and nothing raises."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept", "subprotocol": scope["subprotocols"][0]})
        await receive()

    headers = [(b"origin", origin), (b"traceparent", traceparent)]
    scope = websocket_scope(path, headers=headers, subprotocols=[subprotocol], user=user)
    event = asyncio.run(logged(scope, app=app, max_length=64))
    for value in event.values():
        assert isinstance(value, int | float) or (value.isprintable() and len(value) <= 65)
    assert json.loads(json.dumps(event)) == event


# -- refusals under attack


async def test_refusals_beyond_the_quota_are_counted_and_told_with_the_next_event() -> None:
    """A flood of refused handshakes leaves a few lines a second and loses no number."""
    book, clock, seen = Book(), Clock(), list[tuple[str, float]]()

    class Measure(Layer):
        async def open(self, link: Link) -> None:
            link.subscribe(lambda name, value: seen.append((name, value)))

    gate = Measure(AccessLogMiddleware(Refusing(echo), emit=book, clock=clock, refused_per_second=5))
    for _ in range(1000):
        await run(gate, websocket_scope())
    assert len(book.events) == 5
    assert seen == [("access_log_suppressed", 1.0)] * 995
    clock.advance(1)
    for _ in range(2):
        await run(gate, websocket_scope())
    assert [event.get("suppressed") for event in book.events[5:]] == [995, None]


async def test_connections_that_were_accepted_are_always_written() -> None:
    """The quota is for refusals; an accepted connection also tells what was suppressed before it."""
    book, clock = Book(), Clock()
    refuse = True

    class Sometimes(Layer):
        async def open(self, link: Link) -> None:
            if refuse:
                raise Refuse(503, AT_CAPACITY)

    gate = AccessLogMiddleware(Sometimes(echo), emit=book, clock=clock, refused_per_second=1)
    for _ in range(3):
        await run(gate, websocket_scope())
    refuse = False
    for _ in range(3):
        await run(gate, websocket_scope())
    assert [(event["event"], event.get("suppressed")) for event in book.events] == [
        ("websocket.refused", None),
        ("websocket.closed", 2),
        ("websocket.closed", None),
        ("websocket.closed", None),
    ]


async def test_without_a_quota_every_refusal_is_written() -> None:
    """``None`` switches the sampling off."""
    book = Book()
    gate = AccessLogMiddleware(Refusing(echo), emit=book, refused_per_second=None, clock=Clock())
    for _ in range(100):
        await run(gate, websocket_scope())
    assert len(book.events) == 100


# -- where events go


async def test_the_standard_logger_gets_the_fields_as_attributes_of_one_record(caplog: pytest.LogCaptureFixture) -> None:
    """By default it is ``tidegate.access`` at level INFO; another one can be given."""
    with caplog.at_level(logging.INFO):
        await run(AccessLogMiddleware(echo, new_id=lambda: "n-1"), websocket_scope(), text("hello"))
        await run(AccessLogMiddleware(echo, logger=logging.getLogger("mine")), websocket_scope())
    ours, mine = caplog.records
    assert (ours.name, ours.levelname, ours.getMessage()) == ("tidegate.access", "INFO", "websocket.closed")
    assert (ours.__dict__["connection_id"], ours.__dict__["received_bytes"]) == ("n-1", 5)
    assert mine.name == "mine"


async def test_structlog_takes_events_as_they_are() -> None:
    """A bound logger's ``info`` is an ``emit``."""
    with structlog.testing.capture_logs() as entries:
        await run(AccessLogMiddleware(echo, emit=structlog.get_logger().info, new_id=lambda: "n-1"), websocket_scope())
    assert entries[0]["event"] == "websocket.closed"
    assert entries[0]["connection_id"] == "n-1"


async def test_an_emit_that_fails_costs_nobody_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    """The other layers clean up all the same, and the failure is logged."""
    closed: list[Close] = []

    class Inner(Layer):
        async def open(self, link: Link) -> Guard:
            class Note(Guard):
                def closed(self, close: Close) -> None:
                    closed.append(close)

            return Note()

    def fail(event: str, /, **fields: Any) -> None:
        raise OSError("the disk is full")

    server = await run(AccessLogMiddleware(Inner(echo), emit=fail), websocket_scope(), text("hello"))
    assert (server.payloads, closed) == (["hello"], [NORMAL])
    assert "the disk is full" in caplog.text


async def test_the_process_own_check_of_itself_passes_unseen_and_unasked() -> None:
    """It is nobody's connection: not logged, and neither an origin nor a token is asked of it."""
    book = Book()
    layers = AccessLogMiddleware(OriginMiddleware(AuthMiddleware(echo, secret="x" * 32), absent="refuse"), emit=book)
    assert (await run(layers, websocket_scope(**{SELF_CHECK: True}), text("hello"))).payloads == ["hello"]
    assert book.events == []


async def test_other_traffic_passes_untouched() -> None:
    """HTTP is for another access log."""
    passed: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(scope)

    async def nothing(*_: Event) -> Event:
        return {}

    book, http = Book(), http_scope()
    await AccessLogMiddleware(app, emit=book)(http, nothing, nothing)
    assert (passed, book.events) == ([http], [])
    assert passed[0] is http


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"logger": logging.getLogger("x"), "emit": Book()}, "not both"),
        ({"refused_per_second": 0}, "at least 1"),
        ({"max_length": 0}, "32 to 8192"),
        ({"max_length": 1_000_000}, "32 to 8192"),
        ({"trusted_proxies": ["nonsense"]}, "nonsense"),
    ],
)
def test_wrong_options_are_refused_with_a_sentence(options: dict[str, Any], sentence: str) -> None:
    """Configuration fails when the app is built."""
    with pytest.raises(ValueError, match=re.escape(sentence)):
        AccessLogMiddleware(echo, **options)


async def test_the_snippet_of_the_documentation_runs_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    """What a reader copies prints one JSON object per connection."""
    page = (Path(__file__).parents[2] / "docs/layers/access_log.md").read_text()
    snippet = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert snippet is not None
    names: dict[str, Any] = {}
    exec(compile(snippet[1], "access_log.md", "exec"), names)
    await run(names["app"], websocket_scope("/ws"), text("hello"))
    event = json.loads(capsys.readouterr().out)
    assert (event["event"], event["route"], event["received_bytes"]) == ("websocket.closed", "/ws", 5)
