"""Layer, Guard, and the one driver that runs a whole stack of adjacent layers.

A *Layer* is a middleware and holds configuration. For each connection it may open a *Guard*, which holds that
connection's state and is synchronous. What the guards of one connection share is the *Link* (``link.py``). The driver is the only
asynchronous code; a Layer built around a Layer fuses with it, so a stack of eight costs one wrapper, not eight.

Invariants (property-tested in ``tests/middleware/test_layer_properties.py``):

1. Layers open outermost first. ``closed`` is called exactly once for every guard that was opened, innermost first,
   however the connection ends: refused, closed by either side, failed, or cancelled at any await.
2. The caller's scope and events are never changed; the app gets one copy of the scope, made after all layers opened.
3. On its way in an event meets the guards outermost first, on its way out innermost first; ``None`` drops it.
4. Every scope that is not a WebSocket passes through untouched.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import ClassVar

from .asgi import FRAMES_EXTENSION, ASGIApp, Channel, Disconnected, Event, Frames, Hooks, Receive, Scope, Send, deny
from .channel import AsgiChannel
from .close import FORBIDDEN, GOING_AWAY, INTERNAL_ERROR, NORMAL, Close
from .link import Link, Refuse

__all__ = ["Guard", "GuardHooks", "Layer", "Link", "Refuse"]

logger = logging.getLogger("tidegate.middleware")


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


class GuardHooks(Hooks):
    """The hooks of one connection's guards, outermost first, reduced to those that are overridden."""

    __slots__ = ("_accepting", "_inbound", "_outbound", "_waiting")

    def __init__(self, guards: Sequence[Guard]) -> None:
        having: dict[str, list[Guard]] = {"accepting": [], "inbound": [], "outbound": [], "waiting": []}
        for guard in guards:
            for name in guard.overridden:
                having[name].append(guard)
        self._accepting = tuple(reversed(having["accepting"]))
        self._inbound = tuple(having["inbound"])
        self._outbound = tuple(reversed(having["outbound"]))
        self._waiting = tuple(reversed(having["waiting"]))

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

    def report(self) -> None:
        """Figures are about to be read: tell, through the link of any connection, what was done and is not told yet."""

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
