"""``gateway.health`` and its parts: states, checks, loop lag, the self check, and the addresses that tell."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from gateway.errors import BrokerUnavailable, IllegalTransition
from gateway.health import Health, HealthState, LoopLag, SelfCheckFailed, WebSocketSelfCheck, health_routes
from gateway.health.checks import CheckResult, NamedCheck
from gateway.server import WebSocketServer, self_room
from middleware.asgi import SELF_CHECK, ASGIApp, Event, Receive, Scope, Send
from middleware.close import AT_CAPACITY, UNAUTHORIZED
from middleware.connection_limit import ConnectionLimitMiddleware
from middleware.layer import Guard, Layer, Link, Refuse
from middleware.origin import OriginMiddleware
from middleware.rate_limit import RateLimitMiddleware
from tests.middleware.asgi_helpers import Clock, Server, disconnect, run, text, websocket_scope
from tests.middleware.virtual_time import VirtualLoop, run_virtual


async def well() -> None:
    """A check that passes."""


async def ill() -> None:
    """A check that fails."""
    raise BrokerUnavailable("no route to 10.0.0.1")


async def hang() -> None:
    """A check that never ends by itself."""
    await asyncio.Event().wait()


def client_of(health: Health, **options: Any) -> httpx.AsyncClient:
    """An HTTP client of the health addresses."""
    app = Starlette(routes=health_routes(health, **{"details": True, **options}))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ops")


# -- states


_LEGAL = {
    (): "starting",
    ("started",): "ready",
    ("started", "started"): "ready",
    ("draining",): "draining",
    ("started", "draining"): "draining",
    ("started", "draining", "draining"): "draining",
    ("stopped",): "stopped",
    ("started", "stopped"): "stopped",
    ("started", "draining", "stopped"): "stopped",
    ("started", "draining", "stopped", "stopped"): "stopped",
}


@pytest.mark.parametrize(("events", "state"), _LEGAL.items())
async def test_states_follow_their_table(events: tuple[str, ...], state: str) -> None:
    """starting → ready → draining → stopped, forward only; saying it twice changes nothing."""
    health = Health()
    for event in events:
        getattr(health, event)()
    assert health.state.value == state
    health.stopped()


@pytest.mark.parametrize(
    ("events", "illegal"), [(("draining",), "started"), (("stopped",), "started"), (("started", "stopped"), "draining")]
)
async def test_there_is_no_way_back(events: tuple[str, ...], illegal: str) -> None:
    """An illegal transition raises and changes nothing."""
    health = Health()
    for event in events:
        getattr(health, event)()
    before = health.state
    with pytest.raises(IllegalTransition, match=before.value):
        getattr(health, illegal)()
    assert health.state is before
    health.stopped()


async def test_readiness_follows_the_state() -> None:
    """/readyz is 200 only while ready; otherwise it names the state and asks no check."""
    asked = []

    async def check() -> None:
        asked.append(True)

    health = Health()
    health.add("broker", check, cache_seconds=0)
    async with client_of(health) as client:
        answers = [await client.get("/readyz")]
        for event in ("started", "draining", "stopped"):
            getattr(health, event)()
            answers.append(await client.get("/readyz"))
    told = [(answer.status_code, answer.json()["status"]) for answer in answers]
    assert told == [(503, "starting"), (200, "ready"), (503, "draining"), (503, "stopped")]
    assert len(asked) == 1
    assert all(answer.headers["cache-control"] == "no-store" for answer in answers)


async def test_metrics_are_told_without_asking() -> None:
    """The state, the last results and the loop's lag; a result that is older than a minute does not count."""
    clock, broken = Clock(), [False]

    async def moody() -> None:
        if broken[0]:
            await ill()

    health = Health(clock=clock)
    health.add("moody", moody)
    assert not health.looks_ready()
    health.started()
    assert health.looks_ready()
    broken[0] = True
    assert health.looks_ready()
    await health.report()
    assert not health.looks_ready()
    clock.now += 60
    assert health.looks_ready()
    health.draining()
    assert not health.looks_ready()
    health.stopped()


async def test_liveness_asks_nothing() -> None:
    """/healthz is 200 in every state, whatever the checks say: a restart would mend nothing."""
    health = Health()
    health.add("broker", ill)
    async with client_of(health) as client:
        for event in ("started", "draining", "stopped"):
            getattr(health, event)()
            answer = await client.get("/healthz")
            assert (answer.status_code, answer.json()["status"]) == (200, "ok")
            assert answer.headers["cache-control"] == "no-store"
    assert health.statistics().checks == ()


async def test_startup_is_told_once_and_for_all() -> None:
    """/startupz is 503 until the node has started and 200 from then on, also while it drains."""
    health = Health()
    async with client_of(health) as client:
        assert (await client.get("/startupz")).status_code == 503
        health.started()
        assert (await client.get("/startupz")).status_code == 200
        health.draining()
        assert (await client.get("/startupz")).status_code == 200
    health.stopped()


async def test_a_node_that_never_started_has_not_started_when_it_stops() -> None:
    """Draining and stopping are no starting."""
    health = Health()
    health.draining()
    assert not health.has_started


# -- what is told


async def test_a_failing_check_is_named() -> None:
    """/readyz is 503 and names the check that fails, its text and its time; the others are told as well."""
    health = Health()
    health.add("broker", ill)
    health.add("disk", well)
    health.started()
    async with client_of(health) as client:
        answer = await client.get("/readyz")
    body = answer.json()
    assert (answer.status_code, body["status"], body["failing"]) == (503, "failing", ["broker"])
    assert body["checks"]["broker"]["ok"] is False
    assert "no route" in body["checks"]["broker"]["detail"]
    assert body["checks"]["disk"] == {"ok": True, "ms": body["checks"]["disk"]["ms"]}
    assert list(body["checks"]) == ["broker", "disk", "loop-lag"]
    health.stopped()


async def test_a_check_that_is_not_for_readiness_is_only_told() -> None:
    """readiness=False: it fails, it is shown, the node stays ready."""
    health = Health()
    health.add("exporter", ill, readiness=False)
    health.started()
    async with client_of(health) as client:
        answer = await client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["checks"]["exporter"]["ok"] is False
    health.stopped()


@pytest.mark.parametrize("query", ["?verbose", "?verbose=1", "?verbose=true"])
async def test_verbose_tells_all(query: str) -> None:
    """?verbose adds what checks say, how old results are, uptime and loop lag."""

    async def talks() -> str:
        return "all three nodes"

    health = Health()
    health.add("broker", talks)
    health.started()
    async with client_of(health) as client:
        for path in ("/readyz", "/healthz", "/startupz"):
            body = (await client.get(path + query)).json()
            assert body["uptime_seconds"] >= 0
            assert body["loop_lag"].keys() == {"current_ms", "mean_ms", "max_ms", "samples"}
        body = (await client.get("/readyz" + query)).json()
        assert body["checks"]["broker"]["detail"] == "all three nodes"
        assert body["checks"]["broker"].keys() == {"ok", "ms", "detail", "readiness", "age_ms"}
        assert "uptime_seconds" not in (await client.get("/readyz?verbose=0")).json()
    health.stopped()


@pytest.mark.parametrize("query", ["", "?verbose", "?verbose=1&details=1"])
async def test_the_public_is_told_names_and_results_only(query: str) -> None:
    """Without details: no text, no time, no figure, whatever the query says; and /startupz is not there when not wanted."""
    health = Health()
    health.add("broker", ill)
    health.add("disk", well)
    health.started()
    async with client_of(health, details=False, startup=False) as client:
        assert (await client.get("/readyz" + query)).json() == {
            "status": "failing",
            "failing": ["broker"],
            "checks": {"broker": {"ok": False}, "disk": {"ok": True}, "loop-lag": {"ok": True}},
        }
        assert (await client.get("/healthz" + query)).json() == {"status": "ok", "state": "ready"}
        assert (await client.get("/startupz")).status_code == 404
    health.stopped()


async def test_secrets_in_a_failure_are_not_told() -> None:
    """What a check says is cut, made one line and freed of passwords before anybody sees it."""

    async def talks() -> None:
        raise OSError("redis://user:geheim@host\n" + "x" * 10_000)

    result = await NamedCheck("broker", talks).result()
    assert "geheim" not in result.detail
    assert "\n" not in result.detail
    assert len(result.detail) < 400


def test_a_name_is_given_once() -> None:
    """Two checks of one name, or one called like the built-in one, are a mistake."""
    health = Health()
    health.add("broker", well)
    for name in ("broker", "loop-lag", ""):
        with pytest.raises(ValueError, match="check"):
            health.add(name, well)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Health(lag_limit_seconds=0),
        lambda: Health(lag=LoopLag(), on_loop_lag=print),
        lambda: NamedCheck("x", well, timeout_seconds=0),
        lambda: NamedCheck("x", well, cache_seconds=-1),
        lambda: LoopLag(interval_seconds=0),
        lambda: LoopLag(interval_seconds=2, window_seconds=1),
        lambda: WebSocketSelfCheck(WebSocketServer(), timeout_seconds=0),
    ],
)
def test_wrong_options_are_refused_with_a_sentence(make: Callable[[], object]) -> None:
    """Options that make no sense raise at construction."""
    with pytest.raises(ValueError, match=" "):
        make()


# -- checks


async def test_a_result_is_good_for_a_while() -> None:
    """Within cache_seconds the check is not run again; after that it is."""
    clock, runs = Clock(), []

    async def check() -> None:
        runs.append(True)

    named = NamedCheck("x", check, cache_seconds=5, clock=clock)
    first = await named.result()
    clock.advance(4.9)
    assert await named.result() is first
    clock.advance(0.1)
    await named.result()
    assert len(runs) == 2


async def test_failures_are_cached_too() -> None:
    """A broker that is down is not asked by every probe."""
    runs = []

    async def check() -> None:
        runs.append(True)
        raise OSError("down")

    named = NamedCheck("x", check, clock=Clock())
    assert [(await named.result()).ok for _ in range(3)] == [False] * 3
    assert len(runs) == 1


async def test_who_asks_at_the_same_time_shares_one_run() -> None:
    """Any number of requests at once run the check once, and one that goes away does not take the others' run along."""
    gate, runs = asyncio.Event(), []

    async def check() -> None:
        runs.append(True)
        await gate.wait()

    named = NamedCheck("x", check, cache_seconds=0)
    asking = [asyncio.create_task(named.result()) for _ in range(5)]
    await asyncio.sleep(0)
    asking[0].cancel()
    await asyncio.sleep(0)
    gate.set()
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert all(isinstance(result, CheckResult) and result.ok for result in results[1:])
    assert len(runs) == 1


def test_a_check_that_hangs_has_failed() -> None:
    """After timeout_seconds it is cancelled, and the result says why it failed; the next question tries again."""

    async def main(loop: VirtualLoop) -> None:
        named = NamedCheck("x", hang, timeout_seconds=3, cache_seconds=5, clock=loop.time)
        started = loop.time()
        result = await named.result()
        assert (result.ok, result.detail, result.seconds) == (False, "no result within 3 s", 3)
        loop.now += 5
        assert (await named.result()).detail == "no result within 3 s"
        assert loop.time() - started == 11
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main)


def test_a_check_that_does_not_even_end_when_cancelled_holds_one_task() -> None:
    """While the last attempt goes on no other is started: it fails at once, and works again when that one has ended."""

    async def main(loop: VirtualLoop) -> None:
        release, runs = asyncio.Event(), []

        async def stubborn() -> None:
            runs.append(True)
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue

        named = NamedCheck("x", stubborn, timeout_seconds=3, cache_seconds=0, clock=loop.time)
        assert not (await named.result()).ok
        before = loop.time()
        for _ in range(5):
            assert "has not ended" in (await named.result()).detail
        assert loop.time() == before
        assert len(runs) == 1
        release.set()
        await asyncio.sleep(0.1)
        assert (await named.result()).ok

    run_virtual(main)


async def test_stopping_calls_off_what_runs() -> None:
    """A request that waits for a check when the node stops gets its answer, not a cancellation, and no task is left."""
    health = Health()
    health.add("broker", hang)
    health.started()
    async with client_of(health) as client:
        asking = asyncio.create_task(client.get("/readyz"))
        for _ in range(20):
            await asyncio.sleep(0)
        health.stopped()
        answer = await asking
    assert (answer.status_code, answer.json()["status"]) == (503, "stopped")
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1


async def test_a_check_that_cancels_itself_has_failed() -> None:
    """A CancelledError out of nowhere is a failure of the check, not of whoever asks."""

    async def check() -> None:
        raise asyncio.CancelledError

    assert not (await NamedCheck("x", check).result()).ok


# -- loop lag


def test_lag_is_how_late_a_timer_runs() -> None:
    """What keeps the loop busy shows as current, mean and maximum lag, and leaves with the window."""

    async def main(loop: VirtualLoop) -> None:
        seen: list[float] = []
        lag = LoopLag(interval_seconds=1, window_seconds=5, on_sample=seen.append)
        assert lag.statistics() == (0, 0, 0, 0)
        lag.start()
        await asyncio.sleep(2.5)
        assert lag.statistics() == (0, 0, 0, 2)
        loop.now += 2.5  # something blocks: the sample due at 3 runs at 5
        await asyncio.sleep(0.1)
        assert lag.statistics() == pytest.approx((2, 2 / 3, 2, 3))
        await asyncio.sleep(1)
        assert lag.statistics().current_seconds == pytest.approx(0)
        assert lag.statistics().max_seconds == pytest.approx(2)
        await asyncio.sleep(4)
        assert lag.statistics().max_seconds == pytest.approx(0)
        assert max(seen) == pytest.approx(2)
        lag.stop()

    run_virtual(main)


def test_the_window_is_bounded_and_never_empty() -> None:
    """Samples are as many as fit in the window; after a stall longer than that the newest is still there."""

    async def main(loop: VirtualLoop) -> None:
        lag = LoopLag(interval_seconds=1, window_seconds=10)
        lag.start()
        await asyncio.sleep(1000)
        assert 10 <= lag.statistics().samples <= 12
        loop.now += 500
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert lag.statistics().samples == 1
        assert lag.statistics().current_seconds > 490
        lag.stop()

    run_virtual(main)


def test_sampling_stops() -> None:
    """After stop no timer is left; starting twice makes one."""

    async def main(loop: VirtualLoop) -> None:
        lag = LoopLag()
        lag.start()
        lag.start()
        assert loop.pending_timers() == 1
        lag.stop()
        lag.stop()
        assert loop.pending_timers() == 0

    run_virtual(main)


def test_an_observer_that_fails_costs_no_sample(caplog: pytest.LogCaptureFixture) -> None:
    """Its error is logged and sampling goes on."""

    def fails(lag: float) -> None:
        raise RuntimeError("observer")

    async def main(loop: VirtualLoop) -> None:
        lag = LoopLag(interval_seconds=1, on_sample=fails)
        lag.start()
        await asyncio.sleep(3.5)
        assert lag.statistics().samples == 3
        lag.stop()

    with caplog.at_level(logging.ERROR, "tidegate.health"):
        run_virtual(main)
    assert "observer" in caplog.text


def test_a_loop_that_is_always_late_is_not_ready() -> None:
    """A mean lag above the limit makes the node unready and is named; one stumble does not; None switches it off."""

    async def main(loop: VirtualLoop) -> None:
        health, patient = Health(lag_limit_seconds=0.5, clock=loop.time), Health(lag_limit_seconds=None, clock=loop.time)
        health.started()
        patient.started()
        await asyncio.sleep(10)
        loop.now += 3
        await asyncio.sleep(0.001)
        assert (await health.report()).ready
        for _ in range(20):
            loop.now += 1
            await asyncio.sleep(0.001)
        report = await health.report()
        assert (report.status, report.failing) == ("failing", ["loop-lag"])
        assert (await patient.report()).ready
        await asyncio.sleep(20)
        assert (await health.report()).ready
        health.stopped()
        patient.stopped()

    run_virtual(main)


# -- the self check


async def test_a_server_is_found_well() -> None:
    """Handshake, echo and goodbye through a real server; nothing stays behind and no client was counted."""
    server = WebSocketServer(node="n1", linger_seconds=0)
    assert await WebSocketSelfCheck(_routed(server))() == "handshake and echo"
    assert (len(server.registry), dict(server.registry.rooms)) == (0, {})
    totals = server.hub.statistics()
    assert (totals.opened, totals.closed) == (0, {})
    await server.stop()


async def test_the_whole_chain_is_passed() -> None:
    """Origin, limits and rates see an ordinary client, and let it through."""
    server = WebSocketServer()
    chain = OriginMiddleware(
        ConnectionLimitMiddleware(
            RateLimitMiddleware(_routed(server), messages_per_second=1, burst=5, handshakes_per_second=1, handshake_burst=1),
            total=1,
            per_client=1,
            per_user=1,
        )
    )
    check = WebSocketSelfCheck(chain)
    for _ in range(3):
        assert await check() == "handshake and echo"
    await server.stop()


async def test_a_server_with_its_own_handler_is_checked_without_it() -> None:
    """The application's handler and its rules for messages never meet the self check."""
    met = []

    async def handler(connection: Any) -> None:
        met.append(connection)

    server = WebSocketServer(handler=handler, allow="binary", json=True)
    assert await WebSocketSelfCheck(_routed(server))() == "handshake and echo"
    assert met == []
    await server.stop()


async def test_nobody_else_hears_it() -> None:
    """It is in its own room and in no other, not even everybody's, so that it hears no client and no client hears it."""
    server = WebSocketServer(node="n1")
    rooms = []

    async def during(scope: Scope, receive: Receive, send: Send) -> None:
        async def noting_send(event: Event) -> None:
            rooms.extend(
                set(connection.rooms) for connection in server.registry.connections.values() if connection.scope.get(SELF_CHECK)
            )
            await send(event)

        await _routed(server)(scope, receive, noting_send)

    client = Server(stay=True)
    serving = asyncio.create_task(server(websocket_scope(path_params={"room": "lobby"}), client.receive, client.send))
    await WebSocketSelfCheck(during)()
    assert rooms == [{"~self/n1"}]
    client.feed(disconnect())
    await serving
    assert client.payloads == []
    await server.stop()


@pytest.mark.parametrize("room", ["~self", "~self/n1", "~all"])
async def test_a_client_cannot_enter_the_room_of_the_self_check(room: str) -> None:
    """A client that asks for a reserved room is refused; headers and query do not become the key that lets the check in."""
    server = WebSocketServer(node="n1")
    scope = websocket_scope(
        f"/ws/{room}",
        path_params={"room": room},
        headers=[(SELF_CHECK.encode(), b"True")],
        query_string=b"tidegate.self_check=True",
    )
    assert (await run(server, scope, text("x"))).status == 400
    for value in ("True", 1, object()):
        assert (await run(server, {**scope, SELF_CHECK: value}, text("x"))).status == 400
    await server.stop()


async def test_the_room_is_one_of_the_nodes_own() -> None:
    """It is reserved, and another for every node, so that nodes do not hear each other's."""
    assert self_room("n1") == "~self/n1"
    assert self_room("n1") != self_room("n2")


class _Refuses(Layer):
    """Refuses every handshake."""

    def __init__(self, app: ASGIApp, refusal: Refuse) -> None:
        super().__init__(app)
        self._refusal = refusal

    async def open(self, link: Link) -> Guard | None:
        raise self._refusal


async def test_a_full_node_is_well() -> None:
    """A limiter's refusal passes and is told: full is not unready."""
    server = WebSocketServer()
    full = _Refuses(_routed(server), Refuse(503, AT_CAPACITY))
    assert "at-capacity" in await WebSocketSelfCheck(full)()


async def test_a_stranger_who_is_refused_is_as_it_should_be() -> None:
    """Without a token a 401 passes; with one it is a failure."""
    locked = _Refuses(_routed(WebSocketServer()), Refuse(401, UNAUTHORIZED))
    assert "unauthorized" in await WebSocketSelfCheck(locked)()
    with pytest.raises(SelfCheckFailed, match="unauthorized"):
        await WebSocketSelfCheck(locked, token=lambda: "t")()


async def test_the_token_is_shown() -> None:
    """token() is asked at each check, and shown as Authorization: Bearer."""
    shown = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        shown.extend(value for name, value in scope["headers"] if name == b"authorization")
        await _echoes(scope, receive, send)

    tokens = iter(["one", "two"])
    check = WebSocketSelfCheck(app, token=lambda: next(tokens))
    await check()
    await check()
    assert shown == [b"Bearer one", b"Bearer two"]


async def _echoes(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": "by the way"})
        await send({"type": "websocket.send", "text": event["text"]})


async def _silent(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.Event().wait()


async def _deaf(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await asyncio.Event().wait()


async def _stays(scope: Scope, receive: Receive, send: Send) -> None:
    await _echoes(scope, receive, send)
    await asyncio.Event().wait()


async def _floods(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        await send({"type": "websocket.send", "text": "noise"})
        await asyncio.sleep(0.001)


async def _raises(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("broken")


async def _returns(scope: Scope, receive: Receive, send: Send) -> None:
    return None


async def _closes(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": 1011, "reason": "internal-error"})


async def _refuses(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.http.response.start", "status": 404, "headers": []})
    await send({"type": "websocket.http.response.body", "body": b"[not json", "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b""})


async def _closes_early(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.close", "code": 1008, "reason": "forbidden"})


async def _raises_late(scope: Scope, receive: Receive, send: Send) -> None:
    await _echoes(scope, receive, send)
    raise RuntimeError("clean-up failed")


@pytest.mark.parametrize(
    ("app", "says"),
    [
        (_silent, "handshake: nothing within 2 s"),
        (_deaf, "echo: nothing within 2 s"),
        (_floods, "echo: nothing within 2 s"),
        (_raises, "handshake: the app raised RuntimeError"),
        (_returns, "handshake: the app returned"),
        (_closes, "echo: closed with 1011 internal-error"),
        (_refuses, "handshake: refused with '404'"),
        (_closes_early, "handshake: refused with 'forbidden'"),
        (_raises_late, "goodbye: the app raised RuntimeError"),
    ],
)
def test_what_does_not_work_is_named(app: ASGIApp, says: str) -> None:
    """Every way not to serve a socket fails within the time-out, says how far it came, and leaves no task behind."""

    async def main(loop: VirtualLoop) -> None:
        started = loop.time()
        with pytest.raises(SelfCheckFailed) as failure:
            await WebSocketSelfCheck(app)()
        assert says in str(failure.value)
        assert loop.time() - started <= 2.01
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main)


def test_an_end_that_takes_long_is_cut_and_told() -> None:
    """A connection that a limiter holds, or that cleans up slowly, does not make the node unready."""

    async def main(loop: VirtualLoop) -> None:
        assert "took long" in await WebSocketSelfCheck(_stays)()
        await asyncio.sleep(0.1)
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main)


async def test_an_app_that_cannot_be_cancelled_holds_one_connection() -> None:
    """While the connection of the last attempt does not end, no other is opened."""
    release, calls = asyncio.Event(), []

    async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
        calls.append(True)
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    check = WebSocketSelfCheck(stubborn, timeout_seconds=0.01)
    for _ in range(3):
        with pytest.raises(SelfCheckFailed):
            await check()
    assert len(calls) == 1
    release.set()
    await asyncio.sleep(0)


async def test_the_self_check_is_a_readiness_check() -> None:
    """Health asks it like any other: a chain that serves no sockets makes the node unready, and the answer names it."""
    server = WebSocketServer()
    health = Health(lag_limit_seconds=None)
    health.add("websocket", WebSocketSelfCheck(_routed(server)))
    health.add("broken", WebSocketSelfCheck(_closes))
    health.started()
    report = await health.report()
    assert report.failing == ["broken"]
    assert health.state is HealthState.READY
    health.stopped()
    await server.stop()


async def test_a_broker_that_is_not_usable_is_seen() -> None:
    """A broker's own ``check`` is a readiness check as it is."""
    server = WebSocketServer()
    await server.start()
    await server.hub.broker.close()
    health = Health()
    health.add("broker", server.hub.broker.check)
    health.started()
    assert (await health.report()).failing == ["broker"]
    health.stopped()
    await server.stop()


def _routed(server: WebSocketServer) -> ASGIApp:
    """The server behind what puts the room of the path where it looks for it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await server({**scope, "path_params": {"room": scope["path"].removeprefix("/ws/")}}, receive, send)

    return app
