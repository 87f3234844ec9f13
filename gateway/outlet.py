"""``Outlet``: the write side of a connection; a ``FrameOutlet`` where the server takes ready-made frames, else an ``AsgiOutlet``.

Promises of both:

1. ``write`` never waits and never raises: it returns how many of the batch's messages were not taken, 0 when all went well.
   Whoever calls counts those that were. What is taken and then waits, or is not sent after all, is told to the batch's ``totals``,
   and the loss to the ``Owner``, with the reason.
2. What is taken leaves in order, also in relation to ``close``.
3. What waits for one slow peer is bounded: ``max_bytes`` and one batch. Past the bound the policy acts on that peer alone:
   ``close`` ends it (``slow-consumer``), ``drop`` leaves out what comes, ``latest`` keeps of what comes only
   the newest message, behind what was taken before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from middleware.close import Close

from .ledger import Taken
from .message import Batch

__all__ = ["Outlet", "OutletOptions", "Owner", "Policy", "wait_among", "wake_all"]

Policy = Literal["close", "drop", "latest"]


@dataclass(frozen=True, slots=True)
class OutletOptions:
    """Bounds of what may wait for one peer."""

    max_bytes: int = 1024 * 1024
    max_messages: int = 16_384
    """Only counted where messages wait as messages (``AsgiOutlet``)."""
    policy: Policy = "close"
    abort_after_seconds: float = 5.0
    """How long a peer that must go may take to read what is left."""

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_messages", "abort_after_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0, not {getattr(self, name)!r}")
        if self.policy not in get_args(Policy):
            raise ValueError(f"policy must be one of {', '.join(get_args(Policy))}, not {self.policy!r}")


class Owner(Protocol):
    """Whose outlet it is (a ``Connection``)."""

    def gave_up(self, taken: Sequence[Taken], messages: int, reason: str) -> None:
        """``messages`` that were taken are not sent; ``taken`` names the newest. At the end also said of none (``unsent``)."""


class Outlet(Protocol):
    """How the rest of the gateway writes to one connection."""

    @property
    def sent_messages(self) -> int: ...

    @property
    def sent_bytes(self) -> int: ...

    @property
    def replaced_messages(self) -> int:
        """Messages that were taken and gave way to a newer one (policy ``latest``)."""

    def write(self, batch: Batch) -> int: ...

    def buffered_bytes(self) -> int: ...

    def ping(self, payload: bytes, on_answer: Callable[[], None]) -> bool:
        """Send a ping behind all that was taken (``Frames.ping``); False when it cannot stand there now."""

    def close(self, close: Close) -> None: ...

    async def flushed(self) -> None:
        """Wait until all that was written, and the close, has been handed to the server."""

    def wake(self) -> None:
        """The end is decided: let everybody go who waits in ``drained``."""

    def lost(self) -> None:
        """The connection is over: nothing more can be sent."""

    def settle(self) -> bool:
        """Account for what has been sent meanwhile; True when nothing is left."""

    def waiting(self) -> tuple[list[Taken], int]:
        """The names of the newest publications that were taken and not sent, and how many there are."""

    async def drained(self) -> None:
        """Wait until less than the high-water mark is buffered, or the connection is over."""


async def wait_among(waiters: list[asyncio.Future[None]]) -> None:
    """Wait until ``wake_all`` is called for ``waiters``."""
    waiter = asyncio.get_running_loop().create_future()
    waiters.append(waiter)
    try:
        await waiter
    except asyncio.CancelledError:
        if waiter in waiters:  # who gives up again and again must not fill the list
            waiters.remove(waiter)
        raise


def wake_all(waiters: list[asyncio.Future[None]]) -> None:
    """Let everybody go who waits among ``waiters``."""
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
    waiters.clear()
