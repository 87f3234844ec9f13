"""The registry against a naive model, and rooms against what their members hear."""

from __future__ import annotations

import asyncio
import itertools
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from gateway.connection import Connection
from gateway.fan_out import BYTES_PER_TURN, MEMBERS_PER_TURN
from gateway.ledger import Ledger
from gateway.message import user_room
from gateway.registry import ConnectionRegistry
from gateway.room import PENDING_BYTES, PENDING_MESSAGES, Room
from gateway.turns import Turns
from middleware.close import NORMAL
from tests.gateway.connections import BufferingFrames, envelope, frame_connection
from tests.middleware.virtual_time import VirtualLoop, run_virtual

ROOMS = ["a", "b", "news:1", user_room("u")]


class RegistryModel(RuleBasedStateMachine):
    """Random adds, joins, leaves and removals; the model is a set of pairs."""

    connections = Bundle("connections")

    def __init__(self) -> None:
        super().__init__()
        self.left: list[str] = []
        self.registry = ConnectionRegistry(on_left=self.left.append)
        self.model: set[tuple[str, str]] = set()
        self.known: dict[str, Connection] = {}
        self.joined = 0

    @rule(target=connections)
    def add(self) -> Connection:
        connection, _ = frame_connection()
        self.registry.add(connection)
        self.known[connection.id] = connection
        return connection

    @rule(connection=connections, room=st.sampled_from(ROOMS))
    def join(self, connection: Connection, room: str) -> None:
        self.joined += (connection.id, room) not in self.model
        self.registry.join(connection, room)
        self.model.add((connection.id, room))

    @rule(connection=connections, room=st.sampled_from(ROOMS))
    def leave(self, connection: Connection, room: str) -> None:
        self.registry.leave(connection, room)
        self.model.discard((connection.id, room))

    @rule(connection=consumes(connections), twice=st.booleans())
    def remove(self, connection: Connection, twice: bool) -> None:
        for _ in range(1 + twice):
            self.registry.remove(connection)
        self.model = {pair for pair in self.model if pair[0] != connection.id}
        del self.known[connection.id]
        with pytest.raises(KeyError):
            self.registry.join(connection, "a")

    @invariant()
    def r1_membership_is_told_alike_from_both_ends(self) -> None:
        from_rooms = {(member.id, name) for name, room in self.registry.rooms.items() for member in room.members}
        from_connections = {(connection.id, room) for connection in self.known.values() for room in connection.rooms}
        assert from_rooms == from_connections == self.model

    @invariant()
    def r2_and_r3_no_empty_room_and_no_user_without_connections(self) -> None:
        assert all(room.members for room in self.registry.rooms.values())
        assert bool(self.registry.by_user("u")) == (user_room("u") in self.registry.rooms)

    @invariant()
    def r4_members_are_registered_under_their_id(self) -> None:
        assert self.registry.connections == self.known
        assert all(self.known.get(member.id) is member for room in self.registry.rooms.values() for member in room.members)

    @invariant()
    def every_membership_that_ended_was_told_once(self) -> None:
        assert self.joined - len(self.left) == len(self.model)

    @invariant()
    def statistics_count_the_model(self) -> None:
        public = {pair for pair in self.model if not pair[1].startswith("~")}
        statistics = self.registry.statistics()
        assert (statistics.connections, statistics.memberships) == (len(self.known), len(public))
        assert statistics.rooms == len({room for _, room in public})


TestRegistryModel = RegistryModel.TestCase
TestRegistryModel.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_an_id_belongs_to_one_connection() -> None:
    """A second connection with the same id is refused and changes nothing."""
    registry = ConnectionRegistry()
    (first, _), (second, _) = frame_connection(id="n-x"), frame_connection(id="n-x")
    registry.add(first)
    with pytest.raises(ValueError, match="taken"):
        registry.add(second)
    registry.remove(second)
    assert registry.get("n-x") is first


def members(room: Room, count: int, **options: Any) -> list[tuple[Connection, BufferingFrames]]:
    made = [frame_connection(**options) for _ in range(count)]
    for connection, frames in made:
        frames.reads = True
        room.add(connection)
    return made


async def _turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_is_published_in_one_turn_leaves_as_one_write() -> None:
    """Ten messages of one turn of the loop are one blob per member, in order."""
    room = Room("r", Ledger())
    made = members(room, 3)
    for number in range(10):
        room.publish(envelope(str(number)))
    await _turns()
    blob = b"".join(b"\x81\x01" + str(number).encode() for number in range(10))
    assert [frames.written for _, frames in made] == [[blob]] * 3
    assert made[0][1].written[0] is made[1][1].written[0]


async def test_a_publisher_that_is_excluded_hears_only_the_others() -> None:
    """Its own blob has what others published in the same turn; with nothing left nothing is written."""
    room = Room("r", Ledger())
    (first, heard), (second, also) = members(room, 2)
    room.publish(envelope("1"), first)
    room.publish(envelope("2"), second)
    await _turns()
    room.publish(envelope("3"), first)
    await _turns()
    assert heard.written == [b"\x81\x012"]
    assert also.written == [b"\x81\x011", b"\x81\x013"]


async def test_a_new_member_hears_what_is_published_after_it_joined_and_nothing_before() -> None:
    """Joining in the middle of a turn cuts exactly there."""
    room = Room("r", Ledger())
    (_, old) = members(room, 1)[0]
    room.publish(envelope("before"))
    (_, new) = members(room, 1)[0]
    room.publish(envelope("after"))
    await _turns()
    assert b"".join(old.written) == b"\x81\x06before\x81\x05after"
    assert new.written == [b"\x81\x05after"]


async def test_a_big_room_lets_the_loop_breathe_and_keeps_order() -> None:
    """More members than fit a turn are written to in parts; messages published meanwhile come behind."""
    ledger = Ledger()
    room = Room("r", ledger)
    made = members(room, 2 * MEMBERS_PER_TURN + 10)
    room.publish(envelope("1"))
    await _turns(1)
    await asyncio.sleep(0)
    reached = sum(bool(frames.written) for _, frames in made)
    assert 0 < reached < len(made)
    room.publish(envelope("2"))
    leaver = next(connection for connection, frames in made if not frames.written)
    room.discard(leaver)
    await _turns(12)
    assert {b"".join(frames.written) for connection, frames in made if connection is not leaver} == {b"\x81\x011\x81\x012"}
    assert not next(frames for connection, frames in made if connection is leaver).written
    assert ledger.totals["other"].unaccounted() == 0


@pytest.mark.parametrize("payload", [b"x" * 400_000, b""])
async def test_a_big_room_lets_the_loop_breathe_whatever_is_published(payload: bytes) -> None:
    """One large message, or as many small ones as fit a turn, do not make the publisher write to everybody at once."""
    room = Room("r", Ledger())
    made = members(room, 2 * MEMBERS_PER_TURN)
    for _ in range(1 if payload else PENDING_MESSAGES):
        room.publish(envelope(payload))
    part = BYTES_PER_TURN // len(payload) if payload else MEMBERS_PER_TURN
    assert sum(bool(frames.written) for _, frames in made) == part
    await _turns(2 * len(made) // part)
    assert all(frames.sent_messages == room.messages for _, frames in made)


async def test_a_turn_writes_so_many_bytes_whatever_the_members() -> None:
    """A few hundred members and a message of a megabyte take as many turns as their product needs; one member at least."""
    room = Room("r", Ledger())
    made = members(room, 20)
    for size, part in ((BYTES_PER_TURN // 4, 4), (BYTES_PER_TURN // 4 + 1, 3), (2 * BYTES_PER_TURN, 1)):
        reached = []
        room.publish(envelope(bytes(size)))
        while room.has_pending:
            reached.append(sum(bool(frames.written) for _, frames in made))
            await asyncio.sleep(0)
        steps = [after - before for before, after in itertools.pairwise([0, *reached, len(made)])]
        assert max(steps) == part
        for _, frames in made:
            frames.written.clear()


async def test_rooms_share_the_bytes_of_a_turn() -> None:
    """Ten rooms that each have a turn's worth to write take ten turns, and each gets its own."""
    turns = Turns()
    rooms = [Room(f"r{number}", Ledger(), turns) for number in range(10)]
    made = [members(room, 1)[0][1] for room in rooms]
    for room in rooms:
        room.publish(envelope(bytes(PENDING_BYTES)))
        room._pending *= BYTES_PER_TURN // PENDING_BYTES  # as if others had, each in a turn of its own
        room._pending_bytes = BYTES_PER_TURN
    for turn in range(1, 11):
        await asyncio.sleep(0)
        assert [len(frames.written) for frames in made] == [1] * turn + [0] * (10 - turn)


async def test_a_room_that_gathers_too_much_is_behind_until_it_has_caught_up() -> None:
    """Those who can wait are called one after the other, and no longer than it takes them to fill it again."""
    turns = Turns()
    room = Room("r", Ledger(), turns)
    made = members(room, 30)
    called: list[int] = []

    def publish(number: int) -> None:
        called.append(number)
        room.publish(envelope(bytes(PENDING_BYTES + 1)))

    publish(-1)
    assert not turns.behind, "it is on its way"
    publish(-1)
    assert list(turns.behind) == ["r"]
    turns.behind["r"].extend(partial(publish, number) for number in range(6))
    most = 0
    while room.has_pending:
        await asyncio.sleep(0)
        most = max(most, room._pending_bytes)
    assert called == [-1, -1, *range(6)]
    assert most <= 2 * (PENDING_BYTES + 1)
    assert not turns.behind
    assert {frames.sent_messages for _, frames in made} == {8}


async def test_a_flood_into_a_big_room_is_bounded_and_never_written_to_everybody_at_once() -> None:
    """Beyond the bound each publication pays for one part of the fan-out; what is gathered exceeds the bound by no more."""
    room, parts = Room("r", Ledger()), 4
    made = members(room, parts * MEMBERS_PER_TURN)
    for number in range(3 * PENDING_MESSAGES):
        before = sum(frames.sent_messages for _, frames in made[:: MEMBERS_PER_TURN // 10])
        room.publish(envelope(f"{number:04}"))
        written = sum(frames.sent_messages for _, frames in made[:: MEMBERS_PER_TURN // 10]) - before
        assert written <= 0.5 * len(made[:: MEMBERS_PER_TURN // 10]) * (PENDING_MESSAGES + parts)
        assert len(room._pending) <= PENDING_MESSAGES + parts
    await _turns(8 * parts)
    expected = b"".join(b"\x81\x04%04d" % number for number in range(3 * PENDING_MESSAGES))
    assert {b"".join(frames.written) for _, frames in made} == {expected}


async def test_who_comes_back_during_a_long_fan_out_hears_nothing_of_it() -> None:
    """A member that left and joined again is a new member."""
    room = Room("r", Ledger())
    made = members(room, MEMBERS_PER_TURN + 1)
    room.publish(envelope("before"))
    await _turns(1)
    back, frames = next(pair for pair in made if not pair[1].written)
    room.discard(back)
    room.add(back)
    room.publish(envelope("after"))
    await _turns(8)
    assert frames.written == [b"\x81\x05after"]


async def test_a_publication_without_bytes_fails_alone() -> None:
    """A lone surrogate has no UTF-8: its publisher is told, and what others published in the same turn still leaves."""
    room = Room("r", Ledger())
    (_, frames) = members(room, 1)[0]
    room.publish(envelope("good"))
    with pytest.raises(UnicodeEncodeError):
        room.publish(envelope("\ud800"))
    await _turns()
    assert frames.written == [b"\x81\x04good"]


@given(st.lists(st.integers(0, 3), max_size=12))
@settings(max_examples=60, deadline=None)
def test_every_member_hears_exactly_what_others_published(publishers: list[int]) -> None:
    """In order, whoever published how often in one turn; 3 stands for somebody outside the room."""

    async def play() -> None:
        ledger = Ledger()
        room = Room("r", ledger)
        made = members(room, 3)
        for number, publisher in enumerate(publishers):
            room.publish(envelope(f"{number:02}"), made[publisher][0] if publisher < 3 else None)
        await _turns()
        for index, (_, frames) in enumerate(made):
            heard = [f"{number:02}" for number, publisher in enumerate(publishers) if publisher != index]
            assert b"".join(frames.written) == b"".join(b"\x81\x02" + text.encode() for text in heard)
        assert ledger.totals["other"].written == sum(frames.sent_messages for _, frames in made)

    asyncio.run(play())


async def test_what_a_room_gathers_in_one_turn_is_bounded() -> None:
    """A flood within one turn is written before it grows beyond the bound."""
    room = Room("r", Ledger())
    (_, frames) = members(room, 1)[0]
    for _ in range(40):
        room.publish(envelope(b"x" * 10_000))
    assert len(frames.written) == 1
    assert room._pending_bytes < 256 * 1024
    for _ in range(3 * PENDING_MESSAGES):
        room.publish(envelope(b""))
    assert len(room._pending) < PENDING_MESSAGES
    await _turns()


def test_gathering_can_be_given_more_time() -> None:
    """With a delay, messages of several turns leave together."""

    async def main(loop: VirtualLoop) -> None:
        room = Room("r", Ledger(), max_delay_seconds=0.01)
        (_, frames) = members(room, 1)[0]
        room.publish(envelope("1"))
        await asyncio.sleep(0.009)
        room.publish(envelope("2"))
        assert not frames.written
        await asyncio.sleep(0.002)
        assert frames.written == [b"\x81\x011\x81\x012"]

    run_virtual(main)


async def test_a_direct_message_does_not_overtake_the_room() -> None:
    """What is sent to a connection itself leaves behind what its rooms published before."""
    registry = ConnectionRegistry()
    connection, frames = frame_connection()
    registry.add(connection)
    registry.join(connection, "r").publish(envelope("room"))
    await connection.send("direct")
    assert b"".join(frames.written) == b"\x81\x04room\x81\x06direct"


async def test_a_slow_connection_may_end_while_its_rooms_are_written_out() -> None:
    """Sending to it directly writes its rooms first, which may take it out of them: no error, and the others hear theirs."""
    registry = ConnectionRegistry()
    (slow, slow_frames), (other, frames) = frame_connection(), frame_connection()
    for connection in (slow, other):
        connection.on_ended = registry.remove
        registry.add(connection)
        for name in "abc":
            registry.join(connection, name)
    slow_frames.stick(slow)
    for name in "abc":
        registry.rooms[name].publish(envelope(name))
    slow.send_nowait("direct")
    assert slow.ending is not None
    assert not slow_frames.written
    await _turns()
    assert sorted(frames.written) == [b"\x81\x01a", b"\x81\x01b", b"\x81\x01c"]


async def test_a_member_that_ends_during_the_fan_out_costs_the_others_nothing() -> None:
    """Slow peers are closed inside the loop over members, which goes on."""
    registry = ConnectionRegistry()
    made = [frame_connection() for _ in range(5)]
    for connection, frames in made:
        frames.reads = True
        connection.on_ended = registry.remove
        registry.add(connection)
        registry.join(connection, "r")
    slow, slow_frames = made[2]
    slow_frames.stick(slow)
    registry.rooms["r"].publish(envelope("x"))
    await _turns()
    assert slow.ending is not None
    assert slow.ending.reason == "slow-consumer"
    assert [len(frames.written) for _, frames in made] == [1, 1, 0, 1, 1]
    assert len(registry) == 4
    totals = registry.ledger.totals["other"]
    assert (totals.expected, totals.written, totals.dropped["slow-consumer"], totals.unaccounted()) == (5, 4, 1, 0)


async def test_deliveries_to_connections_that_ended_are_counted_as_such() -> None:
    """A member that is still in the room while its end is decided is accounted for under closed."""
    ledger = Ledger()
    room = Room("r", ledger)
    (gone, frames), _ = members(room, 2)
    frames.finish(NORMAL, "client")
    room.publish(envelope("x"))
    await _turns()
    totals = ledger.totals["other"]
    assert gone.ending is NORMAL
    assert (totals.expected, totals.written, totals.closed) == (2, 1, 1)


def test_only_declared_namespaces_are_told_apart() -> None:
    """The part before the first colon counts when it was declared; clients cannot add labels."""
    ledger = Ledger(["chat"])
    assert ledger.of_room("chat:1") is ledger.totals["chat"]
    assert ledger.of_room("chat") is ledger.of_room("evil:1") is ledger.of_room("x") is ledger.totals["other"]
    assert set(ledger.totals) == {"chat", "other"}


async def test_sending_to_one_member_leaves_the_others_their_batch() -> None:
    """A handler that broadcasts and acknowledges costs every listener one write per turn, and its own order is kept."""
    registry = ConnectionRegistry()
    made = [frame_connection() for _ in range(3)]
    for connection, frames in made:
        frames.reads = True
        registry.add(connection)
        registry.join(connection, "r")
    (speaker, own), *others = made
    for number in range(5):
        registry.rooms["r"].publish(envelope(str(number)), speaker if number == 3 else None)
        await speaker.send("ok")
    await _turns()
    assert (
        b"".join(own.written)
        == b"".join(b"\x81\x01%d\x81\x02ok" % number for number in (0, 1, 2)) + b"\x81\x02ok\x81\x014\x81\x02ok"
    )
    assert [frames.written for _, frames in others] == [[b"".join(b"\x81\x01%d" % number for number in range(5))]] * 2
    totals = registry.ledger.totals["other"]
    assert (totals.accepted, totals.expected, totals.written, totals.unaccounted()) == (5, 14, 14, 0)


async def test_a_member_of_a_big_room_is_served_before_its_turn_when_it_must_be() -> None:
    """What is sent to it directly waits for the room's message to it, not for the whole room; nobody hears anything twice."""
    registry = ConnectionRegistry()
    made = [frame_connection() for _ in range(MEMBERS_PER_TURN + 50)]
    for connection, _ in made:
        registry.add(connection)
        registry.join(connection, "r")
    room = registry.rooms["r"]
    room.publish(envelope("1"))
    await _turns(1)
    late = [(connection, frames) for connection, frames in made if not frames.written]
    assert len(late) == 50
    room.publish(envelope("2"))
    await late[0][0].send("!")
    early = next(connection for connection, frames in made if frames.written and connection is not late[0][0])
    await early.send("!")
    assert late[0][1].written == [b"\x81\x011", b"\x81\x012", b"\x81\x01!"]
    assert sum(not frames.written for _, frames in late) == 49
    await _turns(6)
    heard = {b"".join(frames.written).replace(b"\x81\x01!", b"") for _, frames in made}
    assert heard == {b"\x81\x011\x81\x012"}
    assert registry.ledger.totals["other"].unaccounted() == 0


async def test_a_write_that_fails_ends_that_member_and_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    """An encoder's mistake costs the others nothing, and is not raised at whoever sends; the loss is accounted for."""

    class Broken:
        def encode(self, payload: bytes, *, text: bool) -> tuple[int, bytes]:
            raise ZeroDivisionError

    ledger = Ledger()
    room = Room("r", ledger)
    made = members(room, 3)
    made[0][1].encoder = made[1][1].encoder = Broken()
    room.publish(envelope("x"))
    await _turns()
    assert [len(frames.written) for _, frames in made] == [0, 0, 1]
    for made_one, _ in made[:2]:
        assert made_one.ending is not None
        assert made_one.ending.reason == "internal-error"
    assert (ledger.totals["other"].closed, ledger.totals["other"].unaccounted()) == (2, 0)
    assert caplog.text.count("an encoder failed") == 1  # a crowd that shares it is no flood of the log
    made[2][1].encoder = Broken()
    made[2][0].send_nowait("x")
    assert made[2][0].ending is not None


async def test_a_server_that_raises_on_a_write_costs_one_member() -> None:
    """The rest of the room gets the message, and the ledger knows who did not."""

    def failing(data: bytes, messages: int = 1, payload_bytes: int = 0) -> int:
        raise RuntimeError("the server is in no mood")

    ledger = Ledger()
    room = Room("r", ledger)
    made = members(room, 3)
    made[1][1].write = failing  # type: ignore[method-assign]
    room.publish(envelope("x"))
    await _turns()
    assert [len(frames.written) for _, frames in made] == [1, 0, 1]
    assert (ledger.totals["other"].closed, ledger.totals["other"].unaccounted()) == (1, 0)


async def test_joining_does_not_make_a_room_write() -> None:
    """Who comes in behind what is pending does not hear it, and nobody's batch is broken up; joining twice changes nothing."""
    ledger = Ledger()
    room = Room("r", ledger)
    (old, old_frames) = members(room, 1)[0]
    room.publish(envelope("1"))
    (_, new_frames) = members(room, 1)[0]
    room.add(old)
    room.publish(envelope("2"))
    assert not old_frames.written
    await _turns()
    assert old_frames.written == [b"\x81\x011\x81\x012"]
    assert new_frames.written == [b"\x81\x012"]
    assert (ledger.totals["other"].expected, ledger.totals["other"].written) == (3, 3)
