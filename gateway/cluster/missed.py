"""``Missed``: tells the hub that something other nodes said did not arrive here, which it finds by the numbers of their heartbeats.

1. What is missed of several nodes at about the same time is told once, ``settle_seconds`` after the first sign, when all of them
   have been heard again.
2. What the broker has told itself, as its own connection was lost, is not told again, whether it was just before the first sign or
   before the telling: others are heard before the broker is done with coming back.
3. A node that has stopped tells nothing, whatever it still hears.
4. Whose heartbeats the engine has taken and this node has not heard, has been missed, for however long: those that were taken for
   dead are remembered, in bounds, until they say goodbye.
"""

from __future__ import annotations

import asyncio
import logging
import math

from ..broker import Reports
from ..hub import Hub
from .nodes import LONGEST_TABLE
from .wire import Here

__all__ = ["Missed", "Numbers"]

MOST_REMEMBERED = 2 * LONGEST_TABLE
"""Nodes whose last heartbeats are remembered: all that have a place in the table, and as many that are dead."""

logger = logging.getLogger("tidegate.cluster")


class Numbers:
    """The last heartbeats of other nodes, those heard of least recently first. No loop, no clock: time is an argument."""

    def __init__(self) -> None:
        self._last: dict[str, Here] = {}

    def heard(self, node: str, here: Here, age_seconds: float) -> bool:
        """Note a heartbeat; whether some before it were taken by the engine and did not arrive.

        ``age_seconds`` is this node's own: of a newcomer that is clearly younger it should have heard the first.
        """
        last = self._last.pop(node, None)
        self._last[node] = here
        if len(self._last) > MOST_REMEMBERED:
            del self._last[next(iter(self._last))]
        if last is not None and last.instance == here.instance:
            return here.number > last.number + 1
        return here.number > 0 and here.age_seconds + here.interval_seconds < age_seconds

    def left(self, node: str, instance: str) -> None:
        """Note a goodbye; one of a process that the node is not (any more) changes nothing."""
        last = self._last.get(node)
        if last is not None and last.instance == instance:
            del self._last[node]


class Missed:
    """Gaps that only the other nodes' heartbeats show.

    Args:
        hub: whose rooms these are.
        settle_seconds: in this time every node is heard of.
    """

    def __init__(self, hub: Hub, settle_seconds: float) -> None:
        self.gaps = 0
        """Told so far."""
        self._hub = hub
        self._settle_seconds = settle_seconds
        self._reconnects = 0
        """How often the broker had lost its connection when last asked."""
        self._told_until = -math.inf
        """Until then what others said meanwhile is a part of the gap that the broker has told."""
        self._numbers = Numbers()
        self._nodes: set[str] = set()
        """Who was not heard, and is not told of yet."""
        self._telling: asyncio.TimerHandle | None = None

    def look(self) -> None:
        """Look whether the broker has told a gap of its own; to be called about every ``settle_seconds``."""
        broker = self._hub.broker
        reconnects = broker.statistics().reconnects if isinstance(broker, Reports) else 0
        if reconnects != self._reconnects:
            self._reconnects = reconnects
            # The half is for a heartbeat that is late.
            self._told_until = asyncio.get_running_loop().time() + 1.5 * self._settle_seconds

    def heard(self, node: str, here: Here, age_seconds: float) -> None:
        """Note a heartbeat, as ``Numbers.heard``; what did not arrive before it is told."""
        if not self._numbers.heard(node, here, age_seconds) or self._is_told():
            return
        self._nodes.add(node)
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(self._settle_seconds, self._tell)

    def left(self, node: str, instance: str) -> None:
        """Note a goodbye."""
        self._numbers.left(node, instance)

    def stop(self) -> None:
        """Tell nothing more, and forget the others."""
        self._numbers = Numbers()
        self._nodes.clear()
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None

    def _tell(self) -> None:
        """Tell it, unless the broker has come back meanwhile and has told it."""
        nodes, self._nodes, self._telling = sorted(self._nodes), set(), None
        if self._is_told():
            return
        for node in nodes:
            logger.warning("node %s was not heard for a while although the engine took what it said", node)
        self.gaps += 1
        self._hub.tell_gap()

    def _is_told(self) -> bool:
        self.look()
        return asyncio.get_running_loop().time() < self._told_until
