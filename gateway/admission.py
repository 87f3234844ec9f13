"""Whether a client may come in, and what it is told when it may not."""

from __future__ import annotations

import math
from typing import Any

from middleware.asgi import Scope
from middleware.close import AT_CAPACITY, FORBIDDEN

from .errors import BrokerUnavailable, InvalidRoomName, JoinRefused

__all__ = ["check_may_join", "refusal_of", "retry_after"]


def check_may_join(scope: Scope, room: str) -> None:
    """Raise ``JoinRefused`` when the connection's user has a token that names rooms, and not this one."""
    may_join = getattr(scope.get("user"), "may_join", None)
    if may_join is not None and not may_join(room):
        raise JoinRefused("This user may not join this room.")


def refusal_of(error: Exception, retry_after_seconds: float) -> dict[str, Any] | None:
    """How ``deny`` answers a handshake that failed with ``error``; ``None`` when the failure is ours."""
    if isinstance(error, InvalidRoomName):
        return {"status": 400, "close": FORBIDDEN, "detail": str(error)}
    if isinstance(error, JoinRefused):
        headers = [retry_after(retry_after_seconds)] if error.close.retry else []
        return {"status": error.status, "close": error.close, "detail": error.detail, "headers": headers}
    if isinstance(error, BrokerUnavailable):
        return {"status": 503, "close": AT_CAPACITY, "detail": str(error), "headers": [retry_after(error.retry_after)]}
    return None


def retry_after(seconds: float) -> tuple[bytes, bytes]:
    """The ``Retry-After`` header: whole seconds, at least one (RFC 9110 §10.2.3)."""
    return b"retry-after", str(max(1, math.ceil(seconds))).encode()
