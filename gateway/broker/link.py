"""What an engine has to offer: an ``Engine`` makes a ``Link``, one live session; ``EngineBroker`` does everything else.

1. A link is used from one event loop and never comes back: when it breaks it says so once (``Events.lost``), and the next one
   is made with ``connect``.
2. A link keeps order: what is given to ``publish`` first reaches the engine first, although several are under way.
3. ``subscribe`` returns when the engine has confirmed; from then on every message to these rooms is given to ``received``. A room
   that it refuses is no trouble for others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

__all__ = ["Engine", "EngineError", "Events", "Link", "as_engine_error"]

logger = logging.getLogger("tidegate.broker")


class EngineError(Exception):
    """The engine does not do what it is asked. The text is for operators and holds no secret.

    Args:
        permanent: trying again will not help (wrong password, wrong kind of server).
    """

    def __init__(self, detail: str, *, permanent: bool = False) -> None:
        super().__init__(detail)
        self.permanent = permanent


def as_engine_error(error: BaseException) -> EngineError:
    """What an engine or a link has raised, in words.

    What is neither ours nor the system's is a fault in a client: logged, and not repeated, since its text may hold anything.
    """
    if isinstance(error, EngineError):
        return error
    if isinstance(error, OSError):
        return EngineError(str(error) or type(error).__name__)
    logger.error("broker: the engine's client failed", exc_info=error)
    return EngineError(f"the client failed: {type(error).__name__}")


class Events(NamedTuple):
    """What a link tells; called on the event loop."""

    received: Callable[[bytes], None]
    """An envelope's bytes have come for a subscribed room."""
    lost: Callable[[str], None]
    """The link is of no use any more, for this reason."""
    misled: Callable[[str], None]
    """As ``lost``, and nobody knows whether what it has confirmed of late has reached others: the server is not the right one."""
    missed: Callable[[str], None]
    """Messages were dropped on their way to us, for this reason; the link itself goes on."""


class Link(Protocol):
    """One live session with the engine."""

    @property
    def max_message_bytes(self) -> int | None:
        """The largest envelope that the engine takes, in bytes."""

    def probe_rooms(self, stem: str) -> Sequence[str]:
        """Rooms beginning with ``stem``, one for every path that messages can take through the engine."""

    def publish(self, batch: Sequence[tuple[str, bytes]]) -> asyncio.Future[Mapping[int, str]]:
        """Write ``(room, bytes)`` in order, now; the future is done when the engine has them.

        Returns:
            Which of them the engine refused, by index, and why. The future fails with ``EngineError`` or ``OSError`` when it is not
            known what has become of them; it may be cancelled at any time.

        Raises:
            EngineError, OSError: as the future, when that is known already.
        """

    async def subscribe(self, rooms: Sequence[str]) -> Mapping[str, str]:
        """Returns, when all are answered, which of them the engine refused, and why. Raises ``EngineError``, ``OSError``."""

    async def unsubscribe(self, rooms: Sequence[str]) -> None:
        """Returns when the engine has taken note. Raises ``EngineError``, ``OSError``."""

    def verify(self) -> None:
        """Ask, without waiting, whether this link is still the right one; tells ``lost`` when it is not. Raises as ``publish``."""

    async def close(self) -> None:
        """End it, without waiting for the engine; raises nothing. ``lost`` is not told."""


class Engine(Protocol):
    """A kind of server at an address."""

    name: str
    """For people: ``Redis``, ``NATS``."""
    where: str
    """Its address without credentials."""

    hosts: int
    """How many lead into it; through whichever it is made, a link is to the whole engine."""

    async def connect(self, events: Events, host: int) -> Link:
        """A new link, through one of the hosts (from 0). Raises ``EngineError``, ``OSError``; cancelled, it leaves no socket."""
