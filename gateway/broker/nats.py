"""``NatsEngine``: NATS core subjects. Only this file knows nats-py.

1. A room is one subject token, whatever its name has in it (``subject_token``): never a wildcard, never two levels.
2. A subscription has no queue and no task: messages go on from nats-py's reader as they come. So there is no limit of pending
   messages at which nats-py would drop any; who is too slow is told by the server, and that ends the link.
3. What is said is written at once, with a ``PING`` behind it in the same write: its ``PONG`` says that the server has taken it all,
   except what it has called a violation of permissions before that. One that fits nothing said just now means a subscription that
   we had: the link ends, and the next one is told which rooms it may hear.
4. nats-py never reconnects by itself: links are made by ``EngineBroker`` alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from nats.aio.client import PING_PROTO, Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import AuthorizationError, Error, SlowConsumerError

from .address import Address
from .link import EngineError, Events

__all__ = ["NatsEngine", "subject_token"]

CLOSE_SECONDS = 0.2

_PLAIN = re.compile(r"[A-Za-z0-9_:~@/-]+")
_VIOLATION = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE)
_PUBLISH, _SUBSCRIPTION = "publish", "subscription"
_ODD = re.compile(rb"[^A-Za-z0-9_:~@/-]")


@lru_cache(maxsize=8192)
def subject_token(room: str) -> str:
    """The room as one token of a subject: letters, digits and ``_ : ~ @ / -`` as they are, other bytes as ``=XX``.

    Two rooms never have the same token, and no token has a dot, a wildcard or a space in it.
    """
    if _PLAIN.fullmatch(room):
        return room
    return _ODD.sub(lambda odd: b"=%02X" % odd[0][0], room.encode("utf-8", "surrogatepass")).decode() or "="


class NatsEngine:
    """NATS at ``address``: one server, or several of one cluster."""

    name = "NATS"

    def __init__(self, address: Address) -> None:
        self.where = address.where
        self.hosts = len(address.hosts)
        self._address = address
        self._tls = _Tls(address) if address.tls else None

    async def connect(self, events: Events, host: int) -> NatsLink:
        link = NatsLink(self._address, events)
        try:
            await link.open(*self._address.hosts[host], self._tls)
        except BaseException as error:
            await link.close()
            if isinstance(error, Error):
                permanent = isinstance(error, AuthorizationError) or "authorization" in str(error).lower()
                raise EngineError(self._address.clean(link.last_error or error), permanent=permanent) from None
            raise
        return link


class NatsLink:
    """One client."""

    def __init__(self, address: Address, events: Events) -> None:
        self.max_message_bytes: int | None = None
        self.last_error: Exception | None = None
        self._address = address
        self._events = events
        self._client = _Client()
        self._rooms: dict[str, Subscription] = {}
        self._sink = _Sink(events)

    async def open(self, host: str, port: int, tls: _Tls | None) -> None:
        """Connect. Raises ``nats.errors.Error``, ``OSError``, ``EngineError``."""
        address = self._address
        if tls is not None:
            tls.used = False
        options: dict[str, Any] = {**self._credentials(tls), **({} if tls is None else {"tls": tls})}
        await self._client.connect(
            f"{address.scheme}://{quote(host) if ':' not in host else f'[{host}]'}:{port}",
            name=address.prefix,
            **options,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            pending_size=0,
            error_cb=self._error,
            closed_cb=self._closed,
        )
        if tls is not None:
            tls.check()
        self.max_message_bytes = self._client.max_payload

    def probe_rooms(self, stem: str) -> Sequence[str]:
        return [stem]

    def publish(self, batch: Sequence[tuple[str, bytes]]) -> asyncio.Future[Mapping[int, str]]:
        subjects = [self._subject(room) for room, _ in batch]
        commands = [
            b"PUB %b %d\r\n%b\r\n" % (subject.encode(), len(data), data) for subject, (_, data) in zip(subjects, batch, strict=True)
        ]
        return self._client.say(_PUBLISH, subjects, commands)

    async def subscribe(self, rooms: Sequence[str]) -> Mapping[str, str]:
        try:
            for room in rooms:
                self._rooms[room] = await self._client.subscribe(self._subject(room), future=self._sink)
        except Error as error:
            raise self._as_engine_error(error) from None
        answer = await self._client.say(_SUBSCRIPTION, [self._subject(room) for room in rooms])
        refused = {rooms[place]: reason for place, reason in answer.items()}
        if refused:
            await self.unsubscribe([*refused])
        return refused

    async def unsubscribe(self, rooms: Sequence[str]) -> None:
        try:
            for room in rooms:
                subscription = self._rooms.pop(room, None)
                if subscription is not None:
                    await subscription.unsubscribe()
        except Error as error:
            raise self._as_engine_error(error) from None
        await self._client.say()

    def verify(self) -> None:
        """Nothing to ask: a server of NATS is never out of office and still open."""

    async def close(self) -> None:
        self._sink.closed = True
        writer = _writer_of(self._client)
        if writer is not None:  # else nats-py would wait until a frozen server has taken what is still unsent
            writer.transport.abort()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._client.close()

    def _subject(self, room: str) -> str:
        return f"{self._address.prefix}.{subject_token(room)}"

    def _credentials(self, tls: _Tls | None) -> dict[str, Any]:
        """As functions: nats-py asks for them when the connection is as it will be, and ``tls://`` must be encrypted by then."""
        address = self._address

        def told(secret: str) -> Any:
            def tell() -> str:
                if tls is not None:
                    tls.check()
                return secret

            return tell

        if address.password:
            return {"user": told(address.username), "password": told(address.password)}
        return {"token": told(address.username)} if address.username else {}

    async def _error(self, error: Exception) -> None:
        self.last_error = error
        if isinstance(error, SlowConsumerError):
            self._events.missed("the client was too slow and dropped messages")
        elif violation := _VIOLATION.search(str(error)):
            reason = self._address.clean(error)
            what, subject = violation.groups()
            if not self._client.refused(what.lower(), subject.lower(), reason):
                self._events.lost(reason)

    async def _closed(self) -> None:
        if not self._sink.closed:
            self._events.lost(self._address.clean(self._client.last_error or self.last_error or "the server closed the connection"))

    def _as_engine_error(self, error: Error) -> EngineError:
        return EngineError(self._address.clean(error))


class _Client(Client):
    """nats-py's own ``flush`` writes its ``PING`` ahead of what that is to confirm, in two writes, a turn of the loop apart."""

    def say(
        self, what: str = "", subjects: Sequence[str] = (), commands: Iterable[bytes] = ()
    ) -> asyncio.Future[Mapping[int, str]]:
        """Write what nats-py has ready, then ``commands``; the future is done when the server has taken it.

        Args:
            what, subjects: what is said, in the server's word, is about these; the future's result has the refused ones by their
                place.

        Raises:
            EngineError: the connection is closed.
        """
        writer = _writer_of(self)
        if not self.is_connected or writer is None or writer.is_closing():  # nats-py hears of it later than we
            raise EngineError("the connection was lost")
        taken = _Pong(what, subjects)
        writer.write(b"".join((*self._pending, *commands, PING_PROTO)))
        self._pongs.append(taken)
        self._pending, self._pending_data_size = [], 0
        return taken

    def refused(self, what: str, subject: str, reason: str) -> bool:
        """The server has refused it, in its small letters; False when nothing of the kind has been said about ``subject``."""
        pong = self._pongs[0] if self._pongs else None
        return isinstance(pong, _Pong) and pong.refuse(what, subject, reason)


def _writer_of(client: Client) -> asyncio.StreamWriter | None:
    writer: asyncio.StreamWriter | None = getattr(client._transport, "_io_writer", None)
    return writer


class _Pong(asyncio.Future[Mapping[int, str]]):
    """What nats-py takes for the future of a ``PING``.

    nats-py tells refused subjects in small letters. Of two that are the same in small letters, in one write, both count as refused.
    """

    def __init__(self, what: str, subjects: Sequence[str]) -> None:
        super().__init__()
        self._what = what
        self._subjects = subjects
        self._places: defaultdict[str, list[int]] | None = None
        self._refused: dict[int, str] = {}

    def refuse(self, what: str, subject: str, reason: str) -> bool:
        """What is about ``subject``, in small letters, is not taken; False when nothing is."""
        if what != self._what:
            return False
        if self._places is None:
            self._places = defaultdict(list)
            for place, one in enumerate(self._subjects):
                self._places[one.lower()].append(place)
        places = self._places.get(subject, [])
        self._refused.update(dict.fromkeys(places, reason))
        return bool(places)

    def set_result(self, _: object, /) -> None:
        if not self.done():  # cancelled: nobody waits any more, and the ``PONG`` comes all the same
            super().set_result(self._refused)


class _Sink(asyncio.Future[Msg]):
    """What nats-py takes for the future of a request's answer: it is given every message at once, and is never done."""

    def __init__(self, events: Events) -> None:
        super().__init__()
        self.closed = False
        self._received = events.received

    def set_result(self, message: Msg, /) -> None:
        if not self.closed:
            self._received(message.data)


class _Tls(ssl.SSLContext):
    """A context that knows whether it was used: nats-py encrypts only when the server offers it."""

    used: bool

    def __new__(cls, address: Address) -> _Tls:
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, address: Address) -> None:
        super().__init__()
        self.used = False
        if address.ca_file is not None:
            self.load_verify_locations(address.ca_file)
        else:
            self.load_default_certs()
        if address.cert_file is not None:
            self.load_cert_chain(address.cert_file, address.key_file)

    def check(self) -> None:
        """Raise ``EngineError`` when the connection is not encrypted."""
        if not self.used:
            raise EngineError("the server does not offer TLS, which tls:// asks for", permanent=True)

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        self.used = True
        return super().wrap_bio(*args, **kwargs)
