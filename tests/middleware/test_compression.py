"""CompressionMiddleware: what is agreed with a client, and what travels then."""

from __future__ import annotations

import os
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from middleware.asgi import ASGIApp, Event, Receive, Scope, Send
from middleware.channel import AsgiChannel
from middleware.compression import (
    MAX_OFFERS,
    CompressionMiddleware,
)
from middleware.layer import Link

from .asgi_helpers import Server, binary, echo, http_scope, run, text, websocket_scope
from .compression_client import COMPRESSED, LONG, TEXT, App, compressed, event, trained, unpack


async def accept(app: ASGIApp, *offered: str) -> str | None:
    """The subprotocol that a client which offers ``offered`` is told."""
    server = await run(app, websocket_scope(subprotocols=offered))
    accepted: str | None = server.of("accept")[0].get("subprotocol")
    return accepted


# What is agreed.


@pytest.mark.parametrize(
    ("offered", "seen", "chosen", "told"),
    [
        (["chat+zstd", "chat"], ["chat"], "chat", "chat+zstd"),
        (["chat", "chat+zstd"], ["chat"], "chat", "chat+zstd"),
        (["chat+zstd"], ["chat"], "chat", "chat+zstd"),
        (["v2+zstd", "v2", "v1"], ["v2", "v1"], "v1", "v1"),
        (["v2+zstd", "v1+zstd"], ["v2", "v1"], "v1", "v1+zstd"),
        (["zstd"], [], None, "zstd"),
        (["zstd", "chat"], ["chat"], None, "zstd"),
        (["zstd", "chat"], ["chat"], "chat", "chat"),
        (["chat+zstd", "chat"], ["chat"], None, None),
        (["mqtt+json+zstd"], ["mqtt+json"], "mqtt+json", "mqtt+json+zstd"),
    ],
)
async def test_negotiation(offered: list[str], seen: list[str], chosen: str | None, told: str | None) -> None:
    """The app sees plain names in the client's order; what it accepts is told to the client in the form the client offered."""
    app = App(chosen)
    assert await accept(CompressionMiddleware(app), *offered) == told
    assert app.offered == seen


async def test_dictionary_is_named_by_its_id() -> None:
    """A client that has a dictionary names it behind a dot; its first compressed form of a name is taken."""
    dictionary = trained()
    app = App("chat")
    wrapped = CompressionMiddleware(app, dictionaries=[dictionary])
    assert await accept(wrapped, f"chat+zstd.{dictionary.id}", "chat+zstd", "chat") == f"chat+zstd.{dictionary.id}"
    assert await accept(wrapped, "chat+zstd", f"chat+zstd.{dictionary.id}") == "chat+zstd"
    assert await accept(CompressionMiddleware(App(), dictionaries=[dictionary]), f"zstd.{dictionary.id}") == f"zstd.{dictionary.id}"


async def test_unknown_dictionary_falls_back() -> None:
    """A dictionary that the server does not have is passed over, and the app never sees its name."""
    dictionary = trained()
    app = App("chat")
    wrapped = CompressionMiddleware(app, dictionaries=[dictionary])
    assert await accept(wrapped, "chat+zstd.0000000000000000", "chat+zstd", "chat") == "chat+zstd"
    assert app.offered == ["chat"]
    assert await accept(wrapped, "zstd.0000000000000000", "chat+zstd") == "chat+zstd"
    assert app.offered == ["chat"]


@pytest.mark.parametrize(
    "token",
    [
        "+zstd",
        "ch at+zstd",
        "chat,x+zstd",
        "ch\xe4t+zstd",
        "\x00+zstd",
        "x" * 129 + "+zstd",
        "zstd.",
        "+",
        "",
        "Zstd",
        "zstd+",
        "b" + " " * 32768,
    ],
)
async def test_odd_tokens_agree_on_nothing(token: str) -> None:
    """A token that is not a name of the grammar with our suffix negotiates nothing and is never echoed."""
    app = App(None)
    assert await accept(CompressionMiddleware(app), token) is None
    assert app.offered == [token]


async def test_offers_are_bounded() -> None:
    """Only the first offers of a handshake are looked at."""
    app = App("chat")
    many = [f"v{number}" for number in range(MAX_OFFERS)]
    assert await accept(CompressionMiddleware(app), *many, "chat+zstd") == "chat"
    assert await accept(CompressionMiddleware(app), "chat+zstd", *many * 1000) == "chat+zstd"
    assert len(app.offered) == MAX_OFFERS


async def test_clients_that_offer_nothing_are_untouched() -> None:
    """Without an offer there is no guard, the messages are the same objects, and the subprotocols are as they were."""
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["subprotocols"])
        await echo(scope, receive, send)

    scope = websocket_scope(subprotocols=["chat"])
    server = await run(CompressionMiddleware(app), scope, text(LONG), binary(b"\x01"), text(""))
    assert server.payloads == [LONG, b"\x01", ""]
    assert seen == [["chat"]]
    link = Link(scope, AsgiChannel(server.receive, server.send))
    assert await CompressionMiddleware(app).open(link) is None


async def test_app_that_accepts_the_plain_name_gets_plain_messages() -> None:
    """An offer that the app did not take leaves the connection plain in both directions."""
    app = App("v1", [LONG])
    server = await run(CompressionMiddleware(app), websocket_scope(subprotocols=["v2+zstd", "v1"]), binary(b"\xffraw"))
    assert server.payloads == [LONG]
    assert app.heard == [b"\xffraw"]


async def test_scope_and_events_are_not_changed() -> None:
    """The server's scope and the app's events are the caller's own: nothing is changed in place."""
    sent: Event = {"type": "websocket.send", "text": LONG}
    accepted: Event = {"type": "websocket.accept", "subprotocol": "chat", "headers": []}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(accepted)
        await send(sent)

    scope = websocket_scope(subprotocols=["chat+zstd"])
    await run(CompressionMiddleware(app), scope)
    assert scope["subprotocols"] == ["chat+zstd"]
    assert (sent, accepted["subprotocol"]) == ({"type": "websocket.send", "text": LONG}, "chat")


async def test_http_passes() -> None:
    """Other scopes pass straight through."""
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    scope = http_scope()
    await CompressionMiddleware(app)(scope, Server().receive, Server().send)
    assert seen[0] is scope


# What travels.


async def test_text_and_binary_both_ways() -> None:
    """Long messages travel compressed, as text or binary; the app hears what the client said and the client what the app said."""
    app = App(messages=[LONG, LONG.encode()])
    server = await run(
        CompressionMiddleware(app),
        websocket_scope(subprotocols=["zstd"]),
        compressed(LONG.encode(), TEXT),
        compressed(LONG.encode()),
    )
    assert [unpack(message) for message in server.payloads] == [LONG, LONG.encode()]
    assert all(isinstance(message, bytes) and len(message) < len(LONG) / 4 for message in server.payloads)
    assert app.heard == [LONG, LONG.encode()]


async def test_short_and_random_messages_travel_as_they_are() -> None:
    """What is short, empty or would not get smaller has one byte of flags and then itself."""
    noise = os.urandom(1000)
    app = App(messages=["", b"", "short", noise])
    server = await run(
        CompressionMiddleware(app), websocket_scope(subprotocols=["zstd"]), binary(b"\x02"), binary(b"\x00"), binary(b"\x02tide")
    )
    assert server.payloads == [b"\x02", b"\x00", b"\x02short", b"\x00" + noise]
    assert app.heard == ["", b"", "tide"]


async def test_minimum_bytes_is_the_first_size_compressed() -> None:
    """A message of ``minimum_bytes`` is compressed, one byte less is not; text counts in UTF-8."""
    app = App(messages=["a" * 99, "a" * 100, b"a" * 99, "é" * 50])
    server = await run(CompressionMiddleware(app, minimum_bytes=100), websocket_scope(subprotocols=["zstd"]))
    assert [message[0] & COMPRESSED for message in server.payloads if isinstance(message, bytes)] == [0, 1, 0, 1]


async def test_dictionary_both_ways() -> None:
    """With a dictionary even one short event gets much smaller, and frames do not carry the dictionary's number."""
    dictionary = trained()
    payload = event(4711)
    app = App(messages=[payload])
    data = zstandard.ZstdCompressionDict(dictionary.data)
    for said in (zstandard.ZstdCompressor(dict_data=data), zstandard.ZstdCompressor(dict_data=data, write_dict_id=False)):
        server = await run(
            CompressionMiddleware(app, dictionaries=[dictionary]),
            websocket_scope(subprotocols=[f"zstd.{dictionary.id}"]),
            binary(b"\x01" + said.compress(payload)),
        )
        assert unpack(server.payloads[0], dictionary) == payload
        assert len(server.payloads[0]) < len(payload) / 2
        assert zstandard.get_frame_parameters(bytes(server.payloads[0])[1:]).dict_id == 0  # type: ignore[arg-type]
    assert app.heard == [payload, payload]


async def test_frames_of_unknown_size_are_taken() -> None:
    """A client may compress as a stream, which does not declare the content's size, with or without a checksum."""
    frames = []
    for payload in (b"", b"tide", os.urandom(100_000), bytes(300_000)):
        compressor = zstandard.ZstdCompressor(write_checksum=len(frames) % 2 == 0).compressobj()
        frames.append((payload, compressor.compress(payload[:3]) + compressor.compress(payload[3:]) + compressor.flush()))
    app = App()
    await run(CompressionMiddleware(app), websocket_scope(subprotocols=["zstd"]), *(binary(b"\x01" + frame) for _, frame in frames))
    assert app.heard == [payload for payload, _ in frames]


async def test_empty_frame_is_an_empty_message() -> None:
    """A client that compresses even nothing is understood, with and without a checksum."""
    checksum = zstandard.ZstdCompressor(write_checksum=True).compress(b"")
    app = App()
    await run(CompressionMiddleware(app), websocket_scope(subprotocols=["zstd"]), compressed(b"", TEXT), binary(b"\x01" + checksum))
    assert app.heard == ["", b""]


@given(
    messages=st.lists(st.text() | st.binary() | st.binary(min_size=1, max_size=4).map(lambda b: b * 50), max_size=6),
    known=st.booleans(),
)
async def test_round_trip(messages: list[str | bytes], known: bool) -> None:
    """Whatever is sent comes back the same through pack, unpack, pack and unpack, with a dictionary and without."""
    dictionary = trained()
    used = dictionary if known else None
    wrapped = CompressionMiddleware(echo, minimum_bytes=8, dictionaries=[dictionary])
    scope = websocket_scope(subprotocols=[f"zstd.{dictionary.id}" if known else "zstd"])
    codec = wrapped._codecs[scope["subprotocols"][0]]
    server = await run(wrapped, scope, *(binary(codec.pack(message)) for message in messages))
    assert [unpack(message, used) for message in server.payloads] == messages


# How it is set up.


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"level": 0}, "level must be between 1 and 22"),
        ({"level": 23}, "level must be between 1 and 22"),
        ({"minimum_bytes": -1}, "minimum_bytes must not be negative"),
        ({"max_message_bytes": 0}, "max_message_bytes must be at least 1"),
        ({"memo_bytes": 0}, "memo_bytes must be at least 1, or None"),
    ],
)
def test_wrong_options(options: dict[str, Any], sentence: str) -> None:
    """A wrong option is a sentence at construction."""
    with pytest.raises(ValueError, match=sentence):
        CompressionMiddleware(App(), **options)


@pytest.mark.parametrize("level", [1, 3, 22])
async def test_levels(level: int) -> None:
    """Every level's messages are read by the same client."""
    server = await run(CompressionMiddleware(App(messages=[LONG]), level=level), websocket_scope(subprotocols=["zstd"]))
    assert unpack(server.payloads[0]) == LONG


async def test_events_without_a_payload_are_for_the_server_to_judge() -> None:
    """A send event with neither text nor bytes is passed on as it is."""
    empty: Event = {"type": "websocket.send", "text": None, "bytes": None}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        await send(empty)

    server = await run(CompressionMiddleware(app), websocket_scope(subprotocols=["zstd"]))
    assert server.of("send") == [empty]
