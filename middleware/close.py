"""How a connection ends: ``Close`` and the named endings.

The reason slug is the wire reason, the metric label, the log field and the name of the runbook, so the set of slugs is
closed: what a peer sends that is not in the set is mapped onto it (``Close.received``), never passed through.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ABNORMAL",
    "AT_CAPACITY",
    "BAD_PAYLOAD",
    "FORBIDDEN",
    "GOING_AWAY",
    "IDLE",
    "INTERNAL_ERROR",
    "MAX_AGE",
    "MESSAGE_TOO_BIG",
    "NAMED",
    "NORMAL",
    "OTHER",
    "PING_TIMEOUT",
    "PROTOCOL_ERROR",
    "RATE_LIMITED",
    "REPLACED",
    "RESTARTING",
    "SLOW_CONSUMER",
    "UNAUTHORIZED",
    "UNAVAILABLE",
    "UNSUPPORTED_DATA",
    "Close",
]


@dataclass(frozen=True, slots=True)
class Close:
    """One way to end: a close code (RFC 6455 §7.4), a reason slug, and whether the client may try again."""

    code: int
    reason: str
    retry: bool = False

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for what no close frame can carry (RFC 6455 §5.5, §7.4.2)."""
        if not 1000 <= self.code <= 4999:
            raise ValueError(f"a close code is from 1000 to 4999, not {self.code}")
        if len(self.reason.encode()) > 123:
            raise ValueError("a close reason has at most 123 bytes")

    @property
    def sendable(self) -> bool:
        """False for the codes that stand for the absence of a close frame (RFC 6455 §7.4.1)."""
        return self.code not in (1005, 1006, 1015)

    @property
    def status(self) -> int:
        """The HTTP status that refuses a handshake for this reason; the other way round than ``for_status``."""
        return _STATUS.get(self.reason, 403)

    @staticmethod
    def received(code: int | None, reason: str | None = "") -> Close:
        """The ending that a peer (or an app's ``websocket.close``) names; unknown reasons fall back to the code alone."""
        named = NAMED.get(reason or "")
        if named is not None and named.code == code:
            return named
        return _BY_CODE.get(1005 if code is None else code, OTHER)

    @staticmethod
    def for_status(status: int) -> Close:
        """The ending that a refused handshake with this HTTP status stands for."""
        if status >= 500:
            return AT_CAPACITY if status == 503 else INTERNAL_ERROR
        return {401: UNAUTHORIZED, 413: MESSAGE_TOO_BIG, 429: RATE_LIMITED}.get(status, FORBIDDEN)


NORMAL = Close(1000, "normal")
GOING_AWAY = Close(1001, "going-away", retry=True)
IDLE = Close(1001, "idle", retry=True)
MAX_AGE = Close(1001, "max-age", retry=True)
PROTOCOL_ERROR = Close(1002, "protocol-error")
UNSUPPORTED_DATA = Close(1003, "unsupported-data")
ABNORMAL = Close(1006, "abnormal", retry=True)
"""The peer vanished: no close frame was received. Never sent."""
BAD_PAYLOAD = Close(1007, "bad-payload")
FORBIDDEN = Close(1008, "forbidden")
RATE_LIMITED = Close(1008, "rate-limited", retry=True)
MESSAGE_TOO_BIG = Close(1009, "message-too-big")
INTERNAL_ERROR = Close(1011, "internal-error", retry=True)
PING_TIMEOUT = Close(1011, "ping-timeout", retry=True)
RESTARTING = Close(1012, "restarting", retry=True)
AT_CAPACITY = Close(1013, "at-capacity", retry=True)
UNAVAILABLE = Close(1013, "unavailable", retry=True)
"""Something that the server needs is away, a broker for instance: there would be room. Code 1013 alone is ``at-capacity``."""
SLOW_CONSUMER = Close(1013, "slow-consumer", retry=True)
REPLACED = Close(4001, "replaced")
UNAUTHORIZED = Close(4401, "unauthorized")
OTHER = Close(4000, "other")
"""What a peer or an app closed with for a reason of its own."""

_ALL = (
    NORMAL,
    GOING_AWAY,
    IDLE,
    MAX_AGE,
    PROTOCOL_ERROR,
    UNSUPPORTED_DATA,
    ABNORMAL,
    BAD_PAYLOAD,
    FORBIDDEN,
    RATE_LIMITED,
    MESSAGE_TOO_BIG,
    INTERNAL_ERROR,
    PING_TIMEOUT,
    RESTARTING,
    AT_CAPACITY,
    UNAVAILABLE,
    SLOW_CONSUMER,
    REPLACED,
    UNAUTHORIZED,
    OTHER,
)

NAMED: dict[str, Close] = {close.reason: close for close in _ALL}
"""Every ending by its slug: the closed set that metrics may use as a label."""

_STATUS = {
    "unauthorized": 401,
    "message-too-big": 413,
    "rate-limited": 429,
    "internal-error": 500,
    "at-capacity": 503,
    "going-away": 503,
    "restarting": 503,
    "unavailable": 503,
}

_BY_CODE: dict[int, Close] = {close.code: close for close in reversed(_ALL)} | {1005: NORMAL, 1008: FORBIDDEN}
