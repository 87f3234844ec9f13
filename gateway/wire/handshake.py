"""The opening handshake (RFC 6455 §4.2) without I/O: request in; ASGI scope and response, or a refusal, out.

The rules of the handshake itself are those of ``websockets.server.ServerProtocol``; what it leaves to the HTTP server
(Host, the request target, the size of offers) is checked here.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import NamedTuple, cast
from urllib.parse import urlsplit

from websockets.datastructures import Headers
from websockets.exceptions import HeaderLineTooLong, RequestLineTooLong, TooManyHeaders
from websockets.headers import parse_subprotocol
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.streams import StreamReader

from .deflate import windows

__all__ = ["Accepted", "HandshakeRequest", "HeaderList", "Refused", "negotiate", "parse_head", "response"]

HeaderList = list[tuple[bytes, bytes]]

_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")
_NAME = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"[\x09\x20-\x7e\x80-\xff]*")
_NEGOTIATED = frozenset(
    (b"connection", b"upgrade", b"origin", b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-protocol",
     b"sec-websocket-extensions")
)  # fmt: skip
_MAX_OFFERS = 32


class Refused(Exception):
    """The handshake cannot succeed: the HTTP status to answer with, a sentence, and headers of the response."""

    def __init__(self, status: int, detail: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        super().__init__(f"{status} {detail}")
        self.status = status
        self.detail = detail
        self.headers = list(headers)


@dataclass(slots=True)
class HandshakeRequest:
    """The head of a request for an upgrade. Header names are lower case."""

    method: str
    target: bytes
    http_version: str
    headers: HeaderList


class Accepted(NamedTuple):
    """A handshake that the app may accept."""

    path: bytes
    query: bytes
    subprotocols: list[str]
    headers: HeaderList
    """Of the response: upgrade, connection, accept."""
    extensions: HeaderList
    """Of the response, if the extension is used."""
    windows: tuple[int, int] | None
    """permessage-deflate was agreed on: window bits of client and server."""


def parse_head(head: bytes) -> HandshakeRequest:
    """Parse a whole request head; raises ``Refused``."""
    reader = StreamReader()
    reader.feed_data(head)
    reader.feed_eof()
    try:
        request = _run(Request.parse(reader.read_line))
    except RequestLineTooLong:
        raise Refused(414, "the request line is too long") from None
    except (HeaderLineTooLong, TooManyHeaders):
        raise Refused(431, "the request's headers are too large") from None
    except Exception as error:  # noqa: BLE001  # whatever the library makes of it, it is the client's mistake
        raise Refused(400, f"not a valid request: {error}") from None
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in request.headers.raw_items()]
    return HandshakeRequest(request.method, request.path.encode(), request.protocol.removeprefix("HTTP/"), headers)


def _run(parsing: Generator[None, None, Request]) -> Request:
    try:
        next(parsing)
    except StopIteration as stop:
        return cast(Request, stop.value)
    raise ValueError("the head is incomplete")


def negotiate(request: HandshakeRequest, handshaker: ServerProtocol) -> Accepted:
    """Check the request and agree on extensions; raises ``Refused``. ``handshaker`` keeps nothing of it."""
    path, query = _split_target(request.target)
    _check_head(request)
    relevant = Headers((name.decode(), value.decode("latin-1")) for name, value in request.headers if name in _NEGOTIATED)
    version = relevant.get_all("sec-websocket-version")
    if len(version) == 1 and version[0] != "13" and request.method == "GET":
        raise Refused(426, "version 13 of the WebSocket protocol is spoken here", _UPGRADE_HEADERS)
    if sum(value.count(",") for value in relevant.get_all("sec-websocket-extensions")) >= _MAX_OFFERS:
        raise Refused(400, "too many extensions are offered", _VERSION_HEADERS)
    answer = handshaker.accept(Request("/", relevant, request.method, f"HTTP/{request.http_version}"))
    if answer.status_code != 101:
        raise _refusal(answer.status_code, bytes(answer.body or b"").decode(errors="replace"))
    agreed = answer.headers
    extensions = [(b"sec-websocket-extensions", value.encode()) for value in agreed.get_all("Sec-WebSocket-Extensions")]
    return Accepted(
        path,
        query,
        [name for value in relevant.get_all("sec-websocket-protocol") for name in parse_subprotocol(value)],
        [*_SWITCHING, (b"sec-websocket-accept", agreed["Sec-WebSocket-Accept"].encode())],
        extensions,
        windows(handshaker.extensions),
    )  # fmt: skip


_SWITCHING = ((b"upgrade", b"websocket"), (b"connection", b"Upgrade"))
_VERSION_HEADERS = ((b"sec-websocket-version", b"13"),)
_UPGRADE_HEADERS = ((b"upgrade", b"websocket"), *_VERSION_HEADERS)


def _refusal(status: int, detail: str) -> Refused:
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers = ((b"allow", b"GET"),)
    elif status == HTTPStatus.UPGRADE_REQUIRED:
        headers = _UPGRADE_HEADERS
    elif status == HTTPStatus.BAD_REQUEST:
        headers = _VERSION_HEADERS
    return Refused(status, detail.strip().splitlines()[0] if detail.strip() else "", headers)


def _split_target(target: bytes) -> tuple[bytes, bytes]:
    """Path and query of a request target in origin or absolute form (RFC 9112 §3.2)."""
    if not target.isascii() or b"#" in target:
        raise Refused(400, "the request target is not a URL's path")
    if not target.startswith(b"/"):
        try:
            url = urlsplit(target)
        except ValueError:
            raise Refused(400, "the request target is not a URL") from None
        if url.scheme not in (b"http", b"https", b"ws", b"wss") or not url.netloc:
            raise Refused(400, "the request target is not a URL's path")
        return url.path or b"/", url.query
    path, _, query = target.partition(b"?")
    return path, query


def _check_head(request: HandshakeRequest) -> None:
    hosts = [value for name, value in request.headers if name == b"host"]
    if len(hosts) != 1 or _HOST.fullmatch(hosts[0]) is None:
        raise Refused(400, "one valid Host header is needed")  # RFC 9112 §3.2
    for name, value in request.headers:
        if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            raise Refused(400, "a request for an upgrade has no body here")
        if _VALUE.fullmatch(value) is None:
            raise Refused(400, "a header has a value with control characters")


def response(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes = b"") -> bytes:
    """An HTTP/1.1 response. Raises ``RuntimeError`` on headers that would break it."""
    lines = [b"HTTP/1.1 %d %s\r\n" % (status, _PHRASES.get(status, b""))]
    for name, value in headers:
        if _NAME.fullmatch(name) is None or _VALUE.fullmatch(value) is None:
            raise RuntimeError(f"not a valid header: {name!r}: {value!r}")
        lines.append(b"%s: %s\r\n" % (name, value))
    lines.append(b"\r\n")
    lines.append(body)
    return b"".join(lines)


_PHRASES = {int(status): status.phrase.encode() for status in HTTPStatus}
