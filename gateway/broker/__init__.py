"""Brokers carry messages between nodes; ``base`` has the interface and its promises."""

from __future__ import annotations

from urllib.parse import urlsplit

from ..errors import StartupError
from .address import DEFAULT_PORTS, Address
from .base import Broker, Deliver, Position
from .engine import EngineBroker
from .gaps import GapTeller, OnGap
from .link import Engine, EngineError
from .memory import MemoryBroker
from .options import EngineOptions
from .reports import BrokerStatistics, Reports
from .subscriptions import Subscriptions

__all__ = [
    "Broker", "BrokerStatistics", "Deliver", "Engine", "EngineBroker", "EngineError", "EngineOptions", "GapTeller", "MemoryBroker",
    "OnGap", "Position", "Reports", "Subscriptions", "open_broker",
]  # fmt: skip


def open_broker(url: str, *, options: EngineOptions | None = None) -> Broker:
    """The broker that ``url`` names; it connects at ``start``.

    Args:
        url: see ``address``.
        options: times and bounds of a broker over an engine.

    Raises:
        StartupError: with a sentence: there is no such broker, the URL cannot be read, or its client is not installed.
    """
    scheme = urlsplit(url).scheme or url
    if scheme == "memory":
        return MemoryBroker()
    if scheme not in DEFAULT_PORTS:
        raise StartupError(
            f"there is no broker for {scheme}://; TIDEGATE_BROKER is memory:// (one node, the default), redis://, rediss://, "
            "redis+cluster://, rediss+cluster://, nats:// or tls:// (NATS over TLS)"
        )
    return EngineBroker(_engine(Address.parse(url)), options)


def _engine(address: Address) -> Engine:
    extra = "nats" if address.scheme in ("nats", "tls") else "redis"
    try:
        if extra == "nats":
            from .nats import NatsEngine

            return NatsEngine(address)
        from .redis import RedisEngine

        return RedisEngine(address, cluster=address.scheme.endswith("+cluster"))
    except ImportError as error:
        raise StartupError(
            f"{address.scheme}:// needs {error.name}, which is not installed: pip install 'tidegate[{extra}]'"
        ) from None
