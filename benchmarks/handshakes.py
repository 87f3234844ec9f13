"""Connections that are opened and closed again at once."""

from __future__ import annotations

import asyncio
import time

from picows import WSCloseCode

from .drivers.base import Driver
from .processes import Server
from .results import Sample, percentile
from .sockets import Group, connect
from .traffic import no_garbage_collection

__all__ = ["handshake_rate"]

AT_ONCE = 32
WARM_UP_SECONDS = 0.2


async def handshake_rate(driver: Driver, server: Server, seconds: float, compressed: str = "") -> Sample:
    """Handshakes for ``seconds``: each connection joins its room, closes with a close frame, and the next begins."""
    latencies: list[int] = []
    ends = time.perf_counter() + WARM_UP_SECONDS + seconds

    async def one_after_the_other(number: int) -> None:
        while time.perf_counter() < ends:
            began = time.perf_counter_ns()
            member = await connect(driver, server.port, f"room-{number}", Group(), compressed=compressed)
            latencies.append(time.perf_counter_ns() - began)
            assert member.transport is not None, "connected"
            member.transport.send_close(WSCloseCode.OK)
            async with asyncio.timeout(5):
                await member.transport.wait_disconnected()

    with no_garbage_collection():
        async with asyncio.TaskGroup() as tasks:
            for number in range(AT_ONCE):
                tasks.create_task(one_after_the_other(number))
            await asyncio.sleep(WARM_UP_SECONDS)
            usage, own, done, began = server.usage(), time.process_time(), len(latencies), time.perf_counter()
            await asyncio.sleep(seconds)
            cpu, elapsed = server.usage().cpu_seconds - usage.cpu_seconds, time.perf_counter() - began
            measured = latencies[done:]
            own = time.process_time() - own
    p50, p99 = (percentile(measured, share) / 1e6 for share in (0.5, 0.99)) if measured else (None, None)
    per_cpu_second = {"per_cpu_second": len(measured) / cpu} if cpu else {}
    return Sample(len(measured), elapsed, cpu, own, p50, p99, per_cpu_second)
