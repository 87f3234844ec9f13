"""``RedisEngine``: Redis or Valkey, one server or a cluster, through pub/sub.

On a cluster pub/sub is sharded (``SPUBLISH``, ``SSUBSCRIBE``; Redis 7, Valkey): a room is the business of one server, the one
that owns the slot of its channel. When slots move, the link ends; the next one asks the cluster anew.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import RedisError

from .address import Address
from .link import EngineError, Events
from .redis_server import RedisServer, ask, engine_error

__all__ = ["RedisEngine"]

Route = Sequence[tuple[range, tuple[str, int]]]
"""Which slots belong to which server."""
Tell = Callable[[RedisServer, list[bytes]], asyncio.Future[Mapping[int, str]]]


class RedisEngine:
    """Redis at ``address``; with ``cluster``, what the address names are servers to ask for the others."""

    def __init__(self, address: Address, *, cluster: bool = False) -> None:
        self.name = "Redis Cluster" if cluster else "Redis"
        self.where = address.where
        self._address = address
        self._cluster = cluster
        self.hosts = len(address.hosts)

    async def connect(self, events: Events, host: int) -> RedisLink:
        link = RedisLink(self._address, events, sharded=self._cluster)
        try:
            await link.open(await self._route(*self._address.hosts[host]))
        except (RedisError, OSError) as error:
            await link.close()
            raise engine_error(error, self._address) from None
        except BaseException:
            await link.close()
            raise
        return link

    async def _route(self, host: str, port: int) -> Route:
        if not self._cluster:
            return [(range(REDIS_CLUSTER_HASH_SLOTS), (host, port))]
        return _route_of(await ask(self._address, host, port, "CLUSTER", "SLOTS"), host)


class RedisLink:
    """All servers, and which of them a room belongs to."""

    max_message_bytes = 512 * 1024 * 1024
    """``proto-max-bulk-len``, as it is by default."""

    def __init__(self, address: Address, events: Events, *, sharded: bool) -> None:
        self._address = address
        self._events = events
        self._sharded = sharded
        # "{}" makes a cluster hash the whole name: what a room's name has in braces must not decide where it lives.
        self._prefix = f"{address.prefix}{{}}:".encode()
        self._servers: list[RedisServer] = []
        self._owners: list[RedisServer] = []

    async def open(self, route: Route) -> None:
        """Connect to everybody in ``route``. Raises what redis-py raises, ``EngineError``, ``OSError``."""
        servers: dict[tuple[str, int], RedisServer] = {}
        owners: list[RedisServer | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        for slots, place in route:
            if place not in servers:
                servers[place] = server = RedisServer(self._address, self._events, sharded=self._sharded)
                self._servers.append(server)
                await server.open(*place)
            owners[slots.start : slots.stop] = [servers[place]] * len(slots)
        self._owners = [owner for owner in owners if owner is not None]
        if len(self._owners) < REDIS_CLUSTER_HASH_SLOTS:
            raise EngineError("not all slots of the cluster are served")

    def probe_rooms(self, stem: str) -> Sequence[str]:
        rooms: dict[RedisServer, str] = {}
        number = 0
        while len(rooms) < len(self._servers) and number < REDIS_CLUSTER_HASH_SLOTS:
            room = f"{stem}/{number}"
            rooms.setdefault(self._owner(self._channel(room)), room)
            number += 1
        return list(rooms.values())

    def publish(self, batch: Sequence[tuple[str, bytes]]) -> asyncio.Future[Mapping[int, str]]:
        if not self._sharded:
            return self._servers[0].publish([(self._channel(room), data) for room, data in batch])
        parts: defaultdict[RedisServer, list[int]] = defaultdict(list)
        messages = [(self._channel(room), data) for room, data in batch]
        for index, (channel, _) in enumerate(messages):
            parts[self._owner(channel)].append(index)
        answers = [server.publish([messages[index] for index in indexes]) for server, indexes in parts.items()]
        return answers[0] if len(answers) == 1 else asyncio.ensure_future(_together(list(parts.values()), answers))

    async def subscribe(self, rooms: Sequence[str]) -> Mapping[str, str]:
        refused = await self._tell(rooms, RedisServer.subscribe)
        if not refused or self._sharded:  # sharded, each was asked for singly
            return refused
        return await self._tell([*refused], RedisServer.subscribe_singly)

    async def unsubscribe(self, rooms: Sequence[str]) -> None:
        await self._tell(rooms, RedisServer.unsubscribe)

    def verify(self) -> None:
        for server in self._servers:
            server.verify()

    async def close(self) -> None:
        for server in self._servers:
            await server.close()

    async def _tell(self, rooms: Sequence[str], tell: Tell) -> Mapping[str, str]:
        """Which of the rooms were refused, and why."""
        parts: defaultdict[RedisServer, list[str]] = defaultdict(list)
        for room in rooms:
            parts[self._owner(self._channel(room))].append(room)
        refused: dict[str, str] = {}
        answers = [tell(server, [self._channel(room) for room in part]) for server, part in parts.items()]
        for part, answer in zip(parts.values(), answers, strict=True):
            refused.update({part[place]: reason for place, reason in (await answer).items()})
        return refused

    def _channel(self, room: str) -> bytes:
        return self._prefix + room.encode("utf-8", "surrogatepass")

    def _owner(self, channel: bytes) -> RedisServer:
        return self._owners[key_slot(channel)] if self._sharded else self._servers[0]


async def _together(parts: Sequence[Sequence[int]], answers: Sequence[asyncio.Future[Mapping[int, str]]]) -> Mapping[int, str]:
    """The answers of several servers to ``parts`` of a batch as one."""
    refused: dict[int, str] = {}
    for indexes, answer in zip(parts, answers, strict=True):
        refused.update({indexes[place]: reason for place, reason in (await answer).items()})
    return refused


def _route_of(slots: list[Any], asked_host: str) -> Route:
    """What ``CLUSTER SLOTS`` answers: first slot, last slot, the master, its replicas. A master without a host is the one asked."""
    return [
        (range(first, last + 1), (master[0].decode() if master[0] else asked_host, int(master[1])))
        for first, last, master, *_ in slots
    ]
