"""ASGI types, small helpers on a scope, and the two interfaces a connection can be driven through.

A *channel* is what carries one WebSocket for the driver in ``layer.py``. There are two kinds:

* ``channel.AsgiChannel`` wraps ``receive`` and ``send`` and so works under any ASGI server;
* the server's own protocol object, offered as ``scope["extensions"]["tidegate.frames"]``, which runs the hooks where the
  bytes are and can also write ready-made frames (``Frames``).

Both behave alike; only the price differs. This file imports nothing of the package.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .close import Close

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

FRAMES_EXTENSION = "tidegate.frames"
DENIAL_EXTENSION = "websocket.http.response"

CONNECTION_ID = "tidegate.connection_id"
"""Scope key: the connection's id (``str``), the same in every log line, span and answer."""
ORIGIN_CHECKED = "tidegate.origin_checked"
"""Scope key: ``True`` when an outer layer has made sure that no foreign web page opened this connection."""
SELF_CHECK = "tidegate.self_check"
"""Scope key: ``True`` on the connection that the process opens to itself to see whether sockets work. No client can set it."""
REFUSED_AS = "tidegate.close"
"""Key of the event that refuses a handshake: the ``Close`` it is counted as, where the HTTP status alone would say less."""
TRACE_ID = "tidegate.trace_id"
"""Scope key: the trace id of the handshake, 32 lower-case hexadecimal digits."""

__all__ = [
    "CONNECTION_ID",
    "DENIAL_EXTENSION",
    "FRAMES_EXTENSION",
    "ORIGIN_CHECKED",
    "REFUSED_AS",
    "SELF_CHECK",
    "TRACE_ID",
    "ASGIApp",
    "Channel",
    "Disconnected",
    "Encoder",
    "Event",
    "Frames",
    "Hooks",
    "Receive",
    "Scope",
    "Send",
    "client_host",
    "client_key",
    "client_keys",
    "deny",
    "header",
    "is_listed",
    "payload_bytes",
    "user_id",
]


class Disconnected(OSError):
    """``send`` was called on a connection that has ended (ASGI WebSocket spec 2.4: an ``OSError``)."""


class Hooks(Protocol):
    """What a channel calls on the way of every event; implemented by ``layer.GuardHooks``."""

    def accepting(self, event: Event) -> Event: ...

    def inbound(self, event: Event) -> Event | None: ...

    def outbound(self, event: Event) -> Event | None: ...

    def waiting(self) -> None: ...


class Channel(Protocol):
    """One WebSocket as the driver sees it.

    ``received_*`` and ``sent_*`` count data messages and their payload bytes as they are on the wire, i.e. outside all
    layers. ``ending`` is ``None`` until the connection's end is decided; the first reason wins.
    """

    received_messages: int
    received_bytes: int
    sent_messages: int
    sent_bytes: int
    accepted: bool
    ending: Close | None
    initiator: str
    """Who decided the end: ``"client"`` or ``"server"``; ``""`` while there is none."""
    status: int | None
    """The HTTP status that the app refused the handshake with."""

    async def receive(self) -> Event: ...

    async def send(self, event: Event) -> None: ...

    def install(self, hooks: Hooks) -> None:
        """Run ``hooks`` inside those already installed: later on the way in, earlier on the way out."""

    def hold(self, seconds: float) -> None:
        """Hand over no further message for ``seconds`` from now; TCP pushes back on the client meanwhile."""

    def finish(self, close: Close, by: str) -> None:
        """Record the end without sending anything; a second call changes nothing. A close or denial may still be sent after it."""

    def close(self, close: Close) -> None:
        """End the connection: refuse it before accept, else a close frame behind all that was written."""


class Encoder(Protocol):
    """Turns a payload into the first byte and the body of one frame; one instance serves every connection that shares it."""

    def encode(self, payload: bytes, *, text: bool) -> tuple[int, bytes]:
        """Return ``(first byte: FIN, RSV and opcode, RFC 6455 §5.2; body)``."""


class Frames(Channel, Protocol):
    """The ``tidegate.frames`` extension: a channel that can also write frames which are built once and shared.

    Frames written here and events sent through ``send`` leave in the order of the calls.
    """

    encoder: Encoder | None
    """Set while the connection is accepted; ``None`` means plain frames. ``send`` encodes with it too."""
    on_message: Callable[[Event], None] | None
    """When set, messages are handed to it straight from the parser and ``receive`` only ever returns the disconnect."""
    on_finished: Callable[[Close, str], None] | None
    """Called once, when the end is decided: nothing that is written later reaches the client."""
    on_drained: Callable[[], None] | None
    """Called when the kernel has taken what was buffered above the high-water mark."""
    on_lost: Callable[[int | None], None] | None
    """Called once, when the socket is gone, with the bytes in its buffer that the kernel never took; ``None``: not known."""

    def carries(self, receive: Receive, send: Send) -> bool:
        """True when ``receive`` and ``send`` are this object's own: nobody wraps the connection in between."""

    def write(self, data: bytes, messages: int = 1, payload_bytes: int = 0) -> int:
        """Write whole frames that carry ``messages`` messages of ``payload_bytes`` bytes.

        Returns ``buffered_bytes()`` after it, or -1 when the end is decided and nothing was written.
        """

    def pause(self) -> None:
        """Hand over no further message until ``resume``; TCP pushes back on the client meanwhile."""

    def resume(self) -> None:
        """Go on in the next turn of the event loop."""

    def ping(self, payload: bytes, on_answer: Callable[[], None]) -> bool:
        """Send a ping behind all that was written; its pong (or a later one's) proves that the client's stack got that far.

        Returns False, and does nothing, when one of these is still under way or nothing can be written. When the connection
        ends first ``on_answer`` is never called. ``payload`` is at most 125 bytes (RFC 6455 §5.5).
        """

    def buffered_bytes(self) -> int:
        """Bytes written that the kernel has not taken yet."""

    def set_high_water(self, high_water_bytes: int) -> None:
        """Where ``buffered_bytes`` begins to be much: ``on_drained`` is only called after it was above."""

    def abort(self) -> None:
        """Drop the socket and everything buffered, now."""


def header(scope: Scope, name: bytes) -> bytes | None:
    """The value of the first header called ``name`` (lower case), or ``None``."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


def payload_bytes(event: Event) -> int:
    """Size of the payload of a ``websocket.receive`` or ``websocket.send`` event in bytes (text counts as UTF-8)."""
    text = event.get("text")
    if text is None:
        return len(event.get("bytes") or b"")
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def client_host(scope: Scope, trusted_proxies: Sequence[str] = ()) -> str:
    """The client's address.

    ``X-Forwarded-For`` counts only when the peer is one of ``trusted_proxies`` (addresses, networks or ``*``). It is walked
    from the right: the first address that is not a trusted proxy is the client.
    """
    client = scope.get("client")
    host = str(client[0]) if client else ""
    if not trusted_proxies or not is_listed(host, trusted_proxies):
        return host
    forwarded = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for").decode("latin-1")
    for candidate in reversed([part.strip() for part in forwarded.split(",") if part.strip()]):
        if not _is_address(candidate):
            return host
        host = candidate
        if not is_listed(candidate, trusted_proxies):
            break
    return host


def client_key(host: str) -> str:
    """What limits count a client by: the IPv4 address, or the /64 network of an IPv6 address, which is one site's to use up."""
    if ":" not in host:
        return host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    return host


def client_keys(trusted_proxies: Sequence[str] = ()) -> Callable[[Scope], str]:
    """The rule of who counts as one client: the ``client_key`` of the ``client_host``; ``""`` for a client without an address.

    ``ValueError`` for a proxy that is neither an address, nor a network, nor ``*``.
    """
    for network in trusted_proxies:
        if network != "*":
            ipaddress.ip_network(network, strict=False)
    return lambda scope: client_key(client_host(scope, trusted_proxies))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text  # a zone is free text, and means nothing here


def is_listed(host: str, networks: Collection[str]) -> bool:
    """Whether ``host`` is in ``networks``: addresses, networks or ``*``. A name is in it only as it is written."""
    if "*" in networks:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host in networks
    mapped = getattr(address, "ipv4_mapped", None)  # how a socket for both families names an IPv4 peer
    return any((mapped or address) in ipaddress.ip_network(network, strict=False) for network in networks)


def user_id(user: Any) -> str:
    """The id of whatever an app calls its user: a string, or something with an ``id``, ``identity`` or ``display_name``.

    ``""`` stands for nobody.
    """
    if user is None or isinstance(user, str):
        return user or ""
    for name in ("id", "identity", "display_name"):
        try:
            value = getattr(user, name, None)
        except NotImplementedError:  # Starlette's base user leaves ``identity`` to the app
            continue
        if value is not None and value != "":
            return str(value)
    return ""


async def deny(
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    status: int,
    close: Close,
    detail: str = "",
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    """Refuse a handshake: with ``status`` and an RFC 9457 problem document where the server can, else by closing before accept."""
    event = await receive()  # websocket.connect: some servers refuse to be answered before it was taken
    if event["type"] == "websocket.disconnect":
        return  # there is nobody to answer
    if DENIAL_EXTENSION not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": close.code, "reason": close.reason, REFUSED_AS: close})
        return
    problem = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "reason": close.reason}
    if detail:
        problem["detail"] = detail
    body = json.dumps(problem).encode()
    all_headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        *headers,
    ]
    await send({"type": "websocket.http.response.start", "status": status, "headers": all_headers, REFUSED_AS: close})
    await send({"type": "websocket.http.response.body", "body": body})
