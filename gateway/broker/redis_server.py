"""``RedisServer``: the two connections to one Redis server. Only this file and ``redis`` know redis-py.

One connection publishes, the other is subscribed; each has one reader, which owns it. What is said is written at once; what may be
unanswered is bounded by whoever says it (``Publisher``, ``Listener``). redis-py connects, authenticates, encrypts and parses; its
``PubSub`` is not used: with it a message costs 20 µs, with the connection beneath it 2.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import hiredis
from redis.asyncio.connection import Connection, SSLConnection
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    NoPermissionError,
    ResponseError,
    TryAgainError,
)

from .address import Address
from .link import EngineError, Events

__all__ = ["RedisServer", "ask", "engine_error"]

CHANGED = (AskError, ClusterDownError, TryAgainError)
"""Replies which say that the picture of the cluster is out of date (``MovedError`` is an ``AskError``)."""
CHANNELS_PER_COMMAND = 1_000
LOST = "the connection was lost"

_pack: Callable[[tuple[bytes, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]  # says a tuple of one, takes any

Refusals = Mapping[int, str]
"""Which of several were refused, by index, and why."""


class _NotTheRightOne(EngineError):
    """The server is not, or not alone, the one that others hear: what it has confirmed may have reached nobody."""


class RedisServer:
    """One server.

    Args:
        address: how to get in.
        events: told of messages, and of the end.
        sharded: use the commands of sharded pub/sub.
    """

    def __init__(self, address: Address, events: Events, *, sharded: bool) -> None:
        self._address = address
        self._events = events
        prefix, self._message = (b"S", b"smessage") if sharded else (b"", b"message")
        self._publish, self._subscribe, self._unsubscribe = prefix + b"PUBLISH", prefix + b"SUBSCRIBE", prefix + b"UNSUBSCRIBE"
        self._channels_per_command = 1 if sharded else CHANNELS_PER_COMMAND  # those of one SSUBSCRIBE must share a slot
        self._sharded = sharded
        self._publisher: _Conversation | None = None
        self._subscriber: _Conversation | None = None

    async def open(self, host: str, port: int) -> None:
        """Connect. Raises what redis-py raises, ``EngineError``, ``OSError``."""
        self._publisher = await _connected(self._address, host, port, self._published, self._lost)
        self._subscriber = await _connected(self._address, host, port, self._heard, self._lost)
        if not self._sharded:
            await self._role()

    def publish(self, messages: list[tuple[bytes, bytes]]) -> asyncio.Future[Refusals]:
        """Write ``(channel, data)``; the future is done when all are answered."""
        command = self._publish
        return _open(self._publisher).say([_pack((command, channel, data)) for channel, data in messages], len(messages), int)

    def subscribe(self, channels: list[bytes]) -> asyncio.Future[Refusals]:
        """Write it; the future is done when all are answered. A channel that is refused takes others with it."""
        return self._tell(self._subscribe, channels, self._channels_per_command)

    def subscribe_singly(self, channels: list[bytes]) -> asyncio.Future[Refusals]:
        """As ``subscribe``; each is refused for itself alone."""
        return self._tell(self._subscribe, channels, 1)

    def unsubscribe(self, channels: list[bytes]) -> asyncio.Future[Refusals]:
        """Write it; the future is done when all are answered."""
        return self._tell(self._unsubscribe, channels, self._channels_per_command)

    def verify(self) -> None:
        """Ask whether this is a master still: who is attached to a demoted one hears everybody and is heard by nobody.

        In a cluster a server answers ``MOVED`` when it is not.
        """
        if not self._sharded:
            self._role()

    async def close(self) -> None:
        """Close both."""
        for conversation in (self._publisher, self._subscriber):
            if conversation is not None:
                await conversation.close()

    def _tell(self, command: bytes, channels: list[bytes], step: int) -> asyncio.Future[Refusals]:
        commands = [_pack((command, *channels[start : start + step])) for start in range(0, len(channels), step)]
        return _open(self._subscriber).say(commands, len(channels), list, step)

    def _role(self) -> asyncio.Future[Refusals]:
        return _open(self._publisher).say([_pack((b"ROLE",))], 1, list)

    def _published(self, reply: Any) -> None:
        """A reply to a publisher: how many subscribers got a message, a role, or an error."""
        if isinstance(reply, list) and reply[0] != b"master":
            raise _NotTheRightOne("the server is a replica; what is published there reaches nobody else")
        _open(self._publisher).answered(reply, self._refusal(reply) if isinstance(reply, ResponseError) else None)

    def _heard(self, reply: Any) -> None:
        """What comes to a subscriber: a message, a confirmation, or an error."""
        if isinstance(reply, ResponseError):
            refusal = self._refusal(reply)
            if not isinstance(reply, NoPermissionError):
                raise EngineError(refusal)
            _open(self._subscriber).answered(reply, refusal)
        elif reply[0] == self._message:
            self._events.received(reply[2])
        elif not _open(self._subscriber).answered(reply):  # a slot that moves away takes its subscriptions with it
            raise _NotTheRightOne("the server has ended a subscription: the cluster has changed")

    def _refusal(self, reply: ResponseError) -> str:
        if isinstance(reply, CHANGED):
            raise _NotTheRightOne(f"the cluster has changed: {type(reply).__name__}")
        return self._address.clean(reply)

    def _lost(self, error: Exception) -> None:
        tell = self._events.misled if isinstance(error, _NotTheRightOne) else self._events.lost
        tell(str(engine_error(error, self._address)))


class _Expected:
    """Replies that are still to come, and who waits for them. A refusal is the one reply to all that a command asks for."""

    __slots__ = ("count", "future", "kind", "left", "refusals", "step")

    def __init__(self, count: int, kind: type, step: int) -> None:
        self.count = self.left = count
        self.kind, self.step = kind, step
        self.refusals: dict[int, str] = {}
        self.future: asyncio.Future[Refusals] = asyncio.get_running_loop().create_future()


class _Conversation:
    """One connection. What is said is answered in order; the reader hands everything that comes to ``on_reply``."""

    def __init__(self, connection: Connection, on_reply: Callable[[Any], None], on_lost: Callable[[Exception], None]) -> None:
        self._connection = connection
        self._on_reply = on_reply
        self._on_lost = on_lost
        self._expected: deque[_Expected] = deque()
        self._writer = _writer_of(connection)
        self._reader = asyncio.get_running_loop().create_task(self._read(), name="redis reader")

    def say(self, commands: Iterable[bytes], replies: int, kind: type, step: int = 1) -> asyncio.Future[Refusals]:
        """Write, in the order of calling; the future is done when all replies of this kind, ``step`` to a command, are there.

        Raises:
            EngineError: the connection is closed.
        """
        if self._writer.is_closing():  # the reader hears of it a turn later than we
            raise EngineError(LOST)
        expected = _Expected(replies, kind, step)
        self._writer.write(b"".join(commands))
        self._expected.append(expected)
        return expected.future

    def answered(self, reply: Any, refusal: str | None = None) -> bool:
        """One reply has come; False when none was due. Raises ``EngineError`` when another kind of reply was."""
        if not self._expected:
            return False
        expected = self._expected[0]
        answered = 1
        if refusal is not None:
            answered, place = min(expected.step, expected.left), expected.count - expected.left
            expected.refusals.update(dict.fromkeys(range(place, place + answered), refusal))
        elif not isinstance(reply, expected.kind):
            raise EngineError("a reply was lost on the way: what is answered is not what was asked")
        expected.left -= answered
        if not expected.left:
            self._expected.popleft()
            if not expected.future.done():
                expected.future.set_result(expected.refusals)
        return True

    async def close(self) -> None:
        """Close the connection without ever waiting, whoever may cancel; what is still expected will not come."""
        self._reader.cancel()
        for expected in self._expected:
            expected.future.cancel()
        self._writer.transport.abort()  # else what a frozen server has not taken would stay in memory until TCP gives up
        await self._connection.disconnect(nowait=True)

    async def _read(self) -> None:
        read = self._connection.read_response
        try:
            while True:
                try:
                    reply = await read(disconnect_on_error=False)
                except ResponseError as error:
                    reply = error
                self._on_reply(reply)
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing more would be read
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._on_lost(error)
        for expected in self._expected:
            if not expected.future.done():
                expected.future.set_exception(error if isinstance(error, EngineError) else EngineError(LOST))
                expected.future.exception()  # whoever waits sees it; nobody has to


async def ask(address: Address, host: str, port: int, *command: str) -> Any:
    """The answer of one server to one command, over a connection of its own. Raises what redis-py raises."""
    connection = _connection(address, host, port)
    try:
        await connection.connect()  # type: ignore[no-untyped-call]  # redis-py has not annotated it
        await connection.send_command(*command)
        return await connection.read_response()
    finally:
        await connection.disconnect(nowait=True)


def engine_error(error: Exception, address: Address) -> EngineError:
    """An error of redis-py or of the system as ours, without credentials."""
    if isinstance(error, EngineError):
        return error
    permanent = isinstance(error, AuthenticationError | AuthorizationError | NoPermissionError)
    return EngineError(address.clean(error) or type(error).__name__, permanent=permanent)


async def _connected(
    address: Address, host: str, port: int, on_reply: Callable[[Any], None], on_lost: Callable[[Exception], None]
) -> _Conversation:
    connection = _connection(address, host, port)
    try:
        await connection.connect()  # type: ignore[no-untyped-call]  # redis-py has not annotated it
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return _Conversation(connection, on_reply, on_lost)


def _connection(address: Address, host: str, port: int) -> Connection:
    """One that waits for replies as long as it takes: what is overdue is the broker's business (its probes, its time-outs)."""
    options: dict[str, Any] = {
        "host": host, "port": port, "db": address.database, "client_name": address.prefix, "protocol": 2,
        "username": address.username or None, "password": address.password or None,
        "socket_timeout": None, "socket_connect_timeout": None, "socket_keepalive": True,
    }  # fmt: skip
    if not address.tls:
        return Connection(**options)
    return SSLConnection(
        **options, ssl_ca_certs=address.ca_file, ssl_certfile=address.cert_file, ssl_keyfile=address.key_file,
        ssl_cert_reqs="required", ssl_check_hostname=True,
    )  # fmt: skip


def _writer_of(connection: Connection) -> asyncio.StreamWriter:
    """redis-py's own way of sending is a coroutine, and so a task and a turn of the loop for every write."""
    writer: asyncio.StreamWriter | None = connection._writer
    assert writer is not None, "connected"
    return writer


def _open(conversation: _Conversation | None) -> _Conversation:
    assert conversation is not None, "a server is opened before it is used"
    return conversation
