"""The servers that are measured, in the order of their turns."""

from __future__ import annotations

from pathlib import Path

from .base import Driver
from .others import Bun, Centrifuge, Centrifugo, Nats, NodeWs
from .python import BareUvicorn, Channels, Picows, SocketIo, Starlette
from .tidegate import Tidegate

__all__ = ["Driver", "all_drivers"]


def all_drivers(cache: Path) -> list[Driver]:
    """A driver for every server; whether it can be had here is the driver's ``absent``."""
    classes = (Tidegate, Bun, Picows, NodeWs, BareUvicorn, Starlette, SocketIo, Channels, Centrifuge, Centrifugo, Nats)
    return [driver(cache) for driver in classes]
