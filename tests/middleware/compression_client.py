"""What the compression tests share: an app that records, and a client's half of the compressed mode."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache

import zstandard

from middleware.asgi import Event, Receive, Scope, Send
from middleware.compression import Dictionary, train_dictionary

from .asgi_helpers import binary

__all__ = ["COMPRESSED", "LONG", "SAMPLES", "SMALL_LIMIT", "TEXT", "App", "compressed", "event", "trained", "unpack"]

COMPRESSED, TEXT = 1, 2
LONG = json.dumps({"words": ["tide", "gate", "water"] * 40})
SMALL_LIMIT = 64 * 1024


def event(number: int) -> bytes:
    """One of many messages that are much alike."""
    return json.dumps({"type": "message", "id": number, "room": f"chat:{number % 7}", "body": f"the {number}th tide"}).encode()


SAMPLES = [event(number) for number in range(400)]


@cache
def trained() -> Dictionary:
    """A small dictionary trained on ``SAMPLES``."""
    return train_dictionary(SAMPLES, 2048)


class App:
    """Accepts with ``subprotocol``, sends ``messages``, then echoes; remembers the subprotocols that it was offered."""

    def __init__(self, subprotocol: str | None = None, messages: Sequence[str | bytes] = ()) -> None:
        self.subprotocol = subprotocol
        self.messages = messages
        self.offered: list[str] = []
        self.heard: list[str | bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.offered = list(scope["subprotocols"])
        await receive()
        await send({"type": "websocket.accept", "subprotocol": self.subprotocol})
        for message in self.messages:
            await send({"type": "websocket.send", "text" if isinstance(message, str) else "bytes": message})
        while (event := await receive())["type"] == "websocket.receive":
            self.heard.append(event["bytes"] if event.get("text") is None else event["text"])


def unpack(message: str | bytes, dictionary: Dictionary | None = None) -> str | bytes:
    """What a client does with a message in compressed mode."""
    assert isinstance(message, bytes)
    flags, payload = message[0], message[1:]
    if flags & COMPRESSED:
        data = None if dictionary is None else zstandard.ZstdCompressionDict(dictionary.data)
        payload = zstandard.ZstdDecompressor(dict_data=data).decompress(payload)
    return payload.decode() if flags & TEXT else payload


def compressed(payload: bytes, flags: int = 0) -> Event:
    """A message that a client has compressed."""
    return binary(bytes([flags | COMPRESSED]) + zstandard.compress(payload))
