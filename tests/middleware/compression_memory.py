"""Run as a process: throws bombs at CompressionMiddleware and prints, for each, by how many bytes memory rose at its peak.

The peak is the kernel's (``VmHWM``), so what zstd takes behind Python's back counts too.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path

from middleware.asgi import Event
from middleware.compression import CompressionMiddleware

from .asgi_helpers import binary, run, websocket_scope
from .compression_client import App
from .test_compression_bombs import BOMBS, HUGE, frame

CONNECTIONS = 20


def memory(name: str) -> int:
    """A figure of ``/proc/self/status`` in bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, name
    return int(found[1]) * 1024


async def attack(app: CompressionMiddleware, message: Event) -> None:
    """Send ``message`` on many connections at once."""
    await asyncio.gather(*(run(app, websocket_scope(subprotocols=["zstd"]), message) for _ in range(CONNECTIONS)))


async def main(limit_bytes: int) -> dict[str, int]:
    """Peak growth by the bomb's name."""
    growth = {}
    app = CompressionMiddleware(App(), max_message_bytes=limit_bytes)
    await attack(app, binary(b"\x02warm"))
    at_the_limit = {"rle that declares the limit": frame(limit_bytes, 17, *HUGE)}
    for name, bomb in ({name: bomb for name, (bomb, _) in BOMBS.items()} | at_the_limit).items():
        message = binary(b"\x01" + bomb)
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from what is in use
        before = memory("VmRSS")
        await attack(app, message)
        growth[name] = memory("VmHWM") - before
    return growth


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(int(sys.argv[1])))))
