"""The opening handshake (RFC 6455 §4.2) without I/O: request in; ASGI scope and response, or a refusal, out.

The rules of the handshake itself are those of ``websockets.server.ServerProtocol``; what it leaves to the HTTP server
(Host, the request target, the size of offers) is checked here. What browsers and libraries write when nothing is to be negotiated
needs no rules: such a request is agreed to ``at_once``. Every other one is ``judged``, which says the same of the plain ones
(property-tested) and is the only one that refuses.
"""

from __future__ import annotations

import hashlib
import re
from binascii import b2a_base64
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import NamedTuple, cast
from urllib.parse import urlsplit

from websockets.datastructures import Headers
from websockets.exceptions import HeaderLineTooLong, InvalidHeaderFormat, RequestLineTooLong, TooManyHeaders
from websockets.headers import parse_subprotocol
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.streams import StreamReader

from .deflate import windows

__all__ = [
    "Accepted",
    "Agreement",
    "HandshakeRequest",
    "HeaderList",
    "Refused",
    "agreed_at_once",
    "has_valid_host",
    "judged",
    "negotiate",
    "parse_head",
    "response",
    "tokens",
]

HeaderList = list[tuple[bytes, bytes]]

_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")
_NAME_BYTES = b"-!#$%&'*+.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_VALUE_BYTES = bytes((0x09, *range(0x20, 0x7F), *range(0x80, 0x100)))
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
_KEY_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
_PLAIN_CONNECTION = frozenset((b"upgrade", b"keep-alive, upgrade"))
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

    def head(self, without: bytes = b"") -> bytes:
        """As bytes, less the headers of the name ``without``."""
        lines = [b"%s %s HTTP/%s" % (self.method.encode(), self.target, self.http_version.encode())]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != without]
        return b"\r\n".join([*lines, b"", b""])


class Agreement(NamedTuple):
    """What client and server have agreed on, if the app accepts."""

    subprotocols: list[str]
    """Offered by the client."""
    headers: HeaderList
    """Of the response: upgrade, connection, accept."""
    extensions: tuple[tuple[bytes, bytes], ...] = ()
    """Of the response, if the extension is used."""
    windows: tuple[int, int] | None = None
    """permessage-deflate was agreed on: window bits of client and server."""


class Accepted(NamedTuple):
    """A handshake that the app may accept."""

    path: bytes
    query: bytes
    agreement: Agreement


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
    return Accepted(path, query, agreed_at_once(request, handshaker) or judged(request, handshaker))


def agreed_at_once(request: HandshakeRequest, handshaker: ServerProtocol) -> Agreement | None:
    """The agreement on a request that is written as usual; ``None`` for one that has to be ``judged``."""
    given: dict[bytes, bytes] = {}
    for name, value in request.headers:
        if name in _NEGOTIATED:
            if name in given:
                return None
            given[name] = value
    offers = given.get(b"sec-websocket-extensions")
    if (
        request.method != "GET"
        or request.http_version != "1.1"
        or given.get(b"connection", b"").lower() not in _PLAIN_CONNECTION
        or given.get(b"upgrade", b"").lower() != b"websocket"
        or given.get(b"sec-websocket-version") != b"13"
        or _KEY.fullmatch(key := given.get(b"sec-websocket-key", b"")) is None
        or (offers is not None and (handshaker.available_extensions or offers.count(b",") >= _MAX_OFFERS))
    ):
        return None
    try:
        subprotocols = _subprotocols(given.get(b"sec-websocket-protocol"))
    except InvalidHeaderFormat:
        return None
    accept = b2a_base64(hashlib.sha1(key + _KEY_SUFFIX, usedforsecurity=False).digest(), newline=False)
    return Agreement(subprotocols, [*_SWITCHING, (b"sec-websocket-accept", accept)])


def _subprotocols(offered: bytes | None) -> list[str]:
    return [] if offered is None else list(parse_subprotocol(offered.decode("latin-1")))


def judged(request: HandshakeRequest, handshaker: ServerProtocol) -> Agreement:
    """The agreement, or ``Refused``, as the library finds it."""
    relevant = Headers((name.decode(), value.decode("latin-1")) for name, value in request.headers if name in _NEGOTIATED)
    if b"websocket" in tokens(request.headers, b"upgrade"):
        del relevant["Upgrade"]
        relevant["Upgrade"] = "websocket"  # of several the server chooses (RFC 9110 §7.8); the library wants it alone
    version = relevant.get_all("sec-websocket-version")
    if len(version) == 1 and version[0] != "13" and request.method == "GET":
        raise Refused(426, "version 13 of the WebSocket protocol is spoken here", _UPGRADE_HEADERS)
    if sum(value.count(",") for value in relevant.get_all("sec-websocket-extensions")) >= _MAX_OFFERS:
        raise Refused(400, "too many extensions are offered", _VERSION_HEADERS)
    answer = handshaker.accept(Request("/", relevant, request.method, f"HTTP/{request.http_version}"))
    if answer.status_code != 101:
        raise _refusal(answer.status_code, bytes(answer.body or b"").decode(errors="replace"))
    agreed = answer.headers
    return Agreement(
        [name for value in relevant.get_all("sec-websocket-protocol") for name in parse_subprotocol(value)],
        [*_SWITCHING, (b"sec-websocket-accept", agreed["Sec-WebSocket-Accept"].encode())],
        tuple((b"sec-websocket-extensions", value.encode()) for value in agreed.get_all("Sec-WebSocket-Extensions")),
        windows(handshaker.extensions),
    )


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
    if not has_valid_host(request.headers):
        raise Refused(400, "one valid Host header is needed")
    for name, value in request.headers:
        if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            raise Refused(400, "a request for an upgrade has no body here")
    if b"".join([value for _, value in request.headers]).translate(None, _VALUE_BYTES):
        raise Refused(400, "a header has a value with control characters")


def has_valid_host(headers: HeaderList, *, required: bool = True) -> bool:
    """One ``Host``, and what it may be (RFC 9112 §3.2); none is enough where it is not ``required``, as in HTTP/1.0."""
    hosts = [value for name, value in headers if name == b"host"]
    return _HOST.fullmatch(hosts[0]) is not None if len(hosts) == 1 else not hosts and not required


def tokens(headers: HeaderList, name: bytes) -> list[bytes]:
    """The members of a list (RFC 9110 §5.6.1), however many headers of that name it is written in; in lower case."""
    listed = b",".join([value for header, value in headers if header == name])
    return [token.strip() for token in listed.lower().split(b",")]


def response(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes = b"") -> bytes:
    """An HTTP/1.1 response. Raises ``RuntimeError`` on headers that would break it."""
    headers = list(headers)
    names = [name for name, _ in headers]
    values = b"".join([value for _, value in headers])
    if b"" in names or b"".join(names).translate(None, _NAME_BYTES) or values.translate(None, _VALUE_BYTES):
        raise RuntimeError(f"not all of these are valid headers: {headers!r}")
    head = b"HTTP/1.1 %d %s\r\n" % (status, _PHRASES.get(status, b""))
    return b"".join([head, *[b"%s: %s\r\n" % (name, value) for name, value in headers], b"\r\n", body])


_PHRASES = {int(status): status.phrase.encode() for status in HTTPStatus}
