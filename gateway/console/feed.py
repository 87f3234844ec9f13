"""``Feed``: one snapshot a second, encoded once, shared by everybody who watches.

1. While nobody watches nothing is done: there is no task and no sample is kept.
2. There are at most ``most_watchers``; one more is ``TooManyWatchers``.
3. Nothing queues: who comes late to a snapshot gets the newest one.
4. When ``is_over`` holds, everybody gets one last snapshot and is let go: a page that is open holds up no shutdown.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

import msgspec

from .figures import Snapshot

__all__ = ["Feed", "FeedStatistics", "Source", "TooManyWatchers", "Watcher"]

logger = logging.getLogger("tidegate.console")


class TooManyWatchers(Exception):
    """Enough are watching; try again later."""


class Source(Protocol):
    """Where snapshots come from (``statistics.Statistics``)."""

    async def take(self) -> Snapshot: ...

    def forget(self) -> None: ...


class FeedStatistics(NamedTuple):
    """A snapshot of the feed itself."""

    watchers: int
    taken: int
    """Snapshots since the process started."""


class Watcher:
    """One who watches; to be left when it does not any more."""

    __slots__ = ("_feed", "_is_over", "_seen", "_woken")

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._seen = 0
        self._is_over = False
        self._woken = asyncio.Event()

    async def next(self, *, with_rates: bool = False) -> bytes | None:
        """The newest snapshot that it has not seen yet, as JSON; waits for one. ``None`` when it is over.

        Args:
            with_rates: pass over a first one, which has no rates.
        """
        while True:
            number, snapshot, has_rates = self._feed.newest
            if number and number != self._seen and (has_rates or not with_rates):
                self._seen = number
                return snapshot
            if self._is_over:
                return None
            self._woken.clear()
            await self._woken.wait()

    def leave(self) -> None:
        """Watch no more; ``next`` returns ``None``."""
        self._seen = self._feed.newest[0]
        self.over()
        self._feed.forget(self)

    def wake(self) -> None:
        """There is a new snapshot."""
        self._woken.set()

    def over(self) -> None:
        """What there is now is the last one."""
        self._is_over = True
        self._woken.set()


class Feed:
    """Snapshots for watchers.

    Args:
        source: takes them.
        is_over: whether the process is about to end and nobody is left to be seen off.
        interval_seconds: from one to the next.
        most_watchers: at a time.
        sleep: for tests.
    """

    def __init__(
        self,
        source: Source,
        *,
        is_over: Callable[[], bool] = lambda: False,
        interval_seconds: float = 1.0,
        most_watchers: int = 32,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if interval_seconds <= 0 or most_watchers < 1:
            raise ValueError("interval_seconds must be above 0 and most_watchers at least 1")
        self.newest: tuple[int, bytes, bool] = (0, b"", False)
        """Its number (0: there is none), what it says, and whether it has rates."""
        self._source = source
        self._is_over = is_over
        self._interval_seconds = interval_seconds
        self._most_watchers = most_watchers
        self._sleep = sleep
        self._watchers: set[Watcher] = set()
        self._task: asyncio.Task[None] | None = None
        self._taken = 0

    def watch(self) -> Watcher:
        """One more who watches. Raises ``TooManyWatchers``."""
        if len(self._watchers) >= self._most_watchers:
            raise TooManyWatchers(f"{self._most_watchers} are watching already")
        watcher = Watcher(self)
        self._watchers.add(watcher)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        return watcher

    def forget(self, watcher: Watcher) -> None:
        """One less; behind the last one the lights go out."""
        self._watchers.discard(watcher)
        if not self._watchers and self._task is not None:
            self._task.cancel()
            self._task = None
            self.newest = (0, b"", False)
            self._source.forget()

    def statistics(self) -> FeedStatistics:
        """A snapshot."""
        return FeedStatistics(len(self._watchers), self._taken)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            over = self._is_over()
            await self._take()
            for watcher in tuple(self._watchers):
                watcher.over() if over else watcher.wake()
            now = loop.time()
            due = max(due + self._interval_seconds, now)  # what was missed is not made up for
            await self._sleep(due - now)

    async def _take(self) -> None:
        try:
            snapshot = await self._source.take()
            encoded = msgspec.json.encode(snapshot)
        except Exception:  # a figure that cannot be read is a bug, and the next second is another
            logger.exception("taking a snapshot failed")
            return
        self._taken += 1
        self.newest = (self._taken, encoded, snapshot.interval_seconds is not None)
