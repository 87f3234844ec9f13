"""``Link``: what the layers of one connection share; and ``Refuse``, with which one of them turns a handshake away.

A link is made by the driver in ``layer.py``, one per connection and run of adjacent layers, and is a layer's only way to act.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context
from http import HTTPStatus
from typing import Any

from .asgi import Channel, Frames, Scope, client_host
from .channel import AsgiChannel
from .close import Close

__all__ = ["Link", "Refuse"]

logger = logging.getLogger("tidegate.middleware")


class Refuse(Exception):
    """Raised by ``Layer.open`` to refuse the handshake.

    ``status`` is the HTTP status, ``close`` the ending it is counted as, ``retry_after`` seconds for ``Retry-After``,
    ``detail`` one sentence for the client, ``because`` what is added to it for operators alone, in logs. ``ValueError`` for a
    status or a close code that does not say "refused".
    """

    def __init__(
        self,
        status: int,
        close: Close,
        *,
        detail: str = "",
        because: str = "",
        retry_after: float | None = None,
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        if not 400 <= HTTPStatus(status) <= 599:
            raise ValueError(f"a handshake is refused with a status from 400 to 599, not {status}")
        if close.code == 1000 or not close.sendable:
            raise ValueError(f"close code {close.code} does not refuse anything: 1008, 1013 or one of your own does")
        super().__init__(f"{status} {close.reason}" + (f": {detail}" if detail else ""))
        self.status = status
        self.close = close
        self.detail = detail
        self.because = because
        self.retry_after = retry_after
        self._headers = tuple(headers)

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The response's extra headers; ``Retry-After`` is whole seconds, rounded up, from one to a day (RFC 9110 §10.2.3)."""
        if self.retry_after is None:
            return list(self._headers)
        seconds = math.ceil(min(max(1.0, self.retry_after), 86_400.0))
        return [(b"retry-after", str(seconds).encode()), *self._headers]


class Link:
    """What the layers of one connection share. Made by the driver, one per connection and driver."""

    __slots__ = ("_observers", "_telling", "_timers", "_updates", "channel", "exemplar", "opening", "refusal", "scope")

    def __init__(self, scope: Scope, channel: Channel) -> None:
        self.scope = scope
        """The connection's scope; read only for layers."""
        self.channel = channel
        self.exemplar = ""
        """The id of the sampled trace that what is measured now belongs to, set by whoever traces; ``""`` for none."""
        self.refusal: Refuse | None = None
        """The refusal that ended the handshake, if one did."""
        self.opening = False
        """True while the driver opens the layers: nothing was answered yet."""
        self._updates: dict[str, Any] | None = None
        self._observers: list[Callable[[str, float], None]] | None = None
        self._timers: list[asyncio.TimerHandle] | None = None
        self._telling: asyncio.Task[None] | None = None

    @property
    def status(self) -> int | None:
        """The HTTP status that a handshake was refused with, by a layer or by the app."""
        return self.channel.status if self.refusal is None else self.refusal.status

    @property
    def route(self) -> str:
        """The route's template where a router has told it (never the raw path), else ``other``: safe as a label."""
        route = self.scope.get("route")
        return str(getattr(route, "path", None) or self.scope.get("path_template") or "other")

    @property
    def client(self) -> str:
        """The peer's address, ``""`` when unknown. Behind a proxy: what the server made of its headers."""
        return client_host(self.scope)

    @property
    def user(self) -> Any:
        """Who it is, as an authentication layer (``set(user=…)``) or an outer middleware said; else ``None``."""
        if self._updates is not None and "user" in self._updates:
            return self._updates["user"]
        return self.scope.get("user")

    @property
    def subprotocols(self) -> Sequence[str]:
        """The subprotocols that inner layers and the app are offered, in the client's order of preference."""
        offered = (self._updates or {}).get("subprotocols", self.scope.get("subprotocols"))
        return tuple(offered or ())

    @property
    def frames(self) -> Frames | None:
        """The frames extension where the server offers it and nobody wraps the connection in between."""
        return None if isinstance(self.channel, AsgiChannel) else self.channel  # type: ignore[return-value]  # the only other kind

    def now(self) -> float:
        """Seconds on a clock that never goes back."""
        return time.monotonic()

    def get(self, key: str, default: Any = None) -> Any:
        """The scope's ``key`` as inner layers and the app see it, with what outer layers have ``set``."""
        if self._updates is not None and key in self._updates:
            return self._updates[key]
        return self.scope.get(key, default)

    def set(self, **updates: Any) -> None:
        """Put keys into the scope that inner layers and the app see. Only useful in ``open``."""
        self._updates = {**(self._updates or {}), **updates}

    def observe(self, name: str, value: float = 1.0) -> None:
        """Report a figure to whoever measures; free when nobody does."""
        if self._observers is not None:
            for observer in self._observers:
                observer(name, value)

    def subscribe(self, observer: Callable[[str, float], None]) -> None:
        """Receive what the connection's layers ``observe`` from now on."""
        self._observers = [*(self._observers or ()), observer]

    def hold(self, seconds: float) -> None:
        """Do not read further for ``seconds``: the client feels it as backpressure and nothing is lost."""
        self.channel.hold(seconds)

    def tell(self, payload: str | bytes) -> bool:
        """Send the client a message of a layer's own, which passes the outbound hooks like the app's; does not wait.

        One at a time: returns ``False``, and sends nothing, while the last one is still on its way or the connection is not open.
        """
        if self._telling is not None or self.channel.ending is not None or not self.channel.accepted:
            return False
        self._telling = asyncio.get_running_loop().create_task(self._tell(payload))
        return True

    async def _tell(self, payload: str | bytes) -> None:
        try:
            await self.channel.send({"type": "websocket.send", "text" if isinstance(payload, str) else "bytes": payload})
        except Exception:  # the connection ended first; servers disagree on what they raise then
            logger.debug("a layer's message was not sent", exc_info=True)
        finally:
            self._telling = None

    def close(self, close: Close) -> None:
        """End the connection; the first reason wins. While layers open, it refuses the handshake with ``close.status``."""
        if not close.sendable:
            raise ValueError(f"close code {close.code} is never sent (RFC 6455 §7.4.1)")
        if self.opening:
            self.channel.finish(close, "server")
        else:
            self.channel.close(close)

    def close_after(self, seconds: float, close: Close) -> None:
        """End the connection after ``seconds`` unless it has ended by then."""
        if self.channel.ending is None:
            # An empty context: the timer is not the handshake's work, and would keep its trace alive as long as the socket.
            timer = asyncio.get_running_loop().call_later(seconds, self.close, close, context=Context())
            self._timers = [*(self._timers or ()), timer]

    def finished(self) -> None:
        """Cancel what is still pending; called by the driver."""
        for timer in self._timers or ():
            timer.cancel()
        self._timers = None
        if self._telling is not None:
            self._telling.cancel()

    def scope_for_app(self) -> Scope:
        """The scope with all updates; becomes the link's own, so that a router's findings are seen here too."""
        self.scope = {**self.scope, **(self._updates or {})}
        self._updates = None
        return self.scope
