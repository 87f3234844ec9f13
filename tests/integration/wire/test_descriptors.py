"""Running out of file descriptors: the last ones are kept, clients are refused, nothing spins, and it passes."""

from __future__ import annotations

import asyncio
import re
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

from .servers import Raw

SERVER = """
import resource, socket, sys
import uvicorn
resource.setrlimit(resource.RLIMIT_NOFILE, (120, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
from gateway.wire import WireOptions, http_protocol, wire_protocol
from tests.integration.wire.servers import echo
options = WireOptions(reserved_descriptors=40, close_timeout_seconds=0.3)
websocket = wire_protocol(options)
uvicorn.run(echo, port=0, ws=websocket, http=http_protocol(options, websocket), loop=sys.argv[1], backlog=30,
            access_log=False, lifespan="off", interface="asgi3")
"""


async def test_the_last_descriptors_are_not_for_clients_under_any_loop() -> None:
    """See ``_exhaust``; both loops at once, which saves a second."""
    await asyncio.gather(_exhaust("uvloop"), _exhaust("asyncio"))


async def _exhaust(loop: str) -> None:
    """With 120 descriptors and 40 in reserve, 150 clients: some are served, the others refused; those served go on being
    served; when they leave, others get in; and the server never met the limit itself."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, loop, stderr=PIPE, cwd=Path(__file__).parents[3]
    )  # fmt: skip
    assert process.stderr is not None
    log = b""
    while not (found := re.search(rb"http://127.0.0.1:(\d+)", log)):
        line = await asyncio.wait_for(process.stderr.readline(), 20)
        assert line, log
        log += line
    port = int(found[1])
    served, refused = [], 0
    for _ in range(150):
        client = await Raw.connect(port)
        head = await client.upgrade()
        if head.startswith(b"HTTP/1.1 101 "):
            served.append(client)
        else:
            assert head.startswith(b"HTTP/1.1 503 ")
            refused += 1
            await client.close()
    assert len(served) >= 40
    assert refused >= 60
    for client in served:
        client.send(b"\x81\x82\x00\x00\x00\x00hi")
    for client in served:
        assert await client.frame() == (0x81, b"hi")
    for client in served[:20]:
        await client.close()
    late = await Raw.connect(port)
    async with asyncio.timeout(20):
        while not (await late.upgrade()).startswith(b"HTTP/1.1 101 "):  # the server has not seen all of them leave yet
            await late.close()
            late = await Raw.connect(port)
    for client in (*served[20:], late):
        await client.close()
    process.terminate()
    _, rest = await asyncio.wait_for(process.communicate(), 20)
    assert b"Too many open files" not in log + rest
    assert b"Traceback" not in log + rest
