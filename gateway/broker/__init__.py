"""Brokers carry messages between nodes; ``base`` has the interface and its promises."""

from __future__ import annotations

from urllib.parse import urlsplit

from ..errors import StartupError
from .base import Broker, Deliver, Position
from .memory import MemoryBroker
from .subscriptions import Subscriptions

__all__ = ["Broker", "Deliver", "MemoryBroker", "Position", "Subscriptions", "open_broker"]


def open_broker(url: str) -> Broker:
    """The broker that ``url`` names. Raises ``StartupError`` with a sentence when this build has none for it."""
    scheme = urlsplit(url).scheme or url
    if scheme == "memory":
        return MemoryBroker()
    raise StartupError(
        f"there is no broker for {scheme}:// in this version, which carries messages within one process; "
        "set TIDEGATE_BROKER=memory:// (the default) and run one node"
    )
