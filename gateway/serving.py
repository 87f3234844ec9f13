"""``Serving``: what serving connections needs whatever they come through: a hub, who may come in, the drain, a clean end."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterable

from middleware.close import GOING_AWAY, INTERNAL_ERROR, NORMAL, RESTARTING, Close

from .admission import Admission
from .cluster import Cluster
from .connection import Connection
from .hub import Hub
from .outlet import OutletOptions
from .registry import ConnectionRegistry
from .validation import Validation

__all__ = ["Serving", "ending_of"]


class Serving:
    """Base of ``WebSocketServer``: starts, lets in, lets go, drains, stops."""

    def __init__(self, hub: Hub, validation: Validation, outbox: OutletOptions) -> None:
        self.hub = hub
        self.registry: ConnectionRegistry = hub.registry
        self.validation = validation
        self.cluster = Cluster(hub)
        self.admission = Admission(hub, validation, outbox, on_started=self.cluster.start)

    async def start(self) -> None:
        """Start the broker; done by itself at the first connection. Raises ``BrokerUnavailable``."""
        await self.admission.start()

    async def stop(self) -> None:
        """Say goodbye to the other nodes and stop the broker. Connections are to be drained before."""
        await self.cluster.stop()
        await self.hub.stop()

    async def drain(
        self, *, period_seconds: float = 0.0, close: Close = RESTARTING, on_progress: Callable[[int], None] | None = None
    ) -> int:
        """Refuse new handshakes and close all connections with ``close``; returns how many.

        They are closed in random order, evenly and with jitter over ``period_seconds``: those who come back come spread out.
        """
        self.admission.draining = True
        self.cluster.drain()
        waiting = list(self.registry.connections.values())
        random.shuffle(waiting)
        total, loop = len(waiting), asyncio.get_running_loop()
        started = loop.time()
        while waiting:
            elapsed = loop.time() - started
            due = total if elapsed >= period_seconds else math.ceil(total * elapsed / period_seconds) or 1
            while waiting and total - len(waiting) < due:
                waiting.pop().close(close)
            if on_progress is not None:
                on_progress(len(waiting))
            if waiting:
                await asyncio.sleep(max(0.01, period_seconds / total * random.uniform(0.5, 1.5)))  # noqa: S311 - no secret
        return total

    def _enter(self, connection: Connection, rooms: Iterable[str], *, counted: bool = True) -> None:
        """Let an accepted connection into the rooms that are held for it. Raises ``ConnectionClosed`` when it has just ended."""
        try:
            self.hub.enter(connection, rooms, counted=counted)
        except BaseException:
            self.hub.release(rooms)
            raise
        connection.opened()
        if self.admission.draining and counted:  # it was on its way in when the drain looked who is here
            connection.close(RESTARTING)

    async def _finish(self, connection: Connection) -> None:
        try:
            if connection.ending is None and connection.id in self.registry.connections:
                connection.close(NORMAL)
            await connection.outlet.flushed()
        finally:
            connection.lost()


def ending_of(error: BaseException) -> Close:
    """What a handler's error means for its connection (``errors``: those that carry a close are endings, not failures)."""
    close = getattr(error, "close", None)
    if isinstance(close, Close):
        return close
    return GOING_AWAY if isinstance(error, asyncio.CancelledError) else INTERNAL_ERROR
