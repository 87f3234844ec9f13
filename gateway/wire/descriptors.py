"""Running out of file descriptors, seen before it happens.

The kernel hands out the lowest free number, so the number of a new socket tells how many are in use. A few are kept: a
process that cannot open anything any more cannot log, resolve or connect to its broker either, and asyncio's own accepting
spins in that state.
"""

from __future__ import annotations

import asyncio
import resource

__all__ = ["is_scarce"]


def is_scarce(transport: asyncio.BaseTransport, reserved: int) -> bool:
    """True when ``transport``'s socket is one of the last ``reserved`` that the process may open."""
    sock = transport.get_extra_info("socket")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sock is not None and soft != resource.RLIM_INFINITY and sock.fileno() >= max(soft - reserved, soft // 2)
