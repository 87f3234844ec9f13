"""The handshake limit that nodes share, against a real redis-server: shared, bounded in time, and safe when Redis is away."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from middleware.handshake_limiter import SHARED_UNAVAILABLE, RedisHandshakeLimiter
from middleware.rate_limit import RateLimitMiddleware
from tests.middleware.asgi_helpers import Clock, echo, run, websocket_scope
from tests.servers import Redis


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """A running redis-server; without one on this machine the test is skipped, in CI it fails."""
    server = Redis(tmp_path)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@asynccontextmanager
async def limiter(redis: Redis, per_second: float, burst: float, **options: float) -> AsyncIterator[RedisHandshakeLimiter]:
    """One node's limiter, closed at the end."""
    made = RedisHandshakeLimiter(redis.url, per_second, burst, **{"timeout_seconds": 2.0, **options})  # type: ignore[arg-type]  # numbers only
    try:
        yield made
    finally:
        await made.aclose()


class Seen(list[str]):
    """Collects the names of what is observed."""

    def __call__(self, name: str, value: float) -> None:
        self.append(name)


async def test_two_nodes_share_one_limit(redis: Redis) -> None:
    """What one node has let in counts on the other; another client has a limit of its own."""
    seen = Seen()
    async with limiter(redis, 0.1, 4) as one, limiter(redis, 0.1, 4) as two:
        let_in = [await node.acquire("192.0.2.1", seen) for node in (one, two, one, two)]
        assert let_in == [None] * 4
        for node in (one, two):
            wait = await node.acquire("192.0.2.1", seen)
            assert wait is not None
            assert 0 < wait <= 40
        assert await one.acquire("2001:db8::/64", seen) is None
    assert seen == []


async def test_at_once_exactly_the_limit_gets_in(redis: Redis) -> None:
    """Two hundred handshakes of one client at the same moment on two nodes: ten get in."""
    async with limiter(redis, 0.1, 10) as one, limiter(redis, 0.1, 10) as two:
        answers = await asyncio.gather(*(node.acquire("192.0.2.1", Seen()) for node in (one, two) for _ in range(100)))
    assert answers.count(None) == 10


async def test_nothing_stays_in_redis_for_ever(redis: Redis) -> None:
    """Every key expires by itself, at most two windows later."""
    async with limiter(redis, 1, 5) as node:
        for number in range(20):
            await node.acquire(f"192.0.2.{number}", Seen())
        connection = node._storage.bridge.get_connection()  # type: ignore[attr-defined]  # looks under the bonnet
        keys = await connection.keys("*")
        assert len(keys) == 20
        assert all([0 < await connection.ttl(key) <= 10 for key in keys])


async def test_the_refusal_reaches_the_client_through_the_layer(redis: Redis) -> None:
    """429 with Retry-After."""
    async with limiter(redis, 0.1, 1) as node:
        app = RateLimitMiddleware(echo, handshake_limiter=node)
        assert (await run(app, websocket_scope())).accepted
        server = await run(app, websocket_scope())
    assert server.status == 429
    assert 1 <= int(server.response_headers[b"retry-after"]) <= 10


async def test_while_redis_is_down_each_process_limits_alone_and_says_so(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody is locked out, the door is not open either, and after its return Redis is asked again."""
    seen, clock = Seen(), Clock()
    async with limiter(redis, 0.1, 3) as node:
        node._clock = node._alone._clock = clock
        assert await node.acquire("192.0.2.1", seen) is None
        redis.stop()
        with caplog.at_level(logging.WARNING, "tidegate.middleware"):
            answers = [await node.acquire("192.0.2.1", seen) for _ in range(4)]
        assert answers[:3] == [None] * 3
        assert answers[3] is not None
        assert seen == [SHARED_UNAVAILABLE] * 4
        assert len(caplog.records) == 1, "one line per outage, not one per handshake"
        redis.start()
        clock.advance(1.0)
        seen.clear()
        assert await node.acquire("192.0.2.1", seen) is None
        assert seen == []


async def test_a_redis_that_hangs_delays_a_crowd_once_and_not_each_handshake(redis: Redis) -> None:
    """Frozen, not gone: the time-out decides, and until the next try nobody waits for it again."""
    seen = Seen()
    async with limiter(redis, 1, 500, timeout_seconds=1, retry_seconds=3600) as node:
        assert await node.acquire("192.0.2.1", seen) is None
        redis.signal(signal.SIGSTOP)
        async with asyncio.timeout(60):
            assert await asyncio.gather(*(node.acquire("192.0.2.1", seen) for _ in range(100))) == [None] * 100
            for _ in range(200):  # 200 s, if each one waited
                await node.acquire("192.0.2.1", seen)
        redis.signal(signal.SIGCONT)
    assert len(seen) == 300


async def test_a_cancelled_handshake_leaves_its_answer_to_nobody_else(redis: Redis) -> None:
    """Cancelled at every stage, with others in flight: the counts of the others are their own."""
    async with limiter(redis, 0.01, 3, max_connections=2) as node:
        for turn in range(60):
            task = asyncio.create_task(node.acquire("cancelled", Seen()))
            for _ in range(turn % 20):
                await asyncio.sleep(0)
            task.cancel()
            assert await node.acquire(f"client {turn}", Seen()) is None, "a refusal meant for the cancelled client"
            await asyncio.gather(task, return_exceptions=True)
