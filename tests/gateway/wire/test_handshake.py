"""``agreed_at_once`` and ``judged``: two ways through a handshake that say the same."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.server import ServerProtocol

from gateway.wire.deflate import offer
from gateway.wire.handshake import HandshakeRequest, HeaderList, Refused, agreed_at_once, judged, negotiate, response

from .clients import KEY

PLAIN = {
    b"host": b"localhost",
    b"connection": b"Upgrade",
    b"upgrade": b"websocket",
    b"sec-websocket-version": b"13",
    b"sec-websocket-key": KEY,
}
"""As the libraries write it."""
DEFLATE = b"permessage-deflate; client_max_window_bits"
BROWSER = PLAIN | {b"origin": b"https://example.com", b"sec-websocket-extensions": DEFLATE, b"user-agent": b"a browser"}


def request(headers: dict[bytes, bytes] | HeaderList, method: str = "GET", version: str = "1.1") -> HandshakeRequest:
    """A request with these headers."""
    return HandshakeRequest(method, b"/ws/room", version, list(headers.items()) if isinstance(headers, dict) else headers)


def handshaker(*, deflate: bool = False) -> ServerProtocol:
    """As connections share it."""
    return ServerProtocol(extensions=[offer()] if deflate else None)


@pytest.mark.parametrize(
    "headers",
    [
        PLAIN,
        BROWSER,
        BROWSER | {b"connection": b"keep-alive, Upgrade"},
        PLAIN | {b"upgrade": b"WebSocket"},
        PLAIN | {b"sec-websocket-protocol": b"chat, chat+zstd"},
    ],
)
def test_what_clients_usually_write_is_agreed_at_once(headers: dict[bytes, bytes]) -> None:
    """Libraries, Chromium and Firefox, with and without subprotocols; what is agreed is what the library finds."""
    at_once = agreed_at_once(request(headers), handshaker())
    assert at_once is not None
    assert at_once == judged(request(headers), handshaker())


def test_extensions_are_judged_where_there_are_any() -> None:
    """With permessage-deflate on, an offer of it is the library's to answer."""
    shared = handshaker(deflate=True)
    assert agreed_at_once(request(BROWSER), shared) is None
    assert negotiate(request(BROWSER), shared).agreement.windows is not None
    assert agreed_at_once(request(PLAIN), shared) == judged(request(PLAIN), shared)


@pytest.mark.parametrize("value", [b"websocket, h2c", b"h2c,WebSocket", b"websocket,"])
def test_websocket_may_be_one_of_several_upgrades(value: bytes) -> None:
    """The header is a list; we choose what we speak."""
    assert negotiate(request(PLAIN | {b"upgrade": value}), handshaker()).agreement == judged(request(PLAIN), handshaker())


@pytest.mark.parametrize("value", [b"h2c", b"websocket/13, h2c", b"web, socket"])
def test_another_upgrade_is_none_of_ours(value: bytes) -> None:
    """426 with the one that we speak."""
    with pytest.raises(Refused) as refused:
        negotiate(request(PLAIN | {b"upgrade": value}), handshaker())
    assert (refused.value.status, (b"upgrade", b"websocket") in refused.value.headers) == (426, True)


def test_the_answer_is_that_of_the_specification() -> None:
    """The key and the answer to it of RFC 6455 §1.3."""
    assert (b"sec-websocket-accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") in negotiate(request(PLAIN), handshaker()).agreement.headers


VALUES = {
    b"connection": [b"Upgrade", b"upgrade", b"keep-alive, Upgrade", b"keep-alive", b"upgrade,", b"Upgrade, x y", b""],
    b"upgrade": [b"websocket", b"WebSocket", b"websocket/13", b"h2c", b"websocket, h2c", b""],
    b"sec-websocket-version": [b"13", b"8", b"013", b"13, 8", b""],
    b"sec-websocket-key": [KEY, KEY[:-1], KEY[:-2], b"dGhlIHNhbXBsZSBub25jZR==", b"!" + KEY[1:], b"YWJj", KEY + KEY, b"\xe9", b""],
    b"sec-websocket-protocol": [b"chat", b"a, b", b"a,,b", b", a", b"a b", b"a/b", b"\xe9", b""],
    b"sec-websocket-extensions": [DEFLATE, b"permessage-deflate", b"x", b"x" + b", x" * 31, b"x" + b", x" * 32, b"; ;", b""],
    b"origin": [b"https://example.com", b"null", b""],
    b"x-other": [b"anything"],
}
CONTROLS = bytes((*range(9), *range(10, 32), 127))
"""Whoever sends one of these is refused before."""
HEADERS = st.sampled_from(sorted(VALUES)).flatmap(
    lambda name: st.tuples(
        st.just(name),
        st.sampled_from(VALUES[name]) | st.binary(max_size=30).map(lambda value: value.translate(None, CONTROLS)),
    )
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(HEADERS, max_size=3),
    st.sets(st.sampled_from(sorted(PLAIN)), max_size=1),
    st.sampled_from(["GET"] * 6 + ["POST", "get"]),
    st.sampled_from(["1.1"] * 6 + ["1.0", "2"]),
    st.booleans(),
)
def test_both_ways_say_the_same(changes: HeaderList, left_out: set[bytes], method: str, version: str, deflate: bool) -> None:
    """Whatever is changed, doubled or left out of a plain request: what is agreed at once is what the library agrees to."""
    changed = {name for name, _ in changes} if len(changes) != 2 else set()  # else it is there twice
    headers = [(name, value) for name, value in PLAIN.items() if name not in left_out | changed] + changes
    at_once = agreed_at_once(request(headers, method, version), handshaker(deflate=deflate))
    if at_once is not None:
        assert at_once == judged(request(headers, method, version), handshaker(deflate=deflate))


@pytest.mark.parametrize("value", [b"a\nb", b"a\rb", b"a\0b", b"\x7f", b"\x1b[0m"])
def test_no_header_has_control_characters(value: bytes) -> None:
    """In neither direction: the client's is refused, the app's is its mistake."""
    with pytest.raises(Refused, match="control characters"):
        negotiate(request(PLAIN | {b"x-other": value}), handshaker())
    with pytest.raises(RuntimeError, match="valid headers"):
        response(200, [(b"x-other", value)])


@pytest.mark.parametrize("name", [b"", b"a b", b"a:b", b"a\n", b"\xe9"])
def test_the_name_of_a_header_is_a_token(name: bytes) -> None:
    """An app cannot smuggle a second header into a name."""
    with pytest.raises(RuntimeError, match="valid headers"):
        response(200, [(name, b"x")])
