"""Layer, Guard, Link, and the one driver that runs a whole stack of adjacent layers.

A *Layer* is a middleware and holds configuration. For each connection it may open a *Guard*, which holds that
connection's state and is synchronous. What the guards of one connection share is the *Link*. The driver is the only
asynchronous code; a Layer built around a Layer fuses with it, so a stack of eight costs one wrapper, not eight.

Invariants (property-tested in ``tests/middleware/test_layer.py``):

1. Layers open outermost first. ``closed`` is called exactly once for every guard that was opened, innermost first,
   however the connection ends: refused, closed by either side, failed, or cancelled at any await.
2. The caller's scope and events are never changed; the app gets one copy of the scope, made after all layers opened.
3. On its way in an event meets the guards outermost first, on its way out innermost first; ``None`` drops it.
4. Every scope that is not a WebSocket passes through untouched.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context
from http import HTTPStatus
from typing import Any, ClassVar

from .asgi import FRAMES_EXTENSION, ASGIApp, Channel, Disconnected, Event, Frames, Hooks, Receive, Scope, Send, client_host, deny
from .channel import AsgiChannel
from .close import FORBIDDEN, GOING_AWAY, INTERNAL_ERROR, NORMAL, Close

__all__ = ["Guard", "GuardHooks", "Layer", "Link", "Refuse"]

logger = logging.getLogger("tidegate.middleware")


class Refuse(Exception):
    """Raised by ``Layer.open`` to refuse the handshake.

    ``status`` is the HTTP status, ``close`` the ending it is counted as, ``retry_after`` seconds for ``Retry-After``,
    ``detail`` one sentence for the client. ``ValueError`` for a status or a close code that does not say "refused".
    """

    def __init__(
        self,
        status: int,
        close: Close,
        *,
        detail: str = "",
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
        self.retry_after = retry_after
        self._headers = tuple(headers)

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The response's extra headers; ``Retry-After`` is whole seconds, rounded up, from one to a day (RFC 9110 §10.2.3)."""
        if self.retry_after is None:
            return list(self._headers)
        seconds = math.ceil(min(max(1.0, self.retry_after), 86_400.0))
        return [(b"retry-after", str(seconds).encode()), *self._headers]


class Guard:
    """One connection's state in one layer. Override only what is needed: hooks left alone cost nothing."""

    __slots__ = ()
    overridden: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls) -> None:
        hooks = ("accepting", "inbound", "outbound", "waiting")
        cls.overridden = frozenset(name for name in hooks if getattr(cls, name) is not getattr(Guard, name))

    def accepting(self, event: Event) -> Event:
        """The ``websocket.accept`` event on its way out; return it or a changed copy."""
        return event

    def inbound(self, event: Event) -> Event | None:
        """A ``websocket.receive`` event on its way in; return it, a changed copy, or ``None`` to drop it."""
        return event

    def outbound(self, event: Event) -> Event | None:
        """A ``websocket.send`` event on its way out; as ``inbound``. Frames written ready-made do not pass here."""
        return event

    def waiting(self) -> None:
        """The app has handled the last message and asks for the next."""

    def dropped(self) -> None:
        """A guard further in has dropped the message that ``inbound`` let pass: the app will not see it."""

    def closed(self, close: Close) -> None:
        """The connection is over, for this reason. Called exactly once."""


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


class GuardHooks(Hooks):
    """The hooks of one connection's guards, outermost first, reduced to those that are overridden."""

    __slots__ = ("_accepting", "_inbound", "_outbound", "_waiting")

    def __init__(self, guards: Sequence[Guard]) -> None:
        def having(name: str, guards: Iterable[Guard]) -> tuple[Guard, ...]:
            return tuple(guard for guard in guards if name in guard.overridden)

        self._accepting = having("accepting", reversed(guards))
        self._inbound = having("inbound", guards)
        self._outbound = having("outbound", reversed(guards))
        self._waiting = having("waiting", reversed(guards))

    def accepting(self, event: Event) -> Event:
        for guard in self._accepting:
            event = guard.accepting(event)
        return event

    def inbound(self, event: Event) -> Event | None:
        for guard in self._inbound:
            passed = guard.inbound(event)
            if passed is None:
                self._dropped_by(guard)
                return None
            event = passed
        return event

    def _dropped_by(self, guard: Guard) -> None:
        """Tell those who have let the message pass."""
        for outer in self._inbound:
            if outer is guard:
                return
            outer.dropped()

    def outbound(self, event: Event) -> Event | None:
        for guard in self._outbound:
            passed = guard.outbound(event)
            if passed is None:
                return None
            event = passed
        return event

    def waiting(self) -> None:
        for guard in self._waiting:
            guard.waiting()

    def forget(self) -> None:
        """Call no guard any more. It also parts the channel from the guards, which else keep each other alive in a cycle."""
        self._accepting = self._inbound = self._outbound = self._waiting = ()


class Layer:
    """Base of every middleware here: a pure ASGI app around an ASGI app. Around another Layer it fuses with it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        # A layer with a __call__ of its own wants to be called.
        inner = app if isinstance(app, Layer) and type(app).__call__ is Layer.__call__ else None
        self._layers: tuple[Layer, ...] = (self, *inner._layers) if inner else (self,)
        self._endpoint: ASGIApp = inner._endpoint if inner else app

    async def open(self, link: Link) -> Guard | None:
        """Look at a handshake: return a guard, ``None`` to have no part in this connection, or raise ``Refuse``."""
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self._endpoint(scope, receive, send)
            return
        link = Link(scope, _channel(scope, receive, send))
        guards: list[Guard] = []
        hooks: GuardHooks | None = None
        interrupted = False
        try:
            if await self._open_all(link, guards):
                hooks = GuardHooks(guards)
                link.channel.install(hooks)
                await self._endpoint(link.scope_for_app(), link.channel.receive, link.channel.send)
        except BaseException as error:
            interrupted = not isinstance(error, Exception)
            told = isinstance(error, Disconnected) and link.channel.ending is not None
            link.channel.finish(_ending_of(error), "server")
            if not told:  # that a send came too late is no failure of the app
                raise
        finally:
            _close_guards(link, guards)
            if hooks is not None:
                hooks.forget()
            if isinstance(link.channel, AsgiChannel):
                await link.channel.settle(wait=not interrupted)

    async def _open_all(self, link: Link, guards: list[Guard]) -> bool:
        """Open every layer, outermost first; on a refusal answer the client and return False."""
        link.opening = True
        try:
            for layer in self._layers:
                guard = await layer.open(link)
                if guard is not None:
                    guards.append(guard)
                if link.channel.ending is not None:
                    raise _refusal_of(link.channel)
        except Refuse as refusal:
            await _refuse(link, refusal)
            return False
        finally:
            link.opening = False
        return True


def _refusal_of(channel: Channel) -> Refuse:
    """What a ``link.close`` in ``open`` amounts to; also when the client left while layers were opening."""
    ending = channel.ending if channel.initiator == "server" else None
    ending = ending if ending is not None and ending.code != 1000 else FORBIDDEN
    return Refuse(ending.status, ending)


async def _refuse(link: Link, refusal: Refuse) -> None:
    link.refusal = refusal
    link.channel.finish(refusal.close, "server")
    if link.channel.initiator == "client":  # gone: there is nobody to answer
        return
    await deny(
        link.scope, link.channel.receive, link.channel.send,
        status=refusal.status, close=refusal.close, detail=refusal.detail, headers=refusal.headers,
    )  # fmt: skip


def _channel(scope: Scope, receive: Receive, send: Send) -> Channel:
    frames: Frames | None = (scope.get("extensions") or {}).get(FRAMES_EXTENSION)
    if frames is not None and frames.carries(receive, send):
        return frames
    return AsgiChannel(receive, send)


def _ending_of(error: BaseException) -> Close:
    """What a connection whose app raised is counted as: an error that carries its ``close`` knows better."""
    close = getattr(error, "close", None)
    if isinstance(close, Close):
        return close
    return GOING_AWAY if isinstance(error, asyncio.CancelledError) else INTERNAL_ERROR


def _close_guards(link: Link, guards: list[Guard]) -> None:
    channel = link.channel
    link.finished()
    channel.finish(NORMAL if channel.accepted else INTERNAL_ERROR, "server")
    ending = channel.ending
    assert ending is not None, "finish() sets the ending"
    for guard in reversed(guards):
        try:
            guard.closed(ending)
        except Exception:  # one guard's mistake must not cost the others their clean-up
            logger.exception("%s.closed failed", type(guard).__name__)
