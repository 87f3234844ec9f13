"""Serves an echo app over the wire for the Autobahn cases: ``server(deflate=...)`` is a context manager that gives a port."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from gateway.wire import WireOptions, http_protocol, wire_protocol

__all__ = ["echo", "serving"]

MAX_MESSAGE_BYTES = 17 * 1024 * 1024
"""The cases send messages of up to 16 MiB, also in fragments of 64 bytes, for each of which 128 are charged."""


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Send back what comes."""
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})


@asynccontextmanager
async def serving(*, deflate: bool) -> AsyncIterator[int]:
    """Serve ``echo`` on a free port of this machine."""
    options = WireOptions(
        max_message_bytes=MAX_MESSAGE_BYTES,
        inbound_bytes=MAX_MESSAGE_BYTES,
        outbound_bytes=None,
        deflate=deflate,
        deflate_minimum_bytes=0,  # the runner's cases 12 and 13 want every message compressed
        control_frames_burst=1000,
        ping_interval_seconds=None,  # a ping within a case counts against its expectations
    )
    websocket = wire_protocol(options)
    config = uvicorn.Config(
        echo, ws=websocket, http=http_protocol(options, websocket), lifespan="off", log_config=None, access_log=False
    )  # fmt: skip
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    task = asyncio.create_task(server._serve([listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 20)
