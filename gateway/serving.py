"""``Serving``: what serving connections needs whatever they come through: a hub, who may come in, the drain, a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Callable, Iterable

from middleware.close import GOING_AWAY, INTERNAL_ERROR, NORMAL, RESTARTING, Close

from .admission import Admission, is_self_check
from .cluster import Cluster
from .connection import Connection
from .hub import Hub
from .observer import Observer
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
        Who leaves meanwhile is not waited for.
        """
        self.admission.draining = True
        self.cluster.drain()
        waiting = _Waiting(self.registry.connections.values())
        self.hub.observers.add(waiting)
        total, loop = len(waiting), asyncio.get_running_loop()
        started = loop.time()
        while True:
            elapsed = loop.time() - started
            due = total if elapsed >= period_seconds else math.ceil(total * elapsed / period_seconds) or 1
            while len(waiting) and total - len(waiting) < due:
                waiting.take().close(close)
            if on_progress is not None:
                on_progress(len(waiting))
            if not len(waiting):
                return total
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.01, period_seconds / total * random.uniform(0.5, 1.5))):  # noqa: S311 - no secret
                    await waiting.nobody.wait()

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


class _Waiting(Observer):
    """Who is still to be closed by a drain, in random order; those who leave by themselves are struck out.

    The node's check of itself is not among them: it is over in a moment.
    """

    def __init__(self, connections: Iterable[Connection]) -> None:
        order = [connection for connection in connections if not is_self_check(connection.scope)]
        random.shuffle(order)
        self._order = dict.fromkeys(order)
        self.nobody = asyncio.Event()
        """Set when the last one has left."""

    def __len__(self) -> int:
        return len(self._order)

    def take(self) -> Connection:
        """The next one."""
        return self._order.popitem()[0]

    def ended(self, connection: Connection, close: Close) -> None:
        self._order.pop(connection, None)
        if not self._order:
            self.nobody.set()


def ending_of(error: BaseException) -> Close:
    """What a handler's error means for its connection (``errors``: those that carry a close are endings, not failures)."""
    close = getattr(error, "close", None)
    if isinstance(close, Close):
        return close
    return GOING_AWAY if isinstance(error, asyncio.CancelledError) else INTERNAL_ERROR
