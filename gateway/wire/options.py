"""``WireOptions``: every bound of the wire in one frozen value.

The server constructs protocol objects itself and passes no options, so they are a class attribute:
``wire_protocol(options)`` and ``http_protocol(options)`` make a class that carries them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from middleware.close import Close

__all__ = ["WireOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WireOptions:
    """Bounds of one listener. Sizes are bytes, times are seconds; ``None`` switches a bound off where it is allowed."""

    # Messages from the client
    max_message_bytes: int | None = 1024 * 1024
    """Largest message, after decompression; beyond it 1009, before the payload is read."""
    fragment_charge_bytes: int = 128
    """What a fragment counts for at least, so that tiny fragments cannot be many."""
    message_timeout_seconds: float | None = 60.0
    """From the first byte of a message that does not come whole to its last; beyond it 1008."""
    inbound_messages: int = 64
    """Messages that wait for the app's ``receive``; then reading pauses."""
    inbound_bytes: int = 1024 * 1024
    """Bytes that wait for the app's ``receive``; then reading pauses. One message always fits."""
    backlog_bytes: int = 64 * 1024
    """Unparsed bytes that may wait while messages are held back; then the socket is not read."""
    turn_seconds: float = 0.01
    """Longest run of parsing and synchronous handling before other connections get their turn."""
    control_frames_per_second: float = 10.0
    control_frames_burst: int = 100
    """Pings and pongs a client may send: a rate and how many at once; beyond them 1008."""

    # Messages to the client
    outbound_bytes: int | None = 16 * 1024 * 1024
    """With more than this unsent, a further write ends the connection: 1013, aborted."""
    write_timeout_seconds: float | None = 20.0
    """How long the client may take to read 16 KiB while the write buffer is above its high-water mark; beyond it 1013, aborted.
    For plain HTTP, how long it may take so with an answer."""
    deflate: bool = False
    """Offer permessage-deflate (RFC 7692), without context takeover in either direction."""
    deflate_level: int = 6
    deflate_minimum_bytes: int = 256

    # The handshake and plain HTTP
    handshake_timeout_seconds: float = 10.0
    """From accepting the TCP connection to the 101 or, for plain HTTP, to the end of the request's head."""
    body_timeout_seconds: float | None = 30.0
    """From the end of a request's head to the end of its body."""
    pending_handshakes: int | None = 2048
    pending_handshakes_per_client: int | None = 256
    """Connections that have not got that far yet; beyond them 503."""
    pending_exempt: frozenset[str] = frozenset()
    """Peers (load balancers: addresses, networks or ``*``) that the cap per client does not apply to."""
    url_bytes: int = 8 * 1024
    header_bytes: int = 8 * 1024
    """Longest header line."""
    headers: int = 128
    head_bytes: int = 64 * 1024
    """Longest request head altogether."""
    pipelined_requests: int = 16
    reserved_descriptors: int = 64
    """File descriptors kept for other things than clients: beyond, a client is refused with 503."""

    # Keepalive and endings
    ping_interval_seconds: float | None = 20.0
    ping_timeout_seconds: float | None = 20.0
    idle_seconds: float | None = None
    """Longest time without a message either way (noticed within a quarter of it); then 1001 ``idle``."""
    max_age_seconds: float | None = None
    """Longest life of a connection, shortened at random by up to a tenth; then 1001 ``max-age``."""
    close_timeout_seconds: float = 2.0
    """From our close frame to the FIN, unless the client has answered."""
    abort_after_seconds: float = 5.0
    """From our close frame to the end of the socket, whatever the client does."""

    # Who is told
    on_rtt: Callable[[float], None] | None = None
    """Called with the seconds between a ping and its pong."""
    on_refused: Callable[[int], None] | None = None
    """Called with the status of every handshake or request that the wire refused itself."""
    on_ended: Callable[[Close, str], None] | None = None
    """Called once for every accepted connection, with how it ended and who decided so."""

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be more than 0, not {value!r}")
        for name in ("fragment_charge_bytes", "deflate_minimum_bytes", "reserved_descriptors", "pipelined_requests"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)!r}")
        if not 1 <= self.deflate_level <= 9:
            raise ValueError(f"deflate_level must be between 1 and 9, not {self.deflate_level!r}")
        if self.abort_after_seconds < self.close_timeout_seconds:
            raise ValueError("abort_after_seconds must not be less than close_timeout_seconds")


_POSITIVE = (
    "max_message_bytes", "message_timeout_seconds", "inbound_messages", "inbound_bytes", "backlog_bytes", "turn_seconds",
    "control_frames_per_second", "control_frames_burst", "outbound_bytes", "write_timeout_seconds",
    "handshake_timeout_seconds", "body_timeout_seconds", "pending_handshakes", "pending_handshakes_per_client",
    "url_bytes", "header_bytes", "headers", "head_bytes", "ping_interval_seconds", "ping_timeout_seconds",
    "idle_seconds", "max_age_seconds", "close_timeout_seconds", "abort_after_seconds",
)  # fmt: skip
