"""The driver: what must be true of every stack of layers, however its connection goes."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from middleware import Close, Guard, Layer, Link, Refuse
from middleware.asgi import Disconnected, Event, Receive, Scope, Send
from middleware.channel import AsgiChannel
from middleware.close import (
    AT_CAPACITY,
    FORBIDDEN,
    GOING_AWAY,
    IDLE,
    INTERNAL_ERROR,
    MAX_AGE,
    NORMAL,
    RATE_LIMITED,
    REPLACED,
    UNAUTHORIZED,
)

from .asgi_helpers import Server, binary, disconnect, echo, http_scope, run, text, websocket_scope
from .fake_frames import FakeFrames, framed
from .virtual_time import VirtualLoop, run_virtual

MODES = ("asgi", "frames")


class Noting(Layer):
    """Writes what happens to it into ``notes``, under its name."""

    def __init__(self, app: Any, *, name: str, notes: list[str]) -> None:
        super().__init__(app)
        self.name = name
        self.notes = notes
        self.links: list[Link] = []

    async def open(self, link: Link) -> Guard | None:
        self.notes.append(f"{self.name} open")
        self.links.append(link)
        return NotingGuard(self)


class NotingGuard(Guard):
    """The guard of ``Noting``."""

    def __init__(self, layer: Noting) -> None:
        self.layer = layer

    def note(self, what: str) -> None:
        self.layer.notes.append(f"{self.layer.name} {what}")

    def accepting(self, event: Event) -> Event:
        self.note("accepting")
        return event

    def inbound(self, event: Event) -> Event | None:
        self.note("inbound")
        return event

    def outbound(self, event: Event) -> Event | None:
        self.note("outbound")
        return event

    def waiting(self) -> None:
        self.note("waiting")

    def dropped(self) -> None:
        self.note("dropped")

    def closed(self, close: Close) -> None:
        self.note(f"closed {close.reason}")


class Acting(Layer):
    """Does ``opening(link)`` when it opens and ``hooks[name](link, event)`` in its guard's hooks."""

    def __init__(self, app: Any, opening: Any = None, **hooks: Any) -> None:
        super().__init__(app)
        self.opening = opening
        self.hooks = hooks

    async def open(self, link: Link) -> Guard | None:
        if self.opening is not None:
            self.opening(link)
        return ActingGuard(link, self.hooks) if self.hooks else None


class ActingGuard(Guard):
    """The guard of ``Acting``."""

    def __init__(self, link: Link, hooks: dict[str, Any]) -> None:
        self.link, self.hooks = link, hooks

    def _act(self, name: str, event: Any) -> Any:
        return self.hooks[name](self.link, event) if name in self.hooks else event

    def accepting(self, event: Event) -> Event:
        return self._act("accepting", event)  # type: ignore[no-any-return]

    def inbound(self, event: Event) -> Event | None:
        return self._act("inbound", event)  # type: ignore[no-any-return]

    def outbound(self, event: Event) -> Event | None:
        return self._act("outbound", event)  # type: ignore[no-any-return]

    def waiting(self) -> None:
        self._act("waiting", None)

    def closed(self, close: Close) -> None:
        self._act("closed", close)


async def drive(mode: str, app: Any, *script: Event, stay: bool = False, **scope: Any) -> Server:
    """``run`` in both modes."""
    if mode == "asgi":
        return await run(app, websocket_scope(**scope), *script, stay=stay, timeout_seconds=1e6)  # the clock may be a virtual one
    server = Server(*script, stay=stay)
    await app(*framed(websocket_scope(**scope), server))
    assert not server.violations, server.violations
    return server


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """Both kinds of channel behave alike."""
    return str(request.param)


async def test_hooks_run_from_outside_in_and_back(mode: str) -> None:
    """Layers open and hear outermost first, speak and close innermost first."""
    notes: list[str] = []
    server = await drive(mode, Noting(Noting(echo, name="inner", notes=notes), name="outer", notes=notes), text("hi"))
    assert server.payloads == ["hi"]
    assert notes == [
        "outer open", "inner open",
        "inner accepting", "outer accepting",
        "outer inbound", "inner inbound",
        "inner outbound", "outer outbound",
        "inner waiting", "outer waiting",
        "inner closed normal", "outer closed normal",
    ]  # fmt: skip


async def test_a_layer_without_a_guard_has_no_part(mode: str) -> None:
    """``open`` may return ``None``; the plain base class changes nothing."""
    server = await drive(mode, Layer(Layer(echo)), text(""), binary(b""))
    assert server.payloads == ["", b""]


async def test_an_inner_refusal_closes_the_outer_guards_and_keeps_the_app_out(mode: str) -> None:
    """The refusal is an HTTP response with a problem document, and the ending of every guard that was opened."""
    notes: list[str] = []

    def refuse(link: Link) -> None:
        raise Refuse(503, AT_CAPACITY, detail="Full.", retry_after=1.2, headers=[(b"x-a", b"b")])

    app = Noting(Acting(Noting(echo, name="never", notes=notes), refuse), name="outer", notes=notes)
    server = await drive(mode, app)
    assert (server.status, server.response_headers[b"retry-after"], server.response_headers[b"x-a"]) == (503, b"2", b"b")
    assert b'"detail": "Full."' in server.body
    assert notes == ["outer open", "outer closed at-capacity"]
    assert app.links[0].refusal is not None


async def test_a_server_without_the_denial_extension_gets_a_close_before_accept(mode: str) -> None:
    """Then the refusal's own code travels, never 1000."""

    def refuse(link: Link) -> None:
        raise Refuse(401, UNAUTHORIZED)

    server = await drive(mode, Acting(echo, refuse), denial=False)
    assert (server.close, server.accepted) == ((4401, "unauthorized"), False)


@pytest.mark.parametrize(
    ("close", "status"), [(UNAUTHORIZED, 401), (RATE_LIMITED, 429), (AT_CAPACITY, 503), (FORBIDDEN, 403), (NORMAL, 403)]
)
async def test_close_in_open_refuses_with_the_status_that_fits(mode: str, close: Close, status: int) -> None:
    """``link.close`` before anything was answered is a refusal, and inner layers are not opened."""
    notes: list[str] = []
    server = await drive(mode, Acting(Noting(echo, name="inner", notes=notes), lambda link: link.close(close)))
    assert (server.status, notes) == (status, [])


async def test_the_app_sees_one_copy_of_the_scope_with_what_layers_set(mode: str) -> None:
    """The caller's scope stays as it was; a router's findings in the copy are the link's."""
    seen: list[Scope] = []
    routes: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        scope["path_template"] = "/rooms/{room}"
        await echo(scope, receive, send)

    stack = Acting(
        Acting(app, lambda link: link.set(user=f"not {link.user}")),
        lambda link: link.set(user="ann", subprotocols=["b"]),
        closed=lambda link, _: routes.append(f"{link.route} {link.user} {link.subprotocols}"),
    )
    scope = websocket_scope(subprotocols=["a", "b"])
    before = {**scope}
    server = Server()
    await stack(scope, server.receive, server.send)
    assert scope == before
    assert seen[0]["user"] == "not ann"
    assert routes == ["/rooms/{room} not ann ('b',)"]


@pytest.mark.parametrize("kind", ["http", "lifespan", "something.new"])
async def test_every_other_scope_passes_untouched(kind: str) -> None:
    """The app gets the very same three objects, whatever layers are around it."""
    got: list[Any] = []

    async def app(*args: Any) -> None:
        got.extend(args)

    def fail(link: Link) -> None:
        raise AssertionError("no layer opens for this")

    given = http_scope(type=kind), Server().receive, Server().send
    await Acting(Acting(app, fail), fail)(*given)
    assert all(a is b for a, b in zip(got, given, strict=True))


async def test_close_reaches_the_client_and_the_app_hears_of_the_end(mode: str) -> None:
    """``link.close`` sends one close frame; the app cannot send behind it and every guard hears the reason."""
    notes: list[str] = []

    def close(link: Link, event: Event) -> Event:
        link.close(RATE_LIMITED)
        link.close(NORMAL)
        return event

    server = await drive(mode, Noting(Acting(echo, inbound=close), name="a", notes=notes), text("1"), text("2"), stay=True)
    assert (server.close, server.payloads) == ((1008, "rate-limited"), [])
    assert notes[-1] == "a closed rate-limited"


async def test_a_close_leaves_before_an_app_that_returns_at_once(mode: str) -> None:
    """The close frame is not overtaken by the app's return, nor by its failing."""

    async def impatient(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    server = await drive(mode, Acting(impatient, inbound=lambda link, event: link.close(RATE_LIMITED) or event), text("x"))
    assert server.close == (1008, "rate-limited")

    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        await impatient(scope, receive, send)
        raise LookupError

    server = Server(text("x"))
    with pytest.raises(LookupError):
        await Acting(failing, inbound=lambda link, event: link.close(RATE_LIMITED) or event)(
            websocket_scope(), server.receive, server.send
        )
    assert server.close == (1008, "rate-limited")


def test_a_close_before_accept_refuses_at_once(mode: str) -> None:
    """An app that hangs before accept does not keep the client waiting; when it does accept, it is told."""
    told: list[str] = []

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await asyncio.sleep(3600)
        assert server.close == (1001, "max-age")
        try:
            await send({"type": "websocket.accept"})
        except Disconnected as error:
            told.append(str(error))
            raise

    server = Server(stay=True)

    async def main(loop: VirtualLoop) -> None:
        app = Acting(slow, lambda link: link.close_after(10, MAX_AGE))
        scope = websocket_scope()
        await (app(scope, server.receive, server.send) if mode == "asgi" else app(*framed(scope, server)))

    run_virtual(main)
    assert (told, server.violations, server.accepted) == (["the connection has ended: max-age"], [], False)


async def test_an_app_that_lets_disconnected_pass_has_not_failed(mode: str) -> None:
    """A late ``send`` is told by an exception; letting it through ends the connection quietly, with the first reason."""
    notes: list[str] = []

    async def deaf(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            await send({"type": "websocket.send", "text": "tick"})

    def count(link: Link, event: Event) -> Event:
        if link.channel.sent_messages == 3:
            link.close(MAX_AGE)
        return event

    server = await drive(mode, Noting(Acting(deaf, outbound=count), name="a", notes=notes), stay=True)
    assert (server.close, notes[-1]) == ((1001, "max-age"), "a closed max-age")


async def test_an_error_of_the_app_is_an_internal_error_and_goes_on(mode: str) -> None:
    """Also when it is an ``OSError`` that has nothing to do with the client."""
    notes: list[str] = []

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise FileNotFoundError("no such template")

    with pytest.raises(FileNotFoundError):
        await drive(mode, Noting(broken, name="a", notes=notes))
    assert notes[-1] == f"a closed {INTERNAL_ERROR.reason}"


async def test_an_error_may_name_the_ending(mode: str) -> None:
    """An exception that carries a ``Close`` knows better than ``internal-error``."""
    notes: list[str] = []

    class Replaced(Exception):
        close = REPLACED

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise Replaced

    with pytest.raises(Replaced):
        await drive(mode, Noting(broken, name="a", notes=notes))
    assert notes[-1] == "a closed replaced"


async def test_an_app_that_neither_accepts_nor_refuses_is_an_internal_error(mode: str) -> None:
    """The server answers 500 then; guards hear the same."""
    notes: list[str] = []

    async def forgetful(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    await drive(mode, Noting(forgetful, name="a", notes=notes))
    assert notes[-1] == "a closed internal-error"


@pytest.mark.parametrize(
    ("status", "reason"), [(401, "unauthorized"), (404, "forbidden"), (429, "rate-limited"), (503, "at-capacity")]
)
async def test_an_apps_own_refusal_is_named_by_its_status(mode: str, status: int, reason: str) -> None:
    """A response instead of accept passes untouched and ends the connection with the matching reason."""
    notes: list[str] = []

    async def denying(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.http.response.start", "status": status, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"no", "more_body": False})

    server = await drive(mode, Noting(denying, name="a", notes=notes))
    assert (server.status, server.body, notes[-1]) == (status, b"no", f"a closed {reason}")


async def test_cancelling_is_never_swallowed(mode: str) -> None:
    """The task ends as cancelled, and the guards hear ``going-away``."""
    notes: list[str] = []
    server = Server(stay=True)
    app = Noting(echo, name="a", notes=notes)
    scope = websocket_scope()
    task = asyncio.ensure_future(app(scope, server.receive, server.send) if mode == "asgi" else app(*framed(scope, server)))
    while not server.accepted:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert notes[-1] == f"a closed {GOING_AWAY.reason}"


async def test_a_failing_closed_costs_no_other_guard_its_own(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    """The failure is logged and the rest is cleaned up."""
    notes: list[str] = []

    def fail(link: Link, close: Close) -> None:
        raise LookupError("mine")

    await drive(mode, Noting(Acting(Noting(echo, name="in", notes=notes), closed=fail), name="out", notes=notes))
    assert notes[-2:] == ["in closed normal", "out closed normal"]
    assert "ActingGuard.closed failed" in caplog.text


async def test_the_dropping_of_a_message_is_told_to_those_outside(mode: str) -> None:
    """``None`` from ``inbound`` ends the message's way; guards that let it pass hear ``dropped``, the app hears nothing."""
    notes: list[str] = []
    app = Noting(Acting(Noting(echo, name="in", notes=notes), inbound=lambda link, event: None), name="out", notes=notes)
    server = await drive(mode, app, text("x"))
    assert server.payloads == []
    assert [note for note in notes if "inbound" in note or "dropped" in note] == ["out inbound", "out dropped"]


async def test_dropped_on_the_way_out_means_not_sent_and_not_counted(mode: str) -> None:
    """The app's ``send`` returns as if sent."""
    sent: list[int] = []
    app = Acting(Acting(echo, outbound=lambda link, event: None), closed=lambda link, _: sent.append(link.channel.sent_messages))
    server = await drive(mode, app, text("x"))
    assert (server.payloads, sent) == ([], [0])


def test_close_after_ends_it_and_leaves_no_timer(mode: str) -> None:
    """The deadline closes an idle connection; on a connection that ended by itself it is cancelled."""

    async def main(loop: VirtualLoop) -> tuple[Server, Server, int]:
        app = Acting(echo, lambda link: link.close_after(60, IDLE))
        stayed = await drive(mode, app, stay=True)
        left = await drive(mode, app, text("x"))
        return stayed, left, loop.pending_timers()

    stayed, left, timers = run_virtual(main)
    assert (stayed.close, left.close, timers) == ((1001, "idle"), None, 0)


def test_close_after_the_end_sets_no_timer(mode: str) -> None:
    """A guard may not know yet that all is over."""

    async def main(loop: VirtualLoop) -> int:
        await drive(mode, Acting(echo, closed=lambda link, _: link.close_after(60, IDLE)))
        return loop.pending_timers()

    assert run_virtual(main) == 0


def test_hold_keeps_messages_back_and_loses_none(mode: str) -> None:
    """One message a minute reaches the app, in order, all of them."""
    times: list[float] = []

    def hold(link: Link, event: Event) -> Event:
        times.append(asyncio.get_running_loop().time() - 1000.0)
        link.hold(60)
        return event

    async def main(loop: VirtualLoop) -> Server:
        return await drive(mode, Acting(echo, inbound=hold), *(text(str(i)) for i in range(4)))

    assert run_virtual(main).payloads == ["0", "1", "2", "3"]
    assert [round(time) for time in times] == [0, 60, 120, 180]


def test_a_hold_ends_with_the_connection(mode: str) -> None:
    """A connection that is closed while it is held does not keep its slot until the hold runs out."""
    ended: list[float] = []

    def hold(link: Link, event: Event) -> Event:
        link.hold(3600)
        link.close_after(10, MAX_AGE)
        return event

    async def main(loop: VirtualLoop) -> Server:
        app = Acting(echo, inbound=hold, closed=lambda link, _: ended.append(loop.time() - 1000.0))
        return await drive(mode, app, text("1"), text("2"), stay=True)

    assert run_virtual(main).close == (1001, "max-age")
    assert ended[0] < 11


@pytest.mark.parametrize("code", [1005, 1006, 1015])
async def test_codes_that_are_never_sent_are_not_sent(code: int) -> None:
    """``link.close`` with one of them is a mistake in the layer and says so (RFC 6455 §7.4.1)."""
    link = Link(websocket_scope(), AsgiChannel(Server().receive, Server().send))
    with pytest.raises(ValueError, match="never sent"):
        link.close(Close(code, "mine"))


async def test_tell_sends_one_message_of_a_layers_own_at_a_time(mode: str) -> None:
    """It passes the outbound hooks; before accept and after the end nothing is sent."""
    told: list[bool] = []

    def tell(link: Link, event: Event) -> None:
        told.append(link.tell("slow down"))
        told.append(link.tell("slow down"))

    app = Acting(
        Acting(echo, lambda link: told.append(link.tell("early")), inbound=tell),
        closed=lambda link, _: told.append(link.tell("late")),
    )
    server = await drive(mode, app, text("1"), text("2"))
    assert told[:3] == [False, True, False]
    assert told[-1] is False
    assert server.payloads[0] == "slow down"
    assert set(server.payloads) == {"slow down"}


async def test_what_is_observed_reaches_those_who_subscribed(mode: str) -> None:
    """Layers report figures without knowing who measures."""
    seen: list[tuple[str, float]] = []
    outer = Acting(
        Acting(echo, lambda link: link.observe("slots", 2), inbound=lambda link, event: link.observe("in") or event),
        lambda link: link.subscribe(lambda name, value: seen.append((name, value))),
    )
    await drive(mode, outer, text("x"))
    assert seen == [("slots", 2), ("in", 1.0)]


async def test_disconnect_during_the_handshake_counts_as_the_clients(mode: str) -> None:
    """A client that leaves before accept ends the connection; accepting it then fails as a send does."""
    endings: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await receive()
        await send({"type": "websocket.accept"})

    await drive(
        mode, Acting(app, closed=lambda link, close: endings.append(f"{close.reason} {link.channel.initiator}")), disconnect(1006)
    )
    assert endings == ["abnormal client"]


async def test_counters_are_those_of_the_wire(mode: str) -> None:
    """Messages and bytes are counted outside all layers, each way."""
    counts: list[tuple[int, int, int, int]] = []

    def note(link: Link, close: Close) -> None:
        c = link.channel
        counts.append((c.received_messages, c.received_bytes, c.sent_messages, c.sent_bytes))

    app = Acting(echo, closed=note, outbound=lambda link, event: {**event, "text": None, "bytes": b"0123456789"})
    await drive(mode, app, text("äö"), binary(b"abc"), text(""))
    assert counts == [(3, 7, 3, 30)]


async def test_a_layer_with_a_call_of_its_own_is_called() -> None:
    """Fusing never goes round what a subclass does for HTTP."""
    calls: list[str] = []

    class Counting(Layer):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            calls.append(scope["type"])
            await super().__call__(scope, receive, send)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        return

    stack = Layer(Counting(Layer(app)))
    for scope in (http_scope(), websocket_scope()):
        await stack(scope, Server().receive, Server().send)
    assert calls == ["http", "websocket"]


async def test_a_close_stuck_behind_a_dead_peer_does_not_outlive_a_cancelled_connection() -> None:
    """A server that gives up on a connection gets it back."""
    before = asyncio.all_tasks()
    stuck = asyncio.Event()

    class Dead(Server):
        async def send(self, event: Event) -> None:
            if event["type"] == "websocket.close":
                stuck.set()
                await asyncio.Event().wait()
            await super().send(event)

    server = Dead(text("x"), stay=True)

    async def busy(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        await asyncio.Event().wait()

    async def connection() -> None:
        await Acting(busy, inbound=lambda link, event: link.close(RATE_LIMITED) or event)(
            websocket_scope(), server.receive, server.send
        )

    task = asyncio.create_task(connection())
    await stuck.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_a_connection_that_is_over_is_freed_at_once(mode: str) -> None:
    """No cycle is left to the garbage collector, which would hold the server's buffers until it comes round."""

    def close(link: Link, event: Event) -> Event:
        link.close(RATE_LIMITED)
        return event

    stacks = [
        Acting(
            Acting(echo, inbound=lambda link, event: event), lambda link: link.close_after(9, IDLE), waiting=lambda link, _: None
        ),
        Acting(echo, inbound=close),
    ]
    for app in stacks:
        await drive(mode, app, text("x"))
        gc.collect()
        gc.disable()
        try:
            await drive(mode, app, text("x"))
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            assert [thing for thing in gc.garbage if isinstance(thing, Guard | Link | AsgiChannel | FakeFrames)] == []
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()


async def test_a_client_that_leaves_while_layers_open_is_not_answered() -> None:
    """The server's own object knows of it at once: no other layer opens, the app is not called, nothing is sent."""
    notes: list[str] = []
    server = Server(stay=True)
    scope, receive, send = framed(websocket_scope(), server)
    leave = Acting(Noting(echo, name="inner", notes=notes), lambda link: link.channel.finish(GOING_AWAY, "client"))
    await Noting(leave, name="outer", notes=notes)(scope, receive, send)
    assert (notes, server.sent) == (["outer open", "outer closed going-away"], [])


async def test_a_message_of_a_layers_own_does_not_outlive_the_connection() -> None:
    """Stuck behind a peer that never reads, it is given up with the rest."""
    before = asyncio.all_tasks()

    class Stuck(Server):
        async def send(self, event: Event) -> None:
            await super().send(event)
            if event["type"] == "websocket.send":
                await asyncio.Event().wait()

    async def leaving(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        await asyncio.sleep(0)

    server = Stuck(text("x"), stay=True)
    await Acting(leaving, inbound=lambda link, event: link.tell("slow down") and event)(
        websocket_scope(), server.receive, server.send
    )
    await asyncio.sleep(0)
    assert server.payloads == ["slow down"]
    assert asyncio.all_tasks() == before
