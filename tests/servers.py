"""Real servers for tests: Redis (also as a cluster of one, also Valkey) and NATS, each on a free port of 127.0.0.1.

A server that is not installed skips the test that needs it, visibly; with ``CI=true`` it fails it.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from pathlib import Path

from .needs import free_port, need

__all__ = ["Nats", "Redis", "Server"]


class Server:
    """A server process. ``start`` after ``stop`` makes an empty one at the same address."""

    scheme = ""

    def __init__(self, *, tls: bool = False, userinfo: str = "") -> None:
        self.port = free_port()
        self.tls = tls
        self._userinfo = f"{userinfo}@" if userinfo else ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """The URL of this server behind another port: a proxy's."""
        return f"{self.scheme}://{self._userinfo}127.0.0.1:{port}"

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        """Start and wait until it listens."""
        self._process = subprocess.Popen(self.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(1000):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self._process.poll() is not None:
                break
            time.sleep(0.01)
        self.stop()
        raise AssertionError(f"{self.command()[0]} did not start")

    def signal(self, number: signal.Signals) -> None:
        """Freeze (SIGSTOP) or wake (SIGCONT) it."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        """Kill it, frozen or not."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(5)
            self._process = None


class Redis(Server):
    """A redis-server without a disk.

    Args:
        directory: where it may write.
        cluster: a cluster of this one server, which has all slots.
        options: further arguments of the command line.
        binary: another one that speaks the same, such as ``valkey-server``.
    """

    def __init__(
        self, directory: Path, *, cluster: bool = False, tls: bool = False, userinfo: str = "", options: tuple[str, ...] = (),
        binary: str = "redis-server",
    ) -> None:  # fmt: skip
        super().__init__(tls=tls, userinfo=userinfo)
        self._binary = need(binary)
        self._directory = directory
        self._cluster = cluster
        self._bus_port = free_port()
        self._options = options
        self.scheme = ("rediss" if tls else "redis") + ("+cluster" if cluster else "")

    def command(self) -> list[str]:
        listen = ["--port", "0", "--tls-port", str(self.port)] if self.tls else ["--port", str(self.port)]
        cluster = (
            ["--cluster-enabled", "yes", "--cluster-port", str(self._bus_port), "--cluster-config-file", f"nodes-{self.port}.conf"]
            if self._cluster
            else []
        )
        return [
            self._binary, *listen, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            "--dir", str(self._directory), *cluster, *self._options,
        ]  # fmt: skip

    def start(self) -> None:
        self.start_without_slots()
        if self._cluster:
            self.ask("CLUSTER ADDSLOTSRANGE 0 16383")
            self._wait_for("CLUSTER INFO", "cluster_state:ok")

    def start_without_slots(self) -> None:
        """Start as a server of a cluster that has nothing to do yet."""
        with contextlib.suppress(FileNotFoundError):
            (self._directory / f"nodes-{self.port}.conf").unlink()
        super().start()

    def join(self, other: Redis) -> None:
        """Become a server of another one's cluster."""
        self.ask(f"CLUSTER MEET 127.0.0.1 {other.port} {other._bus_port}")
        for server in (self, other):
            server._wait_for("CLUSTER INFO", "cluster_known_nodes:2")
        self._wait_for("CLUSTER INFO", "cluster_slots_assigned:16384")

    def take_slots_of(self, other: Redis, first: int, last: int) -> None:
        """Own these slots from now on; they hold no keys."""
        mine = self.ask("CLUSTER MYID").split("\r\n")[1]
        for server in (self, other):
            server.ask(*(f"CLUSTER SETSLOT {slot} NODE {mine}" for slot in range(first, last + 1)))

    def _wait_for(self, command: str, answer: str) -> None:
        for _ in range(1000):
            if answer in self.ask(command):
                return
            time.sleep(0.01)
        raise AssertionError(f"{command} did not answer {answer}")

    def ask(self, *commands: str) -> str:
        """What the server answers to commands, roughly."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall("".join(f"{command}\r\n" for command in (*commands, "PING")).encode())
            answer = b""
            while b"+PONG" not in answer:
                answer += connection.recv(65536)
        return answer.decode()


class Nats(Server):
    """A nats-server.

    Args:
        options: further arguments of the command line.
    """

    def __init__(self, directory: Path, *, tls: bool = False, userinfo: str = "", options: tuple[str, ...] = ()) -> None:
        super().__init__(tls=tls, userinfo=userinfo)
        self._binary = need("nats-server")
        self._options = options
        self.scheme = "tls" if tls else "nats"

    def command(self) -> list[str]:
        return [self._binary, "-a", "127.0.0.1", "-p", str(self.port), *self._options]
