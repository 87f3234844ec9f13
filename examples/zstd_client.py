"""A client that talks zstd with any app behind CompressionMiddleware: ``pip install websockets zstandard``.

    python zstd_client.py "ws://127.0.0.1:8000/ws/lobby?echo=1" "hello"
    python zstd_client.py ws://127.0.0.1:8000/ws/lobby --dictionary 3f2a… --dictionaries http://127.0.0.1:8000/dictionaries

Sends the messages, prints what it hears, and leaves when it has heard ``--count`` messages: its own too with ``?echo=1``, else only
those of others. ``docs/compression.md`` describes the mode.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import urllib.request

import zstandard
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

COMPRESSED, TEXT = 1, 2
LARGEST_MESSAGE = 1024 * 1024


def fetch_dictionary(base: str, identity: str) -> bytes:
    """Dictionaries are named by their hash, so wherever it comes from, it can be checked. It never changes: keep it."""
    with urllib.request.urlopen(f"{base}/{identity}", timeout=10) as response:
        dictionary: bytes = response.read()
    if not hashlib.sha256(dictionary).hexdigest().startswith(identity):
        raise ValueError(f"the dictionary {identity} is not what it says")
    return dictionary


class Codec:
    """Turns messages into what travels, and back: a byte of flags, then the payload."""

    def __init__(self, dictionary: bytes | None = None) -> None:
        data = None if dictionary is None else zstandard.ZstdCompressionDict(dictionary)
        self._compress = zstandard.ZstdCompressor(dict_data=data, write_dict_id=False).compress
        self._decompress = zstandard.ZstdDecompressor(dict_data=data).decompress

    def pack(self, message: str | bytes) -> bytes:
        flags, payload = (TEXT, message.encode()) if isinstance(message, str) else (0, message)
        frame = self._compress(payload)
        return bytes([flags | COMPRESSED]) + frame if len(frame) < len(payload) else bytes([flags]) + payload

    def unpack(self, message: str | bytes) -> str | bytes:
        assert isinstance(message, bytes), "in compressed mode every message is binary"
        flags, payload = message[0], message[1:]
        if flags & COMPRESSED:
            if zstandard.frame_content_size(payload) > LARGEST_MESSAGE:  # a server may be hostile, too
                raise ValueError("a message that unpacks to more than it may")
            payload = self._decompress(payload)
        return payload.decode() if flags & TEXT else payload


def offers(name: str, identity: str) -> list[Subprotocol]:
    """From the best to the plainest: with the dictionary, without, and the bare name for servers that know neither."""
    prefix = f"{name}+" if name else ""
    compressed = [f"{prefix}zstd.{identity}"] if identity else []
    return [Subprotocol(offer) for offer in [*compressed, f"{prefix}zstd", *([name] if name else [])]]


def agreed_codec(connection: ClientConnection, dictionaries: str) -> Codec | None:
    """The codec for what the server chose; ``None`` when it wants plain messages."""
    suffix = (connection.subprotocol or "").rpartition("+")[2]
    if suffix == "zstd":
        return Codec()
    if suffix.startswith("zstd."):
        return Codec(fetch_dictionary(dictionaries, suffix.removeprefix("zstd.")))
    return None


async def talk(options: argparse.Namespace) -> None:
    async with connect(options.url, subprotocols=offers(options.name, options.dictionary), compression=None) as connection:
        codec = await asyncio.to_thread(agreed_codec, connection, options.dictionaries)
        print(f"agreed on {connection.subprotocol or 'nothing'}")
        for message in options.messages:
            await connection.send(codec.pack(message) if codec else message)
        for _ in range(options.count):
            wire = await connection.recv()
            message = codec.unpack(wire) if codec else wire
            print(f"{len(wire)} bytes on the wire: {message!r}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="A client that talks zstd.")
    parser.add_argument("url", help="ws:// or wss:// address")
    parser.add_argument("messages", nargs="*", help="text messages to send")
    parser.add_argument("--name", default="", help="the subprotocol that the app speaks, if any")
    parser.add_argument("--dictionary", default="", metavar="ID", help="offer this dictionary")
    parser.add_argument("--dictionaries", default="http://127.0.0.1:8000/dictionaries", metavar="URL", help="where they are")
    parser.add_argument("--count", type=int, default=1, help="leave after this many messages (default: 1)")
    asyncio.run(talk(parser.parse_args()))


if __name__ == "__main__":
    main()
