"""``Admission``: how many connections may be on their way to a 101 (or through a request's head), in all and per client.

At the cap the one that has been silent for longest makes room, if it had a second: a client that sends its request at once
gets in while thousands of half-open handshakes are being kept up.
"""

from __future__ import annotations

import functools
import ipaddress
from typing import Protocol

from middleware.asgi import client_key, is_listed

__all__ = ["Admission", "Pending"]

_GRACE_SECONDS = 1.0

_key = functools.lru_cache(maxsize=4096)(client_key)


@functools.lru_cache(maxsize=4096)
def _is_exempt(host: str, exempt: frozenset[str]) -> bool:
    """True for a load balancer, and for who has no address: all of them come through one Unix socket."""
    return not host or is_listed(host, exempt)


class Pending(Protocol):
    """A connection that is not through yet."""

    def evict(self) -> None:
        """Make room: end, and ``leave``."""


class Admission:
    """The pending connections of one listener. Sans-I/O: the caller says what time it is."""

    __slots__ = ("_exempt", "_per_client", "_per_client_limit", "_total_limit", "_waiting")

    def __init__(self, *, total: int | None, per_client: int | None, exempt: frozenset[str] = frozenset()) -> None:
        for network in exempt - {"*"}:
            ipaddress.ip_network(network, strict=False)  # ValueError for what is none
        self._total_limit = total
        self._per_client_limit = per_client
        self._exempt = exempt
        self._waiting: dict[Pending, tuple[str, float]] = {}  # oldest first
        self._per_client: dict[str, int] = {}

    def __len__(self) -> int:
        """How many are pending."""
        return len(self._waiting)

    def enter(self, pending: Pending, host: str, now: float) -> bool:
        """Count ``pending`` in; False when it must be refused."""
        key = _key(host)
        if (
            self._per_client_limit is not None
            and self._per_client.get(key, 0) >= self._per_client_limit
            and not _is_exempt(host, self._exempt)
        ):
            return False
        if self._total_limit is not None and len(self._waiting) >= self._total_limit and not self._make_room(now):
            return False
        self._count_in(pending, key, now)
        return True

    def _count_in(self, pending: Pending, key: str, since: float) -> None:
        self._waiting[pending] = (key, since)
        self._per_client[key] = self._per_client.get(key, 0) + 1

    def leave(self, pending: Pending) -> None:
        """``pending`` is through, refused or gone; a second call changes nothing."""
        entry = self._waiting.pop(pending, None)
        if entry is not None:
            key = entry[0]
            self._per_client[key] -= 1
            if not self._per_client[key]:
                del self._per_client[key]

    def hand_over(self, pending: Pending, successor: Pending, admission: Admission) -> None:
        """``successor`` takes the place of ``pending``, in ``admission``, at the end of the line: its request is there."""
        entry = self._waiting.get(pending)
        if entry is not None:
            self.leave(pending)
            admission._count_in(successor, *entry)

    def _make_room(self, now: float) -> bool:
        oldest, (_, since) = next(iter(self._waiting.items()))
        if now - since < _GRACE_SECONDS:
            return False
        self.leave(oldest)
        oldest.evict()
        return True
