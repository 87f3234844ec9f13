"""A message that goes to many is compressed once; and what compressing reports."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

from prometheus_client import CollectorRegistry

from middleware.asgi import FRAMES_EXTENSION, ASGIApp, Event
from middleware.compression import (
    COMPRESSION_CACHE_HITS,
    COMPRESSION_CONNECTIONS,
    COMPRESSION_MESSAGES,
    COMPRESSION_RAW_BYTES,
    COMPRESSION_SECONDS,
    COMPRESSION_WIRE_BYTES,
    DECOMPRESSION_MESSAGES,
    DECOMPRESSION_RAW_BYTES,
    DECOMPRESSION_SECONDS,
    DECOMPRESSION_WIRE_BYTES,
    CompressionMiddleware,
)
from middleware.layer import Guard, Layer, Link
from middleware.metrics import MetricsMiddleware

from .asgi_helpers import Server, echo, run, text, websocket_scope
from .compression_client import LONG, TEXT, App, compressed, trained, unpack
from .fake_frames import FakeFrames, framed


class Observing(Layer):
    """Sums up what the layers inside observe."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(app)
        self.sums: dict[str, float] = {}

    async def open(self, link: Link) -> Guard | None:
        link.subscribe(lambda name, value: self.sums.__setitem__(name, self.sums.get(name, 0.0) + value))
        return None


async def on_frames(app: ASGIApp, offered: str, *script: Event) -> tuple[FakeFrames, Server]:
    """Drive ``app`` under a server that offers the frames extension."""
    server = Server(*script)
    scope, receive, send = framed(websocket_scope(subprotocols=[offered]), server)
    await app(scope, receive, send)
    frames: FakeFrames = scope["extensions"][FRAMES_EXTENSION]
    return frames, server


async def test_frames_extension_gets_the_shared_encoder() -> None:
    """Connections that agreed on the same are given one encoder, so that the server's frame cache serves them all."""
    dictionary = trained()
    app = CompressionMiddleware(App(), dictionaries=[dictionary])
    first, second = [(await on_frames(app, "zstd"))[0].encoder for _ in range(2)]
    other = (await on_frames(app, f"zstd.{dictionary.id}"))[0].encoder
    assert first is second
    assert first is not None
    assert other is not None
    assert other is not first
    for encoder, known in ((first, None), (other, dictionary)):
        first_byte, body = encoder.encode(LONG.encode(), text=True)
        assert first_byte == 0x82
        assert unpack(body, known) == LONG
        assert unpack(encoder.encode(b"\xff", text=False)[1], known) == b"\xff"


async def test_frames_extension_encodes_and_we_do_not() -> None:
    """What the app sends is left to the server's encoder; what the client says is unpacked all the same."""
    app = App(messages=[LONG])
    frames, server = await on_frames(CompressionMiddleware(app), "zstd", compressed(b"tide" * 50, TEXT))
    assert frames.encoder is not None
    assert server.payloads == [LONG]
    assert server.of("accept")[0]["subprotocol"] == "zstd"
    assert app.heard == ["tide" * 50]


async def test_frames_extension_stays_plain_for_a_plain_name() -> None:
    """No encoder is set when the app accepts something else."""
    frames, _ = await on_frames(CompressionMiddleware(App("chat")), "chat")
    assert frames.encoder is None
    frames, _ = await on_frames(CompressionMiddleware(App(None)), "chat+zstd")
    assert frames.encoder is None


class Counted:
    """``compress``, counting its calls."""

    def __init__(self, compress: Callable[[bytes], bytes]) -> None:
        self.compress = compress
        self.calls = 0

    def __call__(self, payload: bytes) -> bytes:
        self.calls += 1
        return self.compress(payload)


def counted(app: CompressionMiddleware) -> Counted:
    """Count what the plain codec of ``app`` compresses from now on, on this thread."""
    zstd = app._codecs["zstd"]._zstd
    zstd.compress = Counted(zstd.compress)
    return zstd.compress


async def send_to_many(app_options: dict[str, Any], rounds: Sequence[Sequence[str | bytes]]) -> tuple[int, list[Server]]:
    """Send each of ``rounds`` on a connection of its own; returns how often something was compressed."""
    inner = App()
    app = CompressionMiddleware(inner, **app_options)
    counter = counted(app)
    servers = []
    for messages in rounds:
        inner.messages = messages
        servers.append(await run(app, websocket_scope(subprotocols=["zstd"])))
    return counter.calls, servers


async def test_message_to_many_is_compressed_once() -> None:
    """The same payload object on fifty connections is compressed once, as text and as binary."""
    binary_payload = LONG.encode()
    calls, servers = await send_to_many({}, [[LONG, binary_payload]] * 50)
    assert calls == 2
    assert all([unpack(message) for message in server.payloads] == [LONG, binary_payload] for server in servers)


async def test_incompressible_message_to_many_is_tried_once() -> None:
    """The memo also remembers that compressing was of no use."""
    noise = os.urandom(500)
    calls, servers = await send_to_many({}, [[noise]] * 10)
    assert calls == 1
    assert {server.payloads[0] for server in servers} == {b"\x00" + noise}


async def test_without_memo_every_recipient_costs() -> None:
    """``memo_bytes=None`` remembers nothing."""
    calls, _ = await send_to_many({"memo_bytes": None}, [[LONG]] * 5)
    assert calls == 5


async def test_memo_survives_reused_ids() -> None:
    """Payloads that live and die at the same address are never taken for each other."""
    for memo_bytes in (1, 2000, 1024 * 1024):
        codec = CompressionMiddleware(App(), memo_bytes=memo_bytes)._codecs["zstd"]
        for number in range(2000):
            payload = f"{number:08}" * 10
            assert unpack(codec.pack(payload)) == payload


def test_changing_payloads_are_not_remembered() -> None:
    """A bytearray that the app fills anew is packed anew."""
    codec = CompressionMiddleware(App())._codecs["zstd"]
    buffer: Any = bytearray(b"a" * 100)
    assert unpack(codec.pack(buffer)) == b"a" * 100
    buffer[:] = b"b" * 100
    assert unpack(codec.pack(buffer)) == b"b" * 100
    assert unpack(codec.pack(memoryview(buffer))) == b"b" * 100  # type: ignore[arg-type]


def test_memo_is_bounded_in_bytes() -> None:
    """The memo keeps at most its bytes, the oldest leave first, and the newest stays even when it alone is larger."""
    codec = CompressionMiddleware(App(), memo_bytes=10_000)._codecs["zstd"]
    memo = codec._thread.memo
    payloads = [os.urandom(500) for _ in range(100)]
    for payload in payloads:
        codec.pack(payload)
        assert 0 < memo._used_bytes <= 10_000
    assert memo.get(payloads[0]) is None
    assert memo.get(payloads[-1]) is not None
    large = os.urandom(50_000)
    codec.pack(large)
    assert list(memo._entries) == [id(large)]
    codec.pack(payloads[0])
    assert list(memo._entries) == [id(payloads[0])]
    assert memo._used_bytes <= 10_000


def test_threads_do_not_share_compressors() -> None:
    """Four threads pack and unpack through one codec at once, and every message is right."""
    codec = CompressionMiddleware(App())._codecs["zstd"]
    wrong: list[int] = []

    def work(seed: int) -> None:
        for number in range(300):
            payload = f"{seed}-{number} " * 200
            if codec.unpack(codec.pack(payload)) != payload:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)


# What is reported.


async def test_observations() -> None:
    """Messages, bytes before and after, seconds and hits are reported to whoever measures; sums are exact."""
    inner = App(messages=[LONG, LONG, "short"])
    app = Observing(CompressionMiddleware(inner))
    said = compressed(LONG.encode(), TEXT)
    server = await run(app, websocket_scope(subprotocols=["zstd"]), said)
    first, _, short = server.payloads
    seconds = app.sums.pop(COMPRESSION_SECONDS), app.sums.pop(DECOMPRESSION_SECONDS)
    assert app.sums == {
        COMPRESSION_CONNECTIONS: 1,
        COMPRESSION_MESSAGES: 2,
        COMPRESSION_RAW_BYTES: len(LONG) + len("short"),
        COMPRESSION_WIRE_BYTES: len(first) + len(short),
        COMPRESSION_CACHE_HITS: 1,
        DECOMPRESSION_MESSAGES: 1,
        DECOMPRESSION_RAW_BYTES: len(LONG),
        DECOMPRESSION_WIRE_BYTES: len(said["bytes"]),
    }
    assert all(0 < spent < 5 for spent in seconds)


async def test_what_the_server_encoded_is_reported_too() -> None:
    """With the frames extension, what the shared encoder did is reported by the next connection that does or ends something."""
    inner = App()
    app = Observing(CompressionMiddleware(inner))
    frames, _ = await on_frames(app, "zstd")
    assert frames.encoder is not None
    frames.encoder.encode(LONG.encode(), text=True)
    assert COMPRESSION_MESSAGES not in app.sums
    await on_frames(app, "zstd")
    assert (app.sums[COMPRESSION_MESSAGES], app.sums[COMPRESSION_RAW_BYTES]) == (1, len(LONG))


class Fanning(App):
    """Sends what a server's cache of frames has encoded once to all that are there; ``look`` is called while they are."""

    def __init__(self, members: int, look: Callable[[], None]) -> None:
        super().__init__()
        self.members: list[FakeFrames] = []
        self.wanted, self.look = members, look
        self.done = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept", "subprotocol": None})
        self.members.append(scope["extensions"][FRAMES_EXTENSION])
        if len(self.members) == self.wanted:
            encoder = self.members[0].encoder
            assert encoder is not None
            for member, frame in product(self.members, [encoder.encode(LONG.encode(), text=True)[1] for _ in range(2)]):
                member.write(frame)
            self.look()
            self.done.set()
        await self.done.wait()


async def test_what_was_done_is_told_when_figures_are_read() -> None:
    """Two messages, packed once each and sent to three that say nothing; all who listen are told, and nothing twice."""
    read: list[dict[str, float]] = []

    def look() -> None:
        layer.report()
        layer.report()
        read.extend((dict(inside.sums), dict(outside.sums)))

    inner = Fanning(3, look)
    layer = CompressionMiddleware(inner)
    inside = Observing(layer)
    outside = Observing(inside)
    await asyncio.gather(*(on_frames(outside, "zstd") for _ in range(3)))
    assert read[0] == read[1] == inside.sums == outside.sums
    assert (read[0][COMPRESSION_MESSAGES], read[0][COMPRESSION_CACHE_HITS]) == (2, 4)
    layer.report()
    assert read[0] == inside.sums


async def test_a_scrape_reads_what_the_layers_inside_have_not_told() -> None:
    """No client has said anything since, and both registries have it."""
    one, two = CollectorRegistry(), CollectorRegistry()
    read: list[tuple[float | None, float | None]] = []

    def look() -> None:
        for registry in (one, two):
            found = [registry.get_sample_value(f"tidegate_compression_{name}_total", labels) for name, labels in names]
            read.append((found[0], found[1]))

    names = [("messages", {"direction": "outbound"}), ("cache_hits", {})]
    app = MetricsMiddleware(MetricsMiddleware(CompressionMiddleware(Fanning(3, look)), registry=one), registry=two)
    await asyncio.gather(*(on_frames(app, "zstd") for _ in range(3)))
    assert read == [(2, 4), (2, 4)]


async def test_plain_connections_report_nothing() -> None:
    """A client that negotiated nothing counts nowhere here."""
    app = Observing(CompressionMiddleware(echo))
    await run(app, websocket_scope(), text(LONG))
    assert app.sums == {}
