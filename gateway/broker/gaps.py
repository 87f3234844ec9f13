"""``GapTeller``: tells an application in which rooms something may have been missed.

1. What it is told with runs once at a time, and not again within ``pause_seconds`` of its end. Gaps that come meanwhile are
   gathered, and told in one go: an engine that comes and goes makes no crowd of tasks, and a telling that makes a gap no storm.
2. Its failing is logged, and is nobody else's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection

__all__ = ["GapTeller", "OnGap"]

OnGap = Callable[[Collection[str]], Awaitable[object] | None]
"""Told the rooms of this node in which messages may have been missed: a function or a coroutine function."""

logger = logging.getLogger("tidegate.broker")


class GapTeller:
    """Tells ``on_gap``; the first gap after a pause at once."""

    def __init__(self, on_gap: OnGap, *, pause_seconds: float = 1.0) -> None:
        self._on_gap = on_gap
        self._pause_seconds = pause_seconds
        self._rooms: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def __call__(self, rooms: Collection[str]) -> None:
        """Tell, now or some time after the last telling has ended."""
        self._rooms.update(rooms)
        if self._task is None and self._rooms:
            self._task = asyncio.get_running_loop().create_task(self._tell(), name="on_gap")

    def stop(self) -> None:
        """Call off what runs, and forget what it was to tell."""
        self._rooms.clear()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    async def _tell(self) -> None:
        while self._rooms:
            rooms, self._rooms = self._rooms, set()
            try:
                told = self._on_gap(rooms)
                if told is not None:
                    await told
            except Exception:
                logger.exception("on_gap failed")
            await asyncio.sleep(self._pause_seconds)
        self._task = None
