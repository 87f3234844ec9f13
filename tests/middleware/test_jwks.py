"""Published keys: fetched seldom, kept, replaced, and never because an attacker wishes it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from middleware._jwks import PublishedKeys
from middleware.auth import AuthMiddleware
from middleware.layer import Layer

from .asgi_helpers import Clock, run
from .tokens import (
    EC_KEY,
    ED_KEY,
    ISSUER,
    OTHER_RSA_KEY,
    RSA_KEY,
    SECRET,
    Watched,
    bearer,
    connect,
    forged,
    pem_of,
    segment,
    token,
)

HS = {"alg": "HS256", "typ": "JWT"}
RS = {"alg": "RS256", "typ": "JWT", "kid": "one"}


class Issuer:
    """A real HTTP server on loopback that publishes keys and counts who asks."""

    def __init__(self) -> None:
        self.hits: list[str] = []
        self.document: bytes = b"{}"
        self.status = 200
        self.location = ""
        self.stall = threading.Event()
        self.stall.set()
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.hits.append(self.path)
                issuer.stall.wait(60)
                self.send_response(issuer.status)
                if issuer.location:
                    self.send_header("location", issuer.location)
                self.send_header("content-length", str(len(issuer.document)))
                self.end_headers()
                with contextlib.suppress(OSError):  # the client has had enough
                    self.wfile.write(issuer.document)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/keys"

    def publish(self, **keys: Any) -> None:
        """Publish the public halves under these ids."""
        self.document = json.dumps({"keys": [jwk(key, kid) for kid, key in keys.items()]}).encode()

    def close(self) -> None:
        self.stall.set()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


def jwk(key: Any, kid: str | None, **more: Any) -> dict[str, Any]:
    """A public key as the issuer writes it."""
    kinds = {
        rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
        ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
        ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm,
    }
    algorithm = next(value for kind, value in kinds.items() if isinstance(key, kind))
    written = algorithm.to_jwk(key.public_key(), as_dict=True)
    return {**written, **({} if kid is None else {"kid": kid}), **more}


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    """An issuer that publishes one RSA key called ``one``."""
    server = Issuer()
    server.publish(one=RSA_KEY)
    yield server
    server.close()


def rs_token(key: Any = RSA_KEY, kid: str = "one", **more: Any) -> str:
    """A token as the issuer signs it."""
    return token(key, "RS256", headers={"kid": kid}, **{"iss": ISSUER, **more})


def with_clock(app: Layer, clock: Clock) -> PublishedKeys:
    """Let the key cache of ``app`` live on a clock that the test turns."""
    auth = next(layer for layer in app._layers if isinstance(layer, AuthMiddleware))
    assert auth._published is not None
    auth._published._clock = clock
    return auth._published


async def settle(keys: PublishedKeys) -> None:
    """Wait for the request under way."""
    if keys._request is not None:
        await keys._request


async def test_keys_are_fetched_once_and_kept(issuer: Issuer) -> None:
    """The first token fetches, a hundred more do not."""
    app = Watched()
    layer = app.behind(jwks_url=issuer.url, issuer=ISSUER)
    for _ in range(100):
        assert (await run(layer, bearer(rs_token()))).accepted
    assert issuer.hits == ["/keys"]
    assert app.observed == [("auth_keys_fetched", 1), ("auth_keys_failed", 0)]


async def test_handshakes_that_come_together_share_one_request(issuer: Issuer) -> None:
    """A restart with many clients asks the issuer once."""
    layer = Watched().behind(jwks_url=issuer.url)
    servers = await asyncio.gather(*(run(layer, bearer(rs_token()), timeout_seconds=60) for _ in range(50)))
    assert all(server.accepted for server in servers)
    assert issuer.hits == ["/keys"]


REMOTE_WRONG = {
    "alg none": lambda: forged({**RS, "alg": "none"}, None),
    "HS with the public key as secret": lambda: forged({**HS, "kid": "one"}, pem_of(RSA_KEY).encode(), iss=ISSUER),
    "expired": lambda: rs_token(exp=int(time.time()) - 3600),
    "not before the future": lambda: rs_token(nbf=int(time.time()) + 3600),
    "without exp": lambda: rs_token(exp=None),
    "foreign issuer with the same key id": lambda: rs_token(OTHER_RSA_KEY, iss="https://evil.example"),
    "foreign issuer with an unknown key id": lambda: rs_token(OTHER_RSA_KEY, kid="two", iss="https://evil.example"),
    "audience of somebody else": lambda: rs_token(aud=["others"]),
    "garbage": lambda: "garbage",
    "key id not a text": lambda: forged({**RS, "kid": {"a": 1}}, b""),
}


@pytest.mark.parametrize("make", REMOTE_WRONG.values(), ids=REMOTE_WRONG.keys())
async def test_a_token_that_is_wrong_anyway_causes_no_request_even_before_keys_are_there(make: Any, issuer: Issuer) -> None:
    """Nobody can make us call anybody with a token that could not count."""
    server, _ = await connect(bearer(make()), jwks_url=issuer.url, issuer=ISSUER)
    assert (server.status, issuer.hits) == (401, [])


@pytest.mark.parametrize(
    "header",
    [
        {"kid": "../../etc/passwd"},
        {"kid": "two"},
        {"kid": "http://127.0.0.1:%d/evil"},
        {"jku": "http://127.0.0.1:%d/evil"},
        {"x5u": "http://127.0.0.1:%d/evil"},
        {"jwk": {"kty": "RSA"}},
    ],
    ids=lambda header: next(iter(header)),
)
async def test_nothing_in_a_token_chooses_an_address_or_causes_requests_beyond_the_rate(
    header: dict[str, Any], issuer: Issuer
) -> None:
    """With keys at hand, a hundred tokens with unknown ids cause no request within the rate, and one when it allows one."""
    port = issuer.http.server_address[1]
    attack = {name: value % port if isinstance(value, str) and "%d" in value else value for name, value in header.items()}
    layer = Watched().behind(jwks_url=issuer.url, issuer=ISSUER)
    clock = Clock()
    with_clock(layer, clock)
    assert (await run(layer, bearer(rs_token()))).accepted
    for _ in range(100):
        forged_token = token(OTHER_RSA_KEY, "RS256", headers={"kid": "two", **attack}, iss=ISSUER)
        assert (await run(layer, bearer(forged_token))).status == 401
    assert issuer.hits == ["/keys"]
    clock.advance(10)
    for _ in range(100):
        assert (await run(layer, bearer(forged_token))).status == 401
    assert issuer.hits == ["/keys", "/keys"]


async def test_a_foreign_key_under_a_known_id_is_refused(issuer: Issuer) -> None:
    """The id names a key of ours, and that key did not sign it."""
    layer = Watched().behind(jwks_url=issuer.url, issuer=ISSUER)
    assert (await run(layer, bearer(rs_token()))).accepted
    assert (await run(layer, bearer(rs_token(OTHER_RSA_KEY)))).status == 401
    assert issuer.hits == ["/keys"]


async def test_a_new_key_is_found_when_the_issuer_rotates_and_a_withdrawn_one_stops(issuer: Issuer) -> None:
    """A token with an id not seen before makes us look again; what is no longer published no longer counts."""
    layer = Watched().behind(jwks_url=issuer.url)
    clock = Clock()
    with_clock(layer, clock)
    assert (await run(layer, bearer(rs_token()))).accepted
    issuer.publish(two=OTHER_RSA_KEY)
    clock.advance(11)
    assert (await run(layer, bearer(rs_token(OTHER_RSA_KEY, "two")))).accepted
    assert (await run(layer, bearer(rs_token()))).status == 401
    assert len(issuer.hits) == 2


async def test_old_keys_are_replaced_in_the_background_while_they_still_serve(issuer: Issuer) -> None:
    """Nobody waits for the refresh after ``jwks_cache_seconds``."""
    layer = Watched().behind(jwks_url=issuer.url)
    clock = Clock()
    keys = with_clock(layer, clock)
    await run(layer, bearer(rs_token()))
    issuer.publish(two=OTHER_RSA_KEY)
    issuer.stall.clear()
    clock.advance(301)
    assert (await run(layer, bearer(rs_token()))).accepted  # though the issuer has not answered yet
    issuer.stall.set()
    await settle(keys)
    assert (await run(layer, bearer(rs_token()))).status == 401
    assert len(issuer.hits) == 2


async def test_keys_serve_on_while_the_issuer_is_down_but_not_for_ever(issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    """An outage of the issuer is not ours, until the keys are too old to be trusted: then 503."""
    app = Watched()
    layer = app.behind(jwks_url=issuer.url)
    clock = Clock()
    keys = with_clock(layer, clock)
    await run(layer, bearer(rs_token()))
    issuer.status = 500
    clock.advance(600)
    assert (await run(layer, bearer(rs_token()))).accepted
    await settle(keys)
    assert "could not be fetched: 500" in caplog.text
    clock.advance(3001)
    server = await run(layer, bearer(rs_token()))
    assert (server.status, server.response_headers[b"retry-after"]) == (503, b"10")
    issuer.status = 200
    clock.advance(10)
    assert (await run(layer, bearer(rs_token()))).accepted
    assert sum(value for name, value in app.observed if name == "auth_keys_failed") == 2


async def test_a_stalled_issuer_costs_a_handshake_its_time_out_and_the_loop_nothing(issuer: Issuer) -> None:
    """The handshake is answered with 503; later ones do not pile up requests, and other tasks run on while they wait."""
    issuer.stall.clear()
    layer = Watched().behind(jwks_url=issuer.url, timeout_seconds=0.5)
    servers = await asyncio.gather(*(run(layer, bearer(rs_token())) for _ in range(20)))
    assert [server.status for server in servers] == [503] * 20
    assert len(issuer.hits) == 1
    patient = Watched().behind(jwks_url=issuer.url, timeout_seconds=30)
    waiting = asyncio.create_task(run(patient, bearer(rs_token()), timeout_seconds=60))
    while len(issuer.hits) == 1:
        await asyncio.sleep(0.001)
    issuer.stall.set()  # nobody else would: had the request kept the loop, it would have timed out
    assert (await waiting).accepted


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"keys": 1}',
        b'{"keys": []}',
        b'{"keys": [1, null, {}]}',
        b"[" * 100_000,
        b" " * 300_000 + json.dumps({"keys": [jwk(RSA_KEY, "one")]}).encode(),
        json.dumps({"keys": [{"kty": "oct", "kid": "one", "k": segment(SECRET.encode())}]}).encode(),
        json.dumps({"keys": [jwk(RSA_KEY, "one", use="enc")]}).encode(),
        json.dumps({"keys": [jwk(RSA_KEY, "one", alg="HS256")]}).encode(),
        json.dumps({"keys": [jwk(EC_KEY, "one", alg="RS256")]}).encode(),
        json.dumps({"keys": [jwk(rsa.generate_private_key(65537, 1024), "one")]}).encode(),
    ],
    ids=lambda document: document[:24].decode(),
)
async def test_an_answer_without_usable_keys_lets_nobody_in(document: bytes, issuer: Issuer) -> None:
    """Not JSON, not a key set, too long, a secret, a key for something else, a key too short: 503, no traceback."""
    issuer.document = document
    assert (await connect(bearer(rs_token()), jwks_url=issuer.url))[0].status == 503
    assert (await connect(bearer(token(headers={"kid": "one"})), jwks_url=issuer.url))[0].status == 401


async def test_keys_of_several_types_stand_beside_each_other_and_unknown_ones_are_passed_over(issuer: Issuer) -> None:
    """Each is used for its own algorithm only, or for the one its publisher names."""
    keys = [{"kty": "new"}, jwk(RSA_KEY, "one", alg="RS512"), jwk(EC_KEY, "two"), jwk(ED_KEY, "three", use="sig")]
    issuer.document = json.dumps({"keys": keys}).encode()
    layer = Watched().behind(jwks_url=issuer.url)
    for key, algorithm, kid, status in (
        (RSA_KEY, "RS512", "one", None),
        (RSA_KEY, "RS256", "one", 401),
        (EC_KEY, "ES256", "two", None),
        (ED_KEY, "EdDSA", "three", None),
        (ED_KEY, "EdDSA", "two", 401),
    ):
        assert (await run(layer, bearer(token(key, algorithm, headers={"kid": kid})))).status == status


async def test_a_token_without_a_key_id_counts_when_there_is_one_key(issuer: Issuer) -> None:
    """With several it would be a guess."""
    assert (await connect(bearer(token(RSA_KEY, "RS256")), jwks_url=issuer.url))[0].accepted
    issuer.publish(one=RSA_KEY, two=OTHER_RSA_KEY)
    assert (await connect(bearer(token(RSA_KEY, "RS256")), jwks_url=issuer.url))[0].status == 401


async def test_a_redirect_is_not_followed(issuer: Issuer) -> None:
    """Whoever can redirect the key request could choose the keys."""
    issuer.status, issuer.location = 302, issuer.url + "/elsewhere"
    assert (await connect(bearer(rs_token()), jwks_url=issuer.url))[0].status == 503
    assert issuer.hits == ["/keys"]


def test_a_request_that_another_loop_has_left_unfinished_is_not_waited_for(issuer: Issuer) -> None:
    """A loop that stands still would never finish it."""
    layer = Watched().behind(jwks_url=issuer.url, timeout_seconds=1)
    clock = Clock()
    keys = with_clock(layer, clock)
    issuer.stall.clear()
    keys._timeout_seconds = 0.05
    left = asyncio.new_event_loop()
    assert left.run_until_complete(run(layer, bearer(rs_token()))).status == 503
    unfinished = keys._request
    issuer.stall.set()
    keys._timeout_seconds = 5
    clock.advance(10)
    assert asyncio.run(run(layer, bearer(rs_token()))).accepted
    assert unfinished is not None
    left.run_until_complete(unfinished)
    left.run_until_complete(left.shutdown_default_executor())
    left.close()


def test_the_key_cache_outlives_the_loop_that_filled_it(issuer: Issuer) -> None:
    """Test clients run each connection on a loop of its own."""
    layer = Watched().behind(jwks_url=issuer.url)
    for _ in range(2):
        assert asyncio.run(run(layer, bearer(rs_token()))).accepted
    assert issuer.hits == ["/keys"]
