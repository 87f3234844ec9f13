"""``RouteMethods``: a server's methods for routes of any Starlette or FastAPI app, under any ASGI server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from middleware.asgi import deny
from middleware.bucket import FULL, TokenBucket
from middleware.close import RATE_LIMITED
from middleware.rate_limit import RateLimitMiddleware

from .connection import Connection
from .errors import ConnectionClosed, InvalidMessage
from .hub import Hub
from .outlet import OutletOptions
from .serving import Serving, ending_of
from .validation import Validation

__all__ = ["RouteMethods"]


class _Session:
    """One connection served through the methods for routes."""

    __slots__ = ("connection", "full_at")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.full_at = FULL


class RouteMethods(Serving):
    """Accept, register, receive and send; ``connect`` does all of it in one block."""

    def __init__(
        self, hub: Hub, validation: Validation, outbox: OutletOptions, rate_limit_config: Mapping[str, Any] | None
    ) -> None:
        super().__init__(hub, validation, outbox)
        self._bucket = _bucket_of(rate_limit_config)
        self._sessions: dict[WebSocket, _Session] = {}

    async def accept_connection(self, websocket: WebSocket, subprotocol: str | None = None) -> None:
        """Accept the handshake. The client hears nothing until ``handle_connection`` returns; ``connect`` has no such time."""
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

        What is said in the room before this returns, the client does not hear. It is unregistered by itself when the client
        leaves, and at the latest when the calling task ends.

        Raises:
            ConnectionClosed: the room's name is wrong, the user may not join, or the broker is away; the client was told.
            RuntimeError: the WebSocket is not accepted yet.
        """
        if websocket.application_state is WebSocketState.CONNECTING:  # nothing could be written to it, and rooms would try
            raise RuntimeError("accept the WebSocket first: await server.accept_connection(websocket)")
        connection = self._connection(websocket, user, metadata)
        self._register(websocket, connection, await self._hold(websocket, connection, room_id))
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
        """Accept, register and join; at the end of the block close and unregister: normally, or for what the block raised.

        The client is in the room from the moment it knows that it is accepted; who may not join is refused with an HTTP status.

        Raises:
            ConnectionClosed: the room's name is wrong, the user may not join, or the broker is away; the client was told.
            RuntimeError: the WebSocket is accepted already.
        """
        if websocket.application_state is not WebSocketState.CONNECTING:
            raise RuntimeError("connect() accepts the WebSocket itself; for an accepted one there is handle_connection()")
        connection = self._connection(websocket, user, metadata)
        rooms = await self._hold(websocket, connection, room_id)
        try:
            await self.accept_connection(websocket)
        except BaseException:
            self.hub.release(rooms)
            raise
        self._register(websocket, connection, rooms)  # without an await in between: what comes from now on is for it, too
        try:
            yield connection
        except ConnectionClosed:
            pass
        except (WebSocketDisconnect, OSError):
            raise
        except (Exception, asyncio.CancelledError) as error:
            connection.close(ending_of(error))
            raise
        finally:
            await self._finish(connection)

    def connection_of(self, websocket: WebSocket) -> Connection:
        """The connection that ``handle_connection`` made for this WebSocket. Raises ``KeyError`` before."""
        return self._session(websocket).connection

    def _connection(self, websocket: WebSocket, user: str | None, metadata: Mapping[str, Any] | None) -> Connection:
        return self.admission.connection(
            websocket.scope, websocket.receive, websocket.send,
            given=(websocket._receive, websocket._send), user=user, metadata=metadata,
        )  # fmt: skip

    async def _hold(self, websocket: WebSocket, connection: Connection, room_id: str) -> tuple[str, ...]:
        """Its rooms; a client that may not have them is told before ``ConnectionClosed`` is raised."""
        try:
            return await self.admission.hold_rooms(websocket.scope, room_id, user=connection.user)
        except Exception as error:
            refusal = self.admission.refusal(error)
            if refusal is None:
                raise
            if websocket.application_state is WebSocketState.CONNECTING:
                await deny(websocket.scope, websocket.receive, websocket.send, **refusal)
            else:
                await websocket.close(refusal["close"].code, refusal["close"].reason)
            raise ConnectionClosed(refusal["close"]) from error

    def _register(self, websocket: WebSocket, connection: Connection, rooms: tuple[str, ...]) -> None:
        """Let it into its rooms, and see to it that it leaves them with the route's task."""
        self._enter(connection, rooms)
        self._sessions[websocket] = _Session(connection)
        task = asyncio.current_task()
        assert task is not None, "a route runs in a task"
        task.add_done_callback(lambda _: self._forget(websocket, connection))

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


def _bucket_of(config: Mapping[str, Any] | None) -> TokenBucket | None:
    if config is None:
        return None
    options = RateLimitMiddleware.from_config(config)
    rate = options.get("messages_per_second")
    return None if rate is None else TokenBucket.of(rate, options.get("burst"))
