"""The Python peers; they run in an environment of their own in the cache."""

from __future__ import annotations

import json
from pathlib import Path

from ..processes import Launch
from .base import PEERS, Conversation, Driver, package_version

__all__ = ["BareUvicorn", "Channels", "Picows", "SocketIo", "Starlette"]


class PythonPeer(Driver):
    """A peer in the cache's Python environment."""

    packages: tuple[str, ...]

    @property
    def python(self) -> Path:
        return self.cache / "python" / "bin" / "python"

    def absent(self) -> str:
        missing = [package for package in self.packages if not package_version(self.python, package)]
        return f"not installed: {', '.join(missing)}" if missing else ""

    def version(self) -> str:
        return ", ".join(f"{package} {package_version(self.python, package)}" for package in self.packages)


class UvicornPeer(PythonPeer):
    """An ASGI app on uvicorn with its fastest parts."""

    packages: tuple[str, ...] = ("uvicorn", "websockets", "uvloop")
    app: str

    def launch(self, port: int, compressed: str = "") -> Launch:
        options = ("--loop", "uvloop", "--http", "httptools", "--ws", "websockets-sansio", "--backlog", "2048")
        deflate = ("--ws-per-message-deflate", "true" if compressed == "deflate" else "false")
        quiet = ("--log-level", "error", "--no-access-log", "--lifespan", "off")
        return Launch((str(self.python), "-m", "uvicorn", "--port", str(port), *options, *deflate, *quiet, self.app), folder=PEERS)


class BareUvicorn(UvicornPeer):
    name = "uvicorn"
    title = "uvicorn, bare"
    app = "bare_asgi:app"
    variants = frozenset({"", "deflate"})


class Starlette(UvicornPeer):
    name = "starlette"
    title = "Starlette on uvicorn"
    packages = ("starlette", *UvicornPeer.packages)
    app = "starlette_app:app"


class SocketIo(UvicornPeer):
    """Socket.IO 5 over Engine.IO 4: packets ``0`` open, ``40`` connect, ``42[…]`` event, ``43`` answer, ``2`` ping, ``3`` pong."""

    name = "socketio"
    title = "python-socketio"
    slow_to_connect = True
    packages = ("python-socketio", *UvicornPeer.packages)
    app = "socketio_app:app"

    def url(self, port: int, room: str, *, echo: bool) -> str:
        return f"ws://127.0.0.1:{port}/socket.io/?EIO=4&transport=websocket"

    def join(self, room: str, *, echo: bool) -> Conversation:
        opened = yield []
        assert opened.startswith(b"0"), f"an open packet, not {opened[:80]!r}"
        connected = yield [b"40"]
        assert connected.startswith(b"40"), f"a connect packet, not {connected[:80]!r}"
        joined = yield [b'420["join",%s]' % json.dumps(room).encode()]
        assert joined.startswith(b"430"), f"an answer, not {joined[:80]!r}"

    def publication(self, room: str, payload: bytes, *, echo: bool) -> bytes:
        text = payload.decode()
        return b"42" + json.dumps(["echo", text] if echo else ["message", room, text]).encode()

    @staticmethod
    def deliveries(payload: bytes) -> int:
        return 1 if payload.startswith(b"42") else 0

    def answer(self, payload: bytes) -> bytes | None:
        return b"3" if payload == b"2" else None


class Channels(PythonPeer):
    name = "channels"
    title = "Django Channels on Daphne"
    slow_to_connect = True
    packages = ("channels", "daphne", "django", "twisted")

    def launch(self, port: int, compressed: str = "") -> Launch:
        command = (str(self.python), "-m", "daphne", "-b", "127.0.0.1", "-p", str(port), "-v", "0", "channels_app:app")
        return Launch(command, folder=PEERS)


class Picows(PythonPeer):
    name = "picows"
    title = "picows"
    packages = ("picows", "uvloop")

    def launch(self, port: int, compressed: str = "") -> Launch:
        return Launch((str(self.python), "picows_server.py", str(port)), folder=PEERS)
