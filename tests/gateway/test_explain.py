"""Why did this client not get that message? Every way a message can go has its verdict, and memory is bounded."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway import fan_out
from gateway.backlog import MAX_NAMED
from gateway.connection import Connection
from gateway.explain import Explainer, Records, explanation, records
from gateway.explain.fairness import Held, give_way
from gateway.hub import Hub
from gateway.outlet import OutletOptions
from gateway.registry import EVERYONE
from gateway.telemetry.confirms import Confirms
from middleware.close import FORBIDDEN
from tests.gateway.connections import BufferingFrames, connection, envelope, frame_connection
from tests.middleware.asgi_helpers import Server

Member = tuple[Connection, BufferingFrames]


class Remembering:
    """A hub with records."""

    def __init__(self) -> None:
        self.hub = Hub(node="n")
        self.records = Records()
        self.confirms = Confirms(per_second=100, observers=self.hub.observers)
        self.hub.observers.add(self.records)
        self.explainer = Explainer(self.hub, self.records)

    async def enter(self, *rooms: str, reads: bool = True, **options: Any) -> Member:
        made, frames = frame_connection(id=self.hub.new_id(), **options)
        frames.reads = reads
        await self.hub.hold((*rooms, EVERYONE))
        self.hub.enter(made, (*rooms, EVERYONE))
        return made, frames

    async def say(self, room: str, text: str = "x", **options: Any) -> str:
        published = await self.hub.publish(room, text, **options)
        await asyncio.sleep(0)
        return published.id

    def verdict(self, connection: Connection, message: str, room: str = "r") -> tuple[str, bool | None]:
        found = self.explainer.explain(connection=connection.id, room=room, message=message)
        [delivery] = found["connections"][0]["deliveries"]
        assert any(delivery["words"] in line for line in found["answer"])
        return delivery["verdict"], delivery["got"]


@pytest.fixture
async def on() -> Any:
    made = Remembering()
    await made.hub.start()
    yield made
    await made.hub.stop()


async def test_a_plain_delivery_was_written(on: Remembering) -> None:
    """And the answer sends the reader to the client."""
    member, _ = await on.enter("r")
    assert on.verdict(member, await on.say("r")) == ("written", True)


async def test_who_is_left_out_of_a_publication(on: Remembering) -> None:
    """Its publisher or whom the API named, which nobody can tell apart: both ways are named and neither is claimed."""
    member, _ = await on.enter("r")
    message = await on.say("r", exclude=member)
    assert on.verdict(member, message) == ("excluded", False)
    line = on.explainer.explain(connection=member.id, room="r")["answer"][1]
    assert "?echo=1" in line
    assert "exclude=" in line


async def test_a_message_to_everyone_is_told_of_like_any_other(on: Remembering) -> None:
    """By its name and among the others; who came or went before its time is told so."""
    early, _ = await on.enter("r")
    gone, frames = await on.enter()
    frames.finish(FORBIDDEN, "client")
    message = await on.say(EVERYONE)
    late, _ = await on.enter("r")
    found = on.explainer.explain(connection=early.id)
    assert [(one["message"], one["verdict"]) for one in found["connections"][0]["deliveries"]] == [(message, "written")]
    assert found["connections"][0]["rooms"] == ["r"]
    assert found["answer"][0].endswith(" in r.")
    found = on.explainer.explain(connection=early.id, message=message)
    assert [(one["verdict"], one["got"]) for one in found["connections"][0]["deliveries"]] == [("written", True)]
    assert on.verdict(gone, message, EVERYONE) == ("closed", False)
    assert on.verdict(late, message, EVERYONE) == ("joined-later", False)


async def test_who_joined_later_or_had_left(on: Remembering) -> None:
    """Membership is looked at as it was when the message set out, also within one turn of the loop."""
    other, _ = await on.enter("r")
    first = await on.say("r")
    leaver, _ = await on.enter("r")
    assert on.verdict(leaver, first) == ("joined-later", False)
    published = await on.hub.publish("r", "pending")
    newcomer, _ = await on.enter("r")
    await asyncio.sleep(0)
    assert on.verdict(newcomer, published.id) == ("joined-later", False)
    assert on.verdict(leaver, published.id) == ("written", True)
    on.hub.leave(leaver, "r")
    second = await on.say("r")
    assert on.verdict(leaver, second) == ("left", False)
    stranger, _ = await on.enter("s")
    assert on.verdict(stranger, second) == ("not-a-member", False)
    assert on.verdict(other, second) == ("written", True)


async def test_every_newcomer_is_told_from_who_was_there_before(on: Remembering) -> None:
    """However many come within one turn of the loop, between the messages of one batch, and leave again."""
    before = [(await on.enter("r"))[0] for _ in range(3)]
    first = await on.hub.publish("r", "first")
    between = [(await on.enter("r"))[0] for _ in range(50)]
    on.hub.leave(between[0], "r")
    second = await on.hub.publish("r", "second")
    behind = [(await on.enter("r"))[0] for _ in range(50)]
    await asyncio.sleep(0)
    for message, had, had_not in ((first, before, between[1:] + behind), (second, before + between[1:], behind)):
        assert {on.verdict(one, message.id) for one in had} == {("written", True)}
        assert {on.verdict(one, message.id) for one in had_not} == {("joined-later", False)}


async def test_a_newcomer_that_leaves_while_messages_wait_hides_no_other(on: Remembering) -> None:
    """Whether it comes back, later than others who have come meanwhile, or stays away."""
    await on.enter("r")
    first = await on.hub.publish("r", "first")
    restless, steady = (await on.enter("r"))[0], (await on.enter("r"))[0]
    on.hub.leave(restless, "r")
    await on.hub.join(restless, "r")
    await asyncio.sleep(0)
    assert {on.verdict(one, first.id) for one in (restless, steady)} == {("joined-later", False)}
    await on.hub.publish("r", "second")
    brief, _ = await on.enter("r")
    on.hub.leave(brief, "r")
    await asyncio.sleep(0)
    member, _ = await on.enter("r")
    assert on.verdict(member, await on.say("r", "third")) == ("written", True)


async def test_who_was_served_before_its_turn_was_served(on: Remembering) -> None:
    """A member that is sent something directly has the room's message first; that is no joining late."""
    member, _ = await on.enter("r")
    published = await on.hub.publish("r", "pending")
    assert await on.hub.send_to(member.id, "direct")
    await asyncio.sleep(0)
    assert on.verdict(member, published.id) == ("written", True)


async def test_a_slow_consumer_and_a_full_outbox(on: Remembering) -> None:
    """Dropped says so; what waits in the outbox is not called delivered, and what was lost with it is not called written."""
    slow, frames = await on.enter("r", outlet=OutletOptions(max_bytes=10, policy="drop"), reads=False)
    waiting = await on.say("r", "0123456789")
    dropped = await on.say("r", "x")
    assert on.verdict(slow, waiting) == ("buffered", None)
    assert on.verdict(slow, dropped) == ("slow-consumer", False)
    frames.finish(FORBIDDEN, "client")
    assert on.verdict(slow, waiting) == ("maybe-unsent", None)
    frames.lose(unsent=3)
    assert on.verdict(slow, waiting) == ("unsent", False)


async def test_what_has_left_is_not_called_buffered_for_what_came_later(on: Remembering) -> None:
    """By name, for as many as are named; of those that wait before them nothing is claimed."""
    slow, frames = await on.enter("r")
    message = await on.say("r")
    frames.reads = False
    waits = await on.say("r", "0123456789")
    assert on.verdict(slow, message) == ("written", True)
    assert on.verdict(slow, waits) == ("buffered", None)
    await on.hub.hold(("busy",))
    on.hub.registry.join(slow, "busy")
    for _ in range(MAX_NAMED):
        await on.say("busy")
    assert on.verdict(slow, message) == on.verdict(slow, waits) == ("buffered", None)
    assert "may be one of the 1 messages" in on.explainer.explain(connection=slow.id, room="r")["answer"][1]
    frames.drain()
    assert on.verdict(slow, waits) == ("written", True)


async def test_bytes_that_are_no_publication_make_nothing_buffered(on: Remembering) -> None:
    """What the app itself has sent since waits; what was published before has left."""
    slow, frames = await on.enter("r")
    message = await on.say("r")
    frames.reads = False
    await slow.send("the app's own")
    assert frames.buffered
    assert on.verdict(slow, message) == ("written", True)


async def test_what_left_after_the_end_was_decided_was_written(on: Remembering) -> None:
    """When the socket is gone and nothing was unsent, all of it had left."""
    slow, frames = await on.enter("r", reads=False)
    waiting = await on.say("r")
    frames.finish(FORBIDDEN, "client")
    assert on.verdict(slow, waiting) == ("maybe-unsent", None)
    frames.lose(unsent=0)
    assert on.verdict(slow, waiting) == ("written", True)


async def test_of_a_lost_outbox_only_what_had_not_left_is_unsent(on: Remembering) -> None:
    """Bytes tell which of the messages the kernel had."""
    slow, frames = await on.enter("r", reads=False)
    first, second = await on.say("r", "x" * 10), await on.say("r", "y" * 10)
    frames.finish(FORBIDDEN, "client")
    frames.lose(unsent=5)
    assert on.verdict(slow, first) == ("written", True)
    assert on.verdict(slow, second) == ("unsent", False)


async def test_more_unsent_messages_than_are_remembered_are_not_called_written(on: Remembering) -> None:
    """Names are kept of the newest alone; of those before nothing is known."""
    slow, frames = await on.enter("r", reads=False)
    messages = [await on.say("r") for _ in range(records.PER_ROOM)]
    frames.finish(FORBIDDEN, "client")
    frames.lose(unsent=None)
    assert on.verdict(slow, messages[-1]) == ("unsent", False)
    assert on.verdict(slow, messages[0]) == ("forgotten", None)


async def test_a_direct_message_that_was_not_sent(on: Remembering) -> None:
    """It was written to the outbox, and was in it when the connection was lost."""
    slow, frames = await on.enter("r", reads=False)
    assert await on.hub.send_to(slow.id, "direct")
    [sent] = on.records.live[slow.id].happenings
    frames.finish(FORBIDDEN, "client")
    frames.lose(unsent=1)
    answer = on.explainer.explain(connection=slow.id, message=sent.message)["answer"]
    assert "written to the connection" in answer[1]
    assert "not sent" in answer[2]


async def test_under_another_server_too(on: Remembering) -> None:
    """A queue of messages tells the same: replaced, unsent, written."""
    server = Server(stay=True)
    member = connection(server, id=on.hub.new_id(), outlet=OutletOptions(max_bytes=1, policy="latest"))
    await on.hub.hold(("r",))
    on.hub.enter(member, ("r",))
    messages = [(await on.hub.publish("r", text)).id for text in ("first", "taken", "replaced", "newest")]
    on.hub.registry.rooms["r"].flush()
    more = await on.hub.publish("r", "x" * 10)
    on.hub.registry.rooms["r"].flush()
    last = await on.hub.publish("r", "last")
    on.hub.registry.rooms["r"].flush()
    assert on.verdict(member, more.id) == ("replaced", False)
    member.lost()
    assert on.verdict(member, last.id) == ("unsent", False)
    assert on.verdict(member, messages[0]) == ("unsent", False)


async def test_what_gave_way_to_newer_messages_is_not_called_written(on: Remembering) -> None:
    """Policy ``latest``: the replaced message is told by name, the one in its place is not, also when it is over."""
    slow, frames = await on.enter("r", outlet=OutletOptions(max_bytes=1, policy="latest"), reads=False)
    frames.stick(slow)
    replaced = await on.say("r", "old")
    newest = await on.say("r", "new")
    frames.drain()
    for _ in range(2):
        assert on.verdict(slow, replaced) == ("replaced", False)
        assert on.verdict(slow, newest) == ("written", True) if slow.ending else ("buffered", None)
        frames.finish(FORBIDDEN, "client")
        frames.lose(unsent=0)


async def test_more_drops_than_are_remembered_are_not_called_written(on: Remembering) -> None:
    """A room remembers more publications than a connection its drops: of the others nothing is known."""
    slow, frames = await on.enter("r", outlet=OutletOptions(max_bytes=1, policy="drop"))
    frames.reads = False
    frames.stick(slow)
    one_by_one = [await on.say("r") for _ in range(records.PER_ROOM)]
    assert on.verdict(slow, one_by_one[0]) == ("forgotten", None)
    assert on.verdict(slow, one_by_one[-1]) == ("slow-consumer", False)
    at_once = [(await on.hub.publish("r", "x")).id for _ in range(records.PER_ROOM)]
    await asyncio.sleep(0)
    assert on.verdict(slow, at_once[0]) == ("forgotten", None)
    assert on.verdict(slow, at_once[-1]) == ("slow-consumer", False)
    frames.drain()
    frames.reads = True
    assert on.verdict(slow, await on.say("r")) == ("written", True)


async def test_a_connection_that_had_ended(on: Remembering) -> None:
    """Its end is told with reason and initiator; it is remembered for a while."""
    gone, frames = await on.enter("r")
    await on.enter("r")
    frames.finish(FORBIDDEN, "client")
    message = await on.say("r")
    assert on.verdict(gone, message) == ("closed", False)
    found = on.explainer.explain(connection=gone.id)
    assert found["connections"][0]["ended"]["reason"] == "forbidden"
    assert "forbidden, by the client" in found["answer"][0]


async def test_a_confirmed_delivery_is_proved(on: Remembering) -> None:
    """The pong is the strongest thing that can be said; without one in time it is not known."""
    member, frames = await on.enter("r")
    on.hub.observers.add(on.confirms)
    message = await on.say("r")
    frames.pong()
    assert on.verdict(member, message) == ("confirmed", True)
    lost = await on.say("r")
    on.confirms._finish(member, "timeout")
    assert on.verdict(member, lost) == ("unconfirmed", None)


async def test_a_member_that_left_before_its_turn(on: Remembering, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a fan-out of several turns."""
    monkeypatch.setattr(fan_out, "MEMBERS_PER_TURN", 1)
    made = [await on.enter("r") for _ in range(3)]
    published = await on.hub.publish("r", "x")
    await asyncio.sleep(0)
    late, _ = next(pair for pair in made if not pair[1].written)
    on.hub.leave(late, "r")
    for _ in range(5):
        await asyncio.sleep(0)
    assert on.verdict(late, published.id) == ("left", False)


async def test_a_message_for_one_connection_and_one_that_never_came(on: Remembering) -> None:
    """Direct messages are told of; for what this node never delivered the answer says where to look."""
    member, _ = await on.enter("r")
    await on.hub.send_to(member.id, "direct")
    [sent] = [one for one in on.records.live[member.id].happenings if one.what == "sent"]
    answer = " ".join(on.explainer.explain(connection=member.id, message=sent.message)["answer"])
    assert "to this connection alone: It was written" in answer
    answer = " ".join(on.explainer.explain(connection=member.id, room="r", message="n-999")["answer"])
    assert "has delivered no message n-999 to room r" in answer


async def test_a_direct_message_that_came_too_late(on: Remembering) -> None:
    """Another node sent it to a connection that was over by then."""
    gone, frames = await on.enter("r")
    frames.finish(FORBIDDEN, "client")
    direct = envelope("x", room="~node/n", target=gone.id)
    on.hub._deliver(direct)
    answer = on.explainer.explain(connection=gone.id, message=direct.id)["answer"]
    assert "to this connection alone: It was not written: the end of the connection was already decided." in answer[1]


async def test_memberships_that_were_forgotten_leave_it_open_who_got_what(on: Remembering) -> None:
    """A connection leaves more rooms at its end than are remembered: of those nothing is claimed, of the others all is known."""
    rooms = [f"r{number}" for number in range(2 * records.PER_CONNECTION)]
    stranger, _ = await on.enter(*rooms, "elsewhere")
    before = await on.say(rooms[0])
    member, frames = await on.enter(*rooms)
    messages = {room: await on.say(room) for room in rooms}
    unheard = await on.say("elsewhere")
    frames.finish(FORBIDDEN, "client")
    found = {on.verdict(member, message, room) for room, message in messages.items()}
    assert found == {("written", True), ("forgotten", None)}
    assert on.verdict(member, unheard, "elsewhere") == ("forgotten", None)
    assert on.verdict(member, before, rooms[0])[1] is False
    assert on.verdict(member, await on.say(rooms[0]), rooms[0]) == ("closed", False)
    assert {on.verdict(stranger, message, room) for room, message in messages.items()} == {("written", True)}


async def test_who_had_to_give_way_and_is_met_again_is_not_called_a_newcomer(
    on: Remembering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is open since it came, and in all its rooms; of what went before nothing is claimed."""
    member, _ = await on.enter("r", "~user/u", user="u")
    since = on.records.live[member.id].since
    missed = await on.say("r")
    monkeypatch.setattr(records, "LIVE", 1)
    await on.enter("r")
    assert "others have needed the memory" in on.explainer.explain(connection=member.id)["answer"][0]
    await on.hub.hold(("s",))
    on.hub.registry.join(member, "s")
    assert on.verdict(member, missed) == ("forgotten", None)
    assert on.verdict(member, await on.say("r")) == ("written", True)
    [story] = on.explainer.explain(connection=member.id)["connections"]
    assert (story["rooms"], story["user"]) == (["r", "s"], "u")
    assert story["since"] == pytest.approx(since, abs=0.01)


async def test_who_had_to_give_way_and_has_left_all_its_rooms_is_not_called_a_newcomer(
    on: Remembering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it is in one room alone says nothing of where it was; of who came after that all is known."""
    member, _ = await on.enter("r")
    message = await on.say("r")
    monkeypatch.setattr(records, "LIVE", 1)
    await on.enter("r")
    for room in ("r", EVERYONE):
        on.hub.leave(member, room)
    await on.hub.join(member, "s")
    assert on.verdict(member, message) == ("forgotten", None)
    newcomer, _ = await on.enter("s")
    assert on.verdict(newcomer, await on.say("r")) == ("not-a-member", False)


async def test_confirmations_that_were_forgotten_leave_no_doubt(on: Remembering) -> None:
    """What was written was written, however many newer messages were confirmed."""
    member, frames = await on.enter("r")
    on.hub.observers.add(on.confirms)
    messages = []
    for _ in range(records.PER_CONNECTION + 1):
        messages.append(await on.say("r"))
        frames.pong()
    assert on.verdict(member, messages[0]) == ("written", True)
    assert on.verdict(member, messages[-1]) == ("confirmed", True)


async def test_users_rooms_and_strangers(on: Remembering) -> None:
    """A user is all their connections; an unknown id says whether another node would know."""
    for _ in range(2):
        await on.enter("r", "~user/u", user="u")
    await on.say("r")
    found = on.explainer.explain(user="u")
    assert len(found["connections"]) == 2
    assert [one["room"] for one in found["connections"][0]["deliveries"]] == ["r"]
    room = on.explainer.explain(room="r")
    assert (room["rooms"][0]["members"], len(room["rooms"][0]["publications"])) == (2, 1)
    assert room["answer"][0] == "Room r has 2 members on this node."
    assert room["answer"][1].endswith(": It set out to 2 members on this node. Of these 2 written.")
    assert "no member on this node" in on.explainer.explain(room="empty")["answer"][0]
    assert "of node other" in on.explainer.explain(connection="other-7")["answer"][0]
    assert "does not know the connection" in on.explainer.explain(connection="n-12345")["answer"][0]
    assert "no connection of that user" in on.explainer.explain(user="nobody")["answer"][0]


async def test_a_message_explains_itself(on: Remembering) -> None:
    """By its id alone, also where a connection's id is asked for; one that is not remembered is said to be unknown."""
    await on.enter("r", "s")
    message = await on.say("r")
    await on.say("s")
    for asked in ({"message": message}, {"connection": message}):
        found = on.explainer.explain(**asked)
        assert [(one["name"], len(one["publications"])) for one in found["rooms"]] == [("r", 1)]
        assert found["answer"][1].endswith(f"message {message}: It set out to 1 member on this node. Of these 1 written.")
        assert len(found["answer"]) == 2
    unknown = on.explainer.explain(message="n-999")
    assert (unknown["connections"], unknown["rooms"]) == ([], [])
    assert unknown["answer"][0].startswith("This node has delivered no message n-999 to any room")
    assert "it went to one connection alone, was longer ago, or did not arrive here" in unknown["answer"][0]


async def test_a_room_sums_up_the_verdicts_of_those_whom_a_message_set_out_to(on: Remembering) -> None:
    """Also of who has ended since, and of its publisher; not of who came later. A large room's are not summed up."""
    (publisher, _), (_, first), (_, second), _ = [await on.enter("r") for _ in range(4)]
    on.hub.observers.add(on.confirms)
    message = await on.say("r", exclude=publisher)
    first.pong()
    second.finish(FORBIDDEN, "client")
    await on.enter("r")
    said = on.explainer.explain(message=message)["answer"][1]
    assert "It set out to 4 members on this node. Of these " in said
    assert {"2 written", "1 confirmed", "1 excluded"} == set(said.rpartition("Of these ")[2].rstrip(".").split(", "))
    for _ in range(explanation.MOST_WITNESSES):
        await on.enter("r")
    assert on.explainer.explain(message=message)["answer"][1].endswith("set out to 4 members on this node.")


async def test_memory_is_bounded(on: Remembering, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rooms, publications, connections and happenings each have a bound; the oldest gives way; payloads are not kept."""
    monkeypatch.setattr(records, "ROOMS", 3)
    monkeypatch.setattr(records, "LIVE", 4)
    monkeypatch.setattr(records, "ENDED", 2)
    for number in range(10):
        await on.enter(f"r{number}")
        await on.say(f"r{number}")
    assert (len(on.records.rooms), len(on.records.live)) == (3, 4)
    member, _ = await on.enter("r9")
    for _ in range(100):
        await on.say("r9")
        on.records.dropped(member, [envelope("x")], "slow-consumer")
        on.hub.leave(member, "r9")
        await on.hub.join(member, "r9")
    story = on.records.live[member.id]
    bounds = (records.PER_ROOM, records.PER_CONNECTION, records.PER_CONNECTION)
    assert (len(on.records.rooms["r9"]), len(story.happenings), len(story.past)) == bounds
    for one in tuple(on.hub.registry.connections.values()):
        one.close(FORBIDDEN)
    assert (len(on.records.live), len(on.records.ended_stories)) == (0, 2)


def test_the_heaviest_gives_way_first_then_what_is_idle_then_what_is_quiet() -> None:
    """Down to its share; what nobody owns alone is last. Something always gives way."""
    heavy = [Held(f"heavy{number}", "h") for number in range(50)]
    idle, quiet, shared = Held("idle", "a", is_idle=True), Held("quiet", "b"), Held("shared", "")
    heaviest = [f"heavy{number}" for number in range(8)]
    assert give_way([shared, quiet, idle, *heavy], 53) == heaviest[:5]
    assert give_way([shared, *heavy[:10], idle], 100) == ["idle", "shared", *heaviest]
    assert give_way([quiet], 1) == ["quiet"]
    assert give_way([*heavy], 50) == heaviest[:5]


@pytest.mark.parametrize("stays", [True, False])
async def test_a_client_that_brings_in_thousands_of_rooms_wipes_its_own_history_alone(on: Remembering, stays: bool) -> None:
    """Whether it stays in them or leaves at once: the rooms of others are remembered, with and without members."""
    ids = [await on.say(f"r{number}") for number in range(50) if await on.enter(f"r{number}", user=f"u{number}")]
    for one in tuple(on.hub.registry.connections.values())[:25]:
        one.close(FORBIDDEN)
    for number in range(2 * records.ROOMS):
        attacker, _ = await on.enter(f"flood{number}", user="mallory")
        await on.say(f"flood{number}")
        if not stays:
            attacker.close(FORBIDDEN)
    assert len(on.records.rooms) <= records.ROOMS
    assert [on.records.publications(f"r{number}")[0].id for number in range(50)] == ids
    assert sum(one.user != "mallory" for one in on.records.ended_stories.values()) == 25


async def test_a_client_that_opens_thousands_of_connections_wipes_its_own_history_alone(
    on: Remembering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is remembered of the open connections of others stays."""
    monkeypatch.setattr(records, "LIVE", 50)
    others = [(await on.enter("r", user=f"u{number}"))[0] for number in range(20)]
    for _ in range(100):
        await on.enter("r", user="mallory")
    assert [one.id for one in others if one.id not in on.records.live] == []
    assert len(on.records.live) <= 50


async def test_a_room_in_which_others_are_is_not_charged_to_who_brought_it_in(on: Remembering) -> None:
    """It gives way as the quietest, not as one of the heaviest client's."""
    await on.enter("r", user="mallory")
    await on.say("r")
    assert on.records.rooms["r"].owner == "mallory"
    await on.enter("r", user="ann")
    assert on.records.rooms["r"].owner == ""


async def test_an_answer_about_a_user_is_bounded_and_lets_others_work_in_between(on: Remembering) -> None:
    """The newest of each connection; what was left out is counted and said."""
    rooms = [f"r{number}" for number in range(explanation.MOST_ROOMS + 20)]
    for _ in range(explanation.MOST_CONNECTIONS + 5):
        await on.enter(*rooms, "~user/u", user="u")
    for room in rooms:
        await on.say(room)
    turns = 0

    async def work() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(work())
    found = await on.explainer.explain_in_turns(user="u")
    task.cancel()
    assert turns >= explanation.MOST_CONNECTIONS
    assert len(found["connections"]) == explanation.MOST_CONNECTIONS
    one = found["connections"][-1]
    assert (len(one["deliveries"]), one["left_out"], len(one["rooms"])) == (32, len(rooms) - 32, explanation.MOST_ROOMS)
    assert one["deliveries"][0]["room"] not in rooms[: len(rooms) - 32]
    assert found["left_out"] == {"connections": 5, "deliveries": explanation.MOST_CONNECTIONS * one["left_out"]}
    assert found["answer"][0] == "5 older connections of the user are left out."
    assert " and 20 more" in found["answer"][1]
    assert found["answer"][2].startswith(f"{one['left_out']} older messages")
