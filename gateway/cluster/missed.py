"""``Missed``: tells the hub that something other nodes said did not arrive here.

1. What is missed of several nodes at about the same time is told once, ``settle_seconds`` after the first sign, when all of them
   have been heard again.
2. What the broker has told itself, as its own connection was lost, is not told again, whether it was just before the first sign or
   before the telling: others are heard before the broker is done with coming back.
3. A node that has stopped tells nothing, whatever it still hears.
"""

from __future__ import annotations

import asyncio
import logging
import math

from ..broker import Reports
from ..hub import Hub

__all__ = ["Missed"]

logger = logging.getLogger("tidegate.cluster")


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

    def notice(self, node: str) -> None:
        """Heartbeats of ``node`` that the engine took have not arrived."""
        if self._is_told():
            return
        self._nodes.add(node)
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(self._settle_seconds, self._tell)

    def stop(self) -> None:
        """Tell nothing more."""
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
