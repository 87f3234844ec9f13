"""``WebSocketServer``: rooms and connections as an ASGI app, and as methods for routes of any Starlette or FastAPI app.

As an app it serves ``/ws/{room}`` (the room from ``scope["path_params"]``): it admits the client into the room, runs the
handler (by default the relay: every message goes to the others), and cleans up.

In a route of your own::

    server = WebSocketServer()
    await server.accept_connection(websocket)
    connection_id = await server.handle_connection(websocket, room_id)
    while True:
        message = await server.receive_message(websocket)
        if message:
            await server.send_message(websocket, process_message(message))

or, shorter, ``async with server.connect(websocket, room_id) as connection: async for message in connection: …``. When the
client leaves, reading raises ``ConnectionClosed``; unregistering needs no help from the route.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from middleware.asgi import Receive, Scope, Send, deny
from middleware.bucket import FULL, TokenBucket
from middleware.close import GOING_AWAY, INTERNAL_ERROR, NORMAL, RATE_LIMITED, RESTARTING, Close
from middleware.rate_limit import RateLimitMiddleware

from .admission import Admission, check_may_join, is_self_check
from .broker import Broker
from .connection import Connection
from .errors import ConnectionClosed, InvalidMessage
from .hub import Hub, Published
from .message import check_room, self_room, user_room
from .outlet import OutletOptions
from .registry import EVERYONE, ConnectionRegistry
from .relay import RoomRelay
from .validation import Allow, Validation

__all__ = ["RAW_SUBPROTOCOL", "Handler", "WebSocketServer"]

RAW_SUBPROTOCOL = "tidegate.raw"
"""What a client that wants to name a subprotocol may ask for: a frame is a payload."""

Handler = Callable[[Connection], Awaitable[None]]


class _Session:
    """One connection served through the methods for routes."""

    __slots__ = ("connection", "full_at")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.full_at = FULL


class WebSocketServer:
    """Rooms and connections.

    Args:
        broker: carries messages between nodes; memory (this process alone) when ``None``.
        handler: ``async def handler(connection)``, run for every connection the app serves; the room relay when ``None``.
        rate_limit_config: ``{"enabled": True, "requests_per_minute": 60}``: how much ``receive_message`` takes from one
            connection. ``RateLimitMiddleware`` does the same for any app and can do more.
        max_message_bytes: the largest message taken; ``None`` leaves it to the wire.
        allow: ``any``, ``text`` or ``binary``.
        json: messages must be JSON and are handed over decoded.
        message_type: messages must be JSON of this type (anything msgspec decodes, or a pydantic model).
        outbox: bounds of what may wait for a slow client, and the policy past them.
        namespaces, max_delay_seconds, linger_seconds, node: see ``Hub``.
    """

    def __init__(
        self,
        *,
        broker: Broker | None = None,
        handler: Handler | None = None,
        rate_limit_config: Mapping[str, Any] | None = None,
        max_message_bytes: int | None = 1024 * 1024,
        allow: Allow = "any",
        json: bool = False,
        message_type: Any = None,
        outbox: OutletOptions | None = None,
        namespaces: Iterable[str] = (),
        max_delay_seconds: float = 0.0,
        linger_seconds: float = 5.0,
        node: str | None = None,
    ) -> None:
        self.hub = Hub(
            broker, namespaces=namespaces, max_delay_seconds=max_delay_seconds, linger_seconds=linger_seconds, node=node
        )  # fmt: skip
        self.registry: ConnectionRegistry = self.hub.registry
        self.validation = Validation(max_bytes=max_message_bytes, allow=allow, json=json, message_type=message_type)
        self.admission = Admission(self.hub, self.validation, outbox or OutletOptions())
        self.relay_refused = 0
        """Messages of clients that the broker did not take."""
        self._handler: Handler = handler or RoomRelay(self.hub.post, self.validation, self._count_refused)
        self._self_handler: Handler = RoomRelay(self.hub.post, Validation(), self._count_refused)
        self._bucket = _bucket_of(rate_limit_config)
        self._sessions: dict[WebSocket, _Session] = {}

    # -- life

    async def start(self) -> None:
        """Start the broker; done by itself at the first connection. Raises ``BrokerUnavailable``."""
        await self.admission.start()

    async def stop(self) -> None:
        """Stop the broker. Connections are to be drained before."""
        await self.hub.stop()

    async def drain(
        self, *, period_seconds: float = 0.0, close: Close = RESTARTING, on_progress: Callable[[int], None] | None = None
    ) -> int:
        """Refuse new handshakes and close all connections with ``close``; returns how many.

        They are closed in random order, evenly and with jitter over ``period_seconds``: those who come back come spread out.
        """
        self.admission.draining = True
        waiting = list(self.registry.connections.values())
        random.shuffle(waiting)
        total, loop = len(waiting), asyncio.get_running_loop()
        started = loop.time()
        while waiting:
            elapsed = loop.time() - started
            due = total if elapsed >= period_seconds else math.ceil(total * elapsed / period_seconds) or 1
            while waiting and total - len(waiting) < due:
                waiting.pop().close(close)
            if on_progress is not None:
                on_progress(len(waiting))
            if waiting:
                await asyncio.sleep(max(0.01, period_seconds / total * random.uniform(0.5, 1.5)))  # noqa: S311 - no secret
        return total

    # -- as an ASGI app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one WebSocket in the room of ``scope["path_params"]["room"]``.

        The gateway's self check is served in a room of its own, always by the relay, and is not counted among the clients.
        """
        if scope["type"] != "websocket":
            raise ValueError(f"a WebSocketServer serves WebSockets, not {scope['type']!r}")
        if is_self_check(scope):
            scope = {**scope, "path_params": {"room": self_room(self.hub.node)}}
        try:
            rooms = await self.admission.hold_rooms(scope, scope["path_params"]["room"])
        except Exception as error:
            refusal = self.admission.refusal(error)
            if refusal is None:
                raise
            await deny(scope, receive, send, **refusal)
            return
        connection = self.admission.connection(scope, receive, send)
        held = True
        try:
            await self._accept(scope, receive, send)
            held = False
            self._enter(connection, rooms, counted=not is_self_check(scope))
            await self._run(connection, self._self_handler if is_self_check(scope) else self._handler)
        except (ConnectionClosed, OSError):
            pass  # the client left, or was sent away: that is how connections end
        except (Exception, asyncio.CancelledError) as error:
            if held:
                raise
            connection.close(_ending_of(error))
            if not isinstance(getattr(error, "close", None), Close):
                raise
        finally:
            if held:
                self.hub.release(rooms)
            await self._finish(connection)

    async def _accept(self, scope: Scope, receive: Receive, send: Send) -> None:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            raise ConnectionClosed(Close.received(event.get("code"), event.get("reason")))
        offered = scope.get("subprotocols") or ()
        await send({"type": "websocket.accept", "subprotocol": RAW_SUBPROTOCOL if RAW_SUBPROTOCOL in offered else None})

    async def _run(self, connection: Connection, handler: Handler) -> None:
        bind = getattr(handler, "bind", None)
        if bind is None or connection.frames is None:
            await handler(connection)
            return
        connection.frames.on_message = bind(connection)
        await connection.receive_event()  # only ever the end

    async def _finish(self, connection: Connection) -> None:
        try:
            if connection.ending is None and connection.id in self.registry.connections:
                connection.close(NORMAL)
            await connection.outlet.flushed()
        finally:
            connection.lost()

    # -- in a route of any Starlette or FastAPI app

    async def accept_connection(self, websocket: WebSocket, subprotocol: str | None = None) -> None:
        """Accept the handshake."""
        await websocket.accept(subprotocol)

    async def handle_connection(
        self,
        websocket: WebSocket,
        room_id: str,
        *,
        user: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> str:
        """Register an accepted WebSocket, put it into the room, and return the connection's id.

        It is unregistered by itself when the client leaves, and at the latest when the calling task ends.

        Raises:
            ConnectionClosed: the room's name is wrong, the user may not join, or the broker is away; the client was told.
        """
        connection = self.admission.connection(
            websocket.scope, websocket.receive, websocket.send,
            given=(websocket._receive, websocket._send), user=user, metadata=metadata,
        )  # fmt: skip
        try:
            rooms = await self.admission.hold_rooms(websocket.scope, room_id, user=connection.user)
        except Exception as error:
            refusal = self.admission.refusal(error)
            if refusal is None:
                raise
            await websocket.close(refusal["close"].code, refusal["close"].reason)
            raise ConnectionClosed(refusal["close"]) from error
        self._enter(connection, rooms)
        self._sessions[websocket] = _Session(connection)
        task = asyncio.current_task()
        assert task is not None, "a route runs in a task"
        task.add_done_callback(lambda _: self._forget(websocket, connection))
        return connection.id

    async def receive_message(self, websocket: WebSocket) -> Any:
        """The next message (text, bytes or decoded JSON); ``None`` when it was invalid or too much, and the client was told.

        Raises:
            ConnectionClosed: the connection is over.
        """
        session = self._session(websocket)
        event = await session.connection.receive_event()
        try:
            self._spend(session)
            return self.validation.decode(event)
        except InvalidMessage as error:
            await session.connection.send({"error": {"reason": error.close.reason, "detail": error.detail}})
            return None

    async def send_message(self, websocket: WebSocket, message: Any) -> None:
        """Send text, bytes, or anything with a JSON form. Raises ``ConnectionClosed``."""
        await self._session(websocket).connection.send(message)

    @asynccontextmanager
    async def connect(
        self,
        websocket: WebSocket,
        room_id: str,
        *,
        user: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[Connection]:
        """Accept, register and join; at the end of the block close and unregister: normally, or for what the block raised."""
        await self.accept_connection(websocket)
        await self.handle_connection(websocket, room_id, user=user, metadata=metadata)
        connection = self.connection_of(websocket)
        try:
            yield connection
        except ConnectionClosed:
            pass
        except (WebSocketDisconnect, OSError):
            raise
        except (Exception, asyncio.CancelledError) as error:
            connection.close(_ending_of(error))
            raise
        finally:
            await self._finish(connection)

    def connection_of(self, websocket: WebSocket) -> Connection:
        """The connection that ``handle_connection`` made for this WebSocket. Raises ``KeyError`` before."""
        return self._session(websocket).connection

    # -- reaching connections

    async def broadcast(self, room: str, payload: Any, *, exclude: str | Connection | None = None) -> Published:
        """Send to everybody in ``room`` on every node. Raises ``InvalidRoomName``, ``BrokerUnavailable``."""
        return await self.hub.publish(check_room(room), payload, exclude=exclude)

    async def broadcast_all(self, payload: Any) -> Published:
        """Send to every connection on every node."""
        return await self.hub.publish(EVERYONE, payload)

    async def send_to_user(self, user: str, payload: Any) -> Published:
        """Send to all connections of a user, on every node."""
        return await self.hub.publish(user_room(user), payload)

    async def send_to(self, connection_id: str, payload: Any) -> bool:
        """Send to one connection, on whichever node; False when it is known not to be there."""
        return await self.hub.send_to(connection_id, payload)

    async def close_connection(self, connection_id: str, close: Close = NORMAL) -> bool:
        """Close one connection, on whichever node; False when it is known not to be there."""
        return await self.hub.close_connection(connection_id, close)

    async def close_user(self, user: str, close: Close = NORMAL) -> int:
        """Close all connections of a user, everywhere; returns how many there were on this node."""
        return await self.hub.close_user(user, close)

    async def join(self, connection: Connection, room: str) -> None:
        """Put a connection into one more room.

        Raises:
            InvalidRoomName, JoinRefused: it may not.
            BrokerUnavailable, ConnectionClosed: it cannot.
        """
        check_room(room)
        check_may_join(connection.scope, room)
        await self.hub.join(connection, room)

    def leave(self, connection: Connection, room: str) -> None:
        """Take a connection out of a room."""
        self.hub.leave(connection, room)

    # -- inside

    def _enter(self, connection: Connection, rooms: Iterable[str], *, counted: bool = True) -> None:
        """Let an accepted connection into the rooms that are held for it. Raises ``ConnectionClosed`` when it has just ended."""
        try:
            self.hub.enter(connection, rooms, counted=counted)
        except BaseException:
            self.hub.release(rooms)
            raise
        connection.opened()
        if self.admission.draining and counted:  # it was on its way in when the drain looked who is here
            connection.close(RESTARTING)

    def _forget(self, websocket: WebSocket, connection: Connection) -> None:
        """The route is done."""
        connection.lost()
        session = self._sessions.get(websocket)
        if session is not None and session.connection is connection:
            del self._sessions[websocket]

    def _session(self, websocket: WebSocket) -> _Session:
        try:
            return self._sessions[websocket]
        except KeyError:
            raise KeyError("call handle_connection(websocket, room_id) first") from None

    def _spend(self, session: _Session) -> None:
        if self._bucket is None:
            return
        now = asyncio.get_running_loop().time()
        wait = self._bucket.wait_seconds(session.full_at, now)
        if wait:
            raise InvalidMessage(RATE_LIMITED, f"too many messages; try again in {wait:.1f} seconds")
        session.full_at = self._bucket.spend(session.full_at, now)

    def _count_refused(self, room: str) -> None:
        self.relay_refused += 1


def _ending_of(error: BaseException) -> Close:
    """What a handler's error means for its connection (``errors``: those that carry a close are endings, not failures)."""
    close = getattr(error, "close", None)
    if isinstance(close, Close):
        return close
    return GOING_AWAY if isinstance(error, asyncio.CancelledError) else INTERNAL_ERROR


def _bucket_of(config: Mapping[str, Any] | None) -> TokenBucket | None:
    if config is None:
        return None
    options = RateLimitMiddleware.from_config(config)
    rate = options.get("messages_per_second")
    return None if rate is None else TokenBucket.of(rate, options.get("burst"))
