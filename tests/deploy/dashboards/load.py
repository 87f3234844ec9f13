"""Everything that clients of a gateway do and suffer, within seconds: so that every metric has something to say."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable

import websockets
from websockets.exceptions import WebSocketException
from websockets.typing import Origin, Subprotocol

from examples.zstd_client import Codec
from tests.integration.gateway_process import GatewayProcess
from tests.integration.raw_client import RawClient

__all__ = ["SETTINGS", "Load"]

SLOTS = 20
SETTINGS = {
    "NAMESPACES": "chat,feed",
    "CONNECTION_LIMIT__TOTAL": str(SLOTS),
    "CONNECTION_LIMIT__WAITING": "2",
    "CONNECTION_LIMIT__WAITING_SECONDS": "0.2",
    "RATE_LIMIT__MESSAGES_PER_SECOND": "20",
    "RATE_LIMIT__BURST": "5",
    "OUTBOX__MAX_BYTES": "65536",
    "KEEPALIVE__INTERVAL_SECONDS": "1",
    "COMPRESSION__DEFLATE": "true",
    "TELEMETRY__MESSAGE_RATIO": "1",
    "TELEMETRY__CONFIRMS_PER_SECOND": "200",
}
"""Small bounds, so that few clients reach them. Whom the gateway holds back, or who reads nothing, is not closed politely: hence
the short ``close_timeout`` of all clients."""

_EVENT = '{"type": "price", "symbol": "TIDE", "bid": 101.25, "ask": 101.5, "at": "2026-01-01T00:00:00Z", "note": "as it was"}'
_TROUBLE = (OSError, EOFError, TimeoutError, WebSocketException)


class Load:
    """What the clients of one gateway do until ``stop``; everybody leaves in good order, so nothing is left open."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._gateway = gateway
        self._stopping = False
        acts = [
            *((0.1, lambda room=room: self._member(room)) for room in ("chat:1", "chat:1", "chat:2", "undeclared:1")),
            *[(0.1, self._compressed)] * 2,
            (0.1, self._deflated),
            (0.1, self._slow),
            (0.05, self._publish),
            (1.0, self._mistakes),
            (0.5, self._crowd),
        ]
        self._tasks = [asyncio.create_task(self._again(pause_seconds, act)) for pause_seconds, act in acts]

    async def stop(self) -> None:
        """Let everybody finish; raises what went wrong."""
        self._stopping = True
        async with asyncio.timeout(30):
            await asyncio.gather(*self._tasks)

    async def _again(self, pause_seconds: float, act: Callable[[], Awaitable[None]]) -> None:
        while not self._stopping:
            with contextlib.suppress(*_TROUBLE):
                await act()
            await asyncio.sleep(pause_seconds)

    async def _member(self, room: str) -> None:
        """Listens, and talks faster than it may."""
        async with self._gateway.connect(room, close_timeout=0.5) as client:
            while not self._stopping:
                await client.send(_EVENT)
                await client.send(_EVENT.encode())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.04):
                        while True:
                            await client.recv()

    async def _compressed(self) -> None:
        codec = Codec()
        async with self._gateway.connect("chat:1", subprotocols=[Subprotocol("zstd")], close_timeout=0.5) as client:
            while not self._stopping:
                await client.send(codec.pack(_EVENT))
                for _ in range(5):
                    await asyncio.wait_for(client.recv(), 1)

    async def _deflated(self) -> None:
        async with websockets.connect(self._gateway.url("chat:1"), compression="deflate", proxy=None, close_timeout=0.5) as client:
            while not self._stopping:
                await client.send(_EVENT * 3)
                for _ in range(5):
                    await asyncio.wait_for(client.recv(), 1)

    async def _slow(self) -> None:
        """Joins and never reads, until it is cut off."""
        async with RawClient(self._gateway.public, receive_buffer_bytes=4_096) as client:
            await client.shake_hands("/ws/feed:1")
            hearers = 1
            while hearers and not self._stopping:
                payload = secrets.token_bytes(500_000)  # a kernel buffers some megabytes
                _, published = await self._gateway.publish("/api/rooms/feed:1/messages", payload, "application/octet-stream")
                hearers = published["recipients_local"]

    async def _publish(self) -> None:
        traceparent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
        for room in ("chat:1", "chat:2"):
            await self._gateway.publish(f"/api/rooms/{room}/messages", _EVENT, "application/json", traceparent=traceparent)

    async def _mistakes(self) -> None:
        """A page of somebody else, a request for what is not there, a broken client."""
        with contextlib.suppress(*_TROUBLE):
            async with self._gateway.connect("chat:1", origin=Origin("https://evil.example")):
                raise AssertionError("a page of somebody else was let in")
        await self._gateway.get("/api/connections/nobody")
        async with RawClient(self._gateway.public) as client:
            await client.send(b"THIS IS NOT HTTP\r\n\r\n")
            await client.receive_all()

    async def _crowd(self) -> None:
        """More clients than there are slots, all at once; then all go."""
        await asyncio.gather(*(self._visitor() for _ in range(SLOTS + 4)))

    async def _visitor(self) -> None:
        with contextlib.suppress(*_TROUBLE):
            async with self._gateway.connect("chat:2", close_timeout=0.5):
                await asyncio.sleep(0.5)
