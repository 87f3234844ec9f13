"""``NatsPair``: two real servers of one NATS cluster on 127.0.0.1, with a proxy on the way between them."""

from __future__ import annotations

import asyncio
import urllib.request
from pathlib import Path

from .needs import free_port
from .proxies import Proxy
from .servers import Nats

__all__ = ["NatsPair"]


class NatsPair:
    """Two servers; what one has for the other's clients goes through ``route``."""

    def __init__(self, directory: Path) -> None:
        routes, self._monitor = [free_port(), free_port()], free_port()
        self.route = Proxy(routes[0])
        self._directory = directory
        self._routes = routes
        self.servers: list[Nats] = []

    async def start(self) -> None:
        """Start both; returns when they are one cluster."""
        await self.route.start()
        for number, port in enumerate(self._routes):
            options = ["--cluster_name", "pair", "--cluster", f"nats://127.0.0.1:{port}", "--no_advertise"]
            options += ["--routes", f"nats://127.0.0.1:{self.route.port}"] if number else ["-m", str(self._monitor)]
            server = Nats(self._directory, options=tuple(options))
            self.servers.append(server)
            await asyncio.to_thread(server.start)
        async with asyncio.timeout(30):
            while not await asyncio.to_thread(self._has_route):
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        for server in self.servers:
            server.stop()
        await self.route.stop()

    def _has_route(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self._monitor}/routez", timeout=5) as answer:
            return b'"num_routes": 1' in answer.read()
