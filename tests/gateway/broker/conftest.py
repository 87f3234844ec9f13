"""Engines that all broker tests of a process share, each started when it is first asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from tests.servers import Nats, Redis, Server

KINDS: dict[str, Callable[[Path], Server]] = {
    "redis": Redis,
    "redis-cluster": lambda directory: Redis(directory, cluster=True),
    "nats": Nats,
}

Engines = Callable[[str], Server]
LoopFactory = Callable[[], asyncio.AbstractEventLoop]
LOOPS: dict[str, LoopFactory] = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
"""What happens to a connection that breaks is the loop's business, and production's is uvloop."""
ON_BOTH_LOOPS = ("test_failing_engines.py", "test_resets.py")


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, LoopFactory]:
    return LOOPS if item.path.name in ON_BOTH_LOOPS else {"asyncio": LOOPS["asyncio"]}


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """``engines("redis")``: a running server, the same one each time. Tests tell themselves apart by a prefix of their own."""
    running: dict[str, Server] = {}

    def engine(kind: str) -> Server:
        if kind not in running:
            server = KINDS[kind](tmp_path_factory.mktemp(kind))
            server.start()
            running[kind] = server
        return running[kind]

    yield engine
    for server in running.values():
        server.stop()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Every kind of engine in turn."""
    found: str = request.param
    return found


@pytest.fixture
def own_engine(kind: str, tmp_path: Path) -> Iterator[Server]:
    """A server of this test's own, which it may stop, freeze and kill."""
    server = KINDS[kind](tmp_path)
    server.start()
    try:
        yield server
    finally:
        server.stop()
