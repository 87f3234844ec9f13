"""The ledger: every delivery is somewhere, whatever members, peers and the node do."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway import fan_out, ledger
from gateway.backlog import MAX_ENTRIES, Backlog
from gateway.connection import Connection
from gateway.hub import Hub
from gateway.ledger import LEFT, REPLACED, SLOW, UNSENT, Ledger, NamespaceTotals
from gateway.message import Batch, Message
from gateway.outlet import OutletOptions
from gateway.registry import EVERYONE
from middleware.asgi import Event
from middleware.close import FORBIDDEN, INTERNAL_ERROR, RESTARTING, SLOW_CONSUMER
from tests.gateway.connections import BufferingFrames, connection, frame_connection
from tests.middleware.asgi_helpers import Server

Member = tuple[Connection, BufferingFrames]


def unaccounted(hub: Hub) -> dict[str, int]:
    """What every namespace cannot account for now."""
    book, running = hub.registry.ledger, hub.registry.in_progress()
    book.settle()
    return {name: totals.unaccounted(running.get(totals, 0)) for name, totals in book.totals.items()}


async def enter(hub: Hub, *rooms: str, **options: Any) -> Member:
    made, frames = frame_connection(id=hub.new_id(), **options)
    await hub.hold((*rooms, EVERYONE))
    hub.enter(made, (*rooms, EVERYONE))
    return made, frames


class Broken:
    """An encoder that can make nothing of anything."""

    def encode(self, payload: bytes, *, text: bool) -> tuple[int, bytes]:
        raise ValueError("no such payload")


class FramesPeer:
    """A client behind the frames extension, and what may befall it."""

    def __init__(self, id: str, options: OutletOptions) -> None:  # noqa: A002 - it is the connection's id
        self.member, self.frames = frame_connection(id=id, outlet=options)

    def drain(self) -> None:
        self.frames.drain()

    def read(self) -> None:
        self.frames.reads = not self.frames.reads

    def reset(self) -> None:
        self.frames.finish(FORBIDDEN, "client")
        self.frames.lose(None)

    def abort(self) -> None:
        self.frames.abort()

    def spoil(self) -> None:
        self.frames.encoder = Broken()

    def end(self) -> None:
        self.frames.lose(None)
        self.member.lost()


class AsgiPeer(Server):
    """The same behind any other ASGI server, whose ``send`` waits for the client to read."""

    def __init__(self, id: str, options: OutletOptions) -> None:  # noqa: A002 - it is the connection's id
        super().__init__(stay=True)
        self.state = "open"
        self.member = connection(self, id=id, outlet=options)
        self.reads = self.is_gone = False
        self._turn = asyncio.Event()

    async def send(self, event: Event) -> None:
        if not self.reads:
            self._turn.clear()
            await self._turn.wait()
        if self.is_gone:
            raise OSError("the client has left")
        self.record(event)

    def drain(self) -> None:
        self._turn.set()

    def read(self) -> None:
        self.reads = not self.reads
        self._turn.set()

    def reset(self) -> None:
        self.is_gone = True
        self._turn.set()

    def abort(self) -> None:
        self.member.lost()

    spoil = reset
    """It has no encoders; what fails there is ``send``."""

    def end(self) -> None:
        self.member.lost()


Peer = FramesPeer | AsgiPeer

HAPPENS_TO_ONE = ("join", "leave", "drain", "reset", "abort", "spoil", "close", "direct", "read")
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["enter", "enter over ASGI", "publish", "publish", "turn", "settle", *HAPPENS_TO_ONE]),
        st.integers(0, 5),
        st.sampled_from(["chat:a", "b"]),
    ),
    max_size=40,
)


WAITING_FOR_A_BROKEN_ENCODER = [("enter", 0, "b"), *[("publish", 0, "b"), ("turn", 0, "b")] * 5, ("spoil", 0, "b")]


@given(ACTIONS, st.sampled_from(["close", "drop", "latest"]), st.booleans())
@example([*WAITING_FOR_A_BROKEN_ENCODER, ("drain", 0, "b")], "latest", False)
@example(WAITING_FOR_A_BROKEN_ENCODER, "latest", True)
@settings(max_examples=300, deadline=None)
def test_every_delivery_is_accounted_for_at_all_times(actions: list[tuple[str, int, str]], policy: Any, drained: bool) -> None:
    """Random joins, leaves, slow peers, resets, failures, closes and drains over both kinds of outlets; after each step both
    sides are equal, and so they end."""

    async def play() -> None:
        hub = Hub(namespaces=["chat"], node="n")
        await hub.start()
        peers: list[Peer] = []
        for action, number, room in actions:
            one = peers[number % len(peers)] if peers else None
            if action.startswith("enter"):
                made = FramesPeer if action == "enter" else AsgiPeer
                peers.append(peer := made(hub.new_id(), OutletOptions(max_bytes=20, policy=policy)))
                await hub.hold((room, EVERYONE))
                hub.enter(peer.member, (room, EVERYONE))
            elif action == "publish":
                await hub.publish(room, "x" * 7, exclude=one.member if one and number else None)
            elif action == "turn":
                await asyncio.sleep(0)
            elif action == "settle":
                hub.registry.ledger.settle()
            elif one is not None:
                await act(hub, action, one, room)
            assert set(unaccounted(hub).values()) == {0}
        if drained:
            for peer in peers:
                peer.member.close(RESTARTING)
        for _ in range(8):
            await asyncio.sleep(0)
        for peer in peers:
            peer.end()
        assert set(unaccounted(hub).values()) == {0}
        for totals in hub.registry.ledger.totals.values():
            assert (totals.buffered, hub.registry.in_progress()) == (0, {})
        await hub.stop()

    old, fan_out.MEMBERS_PER_TURN = fan_out.MEMBERS_PER_TURN, 2  # so that a few members are a big room
    try:
        asyncio.run(play())
    finally:
        fan_out.MEMBERS_PER_TURN = old


async def act(hub: Hub, action: str, one: Peer, room: str) -> None:
    if action == "join":
        if one.member.ending is None:
            await hub.join(one.member, room)
    elif action == "leave":
        hub.leave(one.member, room)
    elif action == "close":
        one.member.close(FORBIDDEN)
    elif action == "direct":
        with contextlib.suppress(ValueError):  # a failing encoder is told to who sends
            await hub.send_to(one.member.id, "direct")
    else:
        getattr(one, action)()


async def test_what_the_kernel_has_not_taken_is_not_written() -> None:
    """It counts as buffered until it is gone, then as written."""
    book = Ledger()
    totals = book.of_room("r")
    made, frames = frame_connection()
    made.write(Batch((Message("one"), Message("two")), totals))
    assert (totals.taken, totals.written, totals.buffered) == (2, 0, 2)
    frames.buffered = 5  # the first frame is through
    book.settle()
    assert totals.buffered == 2  # one write is through when all of it is
    frames.drain()
    frames.buffered = 0
    book.settle()
    assert (totals.written, totals.buffered) == (2, 0)


@pytest.mark.parametrize(("unsent", "written"), [(None, 0), (0, 3), (10, 1), (15, 0)])
async def test_what_a_lost_connection_had_buffered_was_not_written(unsent: int | None, written: int) -> None:
    """The socket tells how much the kernel never took; when it cannot, nothing that was not seen to leave counts."""
    totals = Ledger().of_room("r")
    made, frames = frame_connection()
    for _ in range(3):
        made.write(Batch((Message("abc"),), totals))
    frames.lose(unsent)
    assert (totals.written, totals.dropped[UNSENT], totals.buffered) == (written, 3 - written, 0)


async def test_under_a_foreign_server_a_message_is_written_when_the_server_took_it() -> None:
    """The queue of the writer task is the outbox there; what is in it when the client goes was not written."""
    book = Ledger()
    totals = book.of_room("r")
    server = Server(stay=True)
    server.state = "open"
    made = connection(server)
    made.write(Batch((Message("one"), Message("two")), totals))
    assert (totals.written, totals.buffered) == (0, 2)
    await made.outlet.flushed()
    book.settle()
    assert (totals.written, totals.buffered) == (2, 0)
    made.write(Batch((Message("three"),), totals))
    made.lost()
    assert (totals.written, totals.dropped[UNSENT]) == (2, 1)


async def test_each_loss_has_its_reason() -> None:
    """slow-consumer, replaced, left, and closed for those whose end was decided."""
    totals = Ledger().of_room("r")
    made, frames = frame_connection(outlet=OutletOptions(max_bytes=1, policy="latest"))
    frames.stick(made)
    for text in "abc":
        made.write(Batch((Message(text),), totals))
    assert (totals.dropped[REPLACED], totals.buffered) == (2, 1)
    hub = Hub(node="n")
    await hub.start()
    slow, slow_frames = await enter(hub, "r", outlet=OutletOptions(max_bytes=1))
    slow_frames.stick(slow)
    await hub.publish("r", "x")
    await asyncio.sleep(0)
    other = hub.registry.ledger.totals["other"]
    assert (other.dropped[SLOW], other.closed, slow.ending is not None) == (1, 0, True)
    gone, gone_frames = await enter(hub, "r")
    assert await hub.send_to(gone.id, "direct") is True
    gone_frames.ending = FORBIDDEN  # decided, and nobody was told yet
    assert await hub.send_to(gone.id, "direct") is False
    assert set(unaccounted(hub).values()) == {0}
    await hub.stop()


async def test_a_member_that_leaves_before_its_turn_is_accounted_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving by itself is ``left``; because its connection ended is ``closed``."""
    monkeypatch.setattr(fan_out, "MEMBERS_PER_TURN", 1)
    hub = Hub(node="n")
    await hub.start()
    made = [await enter(hub, "r") for _ in range(3)]
    await hub.publish("r", "x")
    await asyncio.sleep(0)
    late = [(member, frames) for member, frames in made if not frames.written]
    hub.leave(late[0][0], "r")
    late[1][1].finish(FORBIDDEN, "client")
    other = hub.registry.ledger.totals["other"]
    assert (other.dropped[LEFT], other.closed) == (1, 1)
    await asyncio.sleep(0)
    assert set(unaccounted(hub).values()) == {0}
    await hub.stop()


async def later_member(hub: Hub, **options: Any) -> Member:
    """One of three members of a room in which a message is under way, whose turn is still to come."""
    made = [await enter(hub, "r", **options) for _ in range(3)]
    await hub.publish("r", "x")
    await asyncio.sleep(0)
    return [(member, frames) for member, frames in made if not frames.written][-1]


async def test_a_slow_member_that_is_caught_up_is_accounted_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written ahead of its turn ends it, and so takes it out of the room, in the middle of a fan-out."""
    monkeypatch.setattr(fan_out, "MEMBERS_PER_TURN", 1)
    hub = Hub(node="n")
    await hub.start()
    slow, frames = await later_member(hub, outlet=OutletOptions(max_bytes=1))
    frames.stick(slow)
    assert await hub.send_to(slow.id, "direct") is False
    assert set(unaccounted(hub).values()) == {0}
    for _ in range(4):
        await asyncio.sleep(0)
    assert set(unaccounted(hub).values()) == {0}
    assert hub.registry.ledger.totals["other"].dropped[SLOW] == 2
    await hub.stop()


async def test_a_member_that_cannot_be_written_to_is_ended_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end catches it up, which must not begin the failing write anew."""

    monkeypatch.setattr(fan_out, "MEMBERS_PER_TURN", 1)
    hub = Hub(node="n")
    await hub.start()
    broken, frames = await later_member(hub)
    frames.encoder = Broken()
    broken.close(FORBIDDEN)
    for _ in range(4):
        await asyncio.sleep(0)
    assert broken.ending is INTERNAL_ERROR
    assert hub.registry.ledger.totals["other"].closed == 1
    assert set(unaccounted(hub).values()) == {0}
    await hub.stop()


async def test_whoever_was_ended_for_being_slow_has_not_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another room has under way for it is lost for the same reason."""
    monkeypatch.setattr(fan_out, "MEMBERS_PER_TURN", 1)
    hub = Hub(node="n")
    await hub.start()
    _, frames = await later_member(hub)
    frames.close(SLOW_CONSUMER)
    totals = hub.registry.ledger.totals["other"]
    assert (totals.dropped[SLOW], totals.dropped[LEFT]) == (1, 0)
    await hub.stop()


def test_a_backlog_is_bounded_however_small_its_parts_are() -> None:
    """Beyond its entries it is coarser; nothing is counted twice or lost."""
    backlog, totals = Backlog(), NamespaceTotals(Ledger())
    for position in range(3 * MAX_ENTRIES):
        totals.taken += 1
        backlog.add(position + 1, totals, 1)
    assert len(backlog._entries) == MAX_ENTRIES
    backlog.settle(MAX_ENTRIES - 1)
    assert totals.written == MAX_ENTRIES - 1
    backlog.forget(UNSENT)
    assert (totals.written, totals.buffered, totals.dropped[UNSENT]) == (MAX_ENTRIES - 1, 0, 2 * MAX_ENTRIES + 1)


def test_a_room_with_a_prefix_that_was_not_declared_is_told_of() -> None:
    """It counts under ``other``; rooms without a prefix, and the gateway's own, are no overflow."""
    book = Ledger(["chat"])
    assert [book.is_overflow(room) for room in ("chat:1", "evil:1", "plain", "~user/a:b")] == [False, True, False, False]


async def test_outboxes_are_looked_at_again_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to scrape for what was buffered to become written; the timer ends with the last of it."""
    monkeypatch.setattr(ledger, "SETTLE_SECONDS", 0.001)
    book = Ledger()
    totals = book.of_room("r")
    made, frames = frame_connection()
    made.write(Batch((Message("x"),), totals))
    frames.drain()
    async with asyncio.timeout(5):
        while totals.buffered:
            await asyncio.sleep(0.001)
    assert book._timer is None or not book._unsettled
