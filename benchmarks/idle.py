"""Memory of connections that say nothing."""

from __future__ import annotations

import asyncio
import resource

from .drivers.base import Driver
from .processes import Server
from .results import Sample
from .traffic import Traffic
from .workloads import Topology

__all__ = ["idle_memory"]

WARM = Topology(1, 20)
SETTLE_SECONDS = 1.0


async def idle_memory(driver: Driver, server: Server, topology: Topology, compressed: str = "") -> Sample:
    """Open the topology's connections, as many as descriptors allow, and see what the server's memory has grown by."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200
    groups = min(topology.groups // (5 if driver.slow_to_connect else 1), allowed // topology.members)
    warm, crowd = (Traffic(driver, server, size, compressed) for size in (WARM, Topology(groups, topology.members)))
    try:
        await warm.open()
        await asyncio.sleep(SETTLE_SECONDS / 2)
        before = server.usage()
        await crowd.open()
        await asyncio.sleep(SETTLE_SECONDS)
        after = server.usage()
    finally:
        warm.close()
        crowd.close()
    connections = groups * topology.members
    grown = (after.resident_bytes - before.resident_bytes) / connections
    cpu = after.cpu_seconds - before.cpu_seconds
    return Sample(connections, 0.0, cpu, extra={"kib_per_connection": grown / 1024})
