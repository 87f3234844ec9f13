"""``Admission``: whether a client may come in, into which rooms, and what it is told when it may not."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from middleware.asgi import CONNECTION_ID, SELF_CHECK, Receive, Scope, Send, user_id
from middleware.close import FORBIDDEN, RESTARTING, UNAVAILABLE

from .connection import Connection
from .errors import BrokerUnavailable, InvalidRoomName, JoinRefused
from .extension import frames_of
from .hub import Hub
from .message import check_room, self_room, user_room
from .outlet import OutletOptions
from .registry import EVERYONE
from .validation import Validation

__all__ = ["Admission", "check_may_join", "is_self_check"]


class Admission:
    """Lets clients into a hub.

    Args:
        hub: where they go.
        validation: what they may say.
        outbox: bounds of what may wait for one of them.
        on_started: called when the hub has been started.
    """

    def __init__(
        self, hub: Hub, validation: Validation, outbox: OutletOptions, *, on_started: Callable[[], None] | None = None
    ) -> None:
        self.draining = False
        self.retry_after_seconds = 1.0
        """``Retry-After`` of those who are refused while draining."""
        self._hub = hub
        self._validation = validation
        self._outbox = outbox
        self._on_started = on_started
        self._starting = asyncio.Lock()
        self._failure: BrokerUnavailable | None = None
        """Why the last attempt to start failed."""

    async def start(self) -> None:
        """Start the hub, once. Raises ``BrokerUnavailable``, to all who have waited for the same attempt: they do not repeat it."""
        if self._hub.started:
            return
        before = self._failure
        async with self._starting:
            failure = self._failure
            if failure is not None and failure is not before:
                raise _copy(failure)
            try:
                await self._hub.start()
            except BrokerUnavailable as error:
                self._failure = _copy(error)  # one that was raised keeps its frames alive
                raise
            if self._on_started is not None:
                self._on_started()

    async def hold_rooms(self, scope: Scope, room: str, *, user: str | None = None) -> tuple[str, ...]:
        """The rooms a new connection will be in, held for it: to be entered or released.

        Raises:
            InvalidRoomName, JoinRefused: it may not come in. BrokerUnavailable: it cannot now.
        """
        rooms = (self_room(self._hub.node),) if is_self_check(scope) else self._rooms(scope, room, user)
        await self.start()
        await self._hub.hold(rooms)
        return rooms

    def connection(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        given: tuple[Receive, Send] | None = None,
        user: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Connection:
        """A connection that reads and writes through ``receive`` and ``send``.

        ``given`` is what a framework was given when these two are its own: it tells who stands in between.
        """
        return Connection(
            str(scope.get(CONNECTION_ID) or self._hub.new_id()),
            scope, receive, send,
            frames=frames_of(scope, *(given or (receive, send))),
            reader=self._validation, outlet_options=self._outbox,
            user=user or user_id(scope.get("user")) or None, metadata=metadata,
        )  # fmt: skip

    def refusal(self, error: Exception) -> dict[str, Any] | None:
        """How ``deny`` answers a client that was not let in because of ``error``; ``None`` when the failure is ours."""
        if isinstance(error, InvalidRoomName):
            return {"status": 400, "close": FORBIDDEN, "detail": str(error)}
        if isinstance(error, JoinRefused):
            headers = [_retry_after(self.retry_after_seconds)] if error.close.retry else []
            return {"status": error.status, "close": error.close, "detail": error.detail, "headers": headers}
        if isinstance(error, BrokerUnavailable):  # its text, which names hosts, is for operators
            detail = "Rooms cannot be joined at the moment; try again."
            return {"status": 503, "close": UNAVAILABLE, "detail": detail, "headers": [_retry_after(error.retry_after)]}
        return None

    def _rooms(self, scope: Scope, room: str, user: str | None) -> tuple[str, ...]:
        check_room(room)
        if self.draining:
            raise JoinRefused("This node is restarting; connect again.", status=503, close=RESTARTING)
        check_may_join(scope, room)
        user = user or user_id(scope.get("user"))
        return (room, EVERYONE, *_room_of_user(user))


def check_may_join(scope: Scope, room: str) -> None:
    """Raise ``JoinRefused`` when the connection's user has a token that names rooms, and not this one."""
    may_join = getattr(scope.get("user"), "may_join", None)
    if may_join is not None and not may_join(room):
        raise JoinRefused("This user may not join this room.")


def is_self_check(scope: Scope) -> bool:
    """True for the gateway's own check of itself: set inside this process, nothing a client sends becomes a key of the scope."""
    return scope.get(SELF_CHECK) is True


def _copy(error: BrokerUnavailable) -> BrokerUnavailable:
    return BrokerUnavailable(str(error), retry_after=error.retry_after)


def _room_of_user(user: str) -> Iterable[str]:
    return (user_room(user),) if user else ()


def _retry_after(seconds: float) -> tuple[bytes, bytes]:
    """``Retry-After``: whole seconds, at least one (RFC 9110 §10.2.3)."""
    return b"retry-after", str(max(1, math.ceil(seconds))).encode()
