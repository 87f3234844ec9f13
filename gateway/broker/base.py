"""The broker interface. Everything is addressed to a room; a user and a node are rooms too (``message.user_room``).

Promises, held by every broker and tested by one suite over all of them (``tests/gateway/broker/test_contract.py``):

1. Order: what one publisher publishes to one room is delivered in that order, once, on every subscribed node, and the
   publishing node itself receives through the broker too. Over memory and Redis a room has one order, which all nodes see; over
   NATS messages of *different* publishers may be interleaved differently on different nodes.
2. When ``subscribe`` has returned, everything published to the room afterwards, by anyone, is delivered. Over several servers of
   NATS that holds for nodes on the same server; on others it holds once the subscription has travelled there. In one cluster it
   travels ahead of what this node publishes next, so an answer to that is delivered, too. While the engine is away, or does not
   allow the room any more, nothing is delivered; a broker that ``Reports`` tells both.
3. ``deliver`` is called on the event loop, never re-entrantly for one room out of order, and must not raise or wait.
4. ``post`` never waits: it takes the envelope or raises ``BrokerUnavailable``. What it took may still be lost when the
   engine dies; that is counted, never silent.
5. ``publish`` returns when the engine has the envelope, with its position where the engine keeps a history.
6. ``unsubscribe``, ``close`` and a failing engine never block the teardown of a connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from ..envelope import Envelope

__all__ = ["Broker", "Deliver", "Position"]

Deliver = Callable[[Envelope], None]


class Position(NamedTuple):
    """Where an envelope stands in its room's history."""

    epoch: str
    offset: int


class Broker(Protocol):
    """Carries envelopes between nodes."""

    local: bool
    """True when there can be no other node."""

    async def start(self, deliver: Deliver) -> None:
        """Connect, and hand what arrives for subscribed rooms to ``deliver``. Raises ``BrokerUnavailable``."""

    def post(self, envelope: Envelope) -> None:
        """Publish without waiting. Raises ``BrokerUnavailable`` when it cannot be taken now."""

    async def publish(self, envelope: Envelope) -> Position | None:
        """Publish and wait until the engine has it. Raises ``BrokerUnavailable``."""

    async def subscribe(self, room: str) -> None:
        """Receive the room's envelopes from now on. Raises ``BrokerUnavailable``."""

    async def unsubscribe(self, room: str) -> None:
        """Receive the room's envelopes no longer."""

    async def check(self) -> None:
        """Raise ``BrokerUnavailable`` when the broker is not usable; asked by readiness checks and by every join: to be cheap."""

    async def close(self) -> None:
        """Disconnect; after it nothing is delivered."""
