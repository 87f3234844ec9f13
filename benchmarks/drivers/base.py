"""What a driver says of its server: how to start it, and its protocol, without I/O."""

from __future__ import annotations

import importlib.metadata
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path

from ..processes import Launch

__all__ = ["PEERS", "Conversation", "Driver"]

PEERS = Path(__file__).resolve().parent.parent / "peers"

Conversation = Generator[list[bytes], bytes, None]
"""What is said after the handshake until the connection is in its room: yields messages to send, is sent what came."""


class Driver:
    """One server. Subclasses override what differs; a server that takes a frame as a payload needs ``launch`` only."""

    name: str
    """Key in the results."""
    title: str
    """For people."""
    variants: frozenset[str] = frozenset({""})
    """Ways to compress that ``launch`` and ``headers`` know: ``""`` is none, else ``deflate`` or ``zstd``."""
    slow_to_connect = False
    """Thousands of connections would take minutes: a fifth of them has to do."""
    deliveries: Callable[[bytes], int] | None = None
    """How many deliveries are in a frame; ``None``: one in each."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache

    def absent(self) -> str:
        """Why it cannot be measured here; ``""`` when it can."""
        return ""

    def version(self) -> str:
        """What is measured, in words for the results."""
        raise NotImplementedError

    def launch(self, port: int, compressed: str = "") -> Launch:
        """How to start it on 127.0.0.1:``port``."""
        raise NotImplementedError

    def url(self, port: int, room: str, *, echo: bool) -> str:
        return f"ws://127.0.0.1:{port}/{'echo' if echo else 'ws'}/{room}"

    def headers(self, compressed: str) -> dict[str, str]:
        """What the client offers in its handshake."""
        return {"Sec-WebSocket-Extensions": "permessage-deflate"} if compressed == "deflate" else {}

    def join(self, room: str, *, echo: bool) -> Conversation:
        """The talk that puts a new connection into its room."""
        yield from ()

    def publication(self, room: str, payload: bytes, *, echo: bool) -> bytes:
        """The frame's payload that publishes ``payload``."""
        return payload

    def answer(self, payload: bytes) -> bytes | None:
        """The reply to a ping of the server's own protocol, when there is one in the frame."""
        return None

    def packed(self, frame: bytes, compressed: str) -> tuple[bool, bytes]:
        """Whether a publication travels as text, and as which bytes, on a connection that compresses."""
        return True, frame


def package_version(python: Path, package: str) -> str:
    """A package's version in another environment; ``""`` when it is not there."""
    if not python.exists():
        return ""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def own_version(package: str) -> str:
    """A package's version in this environment."""
    return importlib.metadata.version(package)
