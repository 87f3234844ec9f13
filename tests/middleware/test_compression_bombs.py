"""CompressionMiddleware under attack: bombs, broken frames, messages out of the agreement, and what they cost."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from middleware.asgi import Event
from middleware.compression import (
    CompressionMiddleware,
)

from .asgi_helpers import binary, run, text, websocket_scope
from .compression_client import LONG, SAMPLES, SMALL_LIMIT, TEXT, App, compressed


def frame(size: int | None, window_log: int, *blocks: tuple[int, bytes], checksum: bool = False) -> bytes:
    """A zstd frame by hand (RFC 8878 §3.1.1): RLE blocks ``(length, byte)``, and any size declared."""
    descriptor = (0xC0 if size is not None else 0) | (4 if checksum else 0)
    out = b"\x28\xb5\x2f\xfd" + bytes([descriptor, (window_log - 10) << 3])
    out += b"" if size is None else struct.pack("<Q", size)
    for number, (length, byte) in enumerate(blocks, start=1):
        out += struct.pack("<I", length << 3 | 1 << 1 | (number == len(blocks)))[:3] + byte
    return out


BLOCK = (128 * 1024, b"a")
HUGE = [BLOCK] * 1000  # 125 MiB
TOO_BIG = (1009, "message-too-big")
BAD = (1007, "bad-payload")

BOMBS: dict[str, tuple[bytes, tuple[int, str]]] = {
    "a gibibyte of rle": (frame(None, 17, *[BLOCK] * 8192), TOO_BIG),
    "rle of unknown size": (frame(None, 17, *HUGE), TOO_BIG),
    "rle of declared size": (frame(len(HUGE) << 17, 17, *HUGE), TOO_BIG),
    "rle that declares little": (frame(10, 17, *HUGE), BAD),
    "rle that declares nothing": (frame(0, 17, *HUGE), BAD),
    "huge declared size": (frame(1 << 62, 17, (10, b"a")), TOO_BIG),
    "impossible declared size": (frame((1 << 64) - 2, 17, (10, b"a")), BAD),
    "rle that declares the limit": (frame(SMALL_LIMIT, 17, *HUGE), BAD),
    "huge window": (frame(None, 31, (10, b"a")), TOO_BIG),
    "largest window": (frame(None, 41, (10, b"a")), BAD),
    "window above the bound": (frame(None, 24, (10, b"a")), TOO_BIG),
    "window at the bound": (frame(None, 23, *HUGE), TOO_BIG),
    "many empty blocks": (frame(None, 17, *[(0, b"a")] * 300_000), TOO_BIG),
    "many small blocks": (frame(None, 17, *[(1, b"a")] * 2000), TOO_BIG),
    "many small blocks, declared": (frame(2000, 17, *[(1, b"a")] * 2000), TOO_BIG),
    "many frames": (zstandard.compress(bytes(60_000)) * 4096, BAD),
    "many empty frames": (zstandard.compress(b"") * 4096, BAD),
    "skippable frames": (b"\x50\x2a\x4d\x18\x04\x00\x00\x00tide" * 4096, BAD),
    "checksum garbage": (frame(10, 17, (10, b"a"), checksum=True) + b"tide", BAD),
    "one byte above the limit": (zstandard.compress(bytes(SMALL_LIMIT + 1)), TOO_BIG),
    "less than declared": (frame(1000, 17, (10, b"a")), BAD),
    "cut short": (zstandard.compress(LONG.encode())[:-4], BAD),
    "cut short, unknown size": (frame(None, 17, *[(10_000, b"a")] * 3)[:-4], BAD),
    "trailing bytes": (zstandard.compress(LONG.encode()) + b"x", BAD),
    "garbage": (b"garbage garbage garbage", BAD),
    "no frame": (b"", BAD),
    "a dictionary that was not agreed on": (
        zstandard.ZstdCompressor(dict_data=zstandard.train_dictionary(1024, SAMPLES)).compress(SAMPLES[0]),
        BAD,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
async def test_bombs_and_broken_frames_end_the_connection(name: str) -> None:
    """A frame that is too big or broken ends its connection with the right reason, and the app hears nothing of it."""
    bomb, close = BOMBS[name]
    app = App()
    wrapped = CompressionMiddleware(app, max_message_bytes=SMALL_LIMIT)
    server = await run(wrapped, websocket_scope(subprotocols=["zstd"]), binary(b"\x01" + bomb), binary(b"\x00after"))
    assert app.heard == []
    assert server.close == close


@pytest.mark.parametrize(
    ("sent", "close"),
    [
        (text("plain"), BAD),
        (text(""), BAD),
        (binary(b""), BAD),
        (binary(b"\x04tide"), BAD),
        (binary(b"\xff"), BAD),
        (binary(b"\x02\xff\xfe"), BAD),
        (binary(b"\x02\xed\xa0\x80"), BAD),
        (compressed(b"\xff" * 100, TEXT), BAD),
        (binary(b"\x00" + bytes(SMALL_LIMIT + 1)), TOO_BIG),
        ({"type": "websocket.receive", "text": "plain", "bytes": None}, BAD),
    ],
    ids=[
        "text",
        "empty text",
        "no flags",
        "unknown flag",
        "all flags",
        "not UTF-8",
        "surrogate",
        "not UTF-8 inside",
        "big",
        "both keys",
    ],
)
async def test_messages_out_of_the_agreement(sent: Event, close: tuple[int, str]) -> None:
    """Text messages, missing or unknown flags, text that is not UTF-8, too long: the connection ends, with the reason."""
    app = App()
    wrapped = CompressionMiddleware(app, max_message_bytes=SMALL_LIMIT)
    server = await run(wrapped, websocket_scope(subprotocols=["zstd"]), sent)
    assert app.heard == []
    assert server.close == close


async def test_messages_at_the_limit_pass() -> None:
    """The limit itself is allowed, compressed or not."""
    payload = os.urandom(SMALL_LIMIT)
    app = App()
    wrapped = CompressionMiddleware(app, max_message_bytes=SMALL_LIMIT)
    await run(wrapped, websocket_scope(subprotocols=["zstd"]), compressed(payload), binary(b"\x00" + payload))
    assert app.heard == [payload, payload]


@given(
    garbage=st.binary(max_size=200),
    prefix=st.sampled_from([b"", b"\x01", b"\x03", b"\x01\x28\xb5\x2f\xfd", b"\x03\x28\xb5\x2f\xfd"]),
)
async def test_garbage_never_raises(garbage: bytes, prefix: bytes) -> None:
    """Any bytes are either a message or the end of the connection: nothing else happens."""
    app = App()
    server = await run(CompressionMiddleware(app), websocket_scope(subprotocols=["zstd"]), binary(prefix + garbage))
    assert (len(app.heard) == 1) != (server.close in (BAD, TOO_BIG))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel's peak of a process is read from /proc")
@pytest.mark.parametrize("limit_bytes", [1024 * 1024, 16 * 1024 * 1024])
def test_bombs_take_less_than_twice_the_limit(limit_bytes: int) -> None:
    """Twenty connections that throw the same bomb at once raise the memory of the process by less than twice the limit."""
    command = [sys.executable, "-m", "tests.middleware.compression_memory", str(limit_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    growth = json.loads(done.stdout)
    assert growth.keys() == BOMBS.keys()
    assert {name: size for name, size in growth.items() if size >= 2 * limit_bytes} == {}
