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
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from middleware.asgi import Receive, Scope, Send, deny
from middleware.close import NORMAL, Close

from .admission import check_may_join, is_self_check
from .broker import Broker, OnGap
from .connection import Connection
from .errors import ConnectionClosed, JoinRefused
from .hub import Hub, Published
from .message import check_room, self_room, user_room
from .outlet import OutletOptions
from .registry import EVERYONE
from .relay import RoomRelay
from .routes import RouteMethods
from .serving import ending_of
from .validation import Allow, Validation

__all__ = ["RAW_SUBPROTOCOL", "Handler", "WebSocketServer"]

RAW_SUBPROTOCOL = "tidegate.raw"
"""What a client that wants to name a subprotocol may ask for: a frame is a payload."""

Handler = Callable[[Connection], Awaitable[None]]


class WebSocketServer(RouteMethods):
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
        namespaces, max_delay_seconds, linger_seconds, node, on_gap: see ``Hub``.
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
        on_gap: OnGap | None = None,
    ) -> None:
        hub = Hub(
            broker, namespaces=namespaces, max_delay_seconds=max_delay_seconds, linger_seconds=linger_seconds, node=node,
            on_gap=on_gap,
        )  # fmt: skip
        validation = Validation(max_bytes=max_message_bytes, allow=allow, json=json, message_type=message_type)
        super().__init__(hub, validation, outbox or OutletOptions(), rate_limit_config)
        self._handler: Handler = handler or RoomRelay(hub.post, validation, hub.registry.behind)
        self._self_handler: Handler = RoomRelay(hub.post, Validation(), hub.registry.behind)

    # -- as an ASGI app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one WebSocket in the room of ``scope["path_params"]["room"]``.

        The gateway's self check is served in a room of its own, always by the relay, and is not counted among the clients.
        """
        if scope["type"] != "websocket":
            raise ValueError(f"a WebSocketServer serves WebSockets, not {scope['type']!r}")
        if "path_params" not in scope:
            raise ValueError('a WebSocketServer is served by a router, which puts the room into scope["path_params"]["room"]')
        if is_self_check(scope):
            scope = {**scope, "path_params": {"room": self_room(self.hub.node)}}
        try:
            rooms = await self.admission.hold_rooms(scope, _room_of(scope))
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
            connection.close(ending_of(error))
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


def _room_of(scope: Scope) -> str:
    room: str | None = scope["path_params"].get("room")
    if room is None:
        raise JoinRefused("WebSockets are served at /ws/{room}", status=404)
    return room
