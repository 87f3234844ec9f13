"""zstd dictionaries as files and over HTTP.

A dictionary is named by its content (``Dictionary.id``), so what is served under a name never changes: caches may keep it for
ever, and a client that checks the hash can take it from anywhere. It holds pieces of the messages it was trained on: train
it on messages that anybody may read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from ._codec import Codec
from ._zstd import Dictionary, train_dictionary
from .asgi import Receive, Scope, Send, deny, header
from .close import FORBIDDEN

__all__ = ["Dictionary", "DictionaryApp", "compression_ratio", "load_dictionaries", "train_dictionary"]

_CACHE_CONTROL = b"public, max-age=31536000, immutable"  # RFC 8246


def load_dictionaries(paths: Iterable[str | Path]) -> tuple[Dictionary, ...]:
    """The dictionaries in these files; raises ``ValueError`` naming the file that cannot be read or is none."""
    loaded = []
    for path in paths:
        try:
            loaded.append(Dictionary(Path(path).read_bytes()))
        except OSError as error:
            raise ValueError(f"the dictionary {path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"{path} is {error}") from None
    return tuple(loaded)


def compression_ratio(samples: Sequence[bytes], dictionary: Dictionary | None = None, *, level: int = 3) -> float:
    """How many times smaller ``samples``, one message each, get in compressed mode, its byte of flags included.

    Raises ``ValueError`` when there is nothing to measure.
    """
    codec = Codec(dictionary, level=level, minimum_bytes=0, max_message_bytes=1, memo_bytes=None)
    raw = sum(map(len, samples))
    if not raw:
        raise ValueError("there are no samples to measure a ratio on")
    return raw / sum(len(codec.pack(sample)) for sample in samples)


class DictionaryApp:
    """An ASGI app that serves dictionaries by id, the last segment of the path: mount it, or route ``/dictionaries/{id}`` to it."""

    def __init__(self, dictionaries: Iterable[Dictionary]) -> None:
        self._dictionaries = {dictionary.id: dictionary for dictionary in dictionaries}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await deny(scope, receive, send, status=404, close=FORBIDDEN, detail="dictionaries are fetched by GET")
            return
        if scope["type"] != "http":
            raise RuntimeError(f"DictionaryApp answers HTTP requests, not a scope of type {scope['type']!r}")
        status, headers, body = self._answer(scope)
        if status != 304:  # RFC 9110 §8.6: there it would be the length of what is not sent
            headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _answer(self, scope: Scope) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        if scope["method"] not in ("GET", "HEAD"):
            return _problem(405, "Method Not Allowed", "a dictionary can only be read", [(b"allow", b"GET, HEAD")])
        dictionary = self._dictionaries.get(scope["path"].rpartition("/")[2])
        if dictionary is None:
            return _problem(404, "Not Found", "there is no dictionary with this id", [(b"cache-control", b"no-cache")])
        tag = f'"{dictionary.id}"'.encode()
        headers = [(b"etag", tag), (b"cache-control", _CACHE_CONTROL), (b"x-content-type-options", b"nosniff")]
        if _matches(header(scope, b"if-none-match"), tag):
            return 304, headers, b""
        return 200, [(b"content-type", b"application/octet-stream"), *headers], dictionary.data


def _problem(
    status: int, title: str, detail: str, headers: list[tuple[bytes, bytes]]
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """An RFC 9457 problem document."""
    body = json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail}).encode()
    return status, [(b"content-type", b"application/problem+json"), *headers], body


def _matches(condition: bytes | None, tag: bytes) -> bool:
    """``If-None-Match`` compares weakly (RFC 9110 §13.1.2)."""
    if condition is None:
        return False
    return condition.strip() == b"*" or tag in [part.strip().removeprefix(b"W/") for part in condition.split(b",")]
