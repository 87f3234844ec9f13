"""Server processes, what they cost, and which cores they run on.

The CPU time of a server is user and system time of its process, all threads and all children, from ``/proc/PID/stat``.
The kernel's work for a system call is in it, so sending is paid by the sender.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Cores", "Launch", "Server", "Usage", "free_port"]

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Launch:
    """How a server is started."""

    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    folder: Path | None = None


@dataclass(frozen=True)
class Cores:
    """Who runs where; ``None``: wherever the scheduler likes, because there is one core only."""

    server: int | None
    client: int | None

    @classmethod
    def choose(cls) -> Cores:
        """The first core for the servers, the last for the load generator."""
        available = sorted(os.sched_getaffinity(0))
        return cls(available[0], available[-1]) if len(available) > 1 else cls(None, None)

    def pin_client(self) -> None:
        """Put this process on its core."""
        if self.client is not None:
            os.sched_setaffinity(0, {self.client})

    def pin_server(self) -> None:
        """What is started next inherits the server's core; ``pin_client`` goes back."""
        if self.server is not None:
            os.sched_setaffinity(0, {self.server})


@dataclass(frozen=True)
class Usage:
    """What a process has used until now: CPU seconds, and bytes of memory in use."""

    cpu_seconds: float
    resident_bytes: int
    descriptors: int


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Server:
    """One server process."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self._process = process
        self.port = port
        self._log = log

    @classmethod
    async def start(cls, launch: Launch, port: int, cores: Cores, log: Path) -> Server:
        """Start it and wait until it listens. Raises ``RuntimeError`` with the end of its log when it does not."""
        log.parent.mkdir(parents=True, exist_ok=True)
        cores.pin_server()
        try:
            with log.open("wb") as output:
                process = subprocess.Popen(
                    launch.command, env={**os.environ, **launch.environment}, cwd=launch.folder,
                    stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                )  # fmt: skip
        finally:
            cores.pin_client()
        server = cls(process, port, log)
        try:
            await server._until_listening()
        except BaseException:
            server.stop()
            raise
        return server

    async def _until_listening(self) -> None:
        for _ in range(300):
            if self._process.poll() is not None:
                raise RuntimeError(f"the server ended with {self._process.returncode}: {self.log_tail()}")
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.1)
            else:
                writer.close()
                return
        raise RuntimeError(f"the server does not listen after 30 seconds: {self.log_tail()}")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def log_tail(self) -> str:
        """The end of what the server has said."""
        return self._log.read_bytes()[-600:].decode(errors="replace").strip()

    def usage(self) -> Usage:
        """CPU time, memory and open descriptors of the process and its children."""
        cpu = resident = descriptors = 0
        for pid in _family(self._process.pid):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            cpu += int(fields[11]) + int(fields[12])
            resident += int(fields[21])
            descriptors += len(os.listdir(f"/proc/{pid}/fd"))
        return Usage(cpu / _TICKS, resident * _PAGE, descriptors)

    def stop(self) -> None:
        """Kill the process: what it would do at its end is not what is measured."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


def _family(pid: int) -> Iterator[int]:
    """A process and its descendants."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from _family(int(child))
