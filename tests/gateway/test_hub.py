"""The hub: joins that fail leave nothing, and every address leads through one path."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.broker import Deliver, MemoryBroker
from gateway.connection import Connection
from gateway.envelope import Envelope
from gateway.errors import BrokerUnavailable, ConnectionClosed
from gateway.hub import CLOSED_PER_TURN, MOST_AT_ONCE, Hub
from gateway.message import user_room
from gateway.registry import EVERYONE
from middleware.close import FORBIDDEN, REPLACED, Close
from tests.gateway.broker.brokers import MoodyBroker
from tests.gateway.connections import BufferingFrames, frame_connection


class Cable:
    """Two hubs on one broker: what one publishes both may hear, as bytes."""

    def __init__(self) -> None:
        self.ends: list[CableBroker] = []


class CableBroker(MemoryBroker):
    local = False

    def __init__(self, cable: Cable) -> None:
        super().__init__()
        self.cable = cable
        cable.ends.append(self)

    def post(self, envelope: Envelope) -> None:
        data = envelope.encode()
        for end in self.cable.ends:
            if envelope.room in end._rooms and end._deliver is not None:
                end._deliver(Envelope.decode(data))


async def hub_with(broker: MemoryBroker | None = None, node: str = "n") -> Hub:
    hub = Hub(broker, node=node, linger_seconds=0.0)
    await hub.start()
    return hub


async def member(hub: Hub, *rooms: str, user: str | None = None) -> tuple[Connection, BufferingFrames]:
    connection, frames = frame_connection(id=hub.new_id(), user=user)
    names = (*rooms, EVERYONE, *((user_room(user),) if user else ()))
    await hub.hold(names)
    hub.enter(connection, names)
    return connection, frames


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_publishing_reaches_the_room_but_not_the_excluded() -> None:
    """The result names the message, its time and how many here get it."""
    hub = await hub_with()
    (one, heard), (_, also) = await member(hub, "r"), await member(hub, "r")
    await member(hub, "elsewhere")
    published = await hub.publish("r", "hi", exclude=one)
    await turn()
    assert (heard.written, also.written) == ([], [b"\x81\x02hi"])
    assert published.recipients_local == 1
    assert published.id.startswith("n-")
    assert (await hub.publish("nobody", "hi")).recipients_local == 0
    await hub.stop()


async def test_a_user_hears_on_all_connections_and_everyone_hears_broadcasts() -> None:
    """Users and everyone are rooms too."""
    hub = await hub_with()
    made = [await member(hub, "a", user="u"), await member(hub, "b", user="u"), await member(hub, "a", user="v")]
    assert (await hub.publish(user_room("u"), "to u")).recipients_local == 2
    await turn()
    await hub.publish(EVERYONE, "all")
    await turn()
    assert [b"".join(frames.written) for _, frames in made] == [b"\x81\x04to u\x81\x03all"] * 2 + [b"\x81\x03all"]
    await hub.stop()


async def test_addresses_lead_to_connections_on_other_nodes() -> None:
    """Send, close one and close a user work wherever the connection is; unknown ids of this node are known to be absent."""
    cable = Cable()
    here, there = await hub_with(CableBroker(cable), "here"), await hub_with(CableBroker(cable), "there")
    (near, near_frames), (far, far_frames) = await member(here, "r", user="u"), await member(there, "r", user="u")
    assert await here.send_to(near.id, "1")
    assert await here.send_to(far.id, "2")
    assert not await here.send_to("here-999", "x")
    assert not await here.close_connection("here-999", FORBIDDEN)
    await here.publish("r", "both")
    await turn()
    assert b"".join(near_frames.written) == b"\x81\x011\x81\x04both"
    assert b"".join(far_frames.written) == b"\x81\x012\x81\x04both"
    assert await here.close_connection(far.id, FORBIDDEN)
    assert far.ending == FORBIDDEN
    (again, _) = await member(there, "r", user="u")
    assert await there.close_user("u", REPLACED) == 1
    assert (near.ending, again.ending) == (REPLACED, REPLACED)
    assert len(here.registry) == len(there.registry) == 0
    await here.stop()
    await there.stop()


async def test_what_was_published_before_a_close_still_goes_out() -> None:
    """Closing a user does not overtake messages to the user."""
    hub = await hub_with()
    _, frames = await member(hub, "r", user="u")
    await hub.publish(user_room("u"), "last words")
    await hub.close_user("u", FORBIDDEN)
    assert frames.written == [b"\x81\x0alast words"]
    await hub.stop()


async def test_a_crowd_is_closed_in_several_turns_of_the_loop() -> None:
    """Each behind what was published before; whoever comes meanwhile stays."""
    hub = await hub_with()
    crowd = [await member(hub, user="u") for _ in range(2 * CLOSED_PER_TURN + 1)]
    await hub.publish(user_room("u"), "last words")
    await hub.close_user("u", FORBIDDEN)
    newcomer, _ = await member(hub, user="u")
    assert sum(connection.ending is FORBIDDEN for connection, _ in crowd) == CLOSED_PER_TURN
    await turn()
    assert all(connection.ending is FORBIDDEN for connection, _ in crowd)
    assert {b"".join(frames.written) for _, frames in crowd} == {b"\x81\x0alast words"}
    assert newcomer.ending is None
    await hub.stop()


async def test_a_join_that_the_broker_refuses_leaves_nothing() -> None:
    """All rooms of a new connection are held, or none."""
    broker = MoodyBroker()
    hub = await hub_with(broker)
    connection, _ = await member(hub, "r")
    broker.down = True
    with pytest.raises(BrokerUnavailable):
        await hub.join(connection, "more")
    with pytest.raises(BrokerUnavailable):
        await hub.hold(["r", "x", "y"])
    broker.down = False
    assert connection.rooms == {"r", EVERYONE}
    assert hub.subscriptions._rooms["r"].holders == 1
    assert not any(one.holders for room, one in hub.subscriptions._rooms.items() if room in "xy")
    await hub.stop()


async def test_a_room_that_the_node_hears_already_cannot_be_joined_without_the_broker_either() -> None:
    """Nobody comes into a room in which nothing would be heard; those who are in it stay."""
    broker = MoodyBroker()
    hub = await hub_with(broker)
    await member(hub, "r")
    other, _ = await member(hub, "x")
    broker.down = True
    with pytest.raises(BrokerUnavailable):
        await hub.hold(["r", EVERYONE])
    with pytest.raises(BrokerUnavailable):
        await hub.join(other, "r")
    assert (len(hub.registry.members("r")), hub.subscriptions._rooms["r"].holders) == (1, 1)
    broker.down = False
    await hub.join(other, "r")
    await hub.stop()


async def test_a_connection_that_ends_during_a_join_is_in_no_room() -> None:
    """The join raises the ending instead of leaving a ghost."""
    broker = MoodyBroker()
    hub = await hub_with(broker)
    connection, frames = await member(hub, "r")
    broker.gate = asyncio.Event()
    joining = asyncio.create_task(hub.join(connection, "late"))
    await turn()
    frames.finish(FORBIDDEN, "server")
    broker.gate.set()
    with pytest.raises(ConnectionClosed):
        await joining
    assert not hub.registry.rooms
    assert hub.subscriptions._rooms.get("late") is None or not hub.subscriptions._rooms["late"].holders
    await hub.stop()


async def test_teardown_never_waits_for_the_broker() -> None:
    """A broker that hangs in unsubscribe holds up nobody who leaves."""

    class Hanging(MoodyBroker):
        async def unsubscribe(self, room: str) -> None:
            await asyncio.Event().wait()

    hub = await hub_with(Hanging())
    made = [await member(hub, f"r{number}") for number in range(5)]
    await turn()
    for _, frames in made:
        frames.finish(FORBIDDEN, "client")
    assert len(hub.registry) == 0
    assert hub.statistics().closed == {("forbidden", "client"): 5}
    await hub.stop()


async def test_a_hub_that_is_started_again_hears_again() -> None:
    """Stopping ends the broker's subscriptions; nothing is taken for subscribed afterwards that is not."""
    hub = await hub_with()
    _, before = await member(hub, "r")
    await hub.stop()
    await hub.start()
    _, frames = await member(hub, "r")
    await hub.publish("r", "1")
    await hub.publish(EVERYONE, "2")
    await turn()
    assert b"".join(frames.written) == b"".join(before.written) == b"\x81\x011\x81\x012"
    await hub.stop()


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["enter", "join", "leave", "end", "cancel", "fail", "publish", "turn"]),
        st.integers(0, 3),
        st.sampled_from("abc"),
    ),
    max_size=40,
)


@given(ACTIONS)
@settings(max_examples=60, deadline=None)
def test_whatever_happens_registry_subscriptions_and_ledger_agree(actions: list[tuple[str, int, str]]) -> None:
    """Joins that fail, are cancelled, or race with the end: no ghost member, no lost hold, every delivery accounted for."""

    async def play() -> None:
        broker = MoodyBroker()
        hub = await hub_with(broker)
        made: list[tuple[Connection, BufferingFrames]] = []
        for action, number, room in actions:
            one = made[number % len(made)] if made else None
            if action == "enter":
                made.append(await member(hub, room))
            elif action == "publish":
                await hub.publish(room, "x", exclude=one[0] if one and number else None)
            elif action == "turn":
                await turn()
            elif one is None:
                continue
            elif action == "join" and one[0].ending is None:
                await hub.join(one[0], room)
            elif action == "leave":
                hub.leave(one[0], room)
            elif action == "end":
                one[1].finish(FORBIDDEN, "client")
            elif action == "fail":
                broker.down = True
                try:
                    await hub.join(one[0], room + "-new")
                except (BrokerUnavailable, ConnectionClosed):
                    pass
                broker.down = False
            elif action == "cancel":
                broker.gate = asyncio.Event()
                joining = asyncio.create_task(hub.join(one[0], room))
                await turn()
                joining.cancel()
                await asyncio.wait([joining])
                joining.cancelled() or joining.exception()
                broker.gate = None
        await turn()
        live = {connection for connection, _ in made if connection.ending is None}
        assert set(hub.registry.connections.values()) == live
        holders = {name: len(room.members) for name, room in hub.registry.rooms.items()}
        held = {name: subscription.holders for name, subscription in hub.subscriptions._rooms.items() if subscription.holders}
        own = {f"~node/{hub.node}": 1, EVERYONE: held[EVERYONE] - holders.get(EVERYONE, 0)}
        assert own[EVERYONE] == 1
        assert {name: count for name, count in held.items() if name not in own} == {
            name: count for name, count in holders.items() if name not in own
        }
        assert hub.registry.ledger.totals["other"].unaccounted() == 0
        await hub.stop()

    asyncio.run(play())


class NoStart(MemoryBroker):
    async def start(self, deliver: Deliver) -> None:
        raise BrokerUnavailable("no engine")


async def test_a_broker_that_does_not_start_is_tried_again() -> None:
    """A hub whose broker failed to start is not started."""
    hub = Hub(NoStart())
    with pytest.raises(BrokerUnavailable):
        await hub.start()
    assert not hub.started


async def test_where_there_is_no_other_node_an_unknown_id_is_known_to_be_nowhere() -> None:
    """Neither a message nor an order to close is said to be on its way."""
    hub = await hub_with()
    for unknown in ("other-1", "a-b-c", "nonsense", ""):
        assert not await hub.send_to(unknown, "x")
        assert not await hub.close_connection(unknown, FORBIDDEN)
    await hub.stop()


async def test_reasons_of_an_apps_own_are_counted_as_other() -> None:
    """What is counted comes from a closed set, whatever a handler closes with."""
    hub = await hub_with()
    connection, frames = await member(hub, "r")
    frames.finish(Close(4123, "because of you, 10.0.0.7"), "server")
    assert connection.ending is not None
    assert hub.statistics().closed == {("other", "server"): 1}
    await hub.stop()


class TestHold:
    """Several rooms at once: all or none, in one round trip."""

    async def test_new_rooms_are_asked_for_together(self) -> None:
        """One that waits for its confirmation holds up no other, up to the bound."""
        broker = _Counting()
        hub = await hub_with(broker)
        broker.gate, broker.most = asyncio.Event(), 0
        holding = asyncio.create_task(hub.hold(["a", "b", EVERYONE, "c"]))
        while broker.waiting < 3:
            await asyncio.sleep(0)
        broker.gate.set()
        await holding
        assert sorted(broker.subscribed[-3:]) == ["a", "b", "c"]
        await hub.hold([f"r{number}" for number in range(MOST_AT_ONCE + 50)])
        assert broker.most == MOST_AT_ONCE
        await hub.stop()

    @pytest.mark.parametrize("how", ["refused", "cancelled"])
    async def test_all_or_none(self, how: str) -> None:
        """When one is refused, or the caller goes away, nobody holds any of them; the error is the broker's own."""
        broker = _Counting()
        hub = await hub_with(broker)
        await hub.hold(["held"])
        broker.gate = asyncio.Event()
        holding = asyncio.create_task(hub.hold(["a", "held", "b", "c"]))
        while broker.waiting < 3:
            await asyncio.sleep(0)
        if how == "refused":
            broker.down = True
            broker.gate.set()
        else:
            holding.cancel()
        with pytest.raises(BrokerUnavailable if how == "refused" else asyncio.CancelledError):
            await holding
        assert hub.subscriptions._rooms["held"].holders == 1
        assert not any(one.holders for room, one in hub.subscriptions._rooms.items() if room in "abc")
        await hub.stop()


class _Counting(MoodyBroker):
    """Counts who waits in ``subscribe``."""

    waiting = most = 0

    async def subscribe(self, room: str) -> None:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            await asyncio.sleep(0)
            await super().subscribe(room)
        finally:
            self.waiting -= 1
