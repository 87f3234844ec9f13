"""The engines: a real redis-server or nats-server each, without a disk."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ..processes import Cores, Launch, Server, free_port

__all__ = ["NATS", "REDIS", "REDIS_CLUSTER", "Engine"]


@dataclass(frozen=True)
class Engine:
    """One kind of engine."""

    title: str
    command: str
    """The program."""
    scheme: str
    """What its URLs begin with."""
    cluster: bool = False
    """One server that has all slots."""

    def absent(self) -> str:
        """Why there is none here; ``""`` when there is."""
        return "" if shutil.which(self.command) else f"not installed: {self.command}"

    def version(self) -> str:
        said = subprocess.run([self.command, "--version"], capture_output=True, text=True, check=False).stdout
        found = re.search(r"v=?(\d[\w.]*)", said)
        return f"{self.command} {found[1] if found else 'of some version'}"

    def url(self, port: int) -> str:
        return f"{self.scheme}://127.0.0.1:{port}"

    def launch(self, port: int, folder: Path) -> Launch:
        """How to start it on 127.0.0.1:``port``; it may write into ``folder``."""
        if self.command == "nats-server":
            return Launch((self.command, "--addr", "127.0.0.1", "--port", str(port)))
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
        if self.cluster:
            options += ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
            options += ["--cluster-config-file", f"nodes-{port}.conf"]
        return Launch((self.command, *options))

    async def start(self, cores: Cores, folder: Path, log: Path) -> Server:
        """Start it, ready to be used. Raises ``RuntimeError``."""
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        server = await Server.start(self.launch(port, folder), port, cores, log)
        if self.cluster:
            try:
                await self._take_all_slots(port)
            except BaseException:
                server.stop()
                raise
        return server

    async def _take_all_slots(self, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            async with asyncio.timeout(20):
                writer.write(b"CLUSTER ADDSLOTSRANGE 0 16383\r\n")
                answer = await reader.readline()
                if answer != b"+OK\r\n":
                    raise RuntimeError(f"no cluster can be made: {answer!r}")
                said = b""
                while b"cluster_state:ok" not in said:
                    writer.write(b"CLUSTER INFO\r\n")
                    size = await reader.readline()
                    said = await reader.readexactly(int(size[1:]) + 2)
                    await asyncio.sleep(0.05)
        finally:
            writer.close()


REDIS = Engine("Redis", "redis-server", "redis")
REDIS_CLUSTER = Engine("Redis Cluster", "redis-server", "redis+cluster", cluster=True)
NATS = Engine("NATS", "nats-server", "nats")
