"""What compression does is in the next scrape, whether or not a client says anything."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
from websockets.typing import Subprotocol

from tests.integration.gateway_process import GatewayProcess, running

CLIENTS, MESSAGES = 20, 5
TEXT = "the tide comes in, the tide goes out; " * 10


async def figures(gateway: GatewayProcess) -> list[float]:
    """Messages packed, their bytes before and after, seconds, and messages that were packed already."""
    names = [f"tidegate_compression_{name}_total" for name in ("messages", "raw_bytes", "wire_bytes", "seconds")]
    return [*await gateway.metrics(*names, direction="outbound"), await gateway.metric("tidegate_compression_cache_hits_total")]


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream"])
async def test_what_is_packed_for_silent_clients_is_scraped_at_once(kind: str) -> None:
    """Five publications to twenty: packed five times, sent again ninety-five times; and the same once they have gone."""
    async with running() as gateway:
        async with AsyncExitStack() as stack:
            offer = [Subprotocol("zstd")]
            clients = [await stack.enter_async_context(gateway.connect("r", subprotocols=offer)) for _ in range(CLIENTS)]
            for _ in range(MESSAGES):
                await gateway.publish("/api/rooms/r/messages", TEXT, kind)
                for client in clients:
                    await client.recv()
            found = await figures(gateway)
        messages, raw_bytes, wire_bytes, seconds, hits = found
        assert (messages, raw_bytes, hits) == (MESSAGES, MESSAGES * len(TEXT), MESSAGES * (CLIENTS - 1))
        assert 0 < wire_bytes < raw_bytes
        assert seconds > 0
        assert await figures(gateway) == found
