"""``Connection``: one live socket as the rest of the gateway sees it, and its states.

==========  =========  =======  ======
state       open       end      lost
==========  =========  =======  ======
CONNECTING  OPEN       CLOSED   CLOSED
OPEN        (illegal)  CLOSING  CLOSED
CLOSING     (illegal)  CLOSING  CLOSED
CLOSED      (illegal)  CLOSED   CLOSED
==========  =========  =======  ======

1. ``ending`` is set exactly when the state leaves CONNECTING or OPEN for CLOSING or CLOSED, and never changes after.
2. Nothing is written to a connection whose ``ending`` is set.
3. ``on_ended`` is called once, at the moment ``ending`` is set.
4. What the client sent before it left is still read, although ``ending`` may be known by then; behind an end of ours nothing is.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from enum import Enum
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

from middleware.asgi import Event, Frames, Receive, Scope, Send, payload_bytes
from middleware.close import ABNORMAL, NORMAL, SLOW_CONSUMER, Close

from .asgi_outlet import AsgiOutlet
from .errors import ConnectionClosed, IllegalTransition, InvalidMessage
from .frame_outlet import FrameOutlet
from .ledger import Taken
from .message import Batch, Message
from .outlet import Outlet, OutletOptions

__all__ = ["Connection", "ConnectionStatistics", "State"]


class State(Enum):
    """Where a connection stands."""

    CONNECTING = "connecting"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


_TRANSITIONS: dict[Literal["open", "end", "lost"], dict[State, State]] = {
    "open": {State.CONNECTING: State.OPEN},
    "end": {
        State.CONNECTING: State.CLOSED,
        State.OPEN: State.CLOSING,
        State.CLOSING: State.CLOSING,
        State.CLOSED: State.CLOSED,
    },
    "lost": dict.fromkeys(State, State.CLOSED),
}


_NO_METADATA: Mapping[str, Any] = MappingProxyType({})


class ConnectionStatistics(NamedTuple):
    """A snapshot of one connection; bytes are payload bytes."""

    id: str
    user: str | None
    state: str
    rooms: tuple[str, ...]
    age_seconds: float
    received_messages: int
    received_bytes: int
    sent_messages: int
    sent_bytes: int
    buffered_bytes: int
    dropped_messages: int


class Reader(Protocol):
    """Checks and decodes what a client sends (``validation.Validation``)."""

    def decode(self, event: Event) -> Any: ...


class Connection:
    """One live socket.

    Args:
        id: unique over all nodes.
        scope: the ASGI scope.
        receive: the ASGI ``receive`` to read from.
        send: the ASGI ``send``; used for messages when there is no ``frames``.
        frames: the server's frames extension, when nobody stands in between.
        reader: checks and decodes messages for ``receive``.
        outlet_options: bounds for what waits to be written.
        user: who it is, or ``None``.
        metadata: whatever the application wants to keep with it; read only afterwards.
    """

    __slots__ = (
        "__weakref__", "_cuts", "_interrupted", "_reader", "_reading", "_receive", "before_send", "connected_at", "ending",
        "frames", "id", "initiator", "messages_not_taken", "metadata", "on_ended", "on_gave_up", "outlet", "received_bytes",
        "received_messages", "rooms", "scope", "state", "user",
    )  # fmt: skip

    def __init__(
        self,
        id: str,  # noqa: A002 - it is the connection's id
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        frames: Frames | None,
        reader: Reader,
        outlet_options: OutletOptions,
        user: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.id = id
        self.scope = scope
        self.user = user
        self.metadata = MappingProxyType(dict(metadata)) if metadata else _NO_METADATA
        self.rooms: set[str] = set()
        """Names of the rooms it is in; kept by the registry."""
        self.state = State.CONNECTING
        self.ending: Close | None = None
        self.initiator = ""
        """Who decided the end: ``client`` or ``server``."""
        self.on_ended: Callable[[Connection], None] | None = None
        self.before_send: Callable[[Connection], None] | None = None
        self.on_gave_up: Callable[[Connection, Sequence[Taken], int, str], None] | None = None
        self.connected_at = time.monotonic()
        self.frames = frames
        self.received_messages = self.received_bytes = self.messages_not_taken = 0
        self._receive = receive
        self._reader = reader
        self._reading: asyncio.Task[Any] | None = None
        self._interrupted = False
        self._cuts = 0  # the reader's count of cancellations when we interrupted it
        self.outlet: Outlet = self._make_outlet(send, outlet_options)
        self._adopt_ending()

    def _make_outlet(self, send: Send, options: OutletOptions) -> Outlet:
        if self.frames is None:
            return AsgiOutlet(send, options, self, on_slow=lambda: self._end(SLOW_CONSUMER), on_lost=self._unreachable)
        self.frames.on_finished = self.ended
        return FrameOutlet(self.frames, options, self)

    def _adopt_ending(self) -> None:
        """A client may have left before this object was made; nobody would tell it any more."""
        if self.frames is not None and self.frames.ending is not None:
            self.ended(self.frames.ending, self.frames.initiator)

    # -- reading

    async def receive(self) -> Any:
        """The next message, as the server's validation decodes it. A message that breaks its rules ends the connection.

        Raises:
            ConnectionClosed: when the connection is over; ``close`` tells why.
        """
        while True:
            event = await self.receive_event()
            try:
                return self._reader.decode(event)
            except InvalidMessage as error:
                self.close(error.close)

    async def receive_event(self) -> Event:
        """The next ``websocket.receive`` event, unchecked. Raises ``ConnectionClosed``."""
        while True:
            event = await self._next_event()
            if event["type"] == "websocket.disconnect":
                self.ended(Close.received(event.get("code"), event.get("reason")), "client")
                self._interrupted = True  # there is nothing behind it: reading on must not ask the server again
                self.outlet.lost()
                raise ConnectionClosed(self.ending or ABNORMAL)
            if event["type"] == "websocket.receive" and self.initiator != "server":
                self.received_messages += 1
                self.received_bytes += payload_bytes(event)
                return event

    async def __aiter__(self) -> AsyncIterator[Any]:
        """Iterate over the messages until the connection ends."""
        try:
            while True:
                yield await self.receive()
        except ConnectionClosed:
            return

    async def _next_event(self) -> Event:
        if not self._interrupted:
            self._reading = asyncio.current_task()
            try:
                return await self._receive()
            except asyncio.CancelledError:
                # Our own interruption is taken back as asyncio.timeout() does it; a real cancellation goes on.
                if not self._take_back_interruption():
                    raise
            finally:
                self._reading = None
        await self.outlet.flushed()  # whoever is told of the end may end the ASGI call, and with it what is still to be sent
        raise ConnectionClosed(self.ending or ABNORMAL)

    def _take_back_interruption(self) -> bool:
        return self._interrupted and self._reading is not None and self._reading.uncancel() <= self._cuts

    # -- writing

    async def send(self, payload: Any) -> None:
        """Send text, bytes or, for anything else, its JSON; waits while the client is slow to read, and for nobody else.

        Raises:
            ConnectionClosed: when the connection is over.
            TypeError: when the payload has no JSON form.
        """
        self.send_nowait(payload)
        await self.outlet.drained()
        if self.ending is not None:
            raise ConnectionClosed(self.ending)

    def send_nowait(self, payload: Any) -> None:
        """As ``send``, without waiting: past the outbox bound its policy acts."""
        message = Message.of(payload)
        if self.ending is not None:
            raise ConnectionClosed(self.ending)
        if self.before_send is not None:
            self.before_send(self)
        self.write(Batch((message,)))

    def write(self, batch: Batch) -> int:
        """Write a batch; returns how many messages were lost by it (see ``outlet``)."""
        lost = self.outlet.write(batch) if self.state is State.OPEN else len(batch)
        self.messages_not_taken += lost
        if batch.totals is not None:
            batch.totals.taken += len(batch) - lost
        return lost

    def gave_up(self, taken: Sequence[Taken], messages: int, reason: str) -> None:
        """Its outlet gave up messages that it had taken; maybe long after the end (see ``Owner``)."""
        if self.on_gave_up is not None:
            self.on_gave_up(self, taken, messages, reason)

    def confirm(self, on_confirmed: Callable[[], None]) -> bool:
        """Have the client confirm that it got what was written so far: a ping behind it, whose pong calls ``on_confirmed``.

        Returns False when that cannot be asked now: under a server without the frames extension, while another one is under
        way, or while something waits that a ping would overtake. A pong says that the client's WebSocket stack has read
        everything before it, and nothing of what the app did with it; a dialect whose clients acknowledge can say more, here.
        """
        return self.state is State.OPEN and self.outlet.ping(secrets.token_bytes(8), on_confirmed)

    @property
    def messages_dropped(self) -> int:
        """Messages that were to be written to it and were not."""
        return self.messages_not_taken + self.outlet.replaced_messages

    # -- ending

    def opened(self) -> None:
        """The handshake is accepted. Raises ``IllegalTransition`` when it was before or the connection is over."""
        self._move("open")

    def close(self, close: Close = NORMAL) -> None:
        """End the connection: what was sent to it or its rooms before still goes out, then a close frame. The first reason wins."""
        if self.ending is None and self.before_send is not None:
            self.before_send(self)
        self._end(close)

    def _end(self, close: Close) -> None:
        if self.ending is None:
            if self.frames is None:
                self.ended(close, "server")
                self._interrupt()  # some servers cannot send a close while a receive is pending (granian)
            self.outlet.close(close)

    def ended(self, close: Close, by: str) -> None:
        """The end is decided; only the first call counts."""
        if self.ending is not None:
            return
        self._move("end")
        self.ending, self.initiator = close, by
        self.outlet.wake()
        if self.on_ended is not None:
            self.on_ended(self)

    def lost(self) -> None:
        """Nobody serves this connection any more: its ASGI call is over."""
        self.ended(NORMAL, "server")
        self._move("lost")
        self.outlet.lost()

    def _unreachable(self, close: Close) -> None:
        """The peer does not take what is sent: stop waiting for it to speak."""
        self.ended(close, "server")
        self._interrupt()

    def _interrupt(self) -> None:
        if self._reading is not None and not self._interrupted:
            self._cuts = self._reading.cancelling()
            self._reading.cancel()
        self._interrupted = True

    def _move(self, event: Literal["open", "end", "lost"]) -> None:
        target = _TRANSITIONS[event].get(self.state)
        if target is None:
            raise IllegalTransition(f"connection {self.id}: cannot {event!r} while {self.state.value}")
        self.state = target

    # -- looking at it

    def statistics(self) -> ConnectionStatistics:
        """A snapshot for people and for the API."""
        traffic = self.frames or self
        return ConnectionStatistics(
            id=self.id,
            user=self.user,
            state=self.state.value,
            rooms=tuple(sorted(room for room in self.rooms if not room.startswith("~"))),
            age_seconds=round(time.monotonic() - self.connected_at, 3),
            received_messages=traffic.received_messages,
            received_bytes=traffic.received_bytes,
            sent_messages=self.outlet.sent_messages,
            sent_bytes=self.outlet.sent_bytes,
            buffered_bytes=self.outlet.buffered_bytes(),
            dropped_messages=self.messages_dropped,
        )

    def __repr__(self) -> str:
        return f"<Connection {self.id} {self.state.value}>"
