"""A real ``tidegate serve`` as a process on free ports, and what a test asks of it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import websockets
from prometheus_client.openmetrics.parser import text_string_to_metric_families

__all__ = ["API_KEY", "GatewayAt", "GatewayProcess", "hear", "running", "silence"]

API_KEY = "integration-test-key"
_DEFAULTS = {
    "TIDEGATE_API_KEY": API_KEY,
    "TIDEGATE_PORT": "0",
    "TIDEGATE_OPS_PORT": "0",
    "TIDEGATE_LOG_FORMAT": "json",
    "TIDEGATE_CONNECTION_LIMIT__PER_CLIENT": "off",
    "TIDEGATE_RATE_LIMIT__MESSAGES_PER_SECOND": "off",
    "TIDEGATE_DRAIN__DELAY_SECONDS": "0",
    "TIDEGATE_DRAIN__PERIOD_SECONDS": "0",
}


async def hear(client: Any, count: int = 1) -> list[Any]:
    """The next messages a client gets."""
    async with asyncio.timeout(30):
        return [await client.recv() for _ in range(count)]


async def silence(client: Any) -> bool:
    """Nothing more comes: a ping behind everything is answered first."""
    await (await client.ping())
    try:
        async with asyncio.timeout(0.05):
            await client.recv()
    except TimeoutError:
        return True
    return False


class GatewayAt:
    """A gateway at the two addresses (``host:port``) of its listeners, however it runs."""

    def __init__(self, public: str = "", ops: str = "") -> None:
        self.public = public
        self.ops = ops

    def url(self, room: str, query: str = "") -> str:
        return f"ws://{self.public}/ws/{room}{query}"

    def connect(self, room: str, query: str = "", **options: Any) -> websockets.connect:
        """A client of the ``websockets`` library."""
        return websockets.connect(self.url(room, query), compression=None, proxy=None, **options)

    async def get(self, path: str, *, public: bool = False, **headers: str) -> tuple[int, Any]:
        return await self.request("GET", path, public=public, headers=headers)

    async def publish(self, path: str, body: bytes | str, content_type: str = "text/plain", **headers: str) -> tuple[int, Any]:
        data = body.encode() if isinstance(body, str) else body
        return await self.request("POST", path, data, headers={"Content-Type": content_type, **headers})

    async def request(
        self, method: str, path: str, body: bytes | None = None, *, public: bool = False, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status and body (decoded when it is JSON) of a request with the API key."""
        url = f"http://{self.public if public else self.ops}{path}"
        request = urllib.request.Request(url, body, {"Authorization": f"Bearer {API_KEY}", **(headers or {})}, method=method)
        return await asyncio.to_thread(_fetch, request)

    async def metric(self, sample: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels, from an OpenMetrics scrape."""
        [value] = await self.metrics(sample, **labels)
        return value

    async def metrics(self, *samples: str, **labels: str) -> list[float]:
        """The same of several metrics at one moment: only figures of one scrape can be compared while things happen."""
        _, text = await self.get("/metrics", Accept="application/openmetrics-text")
        found = [one for family in text_string_to_metric_families(text) for one in family.samples]
        return [
            sum(one.value for one in found if one.name == sample and labels.items() <= one.labels.items()) for sample in samples
        ]


class GatewayProcess(GatewayAt):
    """One running gateway."""

    def __init__(self, process: asyncio.subprocess.Process, *, log_is_json: bool = True) -> None:
        super().__init__()
        self.process = process
        self._log_is_json = log_is_json
        self.log: list[dict[str, Any]] = []
        self.log_lines: list[bytes] = []
        """The log as it was written; ``log`` has what of it is JSON."""
        self.workers: list[GatewayAt] = []
        """Each with its own ops address; one, unless several were asked for."""
        self._readers: list[asyncio.Task[None]] = []

    @property
    def pid(self) -> int:
        return self.process.pid

    async def wait_until_ready(self) -> None:
        """Read the greeting, then go on reading the log."""
        assert self.process.stdout is not None
        greeting = ""
        async with asyncio.timeout(30):
            while "/metrics" not in greeting:
                line = await self.process.stdout.readline()
                assert line, f"the gateway ended with {await self.process.wait()}: {self.log}"
                greeting += line.decode()
        self.public, ops = re.findall(r"WebSockets at ws://([^/]+)/.* operations at http://(.+)\.\n", greeting)[0]
        self.workers = [GatewayAt(self.public, one) for one in ops.split(", http://")]
        self.ops = self.workers[0].ops

    def read_log(self) -> None:
        async def read() -> None:
            assert self.process.stderr is not None
            async for line in self.process.stderr:
                self.log_lines.append(line)
                if self._log_is_json:
                    self.log.append(json.loads(line))

        self._readers.append(asyncio.create_task(read()))

    def descriptors(self) -> int:
        """Open file descriptors of the process."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.log if event["event"] == name]

    async def event(self, name: str) -> dict[str, Any]:
        """The first event of this name, when the log has it."""
        async with asyncio.timeout(30):
            while not (found := self.events(name)):
                await asyncio.sleep(0.02)
        return found[0]

    async def stop(self, sig: int = signal.SIGTERM, timeout_seconds: float = 20.0) -> int:
        """Send a signal, wait for the end, return the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(sig)
        async with asyncio.timeout(timeout_seconds):
            await self.process.wait()
            await asyncio.gather(*self._readers)
        assert self.process.returncode is not None
        return self.process.returncode


def _fetch(request: urllib.request.Request) -> tuple[int, Any]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as response:
            return response.status, _decoded(response.headers["Content-Type"] or "", response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _decoded(error.headers["Content-Type"] or "", error.read())


def _decoded(content_type: str, body: bytes) -> Any:
    return json.loads(body) if "json" in content_type else body.decode()


@asynccontextmanager
async def running(*arguments: str, wait: bool = True, **settings: str) -> AsyncIterator[GatewayProcess]:
    """Start ``tidegate serve``; keyword arguments are settings: ``RATE_LIMIT__BURST="5"``."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    environment = {**clean, **_DEFAULTS, **{f"TIDEGATE_{name}": value for name, value in settings.items()}}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "serve", *arguments,
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, limit=1 << 20,
    )  # fmt: skip
    gateway = GatewayProcess(process, log_is_json=environment["TIDEGATE_LOG_FORMAT"] == "json")
    gateway.read_log()
    try:
        if wait:
            await gateway.wait_until_ready()
        yield gateway
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await asyncio.gather(*gateway._readers)
        process._transport.close()  # type: ignore[attr-defined]  # else its pipes are closed at the loop's end, with a warning
