"""permessage-deflate without state: negotiated, compressed once, inflated within bounds."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.deflate import MAX_BYTES, DeflateEncoder, deflate_encoder, deflate_totals

from .clients import BINARY, CONT, TEXT, App, Peer, close_of, frame, turns

OFFER = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"


def deflated(payload: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def inflated(body: bytes, window_bits: int = 15) -> bytes:
    return zlib.decompressobj(-window_bits).decompress(body + b"\x00\x00\xff\xff")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(min_size=0, max_size=2000), max_size=8), st.integers(9, 15), st.integers(1, 9))
def test_every_message_can_be_read_alone(payloads: list[bytes], window_bits: int, level: int) -> None:
    """One compressor for all, yet no message needs another one, and the window is kept (RFC 7692 §7.1)."""
    encoder = DeflateEncoder(level=level, window_bits=window_bits, minimum_bytes=0)
    for payload in payloads:
        first, body = encoder.encode(payload, text=False)
        assert first == 0xC2
        assert inflated(body, window_bits) == payload


def test_equal_messages_are_equal_whatever_came_between() -> None:
    """So a frame can be cached, and a message's size says nothing about another message."""
    encoder = DeflateEncoder(level=6, window_bits=15, minimum_bytes=0)
    secret = b'{"token": "correct horse battery staple"}' * 5
    alone = encoder.encode(secret, text=True)
    encoder.encode(secret * 10, text=True)
    assert encoder.encode(secret, text=True) == alone


def test_small_and_dense_payloads_stay_plain() -> None:
    """RSV1 is set only where it helps."""
    encoder = DeflateEncoder(level=6, window_bits=15, minimum_bytes=100)
    assert encoder.encode(b"a" * 99, text=True) == (0x81, b"a" * 99)
    assert encoder.encode(b"a" * 100, text=True)[0] == 0xC1
    dense = bytes((at * 89 + at * at * 7) % 251 for at in range(120))
    assert encoder.encode(dense, text=False) == (0x82, dense)


def test_large_payloads_stay_plain() -> None:
    """Deflating one would keep the event loop, however much smaller it became."""
    encoder = DeflateEncoder(level=1, window_bits=15, minimum_bytes=0)
    assert encoder.encode(bytes(MAX_BYTES), text=False)[0] == 0xC2
    assert encoder.encode(bytes(MAX_BYTES + 1), text=False) == (0x82, bytes(MAX_BYTES + 1))


async def test_there_are_two_windows_whatever_clients_ask_for() -> None:
    """So a message is deflated twice at most, however many clients there are."""
    encoders = set()
    for bits in range(9, 16):
        peer = Peer(App(), deflate=True)
        await peer.open(b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=%d\r\n" % bits)
        assert peer.wire.encoder is not None
        encoders.add(peer.wire.encoder)
    assert len(encoders) == 2


def test_connections_with_the_same_window_share_their_encoder() -> None:
    """One object for all of them: it is the key under which a message's frame is cached."""
    assert deflate_encoder(6, 15, 256) is deflate_encoder(6, 15, 256)
    assert deflate_encoder(6, 12, 256) is not deflate_encoder(6, 15, 256)


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        (b"permessage-deflate", b"permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
        (
            b"permessage-deflate; server_max_window_bits=10",
            b"permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9",
        ),
        (
            b"permessage-deflate; server_max_window_bits=14; client_max_window_bits=10",
            b"permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9; "
            b"client_max_window_bits=10",
        ),
        (
            b"permessage-deflate; server_max_window_bits=15",
            b"permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15",
        ),
        (b"permessage-deflate; server_max_window_bits=8", None),
        (b"permessage-deflate; server_max_window_bits=16", None),
        (b"permessage-deflate; nonsense", None),
        (b"permessage-brotli", None),
    ],
)
async def test_what_is_agreed_on(offer: bytes, answer: bytes | None) -> None:
    """No context takeover in either direction; the large window, or the small one for who asks for less than that."""
    peer = Peer(App(), deflate=True)
    head = await peer.open(b"Sec-WebSocket-Extensions: " + offer + b"\r\n")
    assert b"101 " in head
    lines = [line.partition(b": ")[2] for line in head.split(b"\r\n") if line.startswith(b"sec-websocket-extensions")]
    assert lines == ([answer] if answer else [])


async def test_off_by_default() -> None:
    """An offer is ignored unless the option is on."""
    peer = Peer(App())
    assert b"extensions" not in await peer.open(OFFER)
    assert peer.wire.encoder is None


async def test_compressed_both_ways_also_in_fragments() -> None:
    """The app sees plain messages, the wire compressed ones; small answers stay plain."""
    app = App(echo=True)
    peer = Peer(app, deflate=True, deflate_minimum_bytes=64)
    await peer.open(OFFER)
    text = "sehr, sehr lang. " * 40
    body = deflated(text.encode())
    peer.send(frame(TEXT, body, rsv=0x40) + frame(TEXT, body[:9], fin=False, rsv=0x40) + frame(CONT, body[9:]))
    peer.send(frame(TEXT, b"short") + frame(BINARY, deflated(b"also short"), rsv=0x40))
    await turns(20)
    assert app.messages == [text, text, "short", b"also short"]
    frames = peer.frames()
    assert [first for first, _ in frames] == [0xC1, 0xC1, 0x81, 0x82]
    assert inflated(frames[0][1]).decode() == text
    assert frames[0] == frames[1]
    assert peer.wire._parser is None, "nothing is kept between messages"


@pytest.mark.parametrize("fragments", [1, 16])
async def test_a_bomb_ends_with_1009(fragments: int) -> None:
    """64 MiB of zeros in 64 KB do not get past a limit of 1 MiB."""
    peer = Peer(App(), deflate=True)
    await peer.open(OFFER)
    bomb = deflated(bytes(64 * 2**20))
    size = -(-len(bomb) // fragments)
    for at in range(0, len(bomb), size):
        if peer.wire.ending is None:
            last = at + size >= len(bomb)
            peer.send(frame(0 if at else BINARY, bomb[at : at + size], fin=last, rsv=0 if at else 0x40))
    assert [close_of(payload)[0] for _, payload in peer.frames()] == [1009]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"\xff\xff\xff", rsv=0x40), 1002),
        (frame(TEXT, deflated(b"\xff"), rsv=0x40), 1007),
        (frame(TEXT, deflated(b"x"), fin=False, rsv=0x40) + frame(CONT, b"", rsv=0x40), 1002),
    ],
)
async def test_broken_compression(data: bytes, code: int) -> None:
    """What cannot be inflated is 1002, what is no text then is 1007."""
    peer = Peer(App(), deflate=True)
    await peer.open(OFFER)
    peer.send(data)
    assert [close_of(payload)[0] for _, payload in peer.frames()] == [code]


async def test_an_encoder_set_by_a_layer_comes_first() -> None:
    """A layer that encodes by itself is not deflated on top, and the client is not told so."""

    class Encoder:
        def encode(self, payload: bytes, *, text: bool) -> tuple[int, bytes]:
            return 0x82, payload[::-1]

    class Hooks:
        def accepting(self, event: Any) -> Any:
            peer.wire.encoder = Encoder()
            return event

        def outbound(self, event: Any) -> Any:
            return event

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["extensions"]["tidegate.frames"].install(Hooks())
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "abc"})
        await receive()

    peer = Peer(app, deflate=True)
    assert b"extensions" not in await peer.open(OFFER)
    assert peer.frames() == [(0x82, b"cba")]


async def test_what_is_deflated_and_inflated_is_counted_once_per_message() -> None:
    """Messages, bytes before and on the wire, and time, by direction; what stays plain is not among them."""

    def grown() -> dict[tuple[str, str], float]:
        return {(name, direction): value for name, values in deflate_totals().items() for (direction,), value in values.items()}

    before = grown()
    encoder = DeflateEncoder(level=6, window_bits=15, minimum_bytes=10)
    _, body = encoder.encode(b"a" * 100, text=True)
    encoder.encode(b"short", text=True)
    peer = Peer(App(), deflate=True)
    await peer.open(OFFER)
    packed = deflated(b"b" * 300)
    peer.send(frame(TEXT, packed[:3], rsv=0x40, fin=False) + frame(CONT, packed[3:]) + frame(TEXT, b"plain"))
    await turns()
    now = {key: value - before[key] for key, value in grown().items()}
    assert now["deflate_messages_total", "outbound"] == now["deflate_messages_total", "inbound"] == 1
    assert (now["deflate_raw_bytes_total", "outbound"], now["deflate_wire_bytes_total", "outbound"]) == (100, len(body))
    assert (now["deflate_raw_bytes_total", "inbound"], now["deflate_wire_bytes_total", "inbound"]) == (300, len(packed))
    assert min(now["deflate_seconds_total", "outbound"], now["deflate_seconds_total", "inbound"]) > 0
    peer.lose()
