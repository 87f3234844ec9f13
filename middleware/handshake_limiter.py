"""How often a client may connect: the interface, the limiter of one process, and the one that all nodes share.

1. ``acquire`` returns in bounded time and never raises because a store is away: then each process limits on its own, so a
   lost Redis neither locks clients out nor opens the door.
2. No limiter holds more than ``max_clients`` clients, and none for longer than its bucket takes to be full again.
3. Redis is asked once per handshake, never per message, and not at all for a moment after it failed to answer.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol, cast

from .bucket import BucketTable, TokenBucket

__all__ = [
    "SHARED_UNAVAILABLE",
    "TABLE_FULL",
    "HandshakeLimiter",
    "HandshakeStatistics",
    "MemoryHandshakeLimiter",
    "Observe",
    "RedisHandshakeLimiter",
]

TABLE_FULL: Final = "rate_limit_table_full"
"""Observed, 1 each: the table of clients was full and the one that was quiet longest was forgiven."""
SHARED_UNAVAILABLE: Final = "rate_limit_shared_unavailable"
"""Observed, 1 each: the shared store could not be asked about a handshake, so this process decided alone."""

MAX_CLIENTS: Final = 50_000

Observe = Callable[[str, float], None]

logger = logging.getLogger("tidegate.middleware")


class HandshakeLimiter(Protocol):
    """Who decides how often a client may connect."""

    async def acquire(self, key: str, observe: Observe) -> float | None:
        """Count a handshake of ``key``: ``None`` lets it in, else the seconds after which to try again.

        Must return in bounded time and must not raise when a store is away: whoever cannot ask decides alone and reports
        it through ``observe(name, value)``.
        """


class HandshakeStatistics(NamedTuple):
    """What a limiter holds in this process."""

    clients: int
    max_clients: int
    forgotten: int
    """Clients forgiven early because the table was full."""


class MemoryHandshakeLimiter:
    """Counts handshakes in this process; ``burst`` defaults to two seconds' worth."""

    def __init__(
        self,
        per_second: float,
        burst: float | None = None,
        *,
        max_clients: int = MAX_CLIENTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bucket = TokenBucket.of(per_second, burst)
        self._table = BucketTable(self.bucket, max_clients)
        self._clock = clock

    async def acquire(self, key: str, observe: Observe) -> float | None:
        """See ``HandshakeLimiter``; never waits."""
        forgotten = self._table.forgotten
        wait = self._table.take(key, self._clock())
        if self._table.forgotten > forgotten:
            observe(TABLE_FULL, 1.0)
        return wait or None

    def statistics(self) -> HandshakeStatistics:
        """How full the table is."""
        return HandshakeStatistics(len(self._table), self._table.max_keys, self._table.forgotten)


class RedisHandshakeLimiter:
    """Counts handshakes of all nodes in Redis, by a sliding window (``limits`` library; extra ``redis``).

    The window is the time a full bucket takes to refill, ``burst / per_second`` in whole seconds, at least one; within it a
    client gets as many handshakes as the rate allows, i.e. ``burst`` when the division leaves no rest. While Redis does not
    answer within ``timeout_seconds``, every process limits alone at the same rate, and asks again after ``retry_seconds``.
    """

    def __init__(
        self,
        url: str,
        per_second: float,
        burst: float | None = None,
        *,
        timeout_seconds: float = 0.25,
        retry_seconds: float = 1.0,
        max_connections: int = 32,
        prefix: str = "tidegate",
        max_clients: int = MAX_CLIENTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if min(timeout_seconds, retry_seconds) <= 0 or max_connections < 1:
            raise ValueError("timeout_seconds and retry_seconds must be above 0, max_connections at least 1")
        try:
            from limits import RateLimitItemPerSecond
            from limits.aio.storage import RedisStorage
            from limits.aio.strategies import SlidingWindowCounterRateLimiter
            from limits.errors import ConfigurationError
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError as error:
            raise ValueError("a shared limiter needs the 'redis' extra: pip install 'tidegate[redis]'") from error
        self._alone = MemoryHandshakeLimiter(per_second, burst, max_clients=max_clients, clock=clock)
        bucket = self._alone.bucket
        window_seconds = max(1, math.ceil(bucket.burst / bucket.per_second))
        self._item = RateLimitItemPerSecond(max(1, int(bucket.per_second * window_seconds)), window_seconds, prefix)
        options: dict[str, Any] = {  # redis-py's own bounds are five seconds, tried four times
            "socket_timeout": timeout_seconds,
            "socket_connect_timeout": timeout_seconds,
            "retry": Retry(NoBackoff(), 0),
        }
        try:
            self._storage = RedisStorage(url, implementation="redispy", key_prefix=prefix, **options)
        except ConfigurationError as error:
            raise ValueError(f"the URL of the shared limiter must look like redis://host:6379: {error}") from error
        self._strategy = SlidingWindowCounterRateLimiter(self._storage)
        self._failures = _exceptions(self._storage.base_exceptions)
        self._slots = asyncio.Semaphore(max_connections)  # redis-py would open one connection per waiting handshake
        self._asking: set[asyncio.Task[float | None]] = set()
        self._timeout_seconds = timeout_seconds
        self._retry_seconds = retry_seconds
        self._retry_at = -math.inf
        self._clock = clock

    async def acquire(self, key: str, observe: Observe) -> float | None:
        """See ``HandshakeLimiter``; waits for Redis for ``timeout_seconds`` at most."""
        if self._clock() >= self._retry_at:
            try:
                return await self._ask_in_time(key)
            except self._failures as error:
                self._failed(error)
        observe(SHARED_UNAVAILABLE, 1.0)
        return await self._alone.acquire(key, observe)

    def _failed(self, error: Exception) -> None:
        now = self._clock()
        if now >= self._retry_at:  # of the handshakes that were waiting together, one speaks for all
            self._retry_at = now + self._retry_seconds
            logger.warning("the shared handshake limit is not available (%s): limiting alone", type(error).__name__)

    async def _ask_in_time(self, key: str) -> float | None:
        """Ask in a task of its own: redis-py can lose a cancellation (in ``asyncio.wait_for``, CPython 3.11) and wait on."""
        task = asyncio.create_task(self._ask(key))
        self._asking.add(task)
        task.add_done_callback(self._asked)
        try:
            if not (await asyncio.wait({task}, timeout=self._timeout_seconds))[0]:
                raise TimeoutError
            return task.result()
        finally:
            task.cancel()

    def _asked(self, task: asyncio.Task[float | None]) -> None:
        self._asking.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, so that an answer too late is no noise

    async def _ask(self, key: str) -> float | None:
        async with self._slots:
            if await self._strategy.hit(self._item, key):
                return None
            reset_at, _ = await self._strategy.get_window_stats(self._item, key)
        return max(0.0, reset_at - time.time())  # the library counts back from the wall clock what Redis gave as a duration

    def statistics(self) -> HandshakeStatistics:
        """What this process remembers of the times when it was alone."""
        return self._alone.statistics()

    async def aclose(self) -> None:
        """Close the connections to Redis."""
        for task in self._asking:
            task.cancel()
        if self._asking:
            await asyncio.wait(self._asking, timeout=self._timeout_seconds)
        await cast(Any, self._storage.bridge).get_connection().aclose()  # the base class does not declare it


def _exceptions(kinds: type[Exception] | tuple[type[Exception], ...]) -> tuple[type[Exception], ...]:
    """What counts as Redis being away; ``TimeoutError`` and refused connections are ``OSError``."""
    return (OSError, *(kinds if isinstance(kinds, tuple) else (kinds,)))
