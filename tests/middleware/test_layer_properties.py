"""The driver's invariants over random stacks of misbehaving layers, random apps and clients, cancelled at any moment.

Invariants (numbers as in ``middleware/layer.py``): ``closed`` exactly once for every opened guard, innermost first, all with
the same, first ending; the caller's scope and events unchanged; no timer and no task left; a legal order of events.
"""

from __future__ import annotations

import asyncio
import copy
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from middleware import Close, Guard, Layer, Link, Refuse
from middleware.asgi import ASGIApp, Event, Receive, Scope, Send
from middleware.close import AT_CAPACITY, FORBIDDEN, IDLE, MAX_AGE, RATE_LIMITED, UNAUTHORIZED

from .asgi_helpers import Server, binary, disconnect, echo, text, websocket_scope
from .fake_frames import framed
from .virtual_time import VirtualLoop, run_virtual


class Mishap(Exception):
    """What a failing layer or app raises."""


@dataclass
class Story:
    """What was seen in one connection."""

    opened: list[int] = field(default_factory=list)
    closed: list[tuple[int, Close]] = field(default_factory=list)
    endings: list[Close] = field(default_factory=list)
    inbound: list[tuple[int, Event]] = field(default_factory=list)
    outbound: list[tuple[int, Event]] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    received_after_end: int = 0

    def look(self, link: Link) -> None:
        """Note the ending whenever it differs from what was seen before: it may change once, from ``None``."""
        ending = link.channel.ending
        if ending is not None and (not self.endings or self.endings[-1] is not ending):
            self.endings.append(ending)


@dataclass(frozen=True)
class Plan:
    """What one layer does: ``opening``, then an action per hook; ``pass`` where nothing is named."""

    opening: str
    hooks: dict[str, str]


class Planned(Layer):
    """A layer that follows a ``Plan``."""

    def __init__(self, app: ASGIApp, *, place: int, plan: Plan, story: Story) -> None:
        super().__init__(app)
        self.place, self.plan, self.story = place, plan, story

    async def open(self, link: Link) -> Guard | None:
        self.story.links.append(link)
        what = self.plan.opening
        if what == "wait":
            await asyncio.sleep(30)
        elif what == "refuse":
            raise Refuse(503, AT_CAPACITY, retry_after=1)
        elif what == "none":
            return None
        else:
            act(what, link, self.story)
        self.story.opened.append(self.place)
        return PlannedGuard(self, link)


class PlannedGuard(Guard):
    """The guard of ``Planned``."""

    def __init__(self, layer: Planned, link: Link) -> None:
        self.place, self.plan, self.story, self.link = layer.place, layer.plan, layer.story, link

    def _act(self, hook: str) -> bool:
        return act(self.plan.hooks.get(hook, "pass"), self.link, self.story)

    def accepting(self, event: Event) -> Event:
        self._act("accepting")
        return {**event, "headers": [*event.get("headers", ()), (b"x-layer", str(self.place).encode())]}

    def inbound(self, event: Event) -> Event | None:
        self.story.inbound.append((self.place, event))
        return event if self._act("inbound") else None

    def outbound(self, event: Event) -> Event | None:
        self.story.outbound.append((self.place, event))
        return event if self._act("outbound") else None

    def waiting(self) -> None:
        self._act("waiting")

    def closed(self, close: Close) -> None:
        self.story.look(self.link)
        self.story.closed.append((self.place, close))
        self._act("closed")


CLOSES = {"close": RATE_LIMITED, "close too": UNAUTHORIZED, "close normally": Close(4002, "mine")}


def act(what: str, link: Link, story: Story) -> bool:
    """Do ``what``; False means drop."""
    story.look(link)
    if what == "fail":
        raise Mishap
    if what == "hold":
        link.hold(45)
    elif what == "close after":
        link.close_after(20, MAX_AGE)
    elif what == "close after nothing":
        link.close_after(0, IDLE)
    elif what == "tell":
        link.tell("told")
    elif what in CLOSES:
        link.close(CLOSES[what])
    story.look(link)
    return what != "drop"


ACTIONS = ["pass", "drop", "fail", "hold", "tell", "close", "close too", "close normally", "close after", "close after nothing"]
HOOKS = ["accepting", "inbound", "outbound", "waiting", "closed"]
plans = st.builds(
    Plan,
    opening=st.sampled_from(["pass", "pass", "pass", "wait", "none", "refuse", *[a for a in ACTIONS if a != "drop"]]),
    hooks=st.dictionaries(st.sampled_from(HOOKS), st.sampled_from(ACTIONS), max_size=2),
)
scripts = st.lists(st.sampled_from([text(""), text("héllo"), binary(b"\0x"), disconnect(1001), disconnect(1006)]), max_size=5)


def app_of(steps: list[str], story: Story) -> ASGIApp:
    """An app that does ``steps`` in order, as legally as its own knowledge allows."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["mine"] = "of no concern to the caller"
        state = "connecting"
        assert (await receive())["type"] == "websocket.connect"
        for step in steps:
            if step == "wait":
                await asyncio.sleep(25)
            elif step == "raise":
                raise Mishap
            elif step == "return":
                return
            elif step == "receive" and state != "gone":
                ended = bool(story.links) and story.links[-1].channel.ending is not None
                kind = (await receive())["type"]
                story.received_after_end += ended and kind == "websocket.receive"
                state = "gone" if kind == "websocket.disconnect" else state
            elif step == "accept" and state == "connecting":
                await send({"type": "websocket.accept"})
                state = "open"
            elif step == "send" and state == "open":
                await send({"type": "websocket.send", "text": "x"})
            elif step == "close" and state in ("connecting", "open"):
                await send({"type": "websocket.close", "code": 4001, "reason": ""})
                state = "gone"
            elif step == "deny" and state == "connecting":
                await send({"type": "websocket.http.response.start", "status": 404, "headers": []})
                await send({"type": "websocket.http.response.body", "body": b"no"})
                state = "gone"
        if state == "open":
            while (event := await receive())["type"] != "websocket.disconnect":
                await send({**event, "type": "websocket.send"})

    return app


steps = st.lists(st.sampled_from(["accept", "accept", "receive", "send", "close", "deny", "wait", "raise", "return"]), max_size=6)


def bare(event: Event | Scope) -> Any:
    """A deep copy of what may be copied, to compare with later."""
    return copy.deepcopy({key: value for key, value in event.items() if key != "extensions"})


async def live(
    loop: VirtualLoop, story: Story, stack: ASGIApp, script: list[Event], *, mode: str, cancel_after: int | None, stay: bool
) -> tuple[Server, set[asyncio.Task[Any]]]:
    """Drive one connection to its end, cancelling it after some turns of the loop, or when nothing would happen any more."""
    script = [{**event} for event in script]
    server = Server(*script, stay=stay)
    scope = websocket_scope(subprotocols=["a"])
    given = (scope, server.receive, server.send) if mode == "asgi" else framed(scope, server)
    before, events_before = bare(scope), [bare(event) for event in script]
    ours = asyncio.all_tasks()

    async def connection() -> None:
        await stack(*given)

    task = loop.create_task(connection())
    loop.on_hang = task.cancel
    for _ in range(cancel_after or 0):
        await asyncio.sleep(0)
    if cancel_after is not None:
        task.cancel()
    with suppress(Mishap, OSError, asyncio.CancelledError):
        await task
    await asyncio.sleep(0)  # a cancelled task needs a turn to end
    await asyncio.sleep(0)
    assert bare(scope) == before == bare(given[0]), "the caller's scope was changed"
    assert [bare(event) for event in script] == events_before, "an event was changed in place"
    return server, asyncio.all_tasks() - ours


@pytest.mark.parametrize("mode", ["asgi", "frames"])
@settings(max_examples=400, deadline=None)
@given(
    stack_of=st.lists(plans, min_size=1, max_size=4),
    foreign_at=st.none() | st.integers(0, 3),
    foreign_wraps=st.booleans(),
    script=scripts,
    app_steps=steps,
    stay=st.booleans(),
    cancel_after=st.none() | st.integers(0, 40),
)
def test_whatever_layers_apps_and_clients_do(
    mode: str,
    stack_of: list[Plan],
    foreign_at: int | None,
    foreign_wraps: bool,
    script: list[Event],
    app_steps: list[str],
    stay: bool,
    cancel_after: int | None,
) -> None:
    """Every way through a connection ends with the same tidy state."""
    story = Story()
    app: ASGIApp = app_of(app_steps, story)
    for place, plan in reversed(list(enumerate(stack_of))):
        app = Planned(app, place=place, plan=plan, story=story)
        if place == foreign_at:
            app = foreign(app, wraps=foreign_wraps)

    async def main(loop: VirtualLoop) -> tuple[Server, set[asyncio.Task[Any]], int]:
        return *await live(loop, story, app, script, mode=mode, cancel_after=cancel_after, stay=stay), loop.pending_timers()

    server, tasks, timers = run_virtual(main)
    assert [place for place, _ in story.closed] == story.opened[::-1], "closed exactly once each, innermost first"
    if foreign_at is None:
        assert len({id(link) for link in story.links}) <= 1, "adjacent layers share one link: they are fused"
        assert len({close for _, close in story.closed}) <= 1, "all guards hear the same ending"
        assert len(story.endings) <= 1, "the first reason wins"
        assert story.received_after_end == 0, "after the end the app gets no message"
    assert server.violations == []
    assert (tasks, timers) == (set(), 0), "a task or a timer is left"
    in_order(story.inbound, 1)
    in_order(story.outbound, -1)


def in_order(passages: list[tuple[int, Event]], direction: int) -> None:
    """The same event object meets the guards in one direction."""
    for (place, event), (next_place, next_event) in pairwise(passages):
        if event is next_event and place != next_place:
            assert (next_place - place) * direction > 0


def foreign(app: ASGIApp, *, wraps: bool) -> ASGIApp:
    """A middleware of somebody else, which wraps the connection or only has a look at it."""

    async def looking(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    async def wrapping(scope: Scope, receive: Receive, send: Send) -> None:
        async def receiving() -> Event:
            return await receive()

        async def sending(event: Event) -> None:
            await send(event)

        await app(scope, receiving, sending)

    return wrapping if wraps else looking


@pytest.mark.parametrize("mode", ["asgi", "frames"])
@settings(max_examples=60, deadline=None)
@given(
    data=st.lists(st.text(max_size=3) | st.binary(max_size=3), max_size=8),
    holds=st.lists(st.integers(0, 90), min_size=1, max_size=3),
)
def test_layers_that_only_look_or_hold_lose_nothing(mode: str, data: list[str | bytes], holds: list[int]) -> None:
    """Every message comes back once, in order, the empty ones too, however long and often reading is held."""

    class Holding(Layer):
        async def open(self, link: Link) -> Guard | None:
            return HoldingGuard(link)

    class HoldingGuard(Guard):
        def __init__(self, link: Link) -> None:
            self.link = link

        def inbound(self, event: Event) -> Event | None:
            self.link.hold(holds[self.link.channel.received_messages % len(holds)])
            return event

        def outbound(self, event: Event) -> Event | None:
            self.link.hold(holds[self.link.channel.sent_messages % len(holds)])
            return event

    async def main(loop: VirtualLoop) -> Server:
        server = Server(*(text(item) if isinstance(item, str) else binary(item) for item in data))
        scope = websocket_scope()
        app = Holding(Holding(echo))
        await (app(scope, server.receive, server.send) if mode == "asgi" else app(*framed(scope, server)))
        return server

    assert run_virtual(main).payloads == data


@settings(max_examples=100, deadline=None)
@given(cut=st.integers(0, 60), count=st.integers(1, 4))
def test_a_slot_is_given_back_however_early_the_cut(cut: int, count: int) -> None:
    """Guards that count slots are back at zero when the connection is cancelled at any turn, also while a layer opens."""
    taken = 0

    class Slot(Layer):
        async def open(self, link: Link) -> Guard | None:
            nonlocal taken
            await asyncio.sleep(0)
            taken += 1
            return SlotGuard()

    class SlotGuard(Guard):
        def closed(self, close: Close) -> None:
            nonlocal taken
            taken -= 1

    app: ASGIApp = echo
    for _ in range(count):
        app = Slot(app)

    async def main(loop: VirtualLoop) -> None:
        await live(loop, Story(), app, [text("x")] * 3, mode="asgi", cancel_after=cut, stay=True)

    run_virtual(main)
    assert taken == 0


def test_the_suite_would_notice() -> None:
    """A guard closed twice, or not at all, fails the comparison that the property makes."""
    story = Story(opened=[0, 1], closed=[(1, FORBIDDEN), (0, FORBIDDEN)])
    assert [place for place, _ in story.closed] == story.opened[::-1]
    story.closed.append((0, FORBIDDEN))
    assert [place for place, _ in story.closed] != story.opened[::-1]
