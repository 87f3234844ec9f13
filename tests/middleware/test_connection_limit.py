"""ConnectionLimitMiddleware: who gets a slot, who waits, who is refused, and that every slot comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from middleware import Guard, Layer, Link, Refuse
from middleware.asgi import ASGIApp, Event, Receive, Scope, Send
from middleware.close import AT_CAPACITY, NORMAL, RATE_LIMITED
from middleware.connection_limit import (
    REFUSED_ACCEPT_RATE,
    REFUSED_CLIENT,
    REFUSED_ROOM,
    REFUSED_TOTAL,
    REFUSED_USER,
    TAKEN,
    WAITED_SECONDS,
    WAITING,
    ConnectionLimitMiddleware,
)

from .asgi_helpers import Clock, Server, disconnect, echo, run, websocket_scope
from .limit_helpers import RecordingLink, settle
from .virtual_time import VirtualLoop, run_virtual


def by_path(link: Link) -> str | None:
    """The room is the last part of the path; ``/`` is no room."""
    return str(link.scope["path"]).rpartition("/")[2] or None


def link_to(path: str = "/ws/lobby", client: str = "192.0.2.1", user: Any = None) -> RecordingLink:
    """A handshake from ``client`` to ``path``."""
    return RecordingLink(websocket_scope(path, client=(client, 1)), user)


async def enter(layer: ConnectionLimitMiddleware, link: RecordingLink | None = None) -> Guard:
    """A guard that holds slots."""
    guard = await layer.open(link or link_to())
    assert guard is not None
    return guard


async def refused(layer: ConnectionLimitMiddleware, link: RecordingLink) -> Refuse:
    """The refusal of a handshake that must be refused."""
    with pytest.raises(Refuse) as caught:
        await layer.open(link)
    return caught.value


@asynccontextmanager
async def connected(app: ASGIApp, scope: Scope | None = None) -> AsyncIterator[Server]:
    """A client that stays until the end of the block."""
    server = Server(stay=True)
    task = asyncio.ensure_future(_call(app, scope or websocket_scope(), server))
    await settle()
    try:
        yield server
    finally:
        server.feed(disconnect())
        await task
        assert not server.violations


async def _call(app: ASGIApp, scope: Scope, server: Server) -> None:
    await app(scope, server.receive, server.send)


# --- limits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "status", "close", "observation"),
    [
        ({"total": 2}, 503, AT_CAPACITY, REFUSED_TOTAL),
        ({"per_room": 2, "room": by_path}, 503, AT_CAPACITY, REFUSED_ROOM),
        ({"per_client": 2}, 429, RATE_LIMITED, REFUSED_CLIENT),
        ({"per_user": 2}, 429, RATE_LIMITED, REFUSED_USER),
    ],
)
async def test_one_more_than_the_limit_is_refused_and_a_freed_slot_serves_the_next(
    options: dict[str, Any], status: int, close: object, observation: str
) -> None:
    """Each limit alone: two get in, the third is refused and counted, and when one leaves there is room again."""
    layer = ConnectionLimitMiddleware(echo, **options)
    first = await enter(layer, link_to(user="ada"))
    await enter(layer, link_to(user="ada"))
    refusal = await refused(layer, link := link_to(user="ada"))
    assert (refusal.status, refusal.close) == (status, close)
    assert link.count(observation) == 1
    first.closed(NORMAL)
    await enter(layer, link_to(user="ada"))


@pytest.mark.parametrize(
    ("options", "other"),
    [
        ({"per_room": 1, "room": by_path}, {"path": "/ws/garden"}),
        ({"per_client": 1}, {"client": "192.0.2.2"}),
        ({"per_user": 1}, {"user": "bob"}),
    ],
)
async def test_one_key_at_its_limit_is_nobody_elses_problem(options: dict[str, Any], other: dict[str, Any]) -> None:
    """Another room, client or user has slots of its own."""
    layer = ConnectionLimitMiddleware(echo, **options)
    await enter(layer, link_to(user="ada"))
    await enter(layer, link_to(**{"user": "ada", **other}))


async def test_who_has_no_user_or_room_is_not_counted_there() -> None:
    """Anonymous connections do not share one user's slots, and a connection without a room fills none."""
    layer = ConnectionLimitMiddleware(echo, per_user=1, per_room=1, room=by_path)
    for _ in range(3):
        assert await layer.open(link_to("/")) is None


async def test_a_user_may_be_an_object() -> None:
    """Whatever an app calls its user counts by ``user_id``."""

    class User:
        def __init__(self, identity: str) -> None:
            self.identity = identity

    layer = ConnectionLimitMiddleware(echo, per_user=1)
    await enter(layer, link_to(user=User("ada")))
    assert (await refused(layer, link_to(user=User("ada")))).status == 429
    await enter(layer, link_to(user=User("bob")))


async def test_forged_forwarding_headers_do_not_get_more_slots() -> None:
    """X-Forwarded-For counts only from a trusted proxy."""

    def forged(number: int) -> RecordingLink:
        return RecordingLink(websocket_scope(headers=[(b"x-forwarded-for", f"198.51.100.{number}".encode())]))

    direct = ConnectionLimitMiddleware(echo, per_client=1)
    await enter(direct, forged(1))
    assert (await refused(direct, forged(2))).status == 429
    behind = ConnectionLimitMiddleware(echo, per_client=1, trusted_proxies=["127.0.0.1"])
    await enter(behind, forged(1))
    await enter(behind, forged(2))
    assert (await refused(behind, forged(2))).status == 429


async def test_a_refusal_takes_no_slot_of_any_kind() -> None:
    """A full room costs the client none of its own slots."""
    layer = ConnectionLimitMiddleware(echo, total=10, per_client=2, per_room=1, room=by_path)
    await enter(layer, link_to(client="192.0.2.9"))
    for _ in range(5):
        assert (await refused(layer, link_to())).status == 503
    await enter(layer, link_to("/ws/garden"))
    assert layer.statistics() == (2, 10, 2, 0, 2, 0, 0)


async def test_the_slots_are_visible() -> None:
    """``statistics`` says who is here; the observation follows the number of connections up and down."""
    layer = ConnectionLimitMiddleware(echo, total=10, per_client=5, per_user=5, per_room=5, room=by_path)
    first, second = link_to(user="ada"), link_to("/ws/garden", client="192.0.2.2", user="ada")
    guard = await enter(layer, first)
    await enter(layer, second)
    statistics = layer.statistics()
    assert (statistics.connections, statistics.clients, statistics.users, statistics.rooms) == (2, 2, 1, 2)
    assert second.last(TAKEN) == 2
    guard.closed(NORMAL)
    assert first.last(TAKEN) == 1


async def test_a_key_that_holds_nothing_keeps_no_memory() -> None:
    """A thousand clients, users and rooms come and go: nothing of them is left."""
    layer = ConnectionLimitMiddleware(echo, total=10, per_client=5, per_user=5, per_room=5, room=by_path)
    for number in range(1000):
        link = link_to(f"/ws/{number}", client=f"10.0.{number // 250}.{number % 250}", user=f"user {number}")
        (await enter(layer, link)).closed(NORMAL)
    assert layer.statistics() == (0, 10, 0, 0, 0, 0, 0)


async def test_the_refused_come_back_spread_in_time() -> None:
    """A crowd that is told the same second comes back as a crowd."""
    layer = ConnectionLimitMiddleware(echo, total=1, retry_after_seconds=10)
    await enter(layer)
    seconds = [(await refused(layer, link_to())).retry_after or 0 for _ in range(50)]
    assert min(seconds) >= 10
    assert max(seconds) <= 20
    assert len(set(seconds)) > 25


async def test_through_the_driver_exactly_the_surplus_is_refused_with_a_real_response() -> None:
    """Eight clients, five slots: three get 503 with Retry-After and never reach the app; then there is room again."""
    reached = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal reached
        reached += 1
        await echo(scope, receive, send)

    limited = ConnectionLimitMiddleware(app, total=5)
    async with (
        asyncio.timeout(5),
        connected(limited),
        connected(limited),
        connected(limited),
        connected(limited),
        connected(limited),
    ):
        for _ in range(3):
            server = await run(limited, websocket_scope())
            assert server.status == 503
            assert 5 <= int(server.response_headers[b"retry-after"]) <= 10
            assert json.loads(server.body)["reason"] == "at-capacity"
        server = await run(limited, websocket_scope(denial=False))
        assert server.close == (1013, "at-capacity")
    assert reached == 5
    assert (await run(limited, websocket_scope())).accepted
    assert limited.statistics().connections == 0


async def test_two_layers_hold_slots_of_their_own() -> None:
    """Outside the layer that authenticates: total and per client; inside: per user. Refused inside gives back outside."""
    inner = ConnectionLimitMiddleware(echo, per_user=1)
    outer = ConnectionLimitMiddleware(Authenticated(inner), total=10, per_client=10)
    async with asyncio.timeout(5), connected(outer):
        assert (await run(outer, websocket_scope())).status == 429
        assert (outer.statistics().connections, inner.statistics().connections) == (1, 1)
    assert (outer.statistics().connections, inner.statistics().connections) == (0, 0)


class Authenticated(Layer):
    """Everybody is Ada."""

    async def open(self, link: Link) -> Guard | None:
        link.set(user="ada")
        return None


# --- accept rate ---------------------------------------------------------------------------------------------------------


async def test_a_reconnect_storm_is_let_in_at_the_accept_rate() -> None:
    """A burst of five, then two per second; the rest comes back later."""
    layer = ConnectionLimitMiddleware(echo, accepts_per_second=2, accept_burst=5, clock=(clock := Clock()))
    for _ in range(5):
        assert await layer.open(link_to()) is None
    refusal = await refused(layer, link := link_to())
    assert (refusal.status, refusal.close, link.count(REFUSED_ACCEPT_RATE)) == (503, AT_CAPACITY, 1)
    clock.advance(1.0)
    assert await layer.open(link_to()) is None
    assert await layer.open(link_to()) is None
    assert (await refused(layer, link_to())).status == 503


async def test_a_client_at_its_own_limit_does_not_eat_the_accept_rate() -> None:
    """One that hammers is refused before it costs the others their turn."""
    layer = ConnectionLimitMiddleware(echo, per_client=1, accepts_per_second=0.001, accept_burst=2, clock=Clock())
    await enter(layer)
    for _ in range(10):
        assert (await refused(layer, link_to())).status == 429
    await enter(layer, link_to(client="192.0.2.2"))


# --- waiting room --------------------------------------------------------------------------------------------------------


async def test_who_waits_is_served_in_the_order_of_coming() -> None:
    """Three wait for one slot: each gets it when the one before leaves, first come first served."""
    layer = ConnectionLimitMiddleware(echo, total=1, waiting=3, waiting_seconds=60)
    guard = await enter(layer)
    waiting = []
    for _ in range(3):
        waiting.append(asyncio.create_task(enter(layer)))
        await settle()
    for position in range(3):
        guard.closed(NORMAL)
        await settle()
        assert [task.done() for task in waiting] == [number <= position for number in range(3)]
        guard = waiting[position].result()
    guard.closed(NORMAL)
    assert layer.statistics() == (0, 1, 0, 0, 0, 0, 3)


async def test_a_newcomer_does_not_overtake_who_waits() -> None:
    """A slot is handed on in the moment it is given back, before the waiter's task has even run."""
    layer = ConnectionLimitMiddleware(echo, total=1, waiting=1, waiting_seconds=60)
    guard = await enter(layer)
    waiter = asyncio.create_task(enter(layer))
    await settle()
    guard.closed(NORMAL)
    newcomer = link_to()
    with pytest.raises(Refuse):
        await layer.open(newcomer)
    await waiter


async def test_a_full_room_does_not_hold_up_those_who_wait_for_another() -> None:
    """The first in the queue wants the red room; a place in the blue one goes to who wants blue."""
    layer = ConnectionLimitMiddleware(echo, per_room=1, room=by_path, waiting=2, waiting_seconds=60)
    await enter(layer, link_to("/red"))
    in_blue = await enter(layer, link_to("/blue"))
    red, blue = asyncio.create_task(enter(layer, link_to("/red"))), asyncio.create_task(enter(layer, link_to("/blue")))
    await settle()
    in_blue.closed(NORMAL)
    await settle()
    assert (red.done(), blue.done()) == (False, True)
    red.cancel()
    await asyncio.gather(red, return_exceptions=True)


def test_who_waits_too_long_is_refused() -> None:
    """After waiting_seconds, with the status of what was lacking; the wait is observed."""

    async def main(loop: VirtualLoop) -> None:
        layer = ConnectionLimitMiddleware(echo, total=1, waiting=1, waiting_seconds=7, clock=loop.time)
        await enter(layer)
        refusal = await refused(layer, link := link_to())
        assert refusal.status == 503
        assert link.last(WAITED_SECONDS) == pytest.approx(7)
        assert [value for name, value in link.observed if name == WAITING] == [1, 0]
        assert layer.statistics().waiting == 0
        assert loop.pending_timers() == 0

    run_virtual(main)


def test_who_got_a_slot_leaves_no_timer_behind() -> None:
    """The deadline of a wait ends with the wait."""

    async def main(loop: VirtualLoop) -> None:
        layer = ConnectionLimitMiddleware(echo, total=1, waiting=1, waiting_seconds=60, clock=loop.time)
        guard = await enter(layer)
        waiter = asyncio.create_task(enter(layer))
        await settle()
        guard.closed(NORMAL)
        await waiter
        assert loop.pending_timers() == 0

    run_virtual(main)


async def test_the_waiting_room_is_bounded() -> None:
    """One more than the waiting room holds is refused at once."""
    layer = ConnectionLimitMiddleware(echo, total=1, waiting=2, waiting_seconds=60)
    await enter(layer)
    waiting = [asyncio.create_task(enter(layer)) for _ in range(2)]
    await settle()
    assert layer.statistics().waiting == 2
    assert (await refused(layer, link_to())).status == 503
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert layer.statistics() == (1, 1, 0, 0, 0, 0, 2)


async def test_one_client_cannot_fill_the_waiting_room() -> None:
    """Who waits is counted already, and a client at its own limit does not wait but is refused."""
    layer = ConnectionLimitMiddleware(echo, total=1, per_client=2, waiting=10, waiting_seconds=60)
    await enter(layer)
    waiter = asyncio.create_task(enter(layer))
    await settle()
    assert (await refused(layer, link_to())).status == 429
    assert layer.statistics().waiting == 1
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)


async def test_a_slot_granted_to_a_task_that_is_cancelled_in_the_same_turn_is_handed_on() -> None:
    """Granted and cancelled before it could run: the next in the queue gets the slot, nothing leaks."""
    layer = ConnectionLimitMiddleware(echo, total=1, per_client=5, waiting=2, waiting_seconds=60)
    guard = await enter(layer)
    first, second = asyncio.create_task(enter(layer)), asyncio.create_task(enter(layer))
    await settle()
    guard.closed(NORMAL)
    first.cancel()
    await settle()
    assert first.cancelled()
    (await second).closed(NORMAL)
    assert layer.statistics() == (0, 1, 0, 0, 0, 0, 2)


# --- options -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"total": 0}, "total must be at least 1"),
        ({"per_client": -1}, "per_client must be at least 1"),
        ({"per_room": 5}, "per_room needs room"),
        ({"total": 1, "waiting": -1}, "waiting must not be negative"),
        ({"total": 1, "waiting": 1, "waiting_seconds": 0}, "must be above 0"),
        ({"total": 1, "retry_after_seconds": 0}, "must be above 0"),
        ({"per_client": 1, "waiting": 1}, "waiting is for a slot of total or per_room"),
        ({"accepts_per_second": 0}, "a rate must be"),
        ({"trusted_proxies": ["proxy.example"]}, "does not appear to be an IPv4 or IPv6 network"),
    ],
)
def test_wrong_options_are_refused_at_construction(options: dict[str, Any], sentence: str) -> None:
    """With a sentence, not in the first handshake."""
    with pytest.raises(ValueError, match=sentence):
        ConnectionLimitMiddleware(echo, **options)


async def test_with_every_limit_off_the_layer_has_no_part_in_a_connection() -> None:
    """Switched off is free."""
    assert await ConnectionLimitMiddleware(echo).open(link_to()) is None


async def test_what_is_no_websocket_passes_untouched_and_takes_no_slot() -> None:
    """HTTP and lifespan are not connections."""
    got: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        got.append(scope)

    async def receive() -> Event:
        raise AssertionError("nobody asked")

    async def send(event: Event) -> None:
        raise AssertionError("nobody asked")

    layer = ConnectionLimitMiddleware(app, total=1)
    scopes: list[Scope] = [{"type": "http"}, {"type": "lifespan"}]
    for scope in scopes:
        await layer(scope, receive, send)
    assert got == scopes
    assert layer.statistics().connections == 0
