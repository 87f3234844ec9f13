"""``Subscriptions``: which rooms this node listens to, while somebody here needs them and a little longer.

1. ``hold`` returns only when the broker has confirmed the subscription; joins of the same room at the same time wait for
   one confirmation, joins of other rooms wait for nobody.
2. A ``hold`` that failed or was cancelled leaves no trace.
3. ``release`` is synchronous: a connection's teardown never waits for the broker. One reaper unsubscribes rooms that
   nobody has held for ``linger_seconds``, so that a client that reconnects costs the broker nothing.
4. A room that the broker says to be refused stays subscribed for those who hold it, who may hear it again some time; whoever holds
   it anew asks the broker, and is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Collection

from .base import Broker
from .reports import Reports

__all__ = ["Subscriptions"]

UNSUBSCRIBE_TIMEOUT_SECONDS = 5.0

logger = logging.getLogger("tidegate.broker")


class _Subscription:
    __slots__ = ("active", "due", "holders", "lock", "queued", "refused")

    def __init__(self) -> None:
        self.holders = 0
        self.active = False
        self.refused = False
        """It was active, and the engine does not allow it any more, or has not been asked since."""
        self.lock = asyncio.Lock()
        self.due = 0.0
        """When it may be dropped, on the loop's clock, if nobody holds it by then."""
        self.queued = False
        """The reaper will look at it: a room is queued once, however often it is joined and left."""


class Subscriptions:
    """Counts who needs a room and keeps the broker's subscriptions equal to that.

    Args:
        broker: whose subscriptions these are.
        linger_seconds: how long a room is listened to after the last one who needed it has gone.
    """

    def __init__(self, broker: Broker, *, linger_seconds: float = 5.0) -> None:
        self._broker = broker
        self._linger_seconds = linger_seconds
        self._rooms: dict[str, _Subscription] = {}
        self._idle: deque[str] = deque()
        self._reaper: asyncio.Task[None] | None = None
        if isinstance(broker, Reports):
            broker.on_refused = self._refused

    def __len__(self) -> int:
        return len(self._rooms)

    @property
    def rooms(self) -> list[str]:
        """What this node is subscribed to."""
        return [room for room, subscription in self._rooms.items() if subscription.active]

    def hold_now(self, room: str) -> bool:
        """Need ``room`` once more if it is subscribed already; False, and nothing done, when it is not."""
        subscription = self._rooms.get(room)
        if subscription is None or not subscription.active or subscription.refused or subscription.lock.locked():
            return False
        subscription.holders += 1
        return True

    async def hold(self, room: str) -> None:
        """Need ``room`` once more; returns when it is subscribed. Raises what ``Broker.subscribe`` raises."""
        if self.hold_now(room):
            return
        subscription = self._rooms.get(room)
        if subscription is None:
            subscription = self._rooms[room] = _Subscription()
        subscription.holders += 1
        try:
            async with subscription.lock:
                if not subscription.active or subscription.refused:
                    await self._broker.subscribe(room)
                    subscription.active, subscription.refused = True, False
        except BaseException:
            self.release(room)
            raise

    def release(self, room: str) -> None:
        """Need ``room`` once less."""
        subscription = self._rooms[room]
        subscription.holders -= 1
        assert subscription.holders >= 0, f"room {room!r} was released more often than held"
        if subscription.holders == 0:
            subscription.due = asyncio.get_running_loop().time() + self._linger_seconds
            self._queue(room, subscription)

    async def close(self) -> None:
        """Stop the reaper; the broker's own ``close`` ends the subscriptions: whoever holds a room again subscribes again."""
        for subscription in self._rooms.values():
            subscription.active = False
        reaper, self._reaper = self._reaper, None
        if reaper is not None:
            reaper.cancel()
            await asyncio.wait((reaper,))

    def _refused(self, rooms: Collection[str]) -> None:
        for room in rooms:
            if room in self._rooms:
                self._rooms[room].refused = True

    def _queue(self, room: str, subscription: _Subscription) -> None:
        if not subscription.queued:
            subscription.queued = True
            self._idle.append(room)
        if self._reaper is None:
            self._reaper = asyncio.get_running_loop().create_task(self._reap())

    async def _reap(self) -> None:
        loop = asyncio.get_running_loop()
        while self._idle:
            room = self._idle.popleft()
            subscription = self._rooms[room]
            subscription.queued = False
            if not subscription.holders:
                await asyncio.sleep(max(0.0, subscription.due - loop.time()))
                await self._drop_if_idle(room, subscription)
        self._reaper = None

    async def _drop_if_idle(self, room: str, subscription: _Subscription) -> None:
        async with subscription.lock:
            if subscription.holders:
                return
            if subscription.due > asyncio.get_running_loop().time():  # held and released once more meanwhile
                self._queue(room, subscription)
                return
            if subscription.active:
                subscription.active = False
                await self._unsubscribe(room)
            if not subscription.holders and not subscription.queued:
                del self._rooms[room]

    async def _unsubscribe(self, room: str) -> None:
        try:
            async with asyncio.timeout(UNSUBSCRIBE_TIMEOUT_SECONDS):  # a broker that hangs must not stop the reaper
                await self._broker.unsubscribe(room)
        except Exception as error:  # noqa: BLE001 - a broker that is down forgets by itself
            logger.warning("could not unsubscribe from a room: %r", error)
