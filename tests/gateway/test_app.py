"""The composed gateway: what is where, in which order, and that the check of itself goes all the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway import Gateway, Settings, create_app
from middleware import (
    AccessLogMiddleware,
    AuthMiddleware,
    CompressionMiddleware,
    ConnectionLimitMiddleware,
    MetricsMiddleware,
    OriginMiddleware,
    RateLimitMiddleware,
    TracingMiddleware,
)
from middleware.asgi import ASGIApp, Event
from middleware.compression import train_dictionary
from tests.gateway.broker.brokers import MoodyBroker
from tests.middleware.asgi_helpers import Server, http_scope, run, websocket_scope
from tests.middleware.fake_frames import framed as framed_by

SECRET = "0123456789abcdef0123456789abcdef"


async def get(
    app: ASGIApp, path: str, method: str = "GET", headers: Sequence[tuple[bytes, bytes]] = ()
) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers and body of a request."""
    sent: list[Event] = []

    async def receive() -> Event:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(event: Event) -> None:
        sent.append(event)

    await app({**http_scope(path), "method": method, "headers": list(headers)}, receive, send)
    body = b"".join(event.get("body", b"") for event in sent if event["type"] == "http.response.body")
    return sent[0]["status"], dict(sent[0]["headers"]), body


def settings(**values: Any) -> Settings:
    return Settings(**values)


def test_the_layers_stand_in_the_agreed_order() -> None:
    """Who observes is outermost; a slot is taken before the token is looked at; a message pays before it is unpacked."""
    app = create_app(settings(auth={"mode": "jwt", "secret": SECRET}, connection_limit={"per_user": 3, "per_room": 9}))
    layers = [type(layer) for layer in app.sockets._app._layers]  # type: ignore[attr-defined]
    assert layers == [
        TracingMiddleware,
        MetricsMiddleware,
        AccessLogMiddleware,
        OriginMiddleware,
        ConnectionLimitMiddleware,
        AuthMiddleware,
        ConnectionLimitMiddleware,
        RateLimitMiddleware,
        CompressionMiddleware,
    ]


def test_what_is_switched_off_is_not_there() -> None:
    """No authentication, no limits per user and room, no compression: no layer for them."""
    app = create_app(settings(compression={"zstd": False}))
    layers = {type(layer) for layer in app.sockets._app._layers}  # type: ignore[attr-defined]
    assert not layers & {AuthMiddleware, CompressionMiddleware}


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_room_asked_for_over_plain_http_says_what_would_be_right(method: str) -> None:
    """426 with Upgrade (RFC 9110 §15.5.22), to a browser, to who publishes to the wrong port, through a bad proxy."""
    status, headers, body = await get(create_app(settings()), "/ws/lobby", method)
    assert (status, headers[b"upgrade"], headers[b"content-type"]) == (426, b"websocket", b"application/problem+json")
    detail = json.loads(body)["detail"]
    assert "ws://" in detail
    assert "/api/rooms/{room}/messages" in detail


async def test_the_root_of_the_ops_listener_leads_to_the_console() -> None:
    """Relative, so that it does so below a path too; the public root has nothing to show."""
    app = create_app(settings())
    status, headers, _ = await get(app.ops, "/")
    assert (status, headers[b"location"]) == (307, b"console")
    assert (await get(app, "/"))[0] == 404


@pytest.mark.parametrize(
    ("accept", "is_text"),
    [
        (None, False),
        ("*/*", False),
        ("application/json", False),
        ("text/html, application/json;q=0.1", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", True),
        ("text/plain", True),
    ],
)
async def test_an_address_that_does_not_exist_is_a_problem_or_a_text(accept: str | None, is_text: bool) -> None:
    """On both listeners, wrong methods, too: JSON, or a line for who names text and not JSON. Operators are told where to go."""
    made = create_app(Settings())
    for app, path, method, status in (
        (made, "/nothing", "GET", 404),
        (made.ops, "/nothing", "GET", 404),
        (made.ops, "/console", "DELETE", 405),
    ):
        headers = [(b"accept", accept.encode())] if accept else []
        found, answered, body = await get(app, path, method, headers)
        assert (found, answered[b"vary"]) == (status, b"Accept")
        if is_text:
            assert answered[b"content-type"] == b"text/plain; charset=utf-8"
            assert body.endswith(b"\n")
        else:
            assert answered[b"content-type"] == b"application/problem+json"
            assert json.loads(body)["status"] == status
        assert (b"/console" in body and b"/api/openapi.json" in body) == (app is made.ops and status == 404)
    assert answered[b"allow"] == b"GET, HEAD" or answered[b"allow"] == b"HEAD, GET"


async def test_api_requests_are_counted_from_zero() -> None:
    """Every operation with its usual answers is there before the first request, and the labels are a closed set."""
    made = create_app(Settings())
    names = {(one.labels["operation"], one.labels["status"]) for one in api_requests(made)}
    assert {("publish_to_room", "200"), ("close_connection", "202"), ("rooms", "503"), ("other", "401")} <= names
    assert all(one.value == 0 for one in api_requests(made))
    await get(made.ops, "/api/rooms")
    await get(made.ops, "/api/whatever")
    assert {(one.labels["operation"], one.labels["status"]) for one in api_requests(made)} == names | {("other", "403")}


def api_requests(made: Gateway) -> list[Any]:
    families = [family for family in made.collector.collect() if family.name == "tidegate_api_requests"]
    return [sample for family in families for sample in family.samples]


@pytest.mark.parametrize("path", ["/", "/ws", "/other/room", "/metrics"])
async def test_websockets_elsewhere_get_404(path: str) -> None:
    """The answer says where they are served."""
    client = await run(create_app(settings()), websocket_scope(path))
    assert client.status == 404
    assert "/ws/{room}" in json.loads(client.body)["detail"]


async def test_a_path_below_a_root_path_is_found() -> None:
    """A proxy's prefix is not part of the room."""
    app = create_app(settings())
    client = await run(app, websocket_scope("/gateway/ws/lobby", root_path="/gateway"))
    assert client.accepted
    await app.stop()


async def test_rooms_have_seats() -> None:
    """per_room refuses the one that is too many with 503, and gives the seat back."""
    app = create_app(settings(connection_limit={"per_room": 1}))
    first = Server(stay=True)
    serving = asyncio.create_task(app(websocket_scope("/ws/tea"), first.receive, first.send))
    for _ in range(30):
        await asyncio.sleep(0)
    assert (await run(app, websocket_scope("/ws/tea"))).status == 503
    assert (await run(app, websocket_scope("/ws/coffee"))).accepted
    first.feed({"type": "websocket.disconnect", "code": 1000})
    await serving
    assert (await run(app, websocket_scope("/ws/tea"))).accepted
    await app.stop()


async def test_dictionaries_are_served_to_be_kept_for_ever(tmp_path: Path) -> None:
    """By their id, immutable; an unknown one is a 404 problem."""
    samples = [json.dumps({"kind": "move", "x": number, "y": -number, "by": "player"}).encode() for number in range(2000)]
    dictionary = train_dictionary(samples, 2048)
    (tmp_path / "d.zdict").write_bytes(dictionary.data)
    app = create_app(settings(compression={"dictionaries": [str(tmp_path / "d.zdict")]}))
    status, headers, body = await get(app, f"/dictionaries/{dictionary.id}")
    assert (status, body) == (200, dictionary.data)
    assert b"immutable" in headers[b"cache-control"]
    assert (await get(app, "/dictionaries/none"))[0] == 404
    client = await run(app, websocket_scope("/ws/tea", subprotocols=[f"zstd.{dictionary.id}"]))
    assert client.of("accept")[0]["subprotocol"] == f"zstd.{dictionary.id}"
    await app.stop()


@pytest.mark.parametrize("auth", [{}, {"mode": "jwt", "secret": SECRET, "audience": "a", "issuer": "i"}])
async def test_readiness_opens_a_socket_through_the_whole_chain(auth: dict[str, Any]) -> None:
    """Authentication lets the process itself through; everything behind it is tried for real."""
    app = create_app(settings(auth=auth))
    assert (await get(app, "/readyz"))[0] == 503
    await app.start()
    status, _, body = await get(app.ops, "/readyz")
    report = json.loads(body)
    assert (status, report["status"]) == (200, "ready")
    assert (await app.health.report()).checks[1].detail == "handshake and echo"
    await app.stop()


async def test_readiness_names_a_broker_that_is_away() -> None:
    """The failing check has a name, in public too; details only on the ops listener."""

    class Away(MoodyBroker):
        async def check(self) -> None:
            self._refuse_when_down()

    broker = Away()
    app = create_app(settings(), broker=broker)
    await app.start()
    broker.down = True
    status, _, body = await get(app, "/readyz")
    assert status == 503
    assert "broker" in json.loads(body)["failing"]
    assert b"is down" not in body
    broker.down = False
    await app.stop()


async def test_the_lifespan_starts_and_stops_it_under_any_server() -> None:
    """Ready after startup; a broker that cannot be reached fails the startup with its reason."""
    for broker, answer in ((MoodyBroker(), "lifespan.startup.complete"), (MoodyBroker(), "lifespan.startup.failed")):
        broker.down = answer.endswith("failed")
        app = create_app(settings(), broker=broker)
        events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
        sent: list[Event] = []

        async def receive(events: Any = events) -> Event:
            return next(events)

        async def send(event: Event, sent: list[Event] = sent) -> None:
            sent.append(event)

        await app({"type": "lifespan"}, receive, send)
        assert sent[0]["type"] == answer
        if broker.down:
            assert "the broker is down" in sent[0]["message"]


@pytest.mark.parametrize("framed", [True, False], ids=["frames", "asgi"])
async def test_what_the_server_itself_refuses_is_logged_and_counted_as_what_it_is(
    framed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A drain is no overload: 503 with restarting, not at-capacity; a path that is not served is seen by the layers too."""
    app = create_app(settings())
    app.server.admission.draining = True
    with caplog.at_level("INFO", "tidegate.access"):
        for path in ("/ws/tea", "/nowhere"):
            server = Server(stay=True)
            scope, receive, send = websocket_scope(path), server.receive, server.send
            if framed:
                scope, receive, send = framed_by(scope, server)
            await app(scope, receive, send)
            assert "tidegate.close" not in server.of("http.response.start")[0] or framed
    drained, lost = (record for record in caplog.records if record.name == "tidegate.access")
    assert (drained.status, drained.close_reason, drained.route) == (503, "restarting", "/ws/{room}")  # type: ignore[attr-defined]
    assert (lost.status, lost.close_reason, lost.route) == (404, "forbidden", "other")  # type: ignore[attr-defined]
    counted = {
        (sample.labels["outcome"], sample.labels["reason"]): sample.value
        for family in app.metrics_registry.collect()
        for sample in family.samples
        if sample.name == "tidegate_handshakes_total" and sample.value
    }
    assert counted == {("refused", "restarting"): 1, ("refused", "forbidden"): 1}
    await app.stop()
