"""``served_app`` under other ASGI servers than our own wire, as processes on free ports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import websockets
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.gateway_process import API_KEY
from tests.needs import free_port

__all__ = ["API_KEY", "COMMANDS", "MAX_MESSAGE_BYTES", "OUTBOX_BYTES", "ROOM_MEMBERS", "OtherServer"]

MAX_MESSAGE_BYTES = 100_000
OUTBOX_BYTES = 200_000
ROOM_MEMBERS = 20
"""How ``served_app`` is set."""

ROOT = Path(__file__).parents[2]
APP = "tests.integration.served_app:app"
COMMANDS = {
    "uvicorn": ["uvicorn", APP, "--host", "127.0.0.1", "--port", "{port}", "--lifespan", "on", "--no-access-log"],
    "hypercorn": ["hypercorn", APP, "--bind", "127.0.0.1:{port}"],
    "granian": ["granian", APP, "--interface", "asgi", "--host", "127.0.0.1", "--port", "{port}", "--workers", "1"],
}


class OtherServer:
    """A server process; started by the constructor, stopped by ``stop``."""

    def __init__(self, name: str, folder: Path) -> None:
        port = free_port()
        self.name = name
        self.address = f"127.0.0.1:{port}"
        self.log, self._notes = folder / f"{name}.log", folder / f"{name}.notes"
        command = [sys.executable, "-m", *(part.format(port=port) for part in COMMANDS[name])]
        clean = {key: value for key, value in os.environ.items() if not key.startswith("TIDEGATE_")}
        environment = {**clean, "NOTES_FILE": str(self._notes), "PYTHONWARNINGS": "default"}
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env=environment)

    def notes(self) -> list[str]:
        """What the app has noted so far."""
        return self._notes.read_text().split("\n")[:-1] if self._notes.exists() else []

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 40
        while True:
            try:
                if self.request("GET", "/readyz")[0] == 200:
                    return
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{self.name} did not start:\n{self.log.read_text()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Ask it to end, and wait."""
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)
            raise

    def connect(self, path: str, **options: Any) -> websockets.connect:
        """A client of the ``websockets`` library."""
        return websockets.connect(f"ws://{self.address}{path}", compression=None, proxy=None, **options)

    def request(self, method: str, path: str, body: bytes | None = None, content_type: str = "text/plain") -> tuple[int, Any]:
        """Status and body (decoded when it is JSON) of a request with the API key; blocks."""
        headers = {"Authorization": f"Bearer {API_KEY}", "Content-Type": content_type}
        request = urllib.request.Request(f"http://{self.address}{path}", body, headers, method=method)
        try:
            with _direct.open(request, timeout=10) as response:
                return response.status, _decoded(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _decoded(error)

    def metric(self, sample: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        _, text = self.request("GET", "/ops/metrics")
        return sum(
            one.value
            for family in text_string_to_metric_families(text)
            for one in family.samples
            if one.name == sample and labels.items() <= one.labels.items()
        )


_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _decoded(response: Any) -> Any:
    body = response.read()
    return json.loads(body) if "json" in (response.headers["Content-Type"] or "") else body.decode()
