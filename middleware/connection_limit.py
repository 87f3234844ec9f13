"""``ConnectionLimitMiddleware``: how many connections there may be, in all and per client, user and room.

A connection takes its slots in ``open``, before any work is done for it, and gives them back in ``closed``, synchronously.

1. No limit is ever exceeded, and a slot is given back exactly once, however the connection ends: refused by this or an inner
   layer, closed, failed, or cancelled while it waits (property-tested in ``tests/middleware/test_connection_limit.py``).
2. Handshakes that wait are served first come, first served.
3. Only a slot that anyone may free is waited for (total, room). A client or user at its own limit is refused at once, and
   one that waits is already counted, so nobody fills the waiting room alone.
4. Memory is bounded by the connections that hold a slot or wait: a count that is back at zero is forgotten.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from .asgi import ASGIApp, client_keys, user_id
from .bucket import FULL, TokenBucket
from .close import AT_CAPACITY, RATE_LIMITED, Close
from .layer import Guard, Layer, Link, Refuse
from .slots import Claim, Slots

__all__ = [
    "REFUSED_ACCEPT_RATE",
    "REFUSED_CLIENT",
    "REFUSED_ROOM",
    "REFUSED_TOTAL",
    "REFUSED_USER",
    "TAKEN",
    "WAITED_SECONDS",
    "WAITING",
    "ConnectionLimitMiddleware",
    "ConnectionLimitStatistics",
]

TAKEN: Final = "slots_taken"
"""Observed: how many connections hold a slot now; reported by a layer that limits the total."""
WAITING: Final = "slots_waiting"
"""Observed: how many handshakes wait for a slot now."""
WAITED_SECONDS: Final = "slots_waited_seconds"
"""Observed: how long a handshake has waited, whether it got a slot or not."""
REFUSED_TOTAL: Final = "slots_refused_total"
"""Observed, 1 each: no slot was free in all."""
REFUSED_ROOM: Final = "slots_refused_room"
"""Observed, 1 each: the room was full."""
REFUSED_CLIENT: Final = "slots_refused_client"
"""Observed, 1 each: the client had all its slots."""
REFUSED_USER: Final = "slots_refused_user"
"""Observed, 1 each: the user had all their slots."""
REFUSED_ACCEPT_RATE: Final = "slots_refused_accept_rate"
"""Observed, 1 each: too many handshakes came at once."""


class ConnectionLimitStatistics(NamedTuple):
    """What a ``ConnectionLimitMiddleware`` holds."""

    connections: int
    """Connections that hold slots."""
    total: int | None
    clients: int
    """Distinct clients that hold a slot or wait; 0 when clients are not limited. Users and rooms likewise."""
    users: int
    rooms: int
    waiting: int
    waiting_limit: int


class ConnectionLimitMiddleware(Layer):
    """Slots for connections; ``None`` switches a limit off, and all are off by default.

    * ``total``: connections of this layer; ``per_room``: connections per room, as ``room(link)`` names it (``None``: not
      counted). More are refused with 503.
    * ``per_client``: connections per ``key(link)``, by default the address (IPv6: the /64 network) looked for behind
      ``trusted_proxies``; ``per_user``: connections per ``user_id(link.user)``. More are refused with 429. Nobody's
      connections (``""``) are not counted. Users are known only inside the layer that authenticates.
    * ``waiting``, ``waiting_seconds``: so many handshakes wait so long for a slot of ``total`` or ``per_room``.
    * ``accepts_per_second``, ``accept_burst``: handshakes of this layer; more are refused with 503.
    * ``retry_after_seconds``: the refused are told to come back after one to two times as long, spread at random.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        total: int | None = None,
        per_client: int | None = None,
        per_user: int | None = None,
        per_room: int | None = None,
        room: Callable[[Link], str | None] | None = None,
        waiting: int | None = None,
        waiting_seconds: float = 5.0,
        accepts_per_second: float | None = None,
        accept_burst: float | None = None,
        retry_after_seconds: float = 5.0,
        key: Callable[[Link], str] | None = None,
        trusted_proxies: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(app)
        limits = {"total": total, "per_client": per_client, "per_user": per_user, "per_room": per_room}
        for name, limit in limits.items():
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1, or None for no limit, not {limit!r}")
        if per_room is not None and room is None:
            raise ValueError("per_room needs room, a callable that names a connection's room")
        if (waiting or 0) < 0 or waiting_seconds <= 0 or retry_after_seconds <= 0:
            raise ValueError("waiting must not be negative; waiting_seconds and retry_after_seconds must be above 0")
        if waiting and total is None and per_room is None:
            raise ValueError("waiting is for a slot of total or per_room: set one of them")
        client = client_keys(trusted_proxies)
        keys: dict[str, Callable[[Link], str | None]] = {
            "total": lambda link: "total",
            "per_client": key or (lambda link: client(link.scope)),
            "per_user": lambda link: user_id(link.user),
            "per_room": room or (lambda link: None),
        }
        self._slots = Slots({name: limit for name, limit in limits.items() if limit is not None})
        self._own_keys = [(name, keys[name]) for name in self._slots.limits if name in _OWN]
        self._shared_keys = [(name, keys[name]) for name in self._slots.limits if name not in _OWN]
        self._accepts = None if accepts_per_second is None else TokenBucket.of(accepts_per_second, accept_burst)
        self._accepts_full_at = FULL
        self._connections = 0
        self._waiting_limit = waiting or 0
        self._waiting_seconds = waiting_seconds
        self._retry_after_seconds = retry_after_seconds
        self._clock = clock

    async def open(self, link: Link) -> Guard | None:
        """Take the connection's slots, waiting for them if that is allowed, or refuse."""
        own, shared = _claims(self._own_keys, link), _claims(self._shared_keys, link)
        if lacking := self._slots.lacking(own):
            raise self._refusal(link, lacking)
        self._keep_accept_rate(link)
        self._slots.take(own)
        try:
            await self._take_or_wait(link, shared)
        except BaseException:
            self._slots.give_back(own)
            raise
        return _SlotGuard(self, link, own + shared) if own or shared else None

    def statistics(self) -> ConnectionLimitStatistics:
        """How many slots are taken and how many handshakes wait; looks at every slot, so ask now and then."""
        distinct = Counter(kind for kind, _ in self._slots.taken)
        return ConnectionLimitStatistics(
            self._connections, self._slots.limits.get("total"),
            distinct["per_client"], distinct["per_user"], distinct["per_room"],
            len(self._slots.waiters), self._waiting_limit,
        )  # fmt: skip

    async def _take_or_wait(self, link: Link, claims: tuple[Claim, ...]) -> None:
        lacking = self._slots.lacking(claims)
        if lacking is None:
            self._slots.take(claims)
        elif len(self._slots.waiters) >= self._waiting_limit or not await self._wait(link, claims):
            raise self._refusal(link, lacking)

    async def _wait(self, link: Link, claims: tuple[Claim, ...]) -> bool:
        started = self._clock()
        waiter = self._slots.join(claims)
        timer = asyncio.get_running_loop().call_later(self._waiting_seconds, waiter.expire)
        link.observe(WAITING, len(self._slots.waiters))
        try:
            return await waiter.granted
        except BaseException:
            if waiter.has_slots:  # granted and cancelled in the same turn of the loop
                self._slots.give_back(claims)
            raise
        finally:
            timer.cancel()
            self._slots.leave(waiter)
            link.observe(WAITING, len(self._slots.waiters))
            link.observe(WAITED_SECONDS, self._clock() - started)

    def _keep_accept_rate(self, link: Link) -> None:
        if self._accepts is None:
            return
        now = self._clock()
        if self._accepts.wait_seconds(self._accepts_full_at, now):
            raise self._refusal(link, "accept_rate")
        self._accepts_full_at = self._accepts.spend(self._accepts_full_at, now)

    def _refusal(self, link: Link, lacking: str) -> Refuse:
        observation, detail = _REFUSALS[lacking]
        link.observe(observation, 1.0)
        retry_after = self._retry_after_seconds * (1 + random.random())  # noqa: S311  # spreads a crowd, hides nothing
        if lacking in _OWN:
            return Refuse(429, RATE_LIMITED, detail=detail, retry_after=retry_after)
        return Refuse(503, AT_CAPACITY, detail=detail, retry_after=retry_after)

    def _count(self, link: Link, by: int) -> None:
        self._connections += by
        if "total" in self._slots.limits:
            link.observe(TAKEN, self._connections)


class _SlotGuard(Guard):
    """Holds one connection's slots."""

    __slots__ = ("_claims", "_layer", "_link")

    def __init__(self, layer: ConnectionLimitMiddleware, link: Link, claims: tuple[Claim, ...]) -> None:
        self._layer = layer
        self._link = link
        self._claims = claims
        layer._count(link, +1)

    def closed(self, close: Close) -> None:
        self._layer._slots.give_back(self._claims)
        self._layer._count(self._link, -1)


def _claims(keys: Iterable[tuple[str, Callable[[Link], str | None]]], link: Link) -> tuple[Claim, ...]:
    """The slots that a connection needs; it needs none of a kind under which it has no key."""
    return tuple((name, key) for name, key_of in keys if (key := key_of(link)))


_OWN: Final = frozenset({"per_client", "per_user"})
"""The kinds that only the client or user itself can free: refused with 429 and never waited for."""

_REFUSALS: Final = {
    "total": (REFUSED_TOTAL, "The server is full."),
    "per_room": (REFUSED_ROOM, "The room is full."),
    "per_client": (REFUSED_CLIENT, "This client has too many connections."),
    "per_user": (REFUSED_USER, "This user has too many connections."),
    "accept_rate": (REFUSED_ACCEPT_RATE, "Too many clients connect at once."),
}
"""By what is lacking: what is observed, and what the client is told."""
