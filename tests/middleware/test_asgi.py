"""The helpers on a scope and ``deny``."""

from __future__ import annotations

import ipaddress
import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from middleware.asgi import client_host, client_key, client_keys, deny, header, payload_bytes, user_id
from middleware.close import AT_CAPACITY

from .asgi_helpers import Server, websocket_scope


@pytest.mark.parametrize(
    ("event", "size"),
    [
        ({"text": ""}, 0),
        ({"text": "abc"}, 3),
        ({"text": "äö€"}, 7),
        ({"text": None, "bytes": b"abc"}, 3),
        ({"bytes": b""}, 0),
        ({"text": "", "bytes": None}, 0),
        ({"text": "\ud800"}, 3),
        ({}, 0),
    ],
)
def test_payload_bytes_counts_what_travels(event: dict[str, Any], size: int) -> None:
    """Text counts as UTF-8, the empty message as nothing, a missing key as absent."""
    assert payload_bytes(event) == size


def test_header_finds_the_first_of_a_name() -> None:
    """Names are lower case, as ASGI has them."""
    scope = websocket_scope(headers=[(b"cookie", b"a=1"), (b"cookie", b"b=2")])
    assert header(scope, b"cookie") == b"a=1"
    assert header(scope, b"origin") is None


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "expected"),
    [
        ("203.0.113.9", ["1.1.1.1"], (), "203.0.113.9"),
        ("203.0.113.9", ["1.1.1.1"], ("10.0.0.0/8",), "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1"], ("10.0.0.0/8",), "1.1.1.1"),
        ("::ffff:10.0.0.1", ["1.1.1.1"], ("10.0.0.0/8",), "1.1.1.1"),
        ("10.0.0.1", ["9.9.9.9, 1.1.1.1, 10.0.0.7"], ("10.0.0.0/8",), "1.1.1.1"),
        ("10.0.0.1", ["9.9.9.9", "1.1.1.1"], ("10.0.0.0/8",), "1.1.1.1"),
        ("10.0.0.1", [], ("10.0.0.0/8",), "10.0.0.1"),
        ("10.0.0.1", ["junk"], ("10.0.0.0/8",), "10.0.0.1"),
        ("10.0.0.1", ["1.1.1.1, \n\x1b[31m"], ("10.0.0.0/8",), "10.0.0.1"),
        ("10.0.0.1", ["fe80::1%anything at all"], ("10.0.0.0/8",), "10.0.0.1"),
        ("10.0.0.1", [" , ,"], ("10.0.0.0/8",), "10.0.0.1"),
        ("10.0.0.1", ["2001:db8::1"], ("*",), "2001:db8::1"),
    ],
)
def test_forwarded_for_counts_only_from_trusted_proxies(
    peer: str, forwarded: list[str], trusted: tuple[str, ...], expected: str
) -> None:
    """Walked from the right: the first address that is no trusted proxy is the client; nonsense stops the walk."""
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    assert client_host(websocket_scope(client=(peer, 1), headers=headers), trusted) == expected


def test_a_peer_without_an_address_has_none() -> None:
    """As over a Unix socket."""
    assert client_host(websocket_scope(client=None)) == ""


@given(forged=st.lists(st.binary(max_size=20), max_size=4))
def test_no_client_can_choose_its_address(forged: list[bytes]) -> None:
    """Whatever it puts in front, the address its proxy saw counts."""
    headers = [(b"x-forwarded-for", b",".join([*forged, b"198.51.100.7"]))]
    assert client_host(websocket_scope(client=("10.0.0.1", 1), headers=headers), ("10.0.0.1",)) == "198.51.100.7"


@given(address=st.ip_addresses())
def test_a_key_is_an_address_or_a_sites_network(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """All addresses of an IPv6 /64 share one key."""
    key = client_key(str(address))
    if isinstance(address, ipaddress.IPv4Address) or address.ipv4_mapped:
        assert key == str(getattr(address, "ipv4_mapped", None) or address)
    else:
        network = ipaddress.ip_network(key)
        assert (address in network, network.prefixlen) == (True, 64)
        assert client_key(str(network[-1])) == key


def test_a_wrong_proxy_is_an_error_when_it_is_configured() -> None:
    """Not when the first client comes."""
    with pytest.raises(ValueError, match="proxy"):
        client_keys(("proxy.internal",))
    assert client_keys(("*", "10.0.0.0/8", "::1"))(websocket_scope(client=("::1", 1))) == "::/64"


class Unfinished:
    """As Starlette's base user: its ``identity`` is left to the app."""

    display_name = "ann"

    @property
    def identity(self) -> str:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        (None, ""),
        ("", ""),
        ("ann", "ann"),
        (SimpleNamespace(id=7), "7"),
        (SimpleNamespace(id=None, identity="x"), "x"),
        (Unfinished(), "ann"),
        (object(), ""),
    ],
)
def test_a_user_is_known_by_whatever_id_it_has(user: Any, expected: str) -> None:
    """A string, or an object with ``id``, ``identity`` or ``display_name``."""
    assert user_id(user) == expected


async def test_deny_answers_with_a_problem_document() -> None:
    """Status, media type and length are right (RFC 9457), and extra headers are there."""
    server = Server()
    await deny(
        websocket_scope(),
        server.receive,
        server.send,
        status=503,
        close=AT_CAPACITY,
        detail="Full.",
        headers=[(b"retry-after", b"7")],
    )
    assert server.violations == []
    assert server.status == 503
    assert server.response_headers[b"content-type"] == b"application/problem+json"
    assert int(server.response_headers[b"content-length"]) == len(server.body)
    assert server.response_headers[b"retry-after"] == b"7"
    assert json.loads(server.body) == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "reason": "at-capacity",
        "detail": "Full.",
    }


@pytest.mark.parametrize("extensions", [{}, None])
async def test_deny_closes_before_accept_where_no_response_is_possible(extensions: Any) -> None:
    """Also when the server knows of no extensions at all."""
    server = Server()
    await deny({**websocket_scope(), "extensions": extensions}, server.receive, server.send, status=503, close=AT_CAPACITY)
    assert (server.close, server.violations) == ((1013, "at-capacity"), [])
