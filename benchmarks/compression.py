"""What compressing a message costs and gains: zstd per message against permessage-deflate.

    python benchmarks/compression.py [--json results.json]

Small JSON events of five kinds, about 234 bytes each; the dictionary is trained on others than are measured. CPU is this
process's own time (``process_time``), the best of several rounds in which the ways take turns, so that a busy machine
disturbs all alike. Bytes are those of the message's payload on the wire: the byte of flags counts, the frame header, the
same for all, does not.

"to 500" is what compressing one message for 500 recipients costs: zstd compresses once, for all; deflate without context
can do the same, in a server that caches the frame; most servers, and all with context takeover, compress for each recipient.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import re
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import zstandard

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from middleware._codec import Codec
from middleware.compression import Dictionary, train_dictionary

EVENTS = 2000
RECIPIENTS = 500
ROUNDS = 5
DICTIONARY_BYTES = 16 * 1024
SYNC_TAIL = 4  # 00 00 FF FF, which permessage-deflate cuts off (RFC 7692 §7.2.1)

_WORDS = (
    "the", "tide", "gate", "lets", "water", "through", "and", "holds", "back", "a", "surge", "when", "wind", "turns",
    "at", "night", "boats", "wait", "for", "signal",
)  # fmt: skip
_NAMES = ["ada", "grace", "linus", "barbara", "edsger", "donald", "margaret", "dennis", "frances", "ken", "radia", "vint"]


def events(count: int, seed: int) -> list[bytes]:
    """Events as an application might publish them: fixed keys, few kinds, and values that are nobody's to guess."""
    source = random.Random(seed)
    return [_event(source) for _ in range(count)]


def _event(source: random.Random) -> bytes:
    kind = source.choice(["message.created", "message.edited", "order.updated", "presence.changed", "cursor.moved"])
    data: dict[str, object] = {
        "type": kind,
        "id": f"{source.getrandbits(64):016x}",
        "room": f"chat:{source.randrange(5000)}",
        "at": f"2026-{source.randrange(1, 13):02}-{source.randrange(1, 29):02}T{source.randrange(24):02}:{source.randrange(60):02}:"
        f"{source.randrange(60):02}.{source.randrange(1000):03}Z",
        "user": {
            "id": source.randrange(10**6),
            "name": source.choice(_NAMES),
            "avatar": f"/avatars/{source.randrange(10**4)}.webp",
        },
    }
    if kind.startswith("message"):
        data["body"] = {"text": " ".join(source.choices(_WORDS, k=source.randrange(3, 17))), "mentions": [], "html": False}
    elif kind == "order.updated":
        data["order"] = {"price": f"{source.randrange(10**6) / 100:.2f}", "currency": "EUR", "quantity": source.randrange(90)}
        data["status"] = source.choice(["open", "partially-filled", "filled", "cancelled"])
    elif kind == "cursor.moved":
        data["position"] = {"x": source.randrange(4000), "y": source.randrange(3000), "page": source.randrange(40), "tool": "pen"}
    else:
        data["presence"] = {"state": source.choice(["online", "away", "offline"]), "since": source.randrange(10**9)}
    return json.dumps(data, separators=(",", ":")).encode()


@dataclass
class Way:
    """One way to compress, and what was measured; CPU in microseconds per message."""

    name: str
    ratio: float
    pack_us: float
    unpack_us: float
    fan_out_us: float
    connection_bytes: int


def cpu(work: Callable[[], object], messages: int) -> float:
    """Microseconds of CPU per message."""
    started = time.process_time()
    work()
    return (time.process_time() - started) / messages * 1e6


def resident() -> int:
    """Memory in use, in bytes."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


class Zstd:
    """CompressionMiddleware's own codec."""

    def __init__(self, name: str, dictionary: Dictionary | None, level: int = 3) -> None:
        self.name = name
        self._codec = Codec(dictionary, level=level, minimum_bytes=0, max_message_bytes=1 << 20, memo_bytes=None)

    def pack(self, payload: bytes) -> bytes:
        return self._codec.encode(payload, text=True)[1]

    def unpack(self, message: bytes) -> object:
        return self._codec.unpack(message)

    def reset(self) -> None:
        """Nothing is kept between messages."""

    def connection(self) -> object:
        return None


class Deflate:
    """permessage-deflate, with one compressor and one decompressor for each direction of a connection."""

    def __init__(self, name: str, *, context: bool, shared: bool = False, window_bits: int = 15, memory_level: int = 8) -> None:
        self.name = name
        self.per_recipient = not shared
        self._context, self._window_bits, self._memory_level = context, window_bits, memory_level
        self._flush = zlib.Z_SYNC_FLUSH if context or not shared else zlib.Z_FULL_FLUSH
        self._shared = shared
        self._parameters = (6, zlib.DEFLATED, -window_bits, memory_level)
        self.reset()

    def reset(self) -> None:
        self._compressor = zlib.compressobj(*self._parameters)
        self._decompressor = zlib.decompressobj(self._parameters[2])

    def fresh(self) -> Deflate:
        """Another connection's."""
        return Deflate(self.name, context=self._context, window_bits=self._window_bits, memory_level=self._memory_level)

    def pack(self, payload: bytes) -> bytes:
        if not self._context and not self._shared:
            self._compressor = zlib.compressobj(*self._parameters)
        return (self._compressor.compress(payload) + self._compressor.flush(self._flush))[:-SYNC_TAIL]

    def unpack(self, message: bytes) -> object:
        if not self._context:
            self._decompressor = zlib.decompressobj(self._parameters[2])
        return self._decompressor.decompress(message + b"\x00\x00\xff\xff").decode()

    def connection(self) -> object:
        if not self._context:
            return None
        kept = zlib.compressobj(*self._parameters), zlib.decompressobj(self._parameters[2])
        kept[1].decompress(kept[0].compress(bytes(40_000)) + kept[0].flush(zlib.Z_SYNC_FLUSH))  # used once, as it will be
        return kept


def connection_bytes(ways: list[Zstd | Deflate]) -> list[int]:
    """Memory that a connection keeps in each way; nothing is freed in between, or the next way would be given it again."""
    kept, grown = [], []
    for way in ways:
        before = resident()
        kept.append([way.connection() for _ in range(RECIPIENTS)])
        grown.append(max(0, resident() - before) // RECIPIENTS)
    return grown


def measure(way: Zstd | Deflate, messages: list[bytes], kept_bytes: int) -> Iterator[Way]:
    """Yield one round's figures, for ever."""
    packed = [way.pack(message) for message in messages]
    ratio = sum(map(len, messages)) / sum(map(len, packed))
    while True:
        way.reset()
        pack_us = cpu(lambda: [way.pack(message) for message in messages], len(messages))
        way.reset()
        unpack_us = cpu(lambda: [way.unpack(message) for message in packed], len(messages))
        yield Way(way.name, ratio, pack_us, unpack_us, fan_out(way, messages, pack_us), kept_bytes)


def fan_out(way: Zstd | Deflate, messages: list[bytes], pack_us: float) -> float:
    """Microseconds to compress one message for all recipients, each with the context it has."""
    if isinstance(way, Zstd) or not way.per_recipient:
        return pack_us
    recipients = [way.fresh() for _ in range(RECIPIENTS)]
    few = messages[:8]
    return cpu(lambda: [recipient.pack(message) for message in few for recipient in recipients], len(few))


def table(results: list[Way]) -> str:
    lines = [
        "| way | ratio | pack, µs | unpack, µs | pack to 500, µs | memory per connection |",
        "|---|---|---|---|---|---|",
    ]
    for way in results:
        memory = f"{way.connection_bytes / 1024:.0f} KiB" if way.connection_bytes > 1024 else "none"
        lines.append(
            f"| {way.name} | {way.ratio:.2f} | {way.pack_us:.1f} | {way.unpack_us:.1f} | {way.fan_out_us:,.0f} | {memory} |"
        )
    return "\n".join(lines)


def ratios_by_size(ways: list[Zstd | Deflate]) -> str:
    """Larger messages: lists of events, the ratio of each way and the microseconds it takes to pack one."""
    lines = ["| message | " + " | ".join(way.name for way in ways) + " |", "|---|" + "---|" * len(ways)]
    for together in (1, 4, 16, 64):
        source = iter(events(200 * together, seed=3))
        messages = [b"[" + b",".join(next(source) for _ in range(together)) + b"]" for _ in range(200)]
        raw = sum(map(len, messages))
        cells = []
        for way in ways:
            ratio = raw / sum(len(way.pack(message)) for message in messages)
            pack_us = min(cpu(partial(_pack_all, way, messages), len(messages)) for _ in range(ROUNDS))
            cells.append(f"{ratio:.2f} in {pack_us:.0f} µs")
        lines.append(f"| {raw // len(messages):,} bytes | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _pack_all(way: Zstd | Deflate, messages: list[bytes]) -> None:
    for message in messages:
        way.pack(message)


def best(rounds: list[Way]) -> Way:
    first = rounds[0]
    return Way(
        first.name,
        first.ratio,
        min(way.pack_us for way in rounds),
        min(way.unpack_us for way in rounds),
        min(way.fan_out_us for way in rounds),
        first.connection_bytes,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Ratio and CPU of zstd and permessage-deflate on small JSON events.")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    dictionary = train_dictionary(events(5000, seed=1), DICTIONARY_BYTES)
    messages = events(EVENTS, seed=2)
    ways: list[Zstd | Deflate] = [
        Zstd("zstd 3, 16 KiB dictionary", dictionary),
        Zstd("zstd 1, 16 KiB dictionary", dictionary, level=1),
        Zstd("zstd 3, no dictionary", None),
        Deflate("deflate 6, context takeover", context=True),
        Deflate("deflate 6, context takeover, 12-bit window", context=True, window_bits=12, memory_level=5),
        Deflate("deflate 6, no context, once for all", context=False, shared=True),
        Deflate("deflate 6, no context", context=False),
    ]
    takes = [measure(way, messages, kept_bytes) for way, kept_bytes in zip(ways, connection_bytes(ways), strict=True)]
    rounds = [[next(take) for take in takes] for _ in range(ROUNDS)]
    results = [best([figures[number] for figures in rounds]) for number in range(len(ways))]
    mean = sum(map(len, messages)) / len(messages)
    print(f"{len(messages)} events of {mean:.0f} bytes on average; dictionary of {len(dictionary.data)} bytes")
    print(
        f"Python {platform.python_version()}, zstd {'.'.join(map(str, zstandard.ZSTD_VERSION))}, zlib {zlib.ZLIB_RUNTIME_VERSION}"
    )
    print()
    print(table(results))
    print()
    print(ratios_by_size([ways[0], ways[2], ways[5]]))
    if options.json:
        options.json.write_text(json.dumps({"mean_bytes": mean, "ways": [asdict(way) for way in results]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
