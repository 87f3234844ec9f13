"""Authentication: who gets in with which token, what is done with the token, and what an attacker can make us do."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import re
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from middleware.access_log import AccessLogMiddleware
from middleware.asgi import Event, Receive, Scope, Send
from middleware.auth import AuthMiddleware, User
from middleware.close import RATE_LIMITED
from middleware.layer import Link, Refuse
from middleware.origin import OriginMiddleware

from .asgi_helpers import Server, echo, http_scope, run, websocket_scope
from .tokens import (
    EC_KEY,
    ED_KEY,
    ISSUER,
    RSA_KEY,
    SECRET,
    bearer,
    claims,
    connect,
    forged,
    forged_raw,
    pem_of,
    segment,
    token,
)
from .virtual_time import VirtualLoop, run_virtual

# -- a valid token, and what becomes of it


async def test_a_valid_token_puts_an_immutable_user_into_the_scope() -> None:
    """The app reads who it is from ``scope["user"]``; neither the user nor the claims can be changed."""
    server, app = await connect(bearer(token(rooms=["chat:*", "news"], nested={"list": [1, {"a": 2}]})))
    assert server.payloads == ["hello"]
    assert (app.user.id, app.user.rooms) == ("ana", ("chat:*", "news"))
    assert app.user.claims["nested"]["list"][1]["a"] == 2
    for change in (
        lambda: setattr(app.user, "id", "eve"),
        lambda: app.user.claims.update(a=1),
        lambda: app.user.claims["nested"].update(a=1),
        lambda: app.user.claims["nested"]["list"].append(1),
    ):
        with pytest.raises((AttributeError, dataclasses.FrozenInstanceError, TypeError)):
            change()
    assert "claims" not in repr(app.user)
    assert hash(app.user)


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        *((RSA_KEY, name) for name in ("RS256", "RS384", "RS512", "PS256", "PS512")),
        (EC_KEY, "ES256"),
        (ec.generate_private_key(ec.SECP384R1()), "ES384"),
        (ec.generate_private_key(ec.SECP521R1()), "ES512"),
        (ED_KEY, "EdDSA"),
    ],
)
async def test_a_public_key_checks_the_algorithms_of_its_type(key: Any, algorithm: str) -> None:
    """RSA, the three curves of RFC 7518 and Ed25519 work from a PEM text alone."""
    server, _ = await connect(bearer(token(key, algorithm)), public_key=pem_of(key))
    assert server.accepted


async def test_a_long_secret_also_checks_the_longer_hashes() -> None:
    """HS512 needs 64 bytes; a shorter secret does HS256 only."""
    long = "x" * 64
    assert (await connect(bearer(token(long, "HS512")), secret=long))[0].accepted
    medium = "x" * 63
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        short_for_it = token(medium, "HS512")
    assert (await connect(bearer(short_for_it), secret=medium))[0].status == 401


@pytest.mark.parametrize(
    ("scope", "options"),
    [
        (websocket_scope(headers=[(b"authorization", b"bEaReR  %s")]), {}),
        (websocket_scope(subprotocols=["bearer.%s"], headers=[(b"sec-websocket-protocol", b"bearer.%s")]), {}),
        (websocket_scope(query_string=b"a=1&token=%s&b=2"), {"query_token": True}),
        (websocket_scope(headers=[(b"cookie", b"a=b; session=%s")]), {"cookie": "session", "origin_checked": True}),
        (websocket_scope(headers=[(b"cookie", b'session="%s"')]), {"cookie": "session", "origin_checked": True}),
        (websocket_scope(subprotocols=["k8s.%s"]), {"subprotocol_prefix": "k8s."}),
    ],
    ids=["header", "subprotocol", "query", "cookie", "quoted cookie", "another prefix"],
)
async def test_a_token_may_come_by_header_subprotocol_query_or_cookie(scope: Scope, options: dict[str, Any]) -> None:
    """Each source that is switched on is enough."""
    given_token = token()
    filled = {
        **scope,
        "query_string": scope["query_string"].replace(b"%s", given_token.encode()),
        "headers": [(name, value.replace(b"%s", given_token.encode())) for name, value in scope["headers"]],
        "subprotocols": [name.replace("%s", given_token) for name in scope["subprotocols"]],
    }
    server, app = await connect(filled, **options)
    assert server.accepted
    assert app.user.id == "ana"


async def test_the_query_and_the_cookie_count_only_when_switched_on() -> None:
    """Addresses get written down in many places, and browsers attach cookies unasked."""
    assert (await connect(websocket_scope(query_string=b"token=" + token().encode())))[0].status == 401
    assert (await connect(websocket_scope(headers=[(b"cookie", b"session=" + token().encode())])))[0].status == 401
    assert (await connect(websocket_scope(subprotocols=["bearer." + token()]), subprotocol_prefix=None))[0].status == 401


async def test_a_token_in_a_subprotocol_is_neither_seen_further_in_nor_echoed() -> None:
    """Inner layers are offered only the others, in the list and in the header; an app that selects it anyway selects none."""
    secret_name = "bearer." + token()

    async def careless(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["subprotocols"] == ["chat", "v2"]
        assert [value for name, value in scope["headers"] if name == b"sec-websocket-protocol"] == [b"chat, v2"]
        await receive()
        await send({"type": "websocket.accept", "subprotocol": secret_name})

    offered = ["chat", secret_name, "v2"]
    scope = websocket_scope(subprotocols=offered, headers=[(b"sec-websocket-protocol", ", ".join(offered).encode())])
    server = await run(AuthMiddleware(careless, secret=SECRET), scope)
    assert server.of("accept")[0]["subprotocol"] is None
    assert scope["subprotocols"] == offered  # the caller's own scope is as it was


async def test_a_subprotocol_of_the_app_is_selected_as_usual() -> None:
    """Only the token is kept from being selected."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept", "subprotocol": scope["subprotocols"][0]})

    server = await run(AuthMiddleware(app, secret=SECRET), websocket_scope(subprotocols=["bearer." + token(), "chat"]))
    assert server.of("accept")[0]["subprotocol"] == "chat"


@pytest.mark.parametrize("name", ["token", "%74oken", "t%6fken"])
async def test_a_token_in_the_query_is_taken_out_of_what_the_app_sees(name: str) -> None:
    """However it is spelt; the other parameters stay, byte for byte."""
    scope = websocket_scope(query_string=f"a=%20&{name}={token()}&b=2&a".encode())
    _, app = await connect(scope, query_token=True)
    assert app.scopes[-1]["query_string"] == b"a=%20&b=2&a"


async def test_a_token_in_the_query_is_taken_out_even_when_another_one_counted() -> None:
    """Two tokens in two places: the header counts, the other is hidden all the same."""
    scope = {**bearer(token()), "query_string": b"token=secret-one", "subprotocols": ["bearer.secret-two", "chat"]}
    _, app = await connect(scope, query_token=True)
    assert (app.scopes[-1]["query_string"], list(app.scopes[-1]["subprotocols"])) == (b"", ["chat"])


# -- refusals


async def test_without_a_token_the_answer_is_401_with_a_challenge() -> None:
    """The app does not run; the client is told what is needed (RFC 6750 §3)."""
    server, app = await connect(websocket_scope())
    assert (server.status, server.response_headers[b"www-authenticate"], app.scopes) == (401, b"Bearer", [])
    assert json.loads(server.body)["reason"] == "unauthorized"
    assert app.observed == [("auth_refused_missing", 1.0)]


async def test_a_server_that_cannot_answer_with_a_status_closes_with_4401() -> None:
    """Without the denial extension the refusal is a close before accept."""
    server, _ = await connect(websocket_scope(denial=False))
    assert server.close == (4401, "unauthorized")


async def test_anonymous_clients_are_let_in_when_no_token_is_required_but_wrong_tokens_never() -> None:
    """``required=False`` is for apps that serve both."""
    server, app = await connect(websocket_scope(), required=False)
    assert server.accepted
    assert "user" not in app.scopes[-1]
    assert (await connect(bearer("garbage"), required=False))[0].status == 401


HS = {"alg": "HS256", "typ": "JWT"}
WRONG = {
    "no algorithm": lambda: forged({"typ": "JWT"}, None),
    "alg none": lambda: forged({**HS, "alg": "none"}, None),
    "alg None": lambda: forged({**HS, "alg": "None"}, None),
    "alg null": lambda: forged({**HS, "alg": None}, None),
    "alg a list": lambda: forged({**HS, "alg": ["HS256"]}, SECRET.encode()),
    "signature left out": lambda: token().rpartition(".")[0] + ".",
    "signature of another key": lambda: token("another secret that is long enough"),
    "payload changed": lambda: f"{segment(HS)}.{segment(claims(sub='eve'))}.{token().rpartition('.')[2]}",
    "critical extension": lambda: forged({**HS, "crit": ["b64"], "b64": True}, SECRET.encode()),
    "unencoded payload": lambda: forged({**HS, "b64": False}, SECRET.encode()),
    "not before the future": lambda: token(nbf=int(time.time()) + 3600),
    "issued in the future": lambda: token(iat=int(time.time()) + 3600),
    "without exp": lambda: token(exp=None),
    "exp not a number": lambda: token(exp="tomorrow"),
    "exp infinite": lambda: token(exp=float("inf")),
    "exp not a number at all": lambda: token(exp=float("nan")),
    "exp beyond all time": lambda: token(exp=10**400),
    "exp a list": lambda: forged(HS, SECRET.encode(), exp=[1]),
    "without sub": lambda: token(sub=None),
    "sub empty": lambda: token(sub=""),
    "sub not a text": lambda: forged(HS, SECRET.encode(), sub={"a": 1}),
    "sub with a newline": lambda: token(sub="ana\nadmin"),
    "sub huge": lambda: token(sub="a" * 257),
    "an audience that nobody expects": lambda: token(aud="others"),
    "rooms not a list": lambda: token(rooms={"all": True}),
    "rooms null": lambda: jwt.encode({**claims(), "rooms": None}, SECRET),
    "rooms with a number": lambda: token(rooms=["a", 1]),
    "payload not an object": lambda: f"{segment(HS)}.{segment([1])}.{segment(b'x')}",
    "payload not JSON": lambda: f"{segment(HS)}.{segment(b'{')}.{segment(b'x')}",
    "header not JSON": lambda: f"{segment(b'{')}.{segment(claims())}.",
    "header nested deeply": lambda: f"{segment(b'[' * 5000)}.{segment(claims())}.",
    "header a huge number": lambda: f"{segment(b'9' * 5000)}.{segment(claims())}.",
    "payload nested deeply": lambda: forged_raw(b"[" * 5000),
    "payload a huge number": lambda: forged_raw(b'{"sub":"ana","exp":' + b"9" * 5000 + b"}"),
    "payload bad UTF-8": lambda: forged_raw(b'{"sub":"\xff"}'),
    "one part": lambda: "garbage",
    "only dots": lambda: "..",
    "many dots": lambda: "." * 3000,
    "encrypted": lambda: "a.b.c.d.e",
    "a megabyte": lambda: "x" * 1_000_000,
    "longer than a token may be": lambda: token(padding="x" * 9000),
    "kid a list": lambda: forged({**HS, "kid": ["one"]}, SECRET.encode()),
}


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG.keys())
async def test_a_wrong_token_is_refused_with_401_and_nothing_of_it_is_repeated(make: Any) -> None:
    """None of the known tricks gets in, none makes a traceback, and the answer does not help to try again."""
    wrong = make()
    server, app = await connect(bearer(wrong))
    assert (server.status, app.scopes) == (401, [])
    assert server.response_headers[b"www-authenticate"] == b'Bearer error="invalid_token"'
    assert app.observed == [("auth_refused_invalid", 1.0)]
    assert wrong[:20].encode() not in server.body or len(wrong) < 10


@pytest.mark.parametrize(
    ("what", "because"),
    [
        ("signature of another key", "the signature is wrong"),
        ("an audience that nobody expects", "the audience is wrong"),
        ("without exp", "a claim is missing"),
        ("not before the future", "it is not valid yet"),
        ("exp not a number", "the token or a claim cannot be read"),
        ("one part", "the token cannot be read"),
        ("sub empty", "the claim sub names no user"),
        ("longer than a token may be", "the token is too long"),
    ],
)
async def test_operators_are_told_what_is_wrong_with_a_token_and_clients_are_not(what: str, because: str) -> None:
    """The access log's line has it, without a piece of the token."""
    wrong, lines = WRONG[what](), list[dict[str, Any]]()
    layers = AccessLogMiddleware(AuthMiddleware(echo, secret=SECRET), emit=lambda event, **fields: lines.append(fields))
    server = await run(layers, bearer(wrong))
    assert json.loads(server.body)["detail"] == "the token is not valid"
    assert lines[0]["detail"].startswith(f"the token is not valid: {because}")
    assert not any(wrong[:9] in str(value) for value in lines[0].values())


async def test_an_expired_token_is_told_apart_so_that_a_client_can_fetch_a_new_one() -> None:
    """Past the leeway it is over."""
    server, app = await connect(bearer(token(exp=int(time.time()) - 30)))
    assert (server.status, json.loads(server.body)["detail"]) == (401, "the token has expired")
    assert app.observed == [("auth_refused_expired", 1.0)]
    assert (await connect(bearer(token(exp=int(time.time()) - 30)), leeway_seconds=60))[0].accepted


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_a_public_key_is_never_used_as_a_shared_secret(algorithm: str) -> None:
    """The HS/RS swap: everybody has the public key, so a token signed with its text proves nothing."""
    pem = pem_of(RSA_KEY)
    for secret in (pem.encode(), pem.strip().encode()):
        assert (await connect(bearer(forged({"alg": algorithm, "typ": "JWT"}, secret)), public_key=pem))[0].status == 401


async def test_a_token_of_another_type_of_key_is_refused() -> None:
    """An elliptic key checks ES only, and an RSA key no ES."""
    assert (await connect(bearer(token(RSA_KEY, "RS256")), public_key=pem_of(EC_KEY)))[0].status == 401
    assert (await connect(bearer(token(EC_KEY, "ES256")), public_key=pem_of(RSA_KEY)))[0].status == 401
    assert (await connect(bearer(token(RSA_KEY, "RS256")), secret=SECRET))[0].status == 401


@pytest.mark.parametrize("kid", ["../../etc/passwd", "/dev/null", "http://evil.example/k", "' or 1=1", "\x00", "x" * 3000])
async def test_a_key_id_is_never_a_path_an_address_or_a_query(kid: str) -> None:
    """With one fixed key the id says nothing; the signature alone counts."""
    assert (await connect(bearer(forged({**HS, "kid": kid}, b""))))[0].status == 401
    assert (await connect(bearer(token(headers={"kid": kid}))))[0].accepted


@pytest.mark.parametrize(
    ("more", "welcome"),
    [
        ({"aud": "tidegate"}, True),
        ({"aud": ["others", "tidegate"]}, True),
        ({"aud": "others"}, False),
        ({"aud": ["others", "tidegate-dev"]}, False),
        ({"aud": []}, False),
        ({"aud": [["tidegate"]]}, False),
        ({"aud": {"tidegate": 1}}, False),
        ({"aud": "tidegate "}, False),
        ({"aud": None}, False),
        ({"aud": "tidegate", "iss": "https://evil.example"}, False),
        ({"aud": "tidegate", "iss": ISSUER + "/"}, False),
        ({"aud": "tidegate", "iss": [ISSUER]}, False),
        ({"aud": "tidegate", "iss": None}, False),
    ],
)
async def test_audience_and_issuer_have_to_be_there_and_to_match_once_they_are_configured(
    more: dict[str, Any], welcome: bool
) -> None:
    """A token for somebody else, or from somebody else, is no token; an audience may be one of several."""
    made = forged(HS, SECRET.encode(), **{"iss": ISSUER, **more})
    server, _ = await connect(bearer(made), audience="tidegate", issuer=ISSUER)
    assert server.accepted is welcome


@pytest.mark.parametrize(
    "scope",
    [
        websocket_scope(headers=[(b"authorization", b"Bearer ")]),
        websocket_scope(headers=[(b"authorization", b"Bearer")]),
        websocket_scope(headers=[(b"authorization", b"Bearer a b")]),
        websocket_scope(headers=[(b"authorization", b"Bearer \xff\xfe")]),
        websocket_scope(headers=[(b"authorization", b"Bearer a\x00b")]),
        websocket_scope(headers=[(b"authorization", b"Bearer x"), (b"authorization", b"Bearer y")]),
        websocket_scope(subprotocols=["bearer.x", "bearer.y"]),
        websocket_scope(subprotocols=["bearer."]),
        websocket_scope(subprotocols=["bearer.\u20ac"]),
        websocket_scope(query_string=b"token=x&token=y"),
        websocket_scope(query_string=b"token="),
        websocket_scope(query_string=b"token=%00"),
        websocket_scope(query_string=b"token=%ff"),
        websocket_scope(headers=[(b"cookie", b"session=x; session=y")]),
    ],
)
async def test_what_cannot_be_one_token_is_refused_rather_than_interpreted(scope: Scope) -> None:
    """Empty, twice, not visible ASCII: 401, also when a callable would take anything."""
    sources = {"query_token": True, "cookie": "session", "origin_checked": True}
    anything = lambda given_token, link: User("whoever")  # noqa: E731
    for judge in ({"secret": SECRET}, {"verify": anything}):
        server, app = await connect(scope, **sources, **judge)
        assert (server.status, app.observed) == (401, [("auth_refused_invalid", 1.0)])


async def test_credentials_of_another_scheme_are_somebody_elses() -> None:
    """Basic authentication beside a token does not count as a second token."""
    basic = (b"authorization", b"Basic YTpi")
    assert (await connect(websocket_scope(headers=[basic])))[0].status == 401
    assert (await connect(websocket_scope(headers=[basic], subprotocols=["bearer." + token()])))[0].accepted


@settings(max_examples=150)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.lists(st.binary(max_size=20), min_size=3, max_size=3).map(
            lambda parts: ".".join(segment(part) for part in parts).encode()
        ),
    )
)
def test_no_text_in_the_place_of_a_token_gets_in_or_raises(value: bytes) -> None:
    """For any bytes the answer is 401."""

    async def attempt() -> None:
        for scope in (
            websocket_scope(headers=[(b"authorization", b"Bearer " + value)]),
            websocket_scope(query_string=b"token=" + value),
        ):
            assert (await connect(scope, query_token=True))[0].status == 401

    asyncio.run(attempt())


# -- cookies need an origin check


def browser(origin: bytes | None) -> Scope:
    """A browser that attaches its session cookie."""
    headers = [(b"cookie", b"session=" + token().encode())]
    return websocket_scope(headers=headers if origin is None else [*headers, (b"origin", origin)])


async def test_a_cookie_counts_only_behind_an_origin_check(caplog: pytest.LogCaptureFixture) -> None:
    """Without OriginMiddleware outside of it the cookie is ignored, and the log says once why and what to do."""
    with caplog.at_level(logging.WARNING, "tidegate.middleware"):
        app = AuthMiddleware(echo, secret=SECRET, cookie="session")
        for _ in range(3):
            assert (await run(app, browser(b"https://example.com"))).status == 401
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "OriginMiddleware" in caplog.text
    assert "eyJ" not in caplog.text


@pytest.mark.parametrize(
    ("allowed", "origin", "status"),
    [
        (["https://example.com"], b"https://example.com", None),
        (["https://example.com"], b"https://evil.example", 403),
        (["https://example.com"], None, None),
        (["*"], b"https://evil.example", 401),
        (["null"], b"null", 401),
    ],
)
async def test_a_cookie_counts_when_the_origin_layer_has_vouched(
    allowed: list[str], origin: bytes | None, status: int | None
) -> None:
    """The origin layer outside says in the scope that it has checked; allowing everybody or ``null`` is no check."""
    app = OriginMiddleware(AuthMiddleware(echo, secret=SECRET, cookie="session"), allowed=allowed)
    server = await run(app, browser(origin))
    assert (server.status, server.accepted) == (status, status is None)


async def test_a_foreign_middleware_between_the_two_layers_does_not_hide_the_check() -> None:
    """Then there are two drivers, and the mark travels in the scope."""
    inner = AuthMiddleware(echo, secret=SECRET, cookie="session")

    async def foreign(scope: Scope, receive: Receive, send: Send) -> None:
        await inner(scope, receive, send)

    assert (await run(OriginMiddleware(foreign, allowed=["https://example.com"]), browser(b"https://example.com"))).accepted


async def test_an_explicit_token_counts_before_the_cookie() -> None:
    """A page that sends both means the explicit one."""
    scope = websocket_scope(headers=[(b"cookie", b"session=garbage"), (b"authorization", b"Bearer " + token().encode())])
    assert (await connect(scope, cookie="session", origin_checked=True))[0].accepted


# -- the end of a token is the end of the connection


def test_the_connection_ends_when_the_token_expires() -> None:
    """Not before, and with a code that says why."""

    async def main(loop: VirtualLoop) -> None:
        app = AuthMiddleware(echo, secret=SECRET, clock=time.time)
        started = loop.now
        server = await run(app, bearer(token(exp=int(time.time()) + 3000)), stay=True, timeout_seconds=10_000)
        assert server.close == (4401, "unauthorized")
        assert 2990 < loop.now - started <= 3000
        assert loop.pending_timers() <= 1  # only the one of this test

    run_virtual(main)


def test_a_token_within_the_leeway_lasts_as_long_as_the_leeway() -> None:
    """A clock that differs must not turn every connection into one that ends at once."""

    async def main(loop: VirtualLoop) -> None:
        app = AuthMiddleware(echo, secret=SECRET, leeway_seconds=60)
        started = loop.now
        server = await run(app, bearer(token(exp=int(time.time()) - 10)), stay=True, timeout_seconds=10_000)
        assert server.close == (4401, "unauthorized")
        assert 40 < loop.now - started <= 51

    run_virtual(main)


async def test_a_token_that_lasts_for_ever_is_a_token() -> None:
    """``exp`` in the year 30,000 is as good as none; without ``exp`` only when that is allowed."""
    assert (await connect(bearer(token(exp=10**15))))[0].accepted
    assert (await connect(bearer(token(exp=None)), require_exp=False))[0].accepted


def test_a_token_that_lasts_for_ever_does_not_trouble_uvloop_either() -> None:
    """Its timers are C integers; the latest time that is a number must not overflow them."""
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(connect(bearer(token(exp=10**300))))[0].accepted


def test_leaving_early_leaves_no_timer_behind() -> None:
    """A connection that ends before its token takes its timer along."""

    async def main(loop: VirtualLoop) -> None:
        await run(AuthMiddleware(echo, secret=SECRET), bearer(token()))
        assert loop.pending_timers() == 0

    run_virtual(main)


# -- rooms


@pytest.mark.parametrize(
    ("rooms", "room", "may"),
    [
        (None, "anything", True),
        ((), "chat:1", False),
        (("chat:1",), "chat:1", True),
        (("chat:1",), "chat:10", False),
        (("chat:*",), "chat:1", True),
        (("chat:*",), "chat:", True),
        (("chat:*",), "chats:1", False),
        (("chat:*",), "chat", False),
        (("*",), "anything", True),
        (("*:1",), "chat:1", False),
        (("c*t",), "chat", False),
        (("chat.",), "chatx", False),
        (("chat:*", "news"), "news", True),
    ],
)
def test_a_user_may_join_what_a_pattern_names(rooms: tuple[str, ...] | None, room: str, may: bool) -> None:
    """Exactly, or by what stands before a star at the end; nothing else is a pattern. Nothing said means no limit."""
    assert User("ana", rooms=rooms).may_join(room) is may


# -- verify=


async def test_a_callable_may_judge_tokens_of_any_kind() -> None:
    """Sync or async; it sees the token and the link, and answers with a user or None."""
    seen: list[str] = []

    def verify(given_token: str, link: Link) -> User | None:
        seen.append(link.scope["path"])
        return User("bob", expires_at=None) if given_token == "opaque" else None

    async def verify_later(given_token: str, link: Link) -> User | None:
        await asyncio.sleep(0)
        return verify(given_token, link)

    for way in (verify, verify_later):
        server, app = await connect(bearer("opaque"), verify=way)
        assert (server.accepted, app.user.id) == (True, "bob")
        assert (await connect(bearer("other"), verify=way))[0].status == 401
    assert seen == ["/ws"] * 4


async def test_a_callable_is_not_asked_without_a_token() -> None:
    """There is nothing to judge."""

    def verify(given_token: str, link: Link) -> User | None:
        raise AssertionError("not called")

    assert (await connect(websocket_scope(), verify=verify))[0].status == 401


async def test_a_callable_that_fails_or_hangs_is_our_fault_and_not_the_clients(caplog: pytest.LogCaptureFixture) -> None:
    """503 with Retry-After, logged without the token; nobody gets in."""

    async def hang(given_token: str, link: Link) -> User | None:
        await asyncio.sleep(3600)
        return None

    def fail(given_token: str, link: Link) -> User | None:
        raise RuntimeError("the session store is down")

    for verify in (fail, hang):
        server, app = await connect(bearer("opaque-token"), verify=verify, timeout_seconds=0.01)
        assert (server.status, server.response_headers[b"retry-after"]) == (503, b"10")
        assert app.observed == [("auth_refused_unavailable", 1.0)]
    assert "the session store is down" in caplog.text
    assert "opaque-token" not in caplog.text


async def test_a_callable_may_refuse_in_its_own_words_and_cancellation_passes() -> None:
    """``Refuse`` goes through as it is, and so does a cancelled handshake."""

    def refuse(given_token: str, link: Link) -> User | None:
        raise Refuse(429, RATE_LIMITED, retry_after=3)

    assert (await connect(bearer("x"), verify=refuse))[0].status == 429

    async def forever(given_token: str, link: Link) -> User | None:
        await asyncio.Event().wait()
        return None

    app = AuthMiddleware(echo, verify=forever)
    server = Server()
    task = asyncio.create_task(app(bearer("x"), server.receive, server.send))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_user_that_has_expired_already_is_refused() -> None:
    """Also when a callable made it."""
    server, _ = await connect(bearer("x"), verify=lambda given_token, link: User("bob", expires_at=1.0))
    assert server.status == 401


# -- options and the rest


CERTIFICATE_HINT = "not a PEM text"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "exactly one"),
        ({"secret": SECRET, "public_key": pem_of(RSA_KEY)}, "exactly one"),
        ({"secret": "short"}, "5 bytes"),
        ({"secret": ""}, "0 bytes"),
        ({"secret": pem_of(RSA_KEY)}, "goes into public_key"),
        ({"public_key": "x"}, CERTIFICATE_HINT),
        ({"public_key": pem_of(rsa.generate_private_key(65537, 1024))}, "1024 bits"),
        ({"public_key": pem_of(ec.generate_private_key(ec.SECP256K1()))}, "cannot check a token"),
        ({"public_key": "-----BEGIN PRIVATE KEY-----"}, "private key"),
        ({"jwks_url": "http://issuer.example/keys"}, "https"),
        ({"jwks_url": "file:///etc/passwd"}, "https"),
        ({"jwks_url": "https://"}, "https"),
        ({"jwks_url": "https://issuer.example", "jwks_cache_seconds": 0}, "positive"),
        ({"jwks_url": "https://issuer.example", "jwks_stale_seconds": 1}, "stale_seconds"),
        ({"secret": SECRET, "leeway_seconds": 61}, "0 to 60"),
        ({"secret": SECRET, "leeway_seconds": -1}, "0 to 60"),
        ({"secret": SECRET, "timeout_seconds": 0}, "positive"),
        ({"secret": SECRET, "subprotocol_prefix": ""}, "None switches"),
        ({"secret": SECRET, "cookie": ""}, "None switches"),
        ({"secret": SECRET, "origin_checked": True}, "cookie"),
        ({"verify": lambda given_token, link: None, "audience": "x"}, "your callable"),
    ],
)
def test_wrong_options_are_refused_with_a_sentence(options: dict[str, Any], sentence: str) -> None:
    """What is contradictory or unsafe fails when the app is built."""
    with pytest.raises(ValueError, match=re.escape(sentence)):
        AuthMiddleware(echo, **options)


async def test_other_traffic_and_the_callers_scope_are_left_alone() -> None:
    """HTTP passes untouched, and a handshake's scope is not changed in place."""
    passed: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(scope)

    async def nothing(*_: Event) -> Event:
        return {}

    http = http_scope()
    await AuthMiddleware(app, secret=SECRET)(http, nothing, nothing)
    assert passed == [http]
    scope = {**bearer(token()), "query_string": b"token=x", "subprotocols": ["bearer.x"]}
    before = json.dumps(scope, default=repr)
    await connect(scope, query_token=True)
    assert json.dumps(scope, default=repr) == before


async def test_the_snippet_of_the_documentation_runs_as_written() -> None:
    """What a reader copies builds an app that knows its user, and refuses the others."""
    page = (Path(__file__).parents[2] / "docs/layers/auth.md").read_text()
    snippet = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert snippet is not None
    names: dict[str, Any] = {}
    exec(compile(snippet[1], "auth.md", "exec"), names)
    assert (await run(names["app"], bearer(token(names["SECRET"], aud="chat")))).payloads == ["hello ana"]
    assert (await run(names["app"], bearer(token(names["SECRET"], aud="others")))).status == 401
