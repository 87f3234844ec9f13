"""``RateLimitMiddleware``: how fast one connection may send, and how often one client may connect.

Three rates, independent of each other: messages of a connection, payload bytes of a connection, handshakes of a client.
The first two live in the connection's guard and cost no lock, table or I/O. The third needs to be remembered between
connections, by a ``HandshakeLimiter`` of this process or one that all nodes share (``handshake_limiter.py``).

1. ``delay`` loses nothing: the message goes through and reading stops until the next one conforms.
2. What ``drop`` drops is counted and the client is told, once per second at most.
3. Messages never wait for a store, shared or not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from .asgi import ASGIApp, Event, client_keys, payload_bytes
from .bucket import FULL, TokenBucket
from .close import RATE_LIMITED
from .handshake_limiter import HandshakeLimiter, MemoryHandshakeLimiter
from .layer import Guard, Layer, Link, Refuse

__all__ = [
    "CLOSED",
    "DELAY_SECONDS",
    "DROPPED",
    "HANDSHAKES_REFUSED",
    "NOTICE",
    "Exceeded",
    "RateLimitMiddleware",
    "TokenBucket",
]

DELAY_SECONDS: Final = "rate_limit_delay_seconds"
"""Observed: for so long nothing more is read from a connection that was too fast."""
DROPPED: Final = "rate_limit_dropped"
"""Observed, 1 each: a message was dropped."""
CLOSED: Final = "rate_limit_closed"
"""Observed, 1 each: a connection was closed for being too fast."""
HANDSHAKES_REFUSED: Final = "rate_limit_handshakes_refused"
"""Observed, 1 each: a client connected too often and got 429."""

NOTICE: Final = '{"error":"rate-limited"}'
"""What a client is told by default when its messages are dropped."""

_NOTICE_INTERVAL_SECONDS: Final = 1.0

Exceeded = Literal["delay", "drop", "close"]


class RateLimitMiddleware(Layer):
    """Token buckets for messages, bytes and handshakes; ``None`` switches a rate off.

    * ``messages_per_second``, ``burst``: messages of one connection; the burst defaults to two seconds' worth.
    * ``bytes_per_second``, ``byte_burst_bytes``: payload bytes of one connection, as the client sent them.
    * ``exceeded``: ``delay`` reads no further until the rate is kept, ``drop`` drops the message and tells the client
      ``notice`` (``None``: tells nothing), ``close`` ends the connection with ``rate-limited``.
    * ``handshakes_per_second``, ``handshake_burst``: handshakes of one client; more get 429 and ``Retry-After``. At most
      ``max_clients`` are remembered. Or bring a ``handshake_limiter``, for instance one that several nodes share.
    * ``key``: who counts as one client; by default the address (IPv6: the /64 network), looked for behind
      ``trusted_proxies``. A client whose key is ``""`` is not counted.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        messages_per_second: float | None = 50.0,
        burst: float | None = None,
        bytes_per_second: float | None = None,
        byte_burst_bytes: float | None = None,
        exceeded: Exceeded = "delay",
        notice: str | bytes | None = NOTICE,
        handshakes_per_second: float | None = None,
        handshake_burst: float | None = None,
        max_clients: int = 50_000,
        handshake_limiter: HandshakeLimiter | None = None,
        key: Callable[[Link], str] | None = None,
        trusted_proxies: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(app)
        if exceeded not in get_args(Exceeded):
            raise ValueError(f"exceeded must be 'delay', 'drop' or 'close', not {exceeded!r}")
        if handshake_limiter is not None and handshakes_per_second is not None:
            raise ValueError("give either handshakes_per_second or a handshake_limiter, which has a rate of its own")
        if handshake_limiter is None and handshakes_per_second is not None:
            handshake_limiter = MemoryHandshakeLimiter(handshakes_per_second, handshake_burst, max_clients=max_clients, clock=clock)
        self.handshakes = handshake_limiter
        self._limits = _Limits(
            None if messages_per_second is None else TokenBucket.of(messages_per_second, burst),
            None if bytes_per_second is None else TokenBucket.of(bytes_per_second, byte_burst_bytes),
            clock, exceeded, notice,
        )  # fmt: skip
        self._guard = _DelayGuard if exceeded == "delay" else _StrictGuard
        client = client_keys(trusted_proxies)
        self._key = key or (lambda link: client(link.scope))

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword options from the short form ``{"enabled": True, "requests_per_minute": 60}``.

        Whoever sends no more than ``requests_per_minute`` in any minute is never limited: that many may come at once. Other
        keys are keyword options of this class and are passed on. ``enabled`` is true when absent; false switches all off.
        """
        options = dict(config)
        per_minute = options.pop("requests_per_minute", None)
        if not options.pop("enabled", True):
            return {"messages_per_second": None}
        if per_minute is None:
            return options
        if isinstance(per_minute, bool) or not isinstance(per_minute, int | float) or per_minute <= 0:
            raise ValueError(f"requests_per_minute must be a number above 0, not {per_minute!r}")
        return {"messages_per_second": per_minute / 60, "burst": max(1, per_minute), **options}

    async def open(self, link: Link) -> Guard | None:
        """Count the handshake, and watch the connection when there is a rate to keep."""
        if self.handshakes is not None and (key := self._key(link)):
            wait = await self.handshakes.acquire(key, link.observe)
            if wait is not None:
                link.observe(HANDSHAKES_REFUSED, 1.0)
                raise Refuse(429, RATE_LIMITED, retry_after=wait, detail="This client connects too often.")
        if self._limits.message_bucket is None and self._limits.byte_bucket is None:
            return None
        return self._guard(self._limits, link)


@dataclass(frozen=True, slots=True)
class _Limits:
    """What the guards of one layer share."""

    message_bucket: TokenBucket | None
    byte_bucket: TokenBucket | None
    clock: Callable[[], float]
    exceeded: Exceeded
    notice: str | bytes | None


class _DelayGuard(Guard):
    """Lets every message through and stops reading until the next one conforms."""

    __slots__ = ("_bytes_full_at", "_limits", "_link", "_messages_full_at")

    def __init__(self, limits: _Limits, link: Link) -> None:
        self._limits = limits
        self._link = link
        self._messages_full_at = self._bytes_full_at = FULL

    def inbound(self, event: Event) -> Event | None:
        limits = self._limits
        messages, octets, now, wait = limits.message_bucket, limits.byte_bucket, limits.clock(), 0.0
        if messages is not None:
            self._messages_full_at = full_at = messages.spend(self._messages_full_at, now)
            if full_at - now > messages.ample_seconds:
                wait = messages.wait_seconds(full_at, now)
        if octets is not None:
            self._bytes_full_at = full_at = octets.spend(self._bytes_full_at, now, payload_bytes(event))
            if full_at - now > octets.ample_seconds:
                wait = max(wait, octets.wait_seconds(full_at, now))
        if wait:
            self._link.hold(wait)
            self._link.observe(DELAY_SECONDS, wait)
        return event


class _StrictGuard(_DelayGuard):
    """Lets a message through only when both rates allow it; what does not get through takes no token."""

    __slots__ = ("_tell_at",)

    def __init__(self, limits: _Limits, link: Link) -> None:
        super().__init__(limits, link)
        self._tell_at = FULL

    def inbound(self, event: Event) -> Event | None:
        limits = self._limits
        messages, octets, now = limits.message_bucket, limits.byte_bucket, limits.clock()
        size = 0 if octets is None else payload_bytes(event)
        too_many = messages is not None and messages.wait_seconds(self._messages_full_at, now)
        too_much = octets is not None and octets.wait_seconds(self._bytes_full_at, now, size)
        if too_many or too_much:
            self._exceeded(now)
            return None
        if messages is not None:
            self._messages_full_at = messages.spend(self._messages_full_at, now)
        if octets is not None:
            self._bytes_full_at = octets.spend(self._bytes_full_at, now, size)
        return event

    def _exceeded(self, now: float) -> None:
        limits, link = self._limits, self._link
        if limits.exceeded == "close":
            link.observe(CLOSED, 1.0)
            link.close(RATE_LIMITED)
            return
        link.observe(DROPPED, 1.0)
        if limits.notice is not None and now >= self._tell_at and link.tell(limits.notice):
            self._tell_at = now + _NOTICE_INTERVAL_SECONDS
