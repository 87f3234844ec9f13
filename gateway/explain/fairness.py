"""Who gives way in a full memory, so that nobody can push everybody else's history out by making much of their own. Pure.

1. Whoever holds more than their share of a memory gives way first, down to it: the heaviest, and of theirs the quietest.
2. Then what is idle gives way, then what is quietest. What belongs to several is nobody's and gives way only there.
3. Many give way at once, so that choosing them costs a newcomer little.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

from middleware.asgi import client_key

from ..connection import Connection

__all__ = ["Held", "give_way", "owner_of"]

SHARE = 10
"""Nobody keeps more than a tenth of a memory that is full."""
PARTS = 10
"""How much gives way at once: a tenth."""


class Held(NamedTuple):
    """Something in a memory."""

    key: str
    owner: str
    """Empty when it is nobody's alone."""
    is_idle: bool = False


def owner_of(connection: Connection) -> str:
    """To whom history is charged that a connection makes: its user, or else the client's address (a /64 network of IPv6)."""
    client = connection.scope.get("client")
    return connection.user or (client_key(client[0]) if client else "")


def give_way(held: Iterable[Held], bound: int) -> list[str]:
    """The keys that give way, at least one, of what is ``held``, which is given quietest first and fills its ``bound``."""
    everything = tuple(held)
    wanted, share = max(1, bound // PARTS), max(1, bound // SHARE)
    held_by = Counter(one.owner for one in everything if one.owner)
    going: dict[str, None] = {}
    for owner, count in held_by.most_common(SHARE):  # no more can hold more than their share
        theirs = (one.key for one in everything if one.owner == owner)
        going.update(dict.fromkeys(key for _, key in zip(range(min(count - share, wanted - len(going))), theirs, strict=False)))
        if len(going) >= wanted or count <= share:
            break
    for one in chain((one for one in everything if one.is_idle), (one for one in everything if not one.is_idle)):
        if len(going) >= wanted:
            break
        going[one.key] = None
    return list(going)
