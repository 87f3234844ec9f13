"""The Origin check: what a browser says about the page that opens a socket, and nothing else, lets a page in."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from middleware.asgi import ORIGIN_CHECKED, Event, Receive, Scope, Send
from middleware.layer import Layer, Link
from middleware.origin import OriginMiddleware

from .asgi_helpers import Server, echo, http_scope, run, text, websocket_scope

ALLOWED = ("https://example.com", "https://*.example.org", "https://example.net:8443", "https://*.example.net:8443")
HOST = b"chat.example.edu"


def scope_with(*origins: bytes, host: bytes | None = HOST, **more: Any) -> Scope:
    """A handshake with these Origin headers."""
    scope = websocket_scope(headers=[(b"origin", origin) for origin in origins], **more)
    hosts = [] if host is None else [(b"host", host)]
    return {**scope, "headers": [*hosts, *(pair for pair in scope["headers"] if pair[0] != b"host")]}


async def connect(*origins: bytes, scope: dict[str, Any] | None = None, **options: Any) -> Server:
    """Connect to an app behind the check and say hello."""
    app = OriginMiddleware(echo, **{"allowed": ALLOWED, **options})
    return await run(app, scope_with(*origins, **(scope or {})), text("hello"))


@pytest.mark.parametrize(
    "origin",
    [
        b"https://example.com",
        b"https://example.com:443",
        b"https://a.example.org",
        b"https://a.b.example.org",
        b"https://example.net:8443",
        b"https://a.example.net:8443",
        b"http://chat.example.edu",
    ],
)
async def test_pages_of_listed_origins_and_of_the_own_host_are_let_in(origin: bytes) -> None:
    """An exact entry, any depth below a wildcard, another port when listed, and the host itself."""
    server = await connect(origin)
    assert server.payloads == ["hello"]


FOREIGN = {
    "evil": b"https://evil.example",
    "null": b"null",
    "suffix": b"https://example.com.evil.example",
    "prefix": b"https://evilexample.com",
    "prefix of a wildcard": b"https://evilexample.org",
    "the domain of a wildcard itself": b"https://example.org",
    "an empty label below a wildcard": b"https://.example.org",
    "two dots below a wildcard": b"https://a..example.org",
    "scheme changed": b"http://example.com",
    "scheme changed below a wildcard": b"http://a.example.org",
    "scheme of the own host changed": b"https://chat.example.edu",
    "port changed": b"https://example.com:8443",
    "listed port left out": b"https://example.net",
    "port below a wildcard changed": b"https://a.example.org:444",
    "port of the own host changed": b"http://chat.example.edu:8080",
    "port beyond the range": b"https://example.com:99999",
    "port with a leading zero": b"https://example.com:0443",
    "empty port": b"https://example.com:",
    "case of the host changed": b"https://EXAMPLE.com",
    "case of the scheme changed": b"HTTPS://example.com",
    "trailing dot": b"https://example.com.",
    "trailing slash": b"https://example.com/",
    "path": b"https://example.com/chat",
    "query": b"https://example.com?x",
    "user": b"https://example.com@evil.example",
    "user in front": b"https://evil@example.com",
    "space behind": b"https://example.com ",
    "space in front": b" https://example.com",
    "newline behind": b"https://example.com\n",
    "two in one header": b"https://example.com, https://example.com",
    "two in one header, by spaces": b"https://example.com https://evil.example",
    "empty": b"",
    "only a host": b"example.com",
    "star": b"*",
    "wildcard itself": b"https://*.example.org",
    "NUL": b"https://example.com\x00",
    "not ASCII": "https://exämple.com".encode(),
    "full-width letters": "https://\uff45xample.com".encode(),
    "garbage": bytes(range(256)),
    "huge": b"https://" + b"a." * 100_000 + b"example.org",
    "websocket scheme": b"wss://example.com",
    "file": b"file://",
    "IPv6": b"http://[::1]:8000",
}


@pytest.mark.parametrize("origin", FOREIGN.values(), ids=FOREIGN.keys())
async def test_any_other_origin_is_refused_with_403_before_the_app_runs(origin: bytes) -> None:
    """No prefix, suffix, other scheme, port, case or spelling of a listed origin is that origin."""
    server = await connect(origin)
    assert (server.status, server.accepted) == (403, False)
    assert json.loads(server.body)["reason"] == "forbidden"
    assert origin[:64] not in server.body or not origin


async def test_an_origin_sent_twice_is_refused_even_when_both_are_listed() -> None:
    """Two headers mean that somebody between us and the browser could choose which one counts."""
    assert (await connect(b"https://example.com", b"https://example.com")).status == 403
    assert (await connect(b"https://example.com", b"https://evil.example")).status == 403


async def test_a_server_that_cannot_answer_with_a_status_closes_before_accept() -> None:
    """Without the denial extension the refusal is a close, which every server turns into a 403."""
    server = await connect(b"https://evil.example", scope={"denial": False})
    assert (server.close, server.accepted) == ((1008, "forbidden"), False)


async def test_clients_without_an_origin_are_let_in_by_default_and_refused_on_request() -> None:
    """Only a client that is not a browser leaves the header out; whether those may come is the operator's choice."""
    assert (await connect()).payloads == ["hello"]
    assert (await connect(absent="refuse")).status == 403
    assert (await connect(b"https://example.com", absent="refuse")).payloads == ["hello"]


@pytest.mark.parametrize(
    ("origin", "host", "scheme", "welcome"),
    [
        (b"http://127.0.0.1:8000", b"127.0.0.1:8000", "ws", True),
        (b"https://example.edu", b"example.edu", "wss", True),
        (b"https://example.edu", b"example.edu:443", "wss", True),
        (b"http://example.edu", b"example.edu:80", "ws", True),
        (b"http://example.edu", b"EXAMPLE.edu", "ws", True),
        (b"http://[::1]:8000", b"[::1]:8000", "ws", True),
        (b"http://example.edu", b"example.edu", "wss", False),
        (b"https://example.edu", b"example.edu", "ws", False),
        (b"https://example.edu:8443", b"example.edu", "wss", False),
        (b"https://example.edu", b"example.edu:8443", "wss", False),
        (b"https://www.example.edu", b"example.edu", "wss", False),
        (b"http://example.edu", b"example.edu@evil.example", "ws", False),
        (b"http://example.edu", b"", "ws", False),
        (b"http://example.edu", None, "ws", False),
    ],
)
async def test_the_own_host_is_compared_with_its_port_and_scheme(
    origin: bytes, host: bytes | None, scheme: str, welcome: bool
) -> None:
    """Same origin means that the page came from the scheme, host and port that it now connects to."""
    server = await connect(origin, scope={"host": host, "scheme": scheme})
    assert server.accepted is welcome


async def test_a_host_sent_twice_is_nobodys_origin() -> None:
    """With two Host headers there is no own origin to compare with."""
    scope = scope_with(b"http://example.edu", host=b"example.edu")
    server = await run(OriginMiddleware(echo), {**scope, "headers": [*scope["headers"], (b"host", b"evil.example")]})
    assert server.status == 403


async def test_same_origin_can_be_switched_off() -> None:
    """Then only the list counts."""
    assert (await connect(b"http://chat.example.edu", same_origin=False)).status == 403
    assert (await connect(b"https://example.com", same_origin=False)).accepted


async def test_null_and_everyone_have_to_be_named_and_vouch_for_nothing() -> None:
    """Both can be allowed by name, but a layer that relies on the check is not told that there was one."""
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await echo(scope, receive, send)

    for allowed, origin in (("null", b"null"), ("*", b"https://evil.example"), ("*", b"garbage")):
        assert (await run(OriginMiddleware(app, allowed=[allowed]), scope_with(origin))).accepted
    await run(OriginMiddleware(app, allowed=ALLOWED), scope_with(b"https://example.com"))
    assert [ORIGIN_CHECKED in scope for scope in seen] == [False, False, False, True]


async def test_every_refusal_is_observed() -> None:
    """Whoever measures hears of the refusal, and of nothing else."""
    seen: list[tuple[str, float]] = []

    class Measure(Layer):
        async def open(self, link: Link) -> None:
            link.subscribe(lambda name, value: seen.append((name, value)))

    app = Measure(OriginMiddleware(echo, allowed=ALLOWED))
    await run(app, scope_with(b"https://example.com"))
    await run(app, scope_with(b"https://evil.example"))
    assert seen == [("origin_refused", 1.0)]


async def test_other_traffic_and_the_callers_scope_are_left_alone() -> None:
    """HTTP passes untouched, and a handshake's scope is not changed in place."""
    passed: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(scope)

    async def nothing(*_: Event) -> Event:
        return {}

    http = {**http_scope(), "headers": [(b"origin", b"https://evil.example")]}
    await OriginMiddleware(app)(http, nothing, nothing)
    assert passed == [http]
    scope = scope_with(b"https://example.com")
    before = json.dumps(scope, default=repr)
    await run(OriginMiddleware(echo, allowed=ALLOWED), scope)
    assert json.dumps(scope, default=repr) == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"allowed": ["example.com"]}, "is not an origin"),
        ({"allowed": ["https://example.com/"]}, "without a path"),
        ({"allowed": ["https://exämple.com"]}, "xn--"),
        ({"allowed": ["https://*"]}, "is not an origin"),
        ({"allowed": ["https://a.*.example.com"]}, "is not an origin"),
        ({"allowed": ["https://example.com:99999"]}, "is not an origin"),
        ({"allowed": "https://example.com"}, "list of origins"),
        ({"absent": "ignore"}, "'allow' or 'refuse'"),
        ({"same_origin": False, "absent": "refuse"}, "nobody could connect"),
    ],
)
def test_wrong_options_are_refused_with_a_sentence(options: dict[str, Any], sentence: str) -> None:
    """A list that does not mean what it says fails when the app is built, not when a user connects."""
    with pytest.raises(ValueError, match=re.escape(sentence)):
        OriginMiddleware(echo, **options)


async def test_entries_may_be_written_in_capitals_or_with_the_default_port() -> None:
    """The operator's spelling is made canonical; the client's is not."""
    assert (await connect(b"https://example.com", allowed=["HTTPS://Example.COM:443"])).accepted


@settings(max_examples=100)
@given(
    st.one_of(st.binary(max_size=80), st.from_regex(rb"https://[a-z.:/@]{0,12}example\.(com|org)[a-z0-9.:/@]{0,8}", fullmatch=True))
)
def test_whatever_is_let_in_is_on_the_list(origin: bytes) -> None:
    """For any bytes: only ``https://example.com`` and whole labels below ``example.org`` pass, and nothing raises."""
    layer = OriginMiddleware(echo, allowed=["https://example.com", "https://*.example.org"])
    if layer._is_welcome(origin, scope_with(origin)):
        assert re.fullmatch(rb"https://(example\.com|([a-z0-9_-]+\.)+example\.org)(:443)?", origin)


async def test_the_snippet_of_the_documentation_runs_as_written() -> None:
    """What a reader copies builds an app that lets its own page in and keeps the foreign one out."""
    page = (Path(__file__).parents[2] / "docs/layers/origin.md").read_text()
    snippet = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert snippet is not None
    names: dict[str, Any] = {}
    exec(compile(snippet[1], "origin.md", "exec"), names)
    assert (await run(names["app"], scope_with(b"https://example.com"), text("hello"))).payloads == ["hello"]
    assert (await run(names["app"], scope_with(b"https://evil.example"))).status == 403
