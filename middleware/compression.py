"""CompressionMiddleware: zstd for each message by itself, agreed upon through the subprotocol.

A client that wants it offers ``chat+zstd`` beside ``chat``, or ``zstd`` alone when it uses no subprotocol; with a trained
dictionary that both sides have, ``chat+zstd.<dictionary id>`` or ``zstd.<dictionary id>``. The app inside sees and accepts
plain ``chat`` (or nothing); the client is told what was agreed. ``docs/compression.md`` describes the messages.

1. A client that offers nothing of this passes by untouched: no guard, no copy, no header.
2. What goes back in the handshake is put together from the app's choice and our own suffixes.
3. No connection has a compressor. A message that goes to many is compressed once: by the server's own frame cache where
   it offers the frames extension, else through a small memo.
4. A message is unpacked to ``max_message_bytes`` at most, whatever it claims.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence

from ._codec import (
    COMPRESSION_CACHE_HITS,
    COMPRESSION_MESSAGES,
    COMPRESSION_RAW_BYTES,
    COMPRESSION_SECONDS,
    COMPRESSION_WIRE_BYTES,
    DECOMPRESSION_MESSAGES,
    DECOMPRESSION_RAW_BYTES,
    DECOMPRESSION_SECONDS,
    DECOMPRESSION_WIRE_BYTES,
    Codec,
)
from ._zstd import LEVELS, Dictionary, Undecodable
from .asgi import ASGIApp, Event
from .close import Close
from .dictionaries import DictionaryApp, compression_ratio, load_dictionaries, train_dictionary
from .layer import Guard, Layer, Link

__all__ = [
    "COMPRESSION_CACHE_HITS",
    "COMPRESSION_CONNECTIONS",
    "COMPRESSION_MESSAGES",
    "COMPRESSION_RAW_BYTES",
    "COMPRESSION_SECONDS",
    "COMPRESSION_WIRE_BYTES",
    "DECOMPRESSION_MESSAGES",
    "DECOMPRESSION_RAW_BYTES",
    "DECOMPRESSION_SECONDS",
    "DECOMPRESSION_WIRE_BYTES",
    "CompressionMiddleware",
    "Dictionary",
    "DictionaryApp",
    "compression_ratio",
    "load_dictionaries",
    "train_dictionary",
]

COMPRESSION_CONNECTIONS = "compression_connections"
"""Connections that were accepted in compressed mode."""

MAX_OFFERS = 32
"""Subprotocols of one handshake that are looked at; a client has no use for more."""

_SUFFIX = "zstd"
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}", re.ASCII)  # RFC 6455 §4.1 → token, RFC 9110 §5.6.2

Choices = dict[str, tuple[str, Codec]]
"""What is agreed when the app accepts a name (``""``: none): the subprotocol the client is told, and the codec."""

logger = logging.getLogger("tidegate.middleware")


class CompressionMiddleware(Layer):
    """Compresses and unpacks the messages of clients that ask for it.

    Options: ``level``, zstd's, 1 (fast) to 22 (small); ``minimum_bytes``, below which a message travels as it is;
    ``max_message_bytes``, what a client's message may unpack to (beyond it ``message-too-big``); ``dictionaries``, those
    that clients may name; ``memo_bytes``, how much is kept to compress a message once under servers without the frames
    extension (``None``: compress it for every recipient).

    A message that cannot be unpacked ends its connection with ``bad-payload``. Reports the names in ``__all__``, when a connection
    says something or ends and when it is asked to (``report``): what was done since the last time on this thread, so only the sums
    over all connections mean something.

    Raises:
        ValueError: an option is out of its range.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        level: int = 3,
        minimum_bytes: int = 64,
        max_message_bytes: int = 1024 * 1024,
        dictionaries: Iterable[Dictionary] = (),
        memo_bytes: int | None = 1024 * 1024,
    ) -> None:
        super().__init__(app)
        if level not in LEVELS:
            raise ValueError(f"level must be between {LEVELS[0]} and {LEVELS[-1]}, not {level}")
        if minimum_bytes < 0:
            raise ValueError(f"minimum_bytes must not be negative, but is {minimum_bytes}")
        if max_message_bytes < 1:
            raise ValueError(f"max_message_bytes must be at least 1, not {max_message_bytes}")
        if memo_bytes is not None and memo_bytes < 1:
            raise ValueError(f"memo_bytes must be at least 1, or None for no memo, not {memo_bytes}")

        def codec(dictionary: Dictionary | None) -> Codec:
            return Codec(
                dictionary,
                level=level, minimum_bytes=minimum_bytes, max_message_bytes=max_message_bytes, memo_bytes=memo_bytes,
            )  # fmt: skip

        self._codecs = {f"{_SUFFIX}.{dictionary.id}": codec(dictionary) for dictionary in dictionaries}
        self._codecs[_SUFFIX] = codec(None)

    async def open(self, link: Link) -> Guard | None:
        names, choices = self._negotiate(link.subprotocols)
        if not choices:
            return None
        link.set(subprotocols=names)
        return _FramesGuard(link, choices) if link.frames is not None else _EventsGuard(link, choices)

    def report(self) -> None:
        for codec in self._codecs.values():
            codec.report_all()

    def _negotiate(self, offered: Sequence[str]) -> tuple[list[str], Choices]:
        """The names that the app is offered, in the client's order, and what each of them would mean.

        For one name the client's first compressed form wins, and it wins over the plain one wherever that stands.
        """
        names: list[str] = []
        choices: Choices = {}
        for token in offered[:MAX_OFFERS]:
            name, plus, suffix = token.rpartition("+")
            codec = self._codecs.get(suffix)
            if codec is None:
                if not suffix.startswith(f"{_SUFFIX}."):  # else a dictionary that we do not have
                    names.append(token)
            elif not plus:
                choices.setdefault("", (suffix, codec))
            elif _NAME.fullmatch(name):
                names.append(name)
                choices.setdefault(name, (f"{name}+{suffix}", codec))
        return list(dict.fromkeys(names)), choices


class _FramesGuard(Guard):
    """One connection under a server that encodes frames itself; inert until, and unless, the app accepts a compressed name."""

    __slots__ = ("_choices", "_codec", "_link")

    def __init__(self, link: Link, choices: Choices) -> None:
        self._link = link
        self._choices = choices
        self._codec: Codec | None = None

    def accepting(self, event: Event) -> Event:
        choice = self._choices.get(event.get("subprotocol") or "")
        self._choices = {}
        if choice is None:
            return event
        subprotocol, self._codec = choice
        if self._link.frames is not None:
            self._link.frames.encoder = self._codec
        self._codec.opened(self._link)
        self._link.observe(COMPRESSION_CONNECTIONS)
        return {**event, "subprotocol": subprotocol}

    def inbound(self, event: Event) -> Event | None:
        if self._codec is None:
            return event
        try:
            payload = self._codec.unpack(event.get("bytes"))
        except Undecodable as error:
            logger.debug("a message in compressed mode was refused: %s", error)
            self._link.close(error.close)
            return None
        self._codec.report(self._link)
        return {"type": "websocket.receive", "text" if isinstance(payload, str) else "bytes": payload}

    def closed(self, close: Close) -> None:
        if self._codec is not None:
            self._codec.closed(self._link)


class _EventsGuard(_FramesGuard):
    """One connection under any other server: what the app sends is packed on its way out."""

    __slots__ = ()

    def outbound(self, event: Event) -> Event | None:
        text = event.get("text")
        payload = event.get("bytes") if text is None else text
        if self._codec is None or payload is None:  # an event without a payload is for the server to refuse
            return event
        packed = self._codec.pack(payload)
        self._codec.report(self._link)
        return {"type": "websocket.send", "bytes": packed}
