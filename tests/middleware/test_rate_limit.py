"""RateLimitMiddleware: what is delayed, dropped, closed and refused, and what the client and the operator learn of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from middleware import Guard, Layer, Link, Refuse
from middleware.asgi import ASGIApp, Event, Receive, Scope, Send
from middleware.close import RATE_LIMITED
from middleware.handshake_limiter import TABLE_FULL, MemoryHandshakeLimiter
from middleware.rate_limit import CLOSED, DELAY_SECONDS, DROPPED, HANDSHAKES_REFUSED, NOTICE, RateLimitMiddleware

from .asgi_helpers import Clock, Server, binary, echo, run, text, websocket_scope
from .fake_frames import framed
from .limit_helpers import RecordingLink
from .virtual_time import VirtualLoop, run_virtual


async def opened(clock: Clock, **options: Any) -> tuple[Guard, RecordingLink]:
    """A guard of a layer with these options, and its link."""
    link = RecordingLink()
    guard = await RateLimitMiddleware(echo, clock=clock, **options).open(link)
    assert guard is not None
    return guard, link


class Observed(Layer):
    """An outer layer that collects what is observed."""

    def __init__(self, app: ASGIApp, seen: list[tuple[str, float]]) -> None:
        super().__init__(app)
        self.seen = seen

    async def open(self, link: Link) -> Guard | None:
        link.subscribe(lambda name, value: self.seen.append((name, value)))
        return None


# --- delay ---------------------------------------------------------------------------------------------------------------


async def test_delay_passes_the_burst_without_holding() -> None:
    """What the burst allows is read at full speed; the message that empties the bucket stops reading for one refill."""
    guard, link = await opened(Clock(), messages_per_second=10, burst=5)
    for _ in range(4):
        assert guard.inbound(text("x")) is not None
    assert link.holds == []
    assert guard.inbound(text("x")) is not None
    assert link.holds == [pytest.approx(0.1)]
    assert link.count(DELAY_SECONDS) == 1
    assert link.last(DELAY_SECONDS) == pytest.approx(0.1)


async def test_delay_passes_the_very_event_it_was_given() -> None:
    """Events are neither copied nor changed: one event may belong to many."""
    guard, _ = await opened(Clock(), messages_per_second=1, burst=1)
    for event in (text("x"), text(""), binary(b"y")):
        assert guard.inbound(event) is event


async def test_delay_counts_bytes_and_holds_for_the_slower_of_the_two_rates() -> None:
    """Bytes and messages are independent; the longer hold is the one that counts."""
    guard, link = await opened(Clock(), messages_per_second=10, burst=1, bytes_per_second=100, byte_burst_bytes=100)
    guard.inbound(binary(b"x" * 300))
    assert link.holds == [pytest.approx(2.01)]
    guard, link = await opened(Clock(), messages_per_second=0.1, burst=1, bytes_per_second=100, byte_burst_bytes=100)
    guard.inbound(binary(b"x" * 100))
    assert link.holds == [pytest.approx(10)]


async def test_text_counts_as_the_utf8_bytes_that_the_client_sent() -> None:
    """Three euro signs are nine bytes."""
    guard, link = await opened(Clock(), messages_per_second=None, bytes_per_second=1, byte_burst_bytes=8)
    guard.inbound(text("€€€"))
    assert link.holds == [pytest.approx(2.0)]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_who_honours_the_holds_is_never_ahead_of_the_rate(pauses: list[float]) -> None:
    """With reading stopped as told, no span ever carries more than burst + rate x time, and no message is lost."""

    async def main(loop: VirtualLoop) -> None:
        guard, link = await opened(clock := Clock(), messages_per_second=4, burst=3)
        passed: list[float] = []
        for pause in pauses:
            clock.advance(pause + (link.holds.pop() if link.holds else 0))
            assert guard.inbound(text("x")) is not None
            passed.append(clock.now)
        for first, at in enumerate(passed):
            assert sum(at <= other <= at + 1 for other in passed[first:]) <= 3 + 4 + 1e-3

    run_virtual(main)


@pytest.mark.parametrize("with_frames", [False, True])
def test_delay_is_lossless_backpressure_through_the_driver(with_frames: bool) -> None:
    """Fifty messages at ten per second with a burst of ten: all arrive, in order, four seconds later."""

    async def main(loop: VirtualLoop) -> tuple[Server, float]:
        app = RateLimitMiddleware(echo, messages_per_second=10, burst=10, clock=loop.time)
        server, started = Server(*(text(str(number)) for number in range(50))), loop.now
        arguments: tuple[Scope, Receive, Send] = (websocket_scope(), server.receive, server.send)
        await app(*(framed(arguments[0], server) if with_frames else arguments))
        return server, loop.now - started

    server, seconds = run_virtual(main)
    assert server.payloads == [str(number) for number in range(50)]
    assert not server.violations
    assert seconds == pytest.approx(4.1, abs=0.11)


# --- drop ----------------------------------------------------------------------------------------------------------------


async def test_drop_counts_every_message_and_tells_the_client_once_per_second() -> None:
    """A hundred too many within a second: one hundred counted, one notice; a second later one more."""
    guard, link = await opened(clock := Clock(), messages_per_second=1, burst=1, exceeded="drop")
    assert guard.inbound(text("x")) is not None
    for _ in range(100):
        assert guard.inbound(text("x")) is None
    assert link.count(DROPPED) == 100
    assert link.told == [NOTICE]
    clock.advance(1.0)
    assert guard.inbound(text("x")) is not None
    assert guard.inbound(text("x")) is None
    assert link.told == [NOTICE, NOTICE]


async def test_what_is_dropped_takes_no_token() -> None:
    """A client that never stops still gets its rate: dropped messages are free."""
    guard, _ = await opened(clock := Clock(), messages_per_second=10, burst=1, exceeded="drop")
    passed = 0
    for _ in range(1000):
        passed += guard.inbound(text("x")) is not None
        clock.advance(0.01)
    assert passed == pytest.approx(100, abs=1)


async def test_drop_by_bytes_leaves_the_message_bucket_alone() -> None:
    """A message that is too big for now costs no message token."""
    options: dict[str, Any] = {"messages_per_second": 0.001, "burst": 2, "bytes_per_second": 1, "byte_burst_bytes": 10}
    guard, _ = await opened(Clock(), exceeded="drop", **options)
    assert guard.inbound(binary(b"x" * 10)) is not None
    assert guard.inbound(binary(b"x" * 5)) is None
    assert guard.inbound(binary(b"")) is not None
    assert guard.inbound(binary(b"")) is None


async def test_a_message_larger_than_the_byte_burst_passes_when_the_bucket_is_full() -> None:
    """Else it could never pass, however slowly the client sends."""
    options: dict[str, Any] = {"messages_per_second": None, "bytes_per_second": 10, "byte_burst_bytes": 100}
    guard, _ = await opened(clock := Clock(), exceeded="drop", **options)
    assert guard.inbound(binary(b"x" * 500)) is not None
    clock.advance(49)
    assert guard.inbound(binary(b"x" * 500)) is None
    clock.advance(1)
    assert guard.inbound(binary(b"x" * 500)) is not None


@pytest.mark.parametrize("notice", ["slow down", b"\x01slow"])
async def test_the_notice_reaches_the_client_through_the_driver(notice: str | bytes) -> None:
    """Text goes out as a text message, bytes as a binary one, among the app's own."""
    app = RateLimitMiddleware(echo, messages_per_second=0.001, burst=2, exceeded="drop", notice=notice)
    server = Server(*(text(str(number)) for number in range(9)))
    await app(websocket_scope(), server.receive, server.send)
    assert not server.violations
    assert server.payloads.count(notice) == 1
    assert [payload for payload in server.payloads if payload != notice] == ["0", "1"]


async def test_without_a_notice_nothing_is_said() -> None:
    """For clients that understand nothing but their own protocol: counted only."""
    guard, link = await opened(Clock(), messages_per_second=1, burst=1, exceeded="drop", notice=None)
    assert [guard.inbound(text("x")) is None for _ in range(3)] == [False, True, True]
    assert link.told == []
    assert link.count(DROPPED) == 2


async def test_the_default_notice_is_json() -> None:
    """So that a client can tell it from a person's words."""
    assert json.loads(NOTICE) == {"error": "rate-limited"}


# --- close ---------------------------------------------------------------------------------------------------------------


async def test_close_ends_the_connection_at_the_first_message_too_many() -> None:
    """Counted once, with the ending that says it may try again."""
    guard, link = await opened(Clock(), messages_per_second=1, burst=2, exceeded="close")
    assert [guard.inbound(text("x")) is None for _ in range(3)] == [False, False, True]
    assert link.endings == [RATE_LIMITED]
    assert link.count(CLOSED) == 1


async def test_close_is_1008_rate_limited_on_the_wire() -> None:
    """And what the client sent before it saw the close is nobody's."""
    seen: list[tuple[str, float]] = []
    app = Observed(RateLimitMiddleware(echo, messages_per_second=1, burst=2, exceeded="close"), seen)
    server = await run(app, websocket_scope(), *(text(str(number)) for number in range(9)), stay=True)
    assert server.close == (1008, "rate-limited")
    assert server.payloads == ["0", "1"]
    assert seen == [(CLOSED, 1.0)]


# --- connections do not share --------------------------------------------------------------------------------------------


async def test_one_connections_excess_is_nobody_elses() -> None:
    """State lives on the guard, not on the layer."""
    layer = RateLimitMiddleware(echo, messages_per_second=1, burst=1, exceeded="drop", clock=Clock())
    first, second = await layer.open(RecordingLink()), await layer.open(RecordingLink())
    assert first is not None
    assert second is not None
    assert first.inbound(text("x")) is not None
    assert first.inbound(text("x")) is None
    assert second.inbound(text("x")) is not None


async def test_with_no_rate_to_keep_the_layer_has_no_part_in_a_connection() -> None:
    """Switched off is free."""
    assert await RateLimitMiddleware(echo, messages_per_second=None).open(RecordingLink()) is None


# --- handshakes ----------------------------------------------------------------------------------------------------------


async def handshake(layer: RateLimitMiddleware, address: str, *headers: tuple[bytes, bytes]) -> Refuse | None:
    """What happens to one handshake from ``address``."""
    try:
        await layer.open(RecordingLink(websocket_scope(client=(address, 1), headers=headers)))
    except Refuse as refusal:
        return refusal
    return None


async def test_a_client_that_connects_too_often_gets_429_with_the_seconds_to_wait() -> None:
    """Others are not touched, and after the wait it is let in."""
    layer = RateLimitMiddleware(echo, handshakes_per_second=0.5, handshake_burst=2, clock=(clock := Clock()))
    assert [await handshake(layer, "192.0.2.1") for _ in range(2)] == [None, None]
    refusal = await handshake(layer, "192.0.2.1")
    assert refusal is not None
    assert (refusal.status, refusal.close) == (429, RATE_LIMITED)
    assert refusal.headers == [(b"retry-after", b"2")]
    assert await handshake(layer, "192.0.2.2") is None
    clock.advance(2.0)
    assert await handshake(layer, "192.0.2.1") is None


async def test_the_refusal_is_a_real_response_and_counted() -> None:
    """429 with a problem document on a server that can answer, and one observation."""
    seen: list[tuple[str, float]] = []
    app = Observed(RateLimitMiddleware(echo, handshakes_per_second=0.01, handshake_burst=1), seen)
    assert (await run(app, websocket_scope())).accepted
    server = await run(app, websocket_scope())
    assert server.status == 429
    assert server.response_headers[b"retry-after"] == b"100"
    assert json.loads(server.body)["reason"] == "rate-limited"
    assert seen == [(HANDSHAKES_REFUSED, 1.0)]


async def test_forged_forwarding_headers_do_not_make_a_new_client() -> None:
    """X-Forwarded-For counts only from a trusted proxy; then the client behind it is limited, not the proxy."""
    forged = [(b"x-forwarded-for", f"198.51.100.{number}".encode()) for number in range(4)]
    direct = RateLimitMiddleware(echo, handshakes_per_second=0.01, handshake_burst=1, clock=Clock())
    assert [await handshake(direct, "192.0.2.1", header) is None for header in forged] == [True, False, False, False]
    behind = RateLimitMiddleware(
        echo, handshakes_per_second=0.01, handshake_burst=1, trusted_proxies=["192.0.2.0/24"], clock=Clock()
    )
    assert [await handshake(behind, "192.0.2.1", header) is None for header in forged] == [True, True, True, True]
    assert await handshake(behind, "192.0.2.1", forged[0]) is not None


async def test_an_ipv6_network_is_one_client() -> None:
    """A /64 has as many addresses as its owner likes."""
    layer = RateLimitMiddleware(echo, handshakes_per_second=0.01, handshake_burst=1, clock=Clock())
    assert await handshake(layer, "2001:db8::1") is None
    assert await handshake(layer, "2001:db8::2") is not None
    assert await handshake(layer, "2001:db8:0:1::1") is None


async def test_key_says_who_is_one_client_and_nobody_is_not_counted() -> None:
    """By user, for instance; who has no key passes."""
    layer = RateLimitMiddleware(
        echo, handshakes_per_second=0.01, handshake_burst=1, key=lambda link: str(link.user or ""), clock=Clock()
    )
    await layer.open(RecordingLink(user="ada"))
    with pytest.raises(Refuse):
        await layer.open(RecordingLink(user="ada"))
    await layer.open(RecordingLink(user="bob"))
    for _ in range(3):
        await layer.open(RecordingLink())


async def test_the_table_of_clients_is_bounded_and_says_when_it_is_full() -> None:
    """A thousand addresses, room for ten: ten are kept, the rest is reported."""
    layer = RateLimitMiddleware(echo, handshakes_per_second=0.001, handshake_burst=1, max_clients=10, clock=Clock())
    observed = 0
    for number in range(1000):
        link = RecordingLink(websocket_scope(client=(f"10.0.{number // 250}.{number % 250}", 1)))
        await layer.open(link)
        observed += link.count(TABLE_FULL)
    assert isinstance(layer.handshakes, MemoryHandshakeLimiter)
    assert layer.handshakes.statistics() == (10, 10, 990)
    assert observed == 990


async def test_a_limiter_of_ones_own_is_asked_once_per_handshake_and_never_per_message() -> None:
    """Whatever it costs, messages do not pay for it."""
    asked: list[str] = []

    class Own:
        async def acquire(self, key: str, observe: Callable[[str, float], None]) -> float | None:
            asked.append(key)
            return None if len(asked) < 2 else 7.5

    app = RateLimitMiddleware(echo, handshake_limiter=Own())
    assert (await run(app, websocket_scope(), *(text("x") for _ in range(20)))).accepted
    assert asked == ["127.0.0.1"]
    assert (await run(app, websocket_scope())).response_headers[b"retry-after"] == b"8"


# --- options -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"messages_per_second": 0}, "a rate must be"),
        ({"burst": 0}, "a burst must be"),
        ({"bytes_per_second": -1}, "a rate must be"),
        ({"exceeded": "explode"}, "exceeded must be"),
        ({"handshakes_per_second": 1, "max_clients": 0}, "at least 1 key"),
        ({"handshakes_per_second": 1, "handshake_limiter": MemoryHandshakeLimiter(1)}, "give either"),
        ({"trusted_proxies": ["proxy.example"]}, "does not appear to be an IPv4 or IPv6 network"),
    ],
)
def test_wrong_options_are_refused_at_construction(options: dict[str, Any], sentence: str) -> None:
    """With a sentence, not in the first handshake."""
    with pytest.raises(ValueError, match=sentence):
        RateLimitMiddleware(echo, **options)


async def test_from_config_takes_the_short_form() -> None:
    """Sixty per minute: sixty at once, then one per second."""
    options = RateLimitMiddleware.from_config({"enabled": True, "requests_per_minute": 60})
    assert options == {"messages_per_second": 1.0, "burst": 60}
    guard, link = await opened(Clock(), **options)
    for _ in range(59):
        guard.inbound(text("x"))
    assert link.holds == []
    guard.inbound(text("x"))
    assert link.holds == [pytest.approx(1.0)]


def test_from_config_switches_off_and_passes_options_on() -> None:
    """``enabled`` false is no limit at all; every keyword option may stand beside the short form."""
    assert RateLimitMiddleware.from_config({"enabled": False, "requests_per_minute": 60}) == {"messages_per_second": None}
    assert RateLimitMiddleware.from_config({"requests_per_minute": 30, "exceeded": "drop"}) == {
        "messages_per_second": 0.5,
        "burst": 30,
        "exceeded": "drop",
    }
    assert RateLimitMiddleware.from_config({"enabled": True}) == {}


@pytest.mark.parametrize("wrong", [0, -1, "60", True, None.__class__])
def test_from_config_refuses_what_is_not_a_rate(wrong: Any) -> None:
    """A string from an environment variable is not silently no limit."""
    with pytest.raises(ValueError, match="requests_per_minute must be a number above 0"):
        RateLimitMiddleware.from_config({"requests_per_minute": wrong})


async def test_what_is_no_websocket_passes_untouched() -> None:
    """The very scope, receive and send of an HTTP request reach the app."""
    got: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        got.extend((scope, receive, send))

    async def receive() -> Event:
        raise AssertionError("nobody asked")

    async def send(event: Event) -> None:
        raise AssertionError("nobody asked")

    scope: Scope = {"type": "http"}
    await RateLimitMiddleware(app, handshakes_per_second=1)(scope, receive, send)
    assert got == [scope, receive, send]
