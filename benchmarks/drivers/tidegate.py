"""Tidegate: a real ``tidegate serve`` with every default layer, its limits set too high to act."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from ..processes import Launch, free_port
from .base import Driver, own_version

ENVIRONMENT = {
    "TIDEGATE_LOG_LEVEL": "info",
    "TIDEGATE_LOG_FORMAT": "json",
    "TIDEGATE_CONNECTION_LIMIT__TOTAL": "18000",
    "TIDEGATE_CONNECTION_LIMIT__PER_CLIENT": "18000",
    "TIDEGATE_RATE_LIMIT__MESSAGES_PER_SECOND": "1000000",
    "TIDEGATE_RATE_LIMIT__BURST": "1000000",
}


class Tidegate(Driver):
    """The echo is the room relay too: each connection is alone in a room and hears itself."""

    name = "tidegate"
    title = "Tidegate"
    variants = frozenset({"", "zstd", "deflate"})

    def __init__(self, cache: Path) -> None:
        super().__init__(cache)
        self.dictionary: Path | None = None
        """A trained zstd dictionary."""

    def version(self) -> str:
        return f"tidegate {own_version('tidegate')}, uvicorn {own_version('uvicorn')}, uvloop {own_version('uvloop')}"

    def launch(self, port: int, compressed: str = "") -> Launch:
        environment = {**ENVIRONMENT, "TIDEGATE_PORT": str(port), "TIDEGATE_OPS_PORT": str(free_port())}
        if compressed == "deflate":
            environment["TIDEGATE_COMPRESSION__DEFLATE"] = "true"
        if self.dictionary is not None:
            environment["TIDEGATE_COMPRESSION__DICTIONARIES"] = str(self.dictionary)
        return Launch((sys.executable, "-m", "gateway", "serve"), environment)

    def url(self, port: int, room: str, *, echo: bool) -> str:
        return f"ws://127.0.0.1:{port}/ws/{room}?echo=1"

    def headers(self, compressed: str) -> dict[str, str]:
        if compressed == "zstd":
            identity = "" if self.dictionary is None else "." + _identity(self.dictionary)
            return {"Sec-WebSocket-Protocol": f"zstd{identity}"}
        return super().headers(compressed)

    def packed(self, frame: bytes, compressed: str) -> tuple[bool, bytes]:
        """With zstd every message is binary behind a byte of flags; 2 is text that is not compressed (docs/compression.md)."""
        return (False, b"\2" + frame) if compressed == "zstd" else (True, frame)


def _identity(dictionary: Path) -> str:
    """The dictionary's id: the first 16 digits of the hash of its bytes (docs/compression.md)."""
    from hashlib import sha256

    identity = sha256(dictionary.read_bytes()).hexdigest()[:16]
    assert re.fullmatch("[0-9a-f]{16}", identity), "hexadecimal"
    return identity
