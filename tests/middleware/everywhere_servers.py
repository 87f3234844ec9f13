"""Real ASGI servers as processes on free loopback ports, one per server for a whole test run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tests.needs import free_port

__all__ = ["COMMANDS", "RunningServer", "start"]

ROOT = Path(__file__).parents[2]
APP = "tests.middleware.everywhere_app:app"
COMMANDS = {
    "uvicorn": ["uvicorn", APP, "--host", "127.0.0.1", "--port", "{port}", "--lifespan", "on", "--no-access-log"],
    "wire": ["uvicorn", APP, "--host", "127.0.0.1", "--port", "{port}", "--lifespan", "on", "--ws", "gateway.wire:WireProtocol"],
    "hypercorn": ["hypercorn", APP, "--bind", "127.0.0.1:{port}"],
    "granian": ["granian", APP, "--interface", "asgi", "--host", "127.0.0.1", "--port", "{port}", "--workers", "1"],
}


@dataclass
class RunningServer:
    """A server process; ``stop`` returns once it has ended."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    stopped_file: Path

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def get(self, path: str) -> tuple[int, str]:
        """A GET of ``path``: status and body."""
        try:
            with _direct.open(f"http://{self.address}{path}", timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 90
        while True:
            try:
                self.get("/report")
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"{self.name} did not start:\n{self.log.read_text()}") from None
                time.sleep(0.05)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)


_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def start(name: str, folder: Path) -> RunningServer:
    """Start a server and return without waiting for it."""
    port = free_port()
    log, stopped_file = folder / f"{name}.log", folder / f"{name}.stopped"
    command = [sys.executable, "-m", *(part.format(port=port) for part in COMMANDS[name])]
    environment = {**os.environ, "STOPPED_FILE": str(stopped_file), "PYTHONWARNINGS": "default"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env=environment)
    return RunningServer(name, port, process, log, stopped_file)
