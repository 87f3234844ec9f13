"""The answers that the wire gives to plain HTTP by itself: a sentence each, and what helps its client to do better."""

from __future__ import annotations

from collections.abc import Iterable

from .handshake import HeaderList, response

__all__ = ["refusal"]

_SENTENCES = {
    400: b"not a valid HTTP request",
    408: b"the request took too long",
    414: b"the URL is too long",
    426: b"a WebSocket handshake needs Connection: Upgrade and Upgrade: websocket",
    431: b"the request's headers are too large",
    503: b"too many connections are waiting",
}


def refusal(status: int, request: HeaderList | None, default: HeaderList) -> bytes:
    """The response to a request of which these headers were read, if any; the connection ends with it."""
    extra: Iterable[tuple[bytes, bytes]] = {
        426: [(b"upgrade", b"websocket"), (b"sec-websocket-version", b"13")],
        503: [(b"retry-after", b"1")],
    }.get(status, ())
    if status == 400 and request and any(name == b"sec-websocket-key" for name, _ in request):
        extra = [(b"sec-websocket-version", b"13")]
    body = _SENTENCES[status]
    return response(status, [
        *default, *extra, (b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ], body)  # fmt: skip
