"""What nodes know of each other, and what they do together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.cluster import NODES_ROOM, Cluster, Gathered
from gateway.cluster.cluster import MOST_QUESTIONS
from gateway.cluster.missed import MOST_REMEMBERED, Numbers
from gateway.cluster.nodes import LONGEST_TABLE, NodeTable
from gateway.cluster.pages import LARGEST_PART_BYTES, merge, part_of
from gateway.cluster.wire import LARGEST_CONTROL_BYTES, Answer, Ask, Gone, Here, InvalidControl, decode, encode, is_node_id
from gateway.connection import Connection
from gateway.envelope import Envelope
from gateway.errors import BrokerUnavailable
from gateway.hub import Hub
from gateway.message import Message, node_room, user_room
from gateway.registry import EVERYONE
from gateway.version import __version__
from middleware.close import FORBIDDEN, REPLACED
from tests.gateway.connections import BufferingFrames, frame_connection
from tests.gateway.linked_brokers import Engine, LinkedBroker
from tests.middleware.virtual_time import run_virtual

BEAT = 2.0
HERE = Here("i", "1", 0.0, BEAT, 1, 1, 0.5)


class Nodes:
    """A cluster in one process."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.hubs: dict[str, Hub] = {}
        self.clusters: dict[str, Cluster] = {}
        self.gaps: dict[str, list[set[str]]] = {}
        """What each node's ``on_gap`` was told."""

    async def start(self, *names: str) -> list[Cluster]:
        """Start nodes, and wait until all know each other."""
        for name in names:
            told = self.gaps[name] = []
            hub = self.hubs[name] = Hub(
                self.engine.broker(), node=name, linger_seconds=0.0, on_gap=lambda rooms, told=told: told.append(set(rooms))
            )
            cluster = self.clusters[name] = Cluster(hub, heartbeat_seconds=BEAT, cpu_seconds=lambda: 0.0)
            await hub.start()
            cluster.start()
        await asyncio.sleep(BEAT / 2)
        return [self.clusters[name] for name in names]

    def broker(self, name: str) -> LinkedBroker:
        broker = self.hubs[name].broker
        assert isinstance(broker, LinkedBroker)
        return broker

    def known(self, name: str) -> list[str]:
        """Whom a node knows, itself first."""
        return [node.id for node in self.clusters[name].nodes()]

    async def member(self, name: str, *rooms: str, user: str | None = None) -> tuple[Connection, BufferingFrames]:
        """A connection on a node."""
        hub = self.hubs[name]
        connection, frames = frame_connection(id=hub.new_id(), user=user)
        names = (*rooms, EVERYONE, *((user_room(user),) if user else ()))
        await hub.hold(names)
        hub.enter(connection, names)
        return connection, frames

    async def stop(self) -> None:
        for name, hub in self.hubs.items():
            await self.clusters[name].stop()
            await hub.stop()


def play(scene: Callable[[Nodes], Awaitable[None]]) -> None:
    """Run a scene on a clock that jumps."""

    async def run() -> None:
        nodes = Nodes()
        try:
            await scene(nodes)
        finally:
            await nodes.stop()

    run_virtual(lambda _: run())


async def settle() -> None:
    await asyncio.sleep(0.01)


# -- who is there


def test_nodes_know_each_other_at_once() -> None:
    """A newcomer says that it is new, and hears of everybody without waiting for their next heartbeat."""

    async def scene(nodes: Nodes) -> None:
        await nodes.start("a", "b")
        await nodes.start("c")
        assert [sorted(nodes.known(name)) for name in "abc"] == [["a", "b", "c"]] * 3
        assert nodes.known("b")[0] == "b"

    play(scene)


def test_a_node_is_told_with_its_figures() -> None:
    """Version, age, connections, rooms and whether it drains are as fresh as the last heartbeat."""

    async def scene(nodes: Nodes) -> None:
        first, second = await nodes.start("a", "b")
        for room in ("x", "x", "y"):
            await nodes.member("b", room)
        second.drain()
        await asyncio.sleep(2 * BEAT)
        own, other = first.nodes()
        assert (own.id, own.connections, own.rooms, own.draining, own.heard_seconds_ago) == ("a", 0, 0, False, 0)
        assert (other.id, other.version, other.connections, other.rooms, other.draining) == ("b", __version__, 3, 2, True)
        assert abs(other.age_seconds - second.nodes()[0].age_seconds) < 0.01
        assert 0 <= other.heard_seconds_ago <= BEAT
        assert first.statistics().nodes == 2

    play(scene)


def test_a_node_that_stops_says_goodbye() -> None:
    """It is gone from the others' lists at once."""

    async def scene(nodes: Nodes) -> None:
        await nodes.start("a", "b")
        await nodes.clusters["b"].stop()
        await settle()
        assert nodes.known("a") == ["a"]

    play(scene)


def test_a_node_that_dies_is_dropped_after_three_missed_heartbeats(caplog: pytest.LogCaptureFixture) -> None:
    """Not before, and the log names it; when it is heard again it is back."""

    async def scene(nodes: Nodes) -> None:
        await nodes.start("a", "b")
        nodes.broker("b").cut = True
        await asyncio.sleep(2.4 * BEAT)
        assert nodes.known("a") == ["a", "b"]
        await asyncio.sleep(2.6 * BEAT)
        assert nodes.known("a") == ["a"]
        assert "node b has not been heard of" in caplog.text
        nodes.broker("b").cut = False
        await asyncio.sleep(2 * BEAT)
        assert sorted(nodes.known("a")) == sorted(nodes.known("b")) == ["a", "b"]

    with caplog.at_level(logging.WARNING, "tidegate.cluster"):
        play(scene)


def test_without_an_engine_nobody_is_heard_and_nothing_fails() -> None:
    """Heartbeats, questions and the goodbye of a node whose engine is away cost nothing; when it is back, so are the others."""

    async def scene(nodes: Nodes) -> None:
        first, _ = await nodes.start("a", "b")
        await nodes.member("a", "r")
        nodes.engine.down = True
        gathered = await first.rooms()
        assert (gathered.names, gathered.silent, gathered.complete) == ({"r": 1}, ("b",), False)
        await asyncio.sleep(5 * BEAT)
        assert nodes.known("a") == ["a"]
        nodes.engine.down = False
        await asyncio.sleep(2 * BEAT)
        assert nodes.known("a") == ["a", "b"]
        nodes.engine.down = True

    play(scene)


def test_an_engine_that_is_away_is_no_death_of_all_other_nodes(caplog: pytest.LogCaptureFixture) -> None:
    """One line for each outage, whenever the others' times are up; who dies later is named again."""

    async def scene(nodes: Nodes) -> None:
        await nodes.start("a", "b", "c")
        for outage in (1, 2):
            nodes.engine.down = True
            await asyncio.sleep(10 * BEAT)
            assert nodes.known("a") == ["a"]
            nodes.engine.down = False
            await asyncio.sleep(10 * BEAT)
            assert sorted(nodes.known("a")) == ["a", "b", "c"]
            assert len(caplog.records) == 3 * outage  # each of the three nodes
        assert "taken for dead" not in caplog.text
        nodes.broker("c").cut = True
        await asyncio.sleep(6 * BEAT)
        assert "node c has not been heard of" in caplog.text

    with caplog.at_level(logging.WARNING, "tidegate.cluster"):
        play(scene)


def test_alone_there_is_nothing_to_say() -> None:
    """With a memory broker there is one node, and no heartbeat."""

    async def scene(nodes: Nodes) -> None:
        hub = Hub(node="only")
        cluster = Cluster(hub)
        await hub.start()
        cluster.start()
        assert [node.id for node in cluster.nodes()] == ["only"]
        assert len(asyncio.all_tasks()) == 1
        await cluster.stop()
        await hub.stop()

    play(scene)


def test_newcomers_together_are_answered_together() -> None:
    """A hundred nodes that come in one moment make each other say a handful of things, not a hundred."""

    async def scene(nodes: Nodes) -> None:
        await nodes.start("a")
        before = len(nodes.engine.published)
        for number in range(100):
            heard = Here(f"i{number}", "1", 0.0, BEAT, 0, 0, 0.0, is_new=True)
            say(nodes, heard, f"n{number}")
        await asyncio.sleep(BEAT / 2)
        said = [one for one in nodes.engine.published[before:] if one.node == "a"]
        assert len(said) <= 3
        assert len(nodes.known("a")) == 101

    play(scene)


def test_what_comes_while_a_heartbeat_is_under_way_is_answered_at_once() -> None:
    """A drain and a newcomer, however long the engine takes to confirm the heartbeat before."""

    async def scene(nodes: Nodes) -> None:
        await nodes.start("a", "b")
        nodes.broker("a").confirms_after_seconds = 1.0
        said = len(nodes.engine.published)
        while not any(one.node == "a" for one in nodes.engine.published[said:]):
            await asyncio.sleep(0.05)
        nodes.clusters["a"].drain()
        await asyncio.sleep(1.0 + BEAT / 4)
        assert [node.draining for node in nodes.clusters["b"].nodes()] == [False, True]

    play(scene)


def test_wrong_times_are_refused() -> None:
    """When it is made."""
    for options in ({"heartbeat_seconds": 0.01}, {"heartbeat_seconds": 61.0}, {"answer_seconds": 0.0}):
        with pytest.raises(ValueError, match="heartbeat_seconds"):
            Cluster(Hub(), **options)


# -- what was missed


@pytest.mark.parametrize("beats", [1, 10], ids=["one heartbeat", "for dead"])
def test_what_the_engine_took_and_did_not_bring_is_a_gap(beats: int) -> None:
    """In all rooms of either side, once, and soon; others, who have heard both, have missed nothing."""

    async def scene(nodes: Nodes) -> None:
        await nodes.start("a", "b")
        await nodes.member("a", "r", user="ann")
        await nodes.start("c")
        nodes.broker("a").deaf_to, nodes.broker("b").deaf_to = {"b"}, {"a"}
        await asyncio.sleep(beats * BEAT)
        assert (("b" in nodes.known("a")), nodes.gaps["a"]) == (beats == 1, [])
        nodes.broker("a").deaf_to, nodes.broker("b").deaf_to = set(), set()
        await asyncio.sleep(3 * BEAT)
        own = {NODES_ROOM, EVERYONE}
        assert nodes.gaps == {"a": [{"r", "~user/ann", node_room("a"), *own}], "b": [{node_room("b"), *own}], "c": []}
        assert [cluster.statistics().gaps for cluster in nodes.clusters.values()] == [1, 1, 0]

    play(scene)


def test_what_was_missed_of_several_nodes_is_one_gap() -> None:
    """Told when all of them have been heard again."""

    async def scene(nodes: Nodes) -> None:
        await nodes.start(*"abcdef")
        nodes.broker("a").cut = True
        await asyncio.sleep(10 * BEAT)
        nodes.broker("a").cut = False
        await asyncio.sleep(3 * BEAT)
        assert {name: len(gaps) for name, gaps in nodes.gaps.items()} == dict.fromkeys("abcdef", 1)

    play(scene)


def test_what_the_broker_has_told_is_not_told_again() -> None:
    """A node whose own connection was lost hears of it from its broker; what others said meanwhile is no other gap."""

    async def scene(nodes: Nodes) -> None:
        await nodes.start("a", "b", "c")
        nodes.broker("a").deaf_to = {"b", "c"}
        await asyncio.sleep(10 * BEAT)
        nodes.broker("a").deaf_to = set()
        nodes.broker("a").reconnects += 1
        await asyncio.sleep(3 * BEAT)
        assert (sorted(nodes.known("a")), nodes.gaps["a"]) == (["a", "b", "c"], [])
        nodes.broker("a").deaf_to = {"b"}
        await asyncio.sleep(BEAT)
        nodes.broker("a").deaf_to = set()
        await asyncio.sleep(3 * BEAT)
        assert len(nodes.gaps["a"]) == 1

    play(scene)


def test_what_is_heard_before_the_broker_is_back_is_no_gap_of_its_own() -> None:
    """Others are heard as soon as their room is subscribed to again; the broker's own gap follows when all is."""

    async def scene(nodes: Nodes) -> None:
        await nodes.start("a", "b")
        nodes.broker("a").deaf_to = {"b"}
        await asyncio.sleep(3 * BEAT)
        nodes.broker("a").deaf_to = set()
        while not nodes.clusters["a"]._missed._nodes:
            await asyncio.sleep(0.05)
        nodes.broker("a").reconnects += 1
        await asyncio.sleep(3 * BEAT)
        assert (nodes.gaps["a"], nodes.clusters["a"].statistics().gaps) == ([], 0)

    play(scene)


def test_a_node_that_has_stopped_tells_no_gap() -> None:
    """Although its hub goes on for a moment, and hears the others."""

    async def scene(nodes: Nodes) -> None:
        await nodes.start("a", "b")
        nodes.broker("a").deaf_to = {"b"}
        await asyncio.sleep(3 * BEAT)
        await nodes.clusters["a"].stop()
        nodes.broker("a").deaf_to = set()
        await asyncio.sleep(3 * BEAT)
        assert nodes.gaps["a"] == []

    play(scene)


def test_what_the_engine_did_not_take_is_no_gap() -> None:
    """A node that could not speak, or is back after it could not, has said nothing that anybody could miss."""

    async def scene(nodes: Nodes) -> None:
        await nodes.start("a", "b")
        nodes.engine.down = True
        await asyncio.sleep(10 * BEAT)
        assert nodes.known("a") == ["a"]
        nodes.engine.down = False
        await nodes.start("c")
        await asyncio.sleep(3 * BEAT)
        assert sorted(nodes.known("a")) == ["a", "b", "c"]
        assert nodes.gaps == {"a": [], "b": [], "c": []}

    play(scene)


def test_a_node_that_stops_and_starts_is_another() -> None:
    """It counts from the beginning; nobody has missed anything."""

    async def scene(nodes: Nodes) -> None:
        _, second = await nodes.start("a", "b")
        await asyncio.sleep(5 * BEAT)
        await second.stop()
        await asyncio.sleep(BEAT)
        second.start()
        await asyncio.sleep(5 * BEAT)
        assert nodes.gaps == {"a": [], "b": []}

    play(scene)


def test_a_newcomer_whose_first_words_were_not_heard_has_been_missed() -> None:
    """But not one that was there before this node, or came at about the same time."""
    here = msgspec.structs.replace(HERE, number=3, age_seconds=6.0)
    assert Numbers().heard("b", here, 60.0)
    assert not Numbers().heard("b", here, 6.1)
    assert not Numbers().heard("b", here, 1.0)
    assert not Numbers().heard("b", msgspec.structs.replace(HERE, number=0), 60.0)
    numbers = Numbers()
    numbers.heard("b", here, 0.0)
    assert numbers.heard("b", msgspec.structs.replace(here, instance="another", age_seconds=0.5), 60.0)


def test_who_was_heard_is_remembered_in_bounds_until_it_says_goodbye() -> None:
    """Dead or alive, those that were heard last."""
    numbers, back = Numbers(), msgspec.structs.replace(HERE, number=9, age_seconds=1e6)
    for number in (0, *range(MOST_REMEMBERED), 0):
        numbers.heard(f"n{number}", HERE, 0.0)
    numbers.heard("another", HERE, 0.0)
    assert [numbers.heard(name, back, 0.0) for name in ("n1", "n2", "n0")] == [False, False, True]
    numbers.left("n3", "an earlier process")
    numbers.left("n4", "i")
    assert [numbers.heard(name, back, 0.0) for name in ("n5", "n4")] == [True, False]


# -- what is not for us


def say(nodes: Nodes, control: Here | Gone | Ask | Answer | bytes, node: str, room: str = NODES_ROOM, **more: Any) -> None:
    payload: str | bytes = control if isinstance(control, bytes) else encode(control)
    nodes.engine.take(Envelope(room, more.pop("message", None) or Message(payload), id="x-1", node=node, **more))


def test_hostile_and_foreign_messages_are_ignored_and_counted() -> None:
    """Bytes that are no message of nodes, too large or out of bounds, change nothing but a counter."""

    async def scene(nodes: Nodes) -> None:
        (cluster,) = await nodes.start("a")
        hostile: list[bytes] = [
            b"", b"\xff", b"x" * (LARGEST_CONTROL_BYTES + 1), b"\x91" * 10_000, msgspec.msgpack.encode({"here": 1}),
            msgspec.msgpack.encode(["here"]), msgspec.msgpack.encode(["later-kind", 1]), msgspec.msgpack.encode(["gone", 7]),
            encode(msgspec.structs.replace(HERE, version="v" * 65)), encode(msgspec.structs.replace(HERE, connections=-1)),
            encode(msgspec.structs.replace(HERE, load=float("nan"))), encode(Ask(1, "rooms", "", "", 0)),
            encode(msgspec.structs.replace(HERE, age_seconds=float("inf"))),
            encode(msgspec.structs.replace(HERE, interval_seconds=1e9)),
            encode(Ask(1, "rooms", "", "", 10**6)), encode(Ask(1, "secrets", "", "", 1)),  # type: ignore[arg-type]
            encode(Answer(1, 2, ("b", "a"), (), False)), encode(Answer(1, 1, ("a",), (1, 2), False)),
            encode(Answer(1, 1, (), (), True)),
        ]  # fmt: skip
        for payload in hostile:
            say(nodes, payload, "b")
        for node in ("", "x" * 129, "a\nb", "ü"):
            say(nodes, HERE, node)
        say(nodes, HERE, "b", close=FORBIDDEN)
        say(nodes, b"", "b", message=Message("text"))
        await settle()
        assert cluster.statistics().ignored["malformed"] == len(hostile) + 6
        assert nodes.known("a") == ["a"]

    play(scene)


def test_the_table_of_nodes_is_bounded() -> None:
    """Who finds no place is ignored and counted; those who have one keep it."""

    async def scene(nodes: Nodes) -> None:
        (cluster,) = await nodes.start("a")
        for number in range(LONGEST_TABLE + 10):
            say(nodes, HERE, f"n{number:04}")
        await settle()
        assert cluster.statistics().nodes == LONGEST_TABLE + 1
        assert cluster.statistics().ignored["too-many-nodes"] == 10
        say(nodes, HERE, "n0000")
        await settle()
        assert cluster.statistics().ignored["too-many-nodes"] == 10

    play(scene)


def test_two_processes_with_one_id_are_noticed(caplog: pytest.LogCaptureFixture) -> None:
    """Both say so, once, and count every sign of it."""

    async def scene(nodes: Nodes) -> None:
        (cluster,) = await nodes.start("a")
        for _ in range(3):
            say(nodes, HERE, "a")
        await settle()
        assert cluster.statistics().ignored["same-id"] == 3
        assert caplog.text.count("under the same id") == 1

    play(scene)


def test_a_goodbye_counts_only_from_the_process_itself() -> None:
    """A late goodbye of a node's former process does not remove the present one."""
    table = NodeTable()
    table.heard("b", HERE, 0.0)
    assert not table.left("b", "another")
    assert not table.left("c", "i")
    assert "b" in table
    assert table.left("b", "i")
    assert not table.ids


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_decoded_or_refused(payload: bytes) -> None:
    """There is no third outcome."""
    try:
        control = decode(payload)
    except InvalidControl:
        return
    assert decode(encode(control)) == control


def test_ids_of_nodes_are_short_and_printable() -> None:
    """What comes from elsewhere is shown to people and becomes an address."""
    assert is_node_id("3f9c21ab")
    assert not is_node_id("")
    assert not is_node_id("a b\x00")


# -- what they have together


def test_rooms_are_counted_over_all_nodes() -> None:
    """Names in order, members summed, pages that fit together, and how many of them are here."""

    async def scene(nodes: Nodes) -> None:
        first, *_ = await nodes.start("a", "b", "c")
        for name, rooms in (("a", "ps"), ("b", "ppq"), ("c", "pr")):
            for room in rooms:
                await nodes.member(name, room)
        whole = await first.rooms()
        assert whole == Gathered({"p": 4, "q": 1, "r": 1, "s": 1}, {"p": 1, "s": 1}, 6, 2, None, (), True)
        page = await first.rooms(limit=2)
        assert (page.names, page.next) == ({"p": 4, "q": 1}, "q")
        assert (await first.rooms(after="q", limit=2)).names == {"r": 1, "s": 1}
        assert (await first.rooms(local=True)).names == {"p": 1, "s": 1}

    play(scene)


def test_the_members_of_a_room_are_listed_over_all_nodes() -> None:
    """Their ids in order, and how many there are."""

    async def scene(nodes: Nodes) -> None:
        _, second = await nodes.start("a", "b")
        ids = [(await nodes.member(name, "r"))[0].id for name in "aabb"]
        gathered = await second.members("r", limit=3)
        assert (list(gathered.names), gathered.next) == (sorted(ids)[:3], sorted(ids)[2])
        assert (gathered.total, gathered.total_local) == (4, 2)
        assert not (await second.members("nobody")).names

    play(scene)


def test_a_node_that_is_silent_is_named() -> None:
    """The others' figures are told after the deadline, and that they are not all; what it says later is ignored and counted."""

    async def scene(nodes: Nodes) -> None:
        first, *_ = await nodes.start("a", "b", "c")
        for name in "abc":
            await nodes.member(name, "r")
        nodes.broker("c").cut = True
        gathered = await first.rooms()
        assert (gathered.names, gathered.silent, gathered.complete) == ({"r": 2}, ("c",), False)
        say(nodes, Answer(first._number, 1, ("r",), (1,), False), "c", node_room("a"))
        await settle()
        assert first.statistics().ignored["not-asked"] == 1
        assert not first._questions

    play(scene)


def test_open_questions_are_bounded() -> None:
    """One more than there may be is refused at once, as unavailable."""

    async def scene(nodes: Nodes) -> None:
        first, _ = await nodes.start("a", "b")
        nodes.broker("b").cut = True
        asking = [asyncio.create_task(first.rooms()) for _ in range(MOST_QUESTIONS)]
        await asyncio.sleep(0)
        with pytest.raises(BrokerUnavailable, match="questions"):
            await first.rooms()
        assert {gathered.silent for gathered in await asyncio.gather(*asking)} == {("b",)}
        assert not first._questions

    play(scene)


def test_an_answer_is_bounded_in_bytes() -> None:
    """Long names make a shorter page, never a larger answer; the pages still have every name once."""

    async def scene(nodes: Nodes) -> None:
        first, _ = await nodes.start("a", "b")
        names = {f"{number:04}" + "x" * 240 for number in range(600)}
        for name in names:
            await nodes.member("b", name)
        await nodes.member("a", "zzzz")
        seen: list[str] = []
        after: str | None = ""
        while after is not None:
            page = await first.rooms(after, 1000)
            seen += page.names
            after = page.next
        assert seen == [*sorted(names), "zzzz"]
        largest = max(len(one.message.payload) for one in nodes.engine.published if one.room == node_room("a"))
        assert LARGEST_PART_BYTES / 2 < largest < LARGEST_CONTROL_BYTES

    play(scene)


@given(st.lists(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(1, 5), max_size=8), min_size=1, max_size=4),
       st.integers(1, 5), st.integers(10, 60))  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_pages_have_every_name_once_with_its_whole_sum(sizes: list[dict[str, int]], limit: int, max_bytes: int) -> None:
    """However the names are spread over nodes and cut into pages."""
    expected: dict[str, int] = {}
    for one in sizes:
        for name, count in one.items():
            expected[name] = expected.get(name, 0) + count
    seen: dict[str, int] = {}
    after: str | None = ""
    for _ in range(100):
        assert after is not None
        parts = [part_of(sizes[0], after, limit), *(part_of(one, after, limit, max_bytes) for one in sizes[1:])]
        page = merge(parts[0], parts[1:], limit)
        assert len(page.names) <= limit
        assert not set(page.names) & set(seen)
        seen |= page.names
        after = page.next
        if after is None:
            break
    assert list(seen.items()) == sorted(expected.items())


# -- reaching connections on other nodes


def test_a_connection_is_reached_and_closed_from_any_node() -> None:
    """``send_to``, ``close_connection`` and ``close_user`` work from the node that the connection is not on."""

    async def scene(nodes: Nodes) -> None:
        await nodes.start("a", "b")
        (one, heard), (two, also) = [await nodes.member("b", "r", user="ann") for _ in range(2)]
        bob, _ = await nodes.member("a", "r", user="bob")
        hub = nodes.hubs["a"]
        assert await hub.send_to(one.id, "just you")
        await settle()
        assert (b"".join(heard.written)[2:], also.written) == (b"just you", [])
        assert await hub.close_connection(one.id, REPLACED)
        await settle()
        assert (one.ending, two.ending) == (REPLACED, None)
        assert await hub.close_user("ann", FORBIDDEN) == 0
        await settle()
        assert (two.ending, bob.ending) == (FORBIDDEN, None)
        assert len(nodes.hubs["b"].registry) == 0

    play(scene)
