"""``Observer``: who wants to know what becomes of publications and connections, and the seam that tells it.

Metrics, traces, delivery confirmations and the explanations are observers; the delivery core knows none of them.

1. Every hook is called on the event loop, is synchronous and short, and must not raise: it costs every message.
2. Only hooks that an observer overrides are called.
3. Nothing is told of the node's talk to itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from middleware.close import Close

from .connection import Connection
from .envelope import Envelope
from .ledger import Taken

if TYPE_CHECKING:  # only what it looks like: a fan-out knows no observer, nor the other way round
    from .fan_out import FanOut

__all__ = ["Observer", "Observers"]


class Observer:
    """Overrides what it wants to know."""

    def published(self, envelope: Envelope) -> None:
        """This node accepted a publication and is about to hand it to the broker; its ``traceparent`` may be set now."""

    def fanned_out(self, fan_out: FanOut) -> None:
        """A fan-out has reached every member."""

    def reached(self, recipients: Sequence[Connection], fan_out: FanOut) -> None:
        """These members of a fan-out were written to just now: nothing else has been written to any of them since."""

    def dropped(self, connection: Connection, envelopes: Sequence[Envelope], reason: str) -> None:
        """Publications were not written to a connection: ``reason`` is ``slow-consumer``, ``left`` or ``closed``.

        What an outlet took and gave up later is told by ``gave_up``.
        """

    def gave_up(self, connection: Connection, taken: Sequence[Taken], messages: int, reason: str) -> None:
        """A connection's outlet had taken ``messages`` and does not send them: ``reason`` is ``replaced`` or ``unsent``.

        ``taken`` names the newest of them, oldest first; payloads are not kept. It may come after the end of the connection, and
        comes at last with ``unsent``, of no message too, when the socket is gone and nothing is left to give up.
        """

    def sent(self, connection: Connection, envelope: Envelope) -> None:
        """A message for one connection alone was written to it."""

    def missed(self, envelope: Envelope) -> None:
        """A message for one connection came to this node, where it is not (any more)."""

    def confirmed(self, connection: Connection, envelope: Envelope, result: str, seconds: float) -> None:
        """A delivery was confirmed, or was not: ``result`` is of ``confirms.RESULTS``, ``seconds`` are since it was accepted."""

    def joined(self, connection: Connection, room: str) -> None:
        """A connection became a member of a room; the gateway's own rooms too."""

    def left(self, connection: Connection, room: str) -> None:
        """A membership ended; ``connection.ending`` tells whether because the connection did."""

    def ended(self, connection: Connection, close: Close) -> None:
        """The end of a registered connection is decided; it is still a member of its rooms."""


class Observers:
    """The hooks of all observers, each kind a tuple of what is to be called."""

    __slots__ = (
        "confirmed",
        "dropped",
        "ended",
        "fanned_out",
        "gave_up",
        "joined",
        "left",
        "missed",
        "published",
        "reached",
        "sent",
    )

    def __init__(self) -> None:
        self.published: tuple[Callable[[Envelope], None], ...] = ()
        self.fanned_out: tuple[Callable[[FanOut], None], ...] = ()
        self.reached: tuple[Callable[[Sequence[Connection], FanOut], None], ...] = ()
        self.dropped: tuple[Callable[[Connection, Sequence[Envelope], str], None], ...] = ()
        self.gave_up: tuple[Callable[[Connection, Sequence[Taken], int, str], None], ...] = ()
        self.sent: tuple[Callable[[Connection, Envelope], None], ...] = ()
        self.missed: tuple[Callable[[Envelope], None], ...] = ()
        self.confirmed: tuple[Callable[[Connection, Envelope, str, float], None], ...] = ()
        self.joined: tuple[Callable[[Connection, str], None], ...] = ()
        self.left: tuple[Callable[[Connection, str], None], ...] = ()
        self.ended: tuple[Callable[[Connection, Close], None], ...] = ()

    def add(self, observer: Observer) -> None:
        """Tell ``observer`` from now on; those added first are told first."""
        for name in self.__slots__:
            if getattr(type(observer), name) is not getattr(Observer, name):
                setattr(self, name, (*getattr(self, name), getattr(observer, name)))
