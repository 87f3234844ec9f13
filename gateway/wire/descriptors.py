"""File descriptors: which one a transport has, and when they run out.

The kernel hands out the lowest free number, so the number of a new socket tells how many are in use. A few are kept: a
process that cannot open anything any more cannot log, resolve or connect to its broker either, and asyncio's own accepting
spins in that state.
"""

from __future__ import annotations

import asyncio
import resource

__all__ = ["is_scarce", "plain_descriptor"]


def is_scarce(transport: asyncio.BaseTransport, reserved: int) -> bool:
    """True when ``transport``'s socket is one of the last ``reserved`` that the process may open."""
    sock = transport.get_extra_info("socket")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sock is not None and soft != resource.RLIM_INFINITY and sock.fileno() >= max(soft - reserved, soft // 2)


def plain_descriptor(transport: asyncio.BaseTransport) -> int:
    """The descriptor of a stream socket without TLS, to which bytes may be written as they are; -1 when there is none."""
    sock = transport.get_extra_info("socket")
    return -1 if sock is None or transport.get_extra_info("sslcontext") is not None else int(sock.fileno())
