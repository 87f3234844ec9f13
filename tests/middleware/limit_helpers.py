"""A link that records what a layer does with it, for tests that drive one layer without a driver."""

from __future__ import annotations

import asyncio
from typing import Any

from middleware.asgi import Scope
from middleware.channel import AsgiChannel
from middleware.close import Close
from middleware.layer import Link

from .asgi_helpers import Server, websocket_scope

__all__ = ["RecordingLink", "settle"]


class RecordingLink(Link):
    """Collects observations, holds, endings and what the client was told."""

    __slots__ = ("endings", "holds", "observed", "told")

    def __init__(self, scope: Scope | None = None, user: Any = None) -> None:
        server = Server()
        super().__init__(scope or websocket_scope(), AsgiChannel(server.receive, server.send))
        self.observed: list[tuple[str, float]] = []
        self.holds: list[float] = []
        self.endings: list[Close] = []
        self.told: list[str | bytes] = []
        self.subscribe(lambda name, value: self.observed.append((name, value)))
        if user is not None:
            self.set(user=user)

    def hold(self, seconds: float) -> None:
        self.holds.append(seconds)

    def close(self, close: Close) -> None:
        self.endings.append(close)

    def tell(self, payload: str | bytes) -> bool:
        self.told.append(payload)
        return True

    def count(self, name: str) -> int:
        """How often ``name`` was observed."""
        return sum(observed == name for observed, _ in self.observed)

    def last(self, name: str) -> float:
        """The value that ``name`` was last observed with."""
        return next(value for observed, value in reversed(self.observed) if observed == name)


async def settle() -> None:
    """Let every task run until it waits for something."""
    for _ in range(20):
        await asyncio.sleep(0)
