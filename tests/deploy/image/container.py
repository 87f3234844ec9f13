"""A gateway in a container, confined as an orchestrator would confine it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.integration.gateway_process import API_KEY, GatewayAt
from tests.needs import free_port

from .docker import Docker

__all__ = ["CONFINED", "MEASURED", "MEMORY_BYTES", "STARTS", "Container", "in_the_image", "serving"]

MEMORY_BYTES = 256 * 1024 * 1024
CONFINED = (
    "--network", "host", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "256m",
)  # fmt: skip
STARTS: list[float] = []
"""Seconds from the start of each container's process to its readiness."""
MEASURED: list[str] = []
"""What else was measured, in words; shown at the end of the run."""


class Container(GatewayAt):
    """One running container of the image."""

    def __init__(self, docker: Docker, name: str, public: str, ops: str) -> None:
        super().__init__(public, ops)
        self.docker = docker
        self.name = name

    def state(self) -> dict[str, Any]:
        """What the daemon says of it: ``Running``, ``Pid``, ``ExitCode``, ``Health`` …"""
        found: dict[str, Any] = self.docker.inspect("container", self.name)["State"]
        return found

    def logs(self) -> str:
        """Standard output and standard error."""
        done = self.docker.ask("logs", self.name)
        return done.stdout + done.stderr

    def events(self) -> list[str]:
        """The names of the events in its log, in order."""
        lines = [line for line in self.logs().splitlines() if line.startswith("{")]
        return [str(json.loads(line)["event"]) for line in lines]

    def execute(self, *command: str) -> tuple[int, str]:
        """Run a command inside; its exit code and all its output."""
        done = self.docker.ask("exec", self.name, *command)
        return done.returncode, done.stdout + done.stderr

    def status(self) -> dict[str, str]:
        """``/proc/…/status`` of process 1, as the host sees it."""
        lines = Path(f"/proc/{self.state()['Pid']}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    async def wait_until_ready(self) -> None:
        started = datetime.fromisoformat(self.state()["StartedAt"][:26].rstrip("Z") + "+00:00").timestamp()
        async with asyncio.timeout(60):
            while not await self._ready():
                state = self.state() if time.time() - started > 1 else {"Running": True}
                assert state["Running"], f"ended with {state['ExitCode']}: {self.logs()}"
                await asyncio.sleep(0.01)
        STARTS.append(time.time() - started)

    async def _ready(self) -> bool:
        try:
            return (await self.get("/readyz"))[0] == 200
        except OSError:
            return False

    async def becomes(self, health: str) -> None:
        """Wait until HEALTHCHECK has come to this."""
        async with asyncio.timeout(90):
            while (said := self.state()["Health"])["Status"] != health:
                assert self.state()["Running"], self.logs()
                await asyncio.sleep(0.2)
        assert said["Log"], "the daemon has run the command"

    async def stop(self, grace_seconds: int) -> dict[str, Any]:
        """``docker stop``: SIGTERM, and SIGKILL after the grace period (exit code 137). Its last state."""
        await asyncio.to_thread(self.docker.run, "stop", "--time", str(grace_seconds), self.name)
        return self.state()


@asynccontextmanager
async def serving(
    docker: Docker, *options: str, wait: bool = True, confined: Sequence[str] = CONFINED, **settings: str
) -> AsyncIterator[Container]:
    """``docker run`` with everything taken away; keyword arguments are settings: ``RATE_LIMIT__BURST="5"``."""
    public, ops = free_port(), free_port()
    settings = {"PORT": str(public), "OPS_PORT": str(ops), "API_KEY": API_KEY, "AUTH__MODE": "none", **settings}
    environment = [part for name, value in settings.items() for part in ("--env", f"TIDEGATE_{name}={value}")]
    name = f"tidegate-test-{os.getpid()}-{public}"
    container = Container(docker, name, f"127.0.0.1:{public}", f"127.0.0.1:{ops}")
    try:
        docker.run("run", "--detach", "--name", name, *confined, *environment, *options, "tidegate")
        if wait:
            await container.wait_until_ready()
        yield container
    finally:
        docker.ask("rm", "--force", name)


def in_the_image(docker: Docker, program: str) -> Any:
    """What a Python program prints as JSON that runs in the image, without a network."""
    printed = docker.run("run", "--rm", "--network", "none", "--read-only", "--entrypoint", "python", "tidegate", "-c", program)
    return json.loads(printed)
