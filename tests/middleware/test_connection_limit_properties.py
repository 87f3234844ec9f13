"""No slot leaks: many connections at once, each ending in its own way, some cancelled at a random moment.

Invariants: no limit is exceeded at any moment; when all is over nothing is taken and nobody waits; no timer is left.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from middleware import Guard, Layer, Link, Refuse
from middleware.asgi import Receive, Scope, Send
from middleware.close import FORBIDDEN, IDLE
from middleware.connection_limit import ConnectionLimitMiddleware

from .asgi_helpers import Server, disconnect, echo, text, websocket_scope
from .fake_frames import framed
from .virtual_time import VirtualLoop, run_virtual

TOTAL, PER_CLIENT, PER_USER, PER_ROOM = 4, 3, 3, 2

inner_endings = ["pass", "refuse", "raise", "wait", "close"]
app_endings = ["echo", "return before accept", "raise before accept", "refuse", "raise", "return", "close", "never ends"]


class Mishap(Exception):
    """What a failing layer or app raises."""


@dataclass(frozen=True)
class Visit:
    """One connection: when it comes (seconds), who it is, and how it ends."""

    comes: float
    client: str
    user: str
    room: str
    inner: str
    app: str
    stays: bool
    denial: bool
    frames: bool
    cancelled_after: float | None


class Inner(Layer):
    """Between the two limits: says who it is, and may refuse, fail, wait or close."""

    async def open(self, link: Link) -> Guard | None:
        visit: Visit = link.scope["visit"]
        link.set(user=visit.user)
        if visit.inner == "refuse":
            raise Refuse(403, FORBIDDEN)
        if visit.inner == "raise":
            raise Mishap
        if visit.inner == "wait":
            await asyncio.sleep(1)
        if visit.inner == "close":
            link.close_after(2, IDLE)
        return None


class House:
    """The app, which knows who is inside and checks the limits at every entrance."""

    def __init__(self) -> None:
        self.inside: Counter[tuple[str, str]] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        visit: Visit = scope["visit"]
        keys = [("total", ""), ("client", visit.client), ("user", visit.user), ("room", visit.room)]
        limits = [TOTAL, PER_CLIENT, PER_USER, PER_ROOM]
        self.inside.update(keys)
        try:
            assert all(self.inside[key] <= limit for key, limit in zip(keys, limits, strict=True))
            await self.live(visit.app, scope, receive, send)
        finally:
            self.inside.subtract(keys)

    async def live(self, how: str, scope: Scope, receive: Receive, send: Send) -> None:
        if how == "echo":
            return await echo(scope, receive, send)
        if how == "raise before accept":
            raise Mishap
        if how == "return before accept":
            return None
        await receive()
        if how == "refuse":
            return await send({"type": "websocket.close", "code": 1008})
        await send({"type": "websocket.accept"})
        if how == "raise":
            raise Mishap
        if how == "close":
            await send({"type": "websocket.close", "code": 1000})
        if how == "never ends":
            await asyncio.sleep(5)
        return None


visits = st.builds(
    Visit,
    comes=st.floats(0, 3),
    client=st.sampled_from(["192.0.2.1", "192.0.2.2", "192.0.2.3"]),
    user=st.sampled_from(["ada", "bob"]),
    room=st.sampled_from(["red", "blue"]),
    inner=st.sampled_from(inner_endings),
    app=st.sampled_from(app_endings),
    stays=st.booleans(),
    denial=st.booleans(),
    frames=st.booleans(),
    cancelled_after=st.none() | st.floats(0, 4),
)


async def visit_once(app: Layer, visit: Visit) -> None:
    """Let one client come, stay and go as planned."""
    await asyncio.sleep(visit.comes)
    server = Server(text("hello"), stay=visit.stays)
    scope = websocket_scope(client=(visit.client, 1), denial=visit.denial, visit=visit)
    arguments = framed(scope, server) if visit.frames else (scope, server.receive, server.send)
    if visit.stays:
        asyncio.get_running_loop().call_later(3, server.feed, disconnect())
    try:
        async with asyncio.timeout(visit.cancelled_after):
            await app(*arguments)
    except (Mishap, TimeoutError, OSError):
        pass


@settings(max_examples=150, deadline=None)
@given(st.lists(visits, min_size=1, max_size=14), st.integers(0, 3))
def test_however_connections_end_every_slot_comes_back(plans: list[Visit], waiting: int) -> None:
    """Refused here or further in, closed by either side, failed, cancelled while waiting, opening or living."""

    async def main(loop: VirtualLoop) -> None:
        house = House()
        room_layer = ConnectionLimitMiddleware(
            house, per_user=PER_USER, per_room=PER_ROOM, room=lambda link: str(link.scope["visit"].room),
            waiting=waiting or None, waiting_seconds=1.5, clock=loop.time,
        )  # fmt: skip
        outer = ConnectionLimitMiddleware(
            Inner(room_layer), total=TOTAL, per_client=PER_CLIENT, waiting=waiting or None, waiting_seconds=1.5, clock=loop.time
        )
        await asyncio.gather(*(visit_once(outer, visit) for visit in plans))
        assert +house.inside == Counter()
        assert outer.statistics() == (0, TOTAL, 0, 0, 0, 0, waiting)
        assert room_layer.statistics() == (0, None, 0, 0, 0, 0, waiting)
        await asyncio.sleep(10)
        assert loop.pending_timers() == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(main)
