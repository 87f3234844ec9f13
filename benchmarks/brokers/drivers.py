"""The servers of which two share an engine. Nobody hears what it says itself; a publisher is a member of its room."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ..drivers.base import PEERS, Driver, own_version
from ..drivers.python import SocketIo, UvicornPeer
from ..drivers.tidegate import Tidegate
from ..processes import Launch
from .engines import NATS, REDIS, REDIS_CLUSTER, Engine

__all__ = ["OverEngine", "broker_drivers"]


class OverEngine(Driver):
    """A server that reaches others of its kind through ``engine``; ``node`` starts one of them."""

    engine: Engine = REDIS

    def absent(self) -> str:
        return self.engine.absent() or super().absent()

    def version(self) -> str:
        return f"{super().version()}, {self.engine.version()}"

    def node(self, port: int, engine_url: str) -> Launch:
        """How to start a node on 127.0.0.1:``port``."""
        launch = self.launch(port)
        return Launch(launch.command, {**launch.environment, "REDIS_URL": engine_url}, launch.folder)


class _TidegateOverEngine(OverEngine, Tidegate):
    client: str
    """The package that it needs beside what it always has."""

    def absent(self) -> str:
        has_client = importlib.util.find_spec(self.client.removesuffix("-py")) is not None
        return super().absent() if has_client else f"not installed: {self.client}"

    def version(self) -> str:
        return f"{super().version()}, {self.client} {own_version(self.client)}"

    def node(self, port: int, engine_url: str) -> Launch:
        launch = self.launch(port)
        return Launch(launch.command, {**launch.environment, "TIDEGATE_BROKER": engine_url}, launch.folder)

    def url(self, port: int, room: str, *, echo: bool) -> str:
        return f"ws://127.0.0.1:{port}/ws/{room}"


class TidegateOverRedis(_TidegateOverEngine):
    name = "tidegate-redis"
    title = "Tidegate over Redis"
    client = "redis"


class TidegateOverCluster(_TidegateOverEngine):
    name = "tidegate-cluster"
    title = "Tidegate over Redis Cluster"
    client = "redis"
    engine = REDIS_CLUSTER


class TidegateOverNats(_TidegateOverEngine):
    name = "tidegate-nats"
    title = "Tidegate over NATS"
    client = "nats-py"
    engine = NATS


class _Environment:
    """These have an environment of their own: what other peers were measured with stays as it is."""

    cache: Path

    @property
    def python(self) -> Path:
        return self.cache / "brokers" / "bin" / "python"


class SocketIoOverRedis(_Environment, OverEngine, SocketIo):
    name = "socketio-redis"
    title = "python-socketio over Redis"
    packages = ("python-socketio", "redis", "hiredis", *UvicornPeer.packages)
    app = "socketio_redis_app:app"


class RedisPy(_Environment, OverEngine, UvicornPeer):
    name = "redis-py"
    title = "uvicorn and redis-py, by hand"
    packages = ("redis", "hiredis", *UvicornPeer.packages)
    app = "redis_py_app:app"


class ChannelsOverRedis(_Environment, OverEngine, UvicornPeer):
    name = "channels-redis"
    title = "Django Channels over channels_redis"
    packages = ("channels-redis", "channels", "daphne", "redis", "hiredis")
    layer = "channels_redis.core.RedisChannelLayer"

    def node(self, port: int, engine_url: str) -> Launch:
        command = (str(self.python), "-m", "daphne", "-b", "127.0.0.1", "-p", str(port), "-v", "0", "channels_redis_app:app")
        return Launch(command, {"REDIS_URL": engine_url, "CHANNEL_LAYER": self.layer}, PEERS)


class ChannelsOverPubSub(ChannelsOverRedis):
    name = "channels-pubsub"
    title = "Django Channels over channels_redis, pub/sub"
    layer = "channels_redis.pubsub.RedisPubSubChannelLayer"


def broker_drivers(cache: Path) -> list[Driver]:
    """A driver for each; whether it can be had here is its ``absent``."""
    classes = (
        TidegateOverRedis, TidegateOverNats, TidegateOverCluster, RedisPy, SocketIoOverRedis, ChannelsOverPubSub, ChannelsOverRedis,
    )  # fmt: skip
    return [driver(cache) for driver in classes]
