"""Real Prometheus, Alertmanager and Redis on free ports, and small receivers for spans and notifications."""

from __future__ import annotations

import http.server
import json
import re
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.needs import free_port, need

from .catalogues import RULES

__all__ = ["Prometheus", "alertmanager", "prometheus", "receiver", "redis"]

_OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


@contextmanager
def _running(command: list[str], port: int, log: Path) -> Iterator[None]:
    """A process that listens on ``port``, until the block ends."""
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            for _ in range(1_500):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert process.poll() is None, f"{command[0]} ended: {log.read_text(encoding='utf-8')[-2000:]}"
                time.sleep(0.02)
            else:
                raise AssertionError(f"{command[0]} does not listen")
            yield
        finally:
            process.kill()


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """A redis-server; its URL."""
    port = free_port()
    command = [need("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with _running(command, port, folder / "redis.log"):
        yield f"redis://127.0.0.1:{port}"


@contextmanager
def receiver() -> Iterator[tuple[str, list[bytes]]]:
    """An HTTP server that says 200 to every POST: its address, and the bodies it was sent."""
    bodies: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", bodies
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def alertmanager(folder: Path, webhook: str) -> Iterator[str]:
    """An Alertmanager that tells ``webhook`` at once, and then nothing for hours; its address."""
    port = free_port()
    config = folder / "alertmanager.yml"
    route = {"receiver": "test", "group_wait": "0s", "group_interval": "1s", "group_by": ["alertname"]}
    config.write_text(json.dumps({"route": route, "receivers": [{"name": "test", "webhook_configs": [{"url": webhook}]}]}))
    command = [
        need("prometheus-alertmanager", "alertmanager"), f"--config.file={config}", f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=",
    ]  # fmt: skip
    with _running(command, port, folder / "alertmanager.log"):
        yield f"127.0.0.1:{port}"


class Prometheus:
    """A running Prometheus."""

    def __init__(self, address: str) -> None:
        self._address = address

    def get(self, path: str, **parameters: str | float) -> Any:
        """``data`` of an answer of its HTTP API, whose status is ``success``."""
        with _OPEN(f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=30) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """The series of an expression at one moment."""
        data = self.get("query", query=expression, **({} if at is None else {"time": at}))
        if data["resultType"] == "scalar":
            return [{"metric": {}, "value": data["result"]}]
        series: list[dict[str, Any]] = data["result"]
        return series


@contextmanager
def prometheus(folder: Path, gateways: list[str], alertmanagers: list[str]) -> Iterator[Prometheus]:
    """A Prometheus that scrapes every second, keeps exemplars, and has our rules; alerts wait one second instead of minutes."""
    port = free_port()
    (folder / "rules").mkdir()
    for path in RULES.glob("*.yaml"):
        (folder / "rules" / path.name).write_text(
            re.sub(r"\bfor: \w+", "for: 1s", path.read_text(encoding="utf-8")), encoding="utf-8"
        )
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(folder / "rules" / "*.yaml")],
        "scrape_configs": [{"job_name": "tidegate", "static_configs": [{"targets": gateways}]}],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": alertmanagers}]}]},
    }
    (folder / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")
    command = [
        need("prometheus"), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage", "--rules.alert.resend-delay=1s",
    ]  # fmt: skip
    with _running(command, port, folder / "prometheus.log"):
        yield Prometheus(f"127.0.0.1:{port}")
