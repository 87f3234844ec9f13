"""Messages between connections: opens a topology at a server and measures cases over it."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .drivers.base import Driver
from .processes import Server
from .results import Sample, percentile
from .sockets import Group, Member, connect
from .workloads import Case, Topology

__all__ = ["Stalled", "Traffic", "gathered"]

WARM_UP_SECONDS = 0.25
STALL_SECONDS = 10.0
CONNECTING_AT_ONCE = 48
LAST_PART = 0.25
"""Of a turn: whether as much flows there as before shows who has come to a standstill."""


class Stalled(Exception):
    """Messages were sent and nothing came."""


class Traffic:
    """Connections to one server, in their rooms."""

    def __init__(self, driver: Driver, server: Server, topology: Topology, compressed: str = "") -> None:
        self._driver = driver
        self._server = server
        self._topology = topology
        self._compressed = compressed
        self.groups: list[Group] = []

    @property
    def members(self) -> Iterator[Member]:
        return (member for group in self.groups for member in group.members)

    async def open(self) -> None:
        """Connect everybody; the publisher of a group is first, the slow ones last."""
        topology = self._topology
        self.groups = [Group() for _ in range(topology.groups)]
        await gathered(self._connect(index, group) for index, group in enumerate(self.groups))
        readers = topology.members - topology.slow - 1
        await gathered(self._connect(index, group) for index, group in enumerate(self.groups) for _ in range(readers))
        await gathered(self._connect(0, self.groups[0], slow=True) for _ in range(topology.slow))
        await asyncio.sleep(0.2)  # some servers enter the room behind their answer to the handshake

    def _connect(self, index: int, group: Group, *, slow: bool = False) -> Awaitable[Member]:
        return connect(
            self._driver, self._server.port, _room(index), group,
            echo=self._topology.echo, slow=slow, compressed=self._compressed,
        )  # fmt: skip

    def close(self) -> None:
        for member in self.members:
            if member.transport is not None:
                member.transport.disconnect(graceful=False)

    async def measure(self, case: Case, seconds: float) -> Sample:
        """Let the case's traffic flow for ``seconds``, after a warm-up. Raises ``Stalled``, ``ConnectionError``."""
        payloads = case.payloads()
        before = self._server.usage()
        for index, group in enumerate(self.groups):
            group.start(*self._frames(index, payloads), window=case.window)
        try:
            with no_garbage_collection():
                await self._warm_up()
                sample = await self._window(seconds)
        finally:
            for group in self.groups:
                group.running = False
            await self._settle()
        lost = sum(member.lost for member in self.members)
        if lost > self._topology.slow:
            raise ConnectionError(f"the server closed {lost} connections: {self._server.log_tail()}")
        after = self._server.usage()
        sample.extra["memory_growth_mib"] = (after.resident_bytes - before.resident_bytes) / 2**20
        sample.extra["descriptors_closed"] = float(before.descriptors - after.descriptors)
        return sample

    def _frames(self, index: int, payloads: list[bytes]) -> tuple[bool, list[bytes]]:
        """Whether the group's publications are text, and their frames."""
        driver, room, echo = self._driver, _room(index), self._topology.echo
        packed = [driver.packed(driver.publication(room, payload, echo=echo), self._compressed) for payload in payloads]
        return packed[0][0], [frame for _, frame in packed]

    async def _warm_up(self) -> None:
        started = time.monotonic()
        before = self._received()
        await asyncio.sleep(WARM_UP_SECONDS)
        while self._received() == before:
            if time.monotonic() - started > STALL_SECONDS:
                raise Stalled(f"no delivery within {STALL_SECONDS:.0f} seconds")
            await asyncio.sleep(0.1)

    async def _window(self, seconds: float) -> Sample:
        for group in self.groups:
            group.latencies.clear()
        usage, own, bytes_before = self._server.usage(), time.process_time(), self._bytes()
        received, started = self._received(), time.perf_counter()
        await asyncio.sleep(seconds * (1 - LAST_PART))
        before_last = self._received()
        await asyncio.sleep(seconds * LAST_PART)
        elapsed, operations = time.perf_counter() - started, self._received() - received
        cpu = self._server.usage().cpu_seconds - usage.cpu_seconds
        if not operations:
            raise Stalled(f"deliveries stopped: none within {elapsed:.1f} seconds")
        latencies = [latency for group in self.groups for latency in group.latencies]
        p50, p99 = (percentile(latencies, share) / 1e6 if latencies else None for share in (0.5, 0.99))
        extra = {
            "bytes_per_delivery": (self._bytes() - bytes_before) / operations,
            "flow_at_end": (self._received() - before_last) / operations / LAST_PART,
        }
        return Sample(operations, elapsed, cpu, time.process_time() - own, p50, p99, extra)

    async def _settle(self) -> None:
        """Wait until what is in flight has landed, or nothing comes any more."""
        for _ in range(100):
            before = self._received()
            await asyncio.sleep(0.05)
            if all(group.idle for group in self.groups):
                return
            if self._received() == before and self._topology.slow:
                return

    def _received(self) -> int:
        return sum([group.received for group in self.groups])

    def _bytes(self) -> int:
        return sum([member.bytes_received for member in self.members])


def _room(index: int) -> str:
    return f"room-{index}"


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """The load generator's own pauses are not the server's latency."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def gathered(work: Any, at_once: int = CONNECTING_AT_ONCE) -> Sequence[Any]:
    """Await all of ``work``, so many at a time."""
    gate = asyncio.Semaphore(at_once)

    async def one(awaitable: Awaitable[Any]) -> Any:
        async with gate:
            return await awaitable

    async with asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(one(awaitable)) for awaitable in work]
    return [task.result() for task in started]
