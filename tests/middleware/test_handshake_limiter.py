"""How often a client may connect, in one process; the shared one against a real Redis is in ``tests/integration``."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from middleware.handshake_limiter import SHARED_UNAVAILABLE, TABLE_FULL, MemoryHandshakeLimiter, RedisHandshakeLimiter

from .asgi_helpers import Clock


def nobody(name: str, value: float) -> None:
    """An observer for tests in which nothing may be observed."""
    raise AssertionError(f"{name} was observed")


async def test_a_client_gets_its_burst_then_its_rate() -> None:
    """``None`` lets in, a number says how long to wait."""
    limiter = MemoryHandshakeLimiter(0.5, 2, clock=(clock := Clock()))
    assert [await limiter.acquire("a", nobody) for _ in range(3)] == [None, None, pytest.approx(2.0)]
    assert await limiter.acquire("b", nobody) is None
    clock.advance(2.0)
    assert await limiter.acquire("a", nobody) is None


async def test_a_full_table_is_observed_each_time_it_forgives_somebody() -> None:
    """And what it holds is visible."""
    seen: list[str] = []
    limiter = MemoryHandshakeLimiter(0.001, 1, max_clients=2, clock=Clock())
    for client in "abc":
        await limiter.acquire(client, lambda name, value: seen.append(name))
    assert seen == [TABLE_FULL]
    assert limiter.statistics() == (2, 2, 1)


def test_a_shared_limiter_without_the_extra_says_which_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """At construction, not in the first handshake."""
    monkeypatch.setitem(sys.modules, "limits", None)
    with pytest.raises(ValueError, match=r"pip install 'tidegate\[redis\]'"):
        RedisHandshakeLimiter("redis://127.0.0.1", 1)


def test_nobody_pays_for_the_shared_limiter_who_does_not_use_it() -> None:
    """The library is imported when the first one is made."""
    code = "import sys, middleware.rate_limit; print(sorted({'limits', 'redis'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


async def test_a_client_library_that_does_not_let_go_delays_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer comes after timeout_seconds even when the question can be neither answered nor cancelled."""
    asked, let_go = asyncio.Event(), asyncio.Event()
    node = RedisHandshakeLimiter("redis://127.0.0.1:6379", 0.1, 1, timeout_seconds=0.01, retry_seconds=3600)

    async def stubborn(key: str) -> float | None:
        asked.set()
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue
        raise ConnectionError("too late")

    monkeypatch.setattr(node, "_ask", stubborn)
    seen: list[str] = []
    async with asyncio.timeout(5):
        assert await node.acquire("a", lambda name, value: seen.append(name)) is None
    assert asked.is_set()
    assert not let_go.is_set()
    assert seen == [SHARED_UNAVAILABLE]
    let_go.set()
    await node.aclose()
    assert node.statistics().clients == 1


def test_a_url_without_a_port_is_refused_at_construction() -> None:
    """Said in a sentence with an example."""
    with pytest.raises(ValueError, match="must look like redis://host:6379"):
        RedisHandshakeLimiter("redis://127.0.0.1", 1)


@pytest.mark.parametrize("wrong", [{"timeout_seconds": 0}, {"retry_seconds": -1}, {"max_connections": 0}])
def test_wrong_options_are_refused_at_construction(wrong: dict[str, float]) -> None:
    """With a sentence."""
    with pytest.raises(ValueError, match="must be above 0"):
        RedisHandshakeLimiter("redis://127.0.0.1", 1, **wrong)  # type: ignore[arg-type]  # the wrong types are the point
