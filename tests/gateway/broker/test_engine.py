"""``EngineBroker`` over an engine that does what it is told: queue, supervision, subscriptions, probes, gaps."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from gateway.broker import EngineBroker, EngineError, EngineOptions, Subscriptions
from gateway.broker.link import Events
from gateway.broker.losses import GAPS_ROOM
from gateway.envelope import Envelope
from gateway.errors import BrokerUnavailable, TooBigForBroker
from gateway.message import Message
from tests.gateway.broker.engines import FakeEngine, FakeLink
from tests.middleware.virtual_time import run_virtual

OPTIONS = EngineOptions(
    probe_interval_seconds=2, probe_late_seconds=4, probe_timeout_seconds=24, retry_seconds=1, retry_max_seconds=8
)  # fmt: skip


def envelope(room: str, payload: str = "x") -> Envelope:
    return Envelope(room, Message(payload), id="n-1", node="n")


class Node:
    """A started broker and what was told about it."""

    def __init__(self, engine: FakeEngine, options: EngineOptions = OPTIONS) -> None:
        self.engine = engine
        self.broker = EngineBroker(engine, options, clock=asyncio.get_running_loop().time)
        self.heard: list[str] = []
        self.gaps: list[Collection[str]] = []
        self.broker.on_gap = self.gaps.append

    async def start(self) -> Node:
        await self.broker.start(lambda one: self.heard.append(one.message.data))
        return self

    async def until_up(self) -> None:
        for _ in range(10_000):
            if self.broker.statistics().up:
                return
            await asyncio.sleep(0.1)
        raise AssertionError("it did not come up")


def play(scene: Callable[[Node], Coroutine[Any, Any, None]], options: EngineOptions = OPTIONS) -> None:
    """Run ``scene`` with a started broker, in virtual time."""

    async def run() -> None:
        node = await Node(FakeEngine(), options).start()
        try:
            await scene(node)
        finally:
            node.engine.frozen.set()
            await node.broker.close()

    run_virtual(lambda _: run())


# -- publishing


def test_what_is_published_in_one_turn_is_one_write() -> None:
    """And what follows while writes are under way is one more."""

    async def scene(node: Node) -> None:
        node.engine.frozen.clear()
        await asyncio.sleep(0.01)
        before = len(node.engine.link.batches)
        for turn in range(8):
            for number in range(10):
                node.broker.post(envelope("r", f"{turn} {number}"))
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert [len(batch) for batch in node.engine.link.batches[before:]] == [10] * OPTIONS.batches
        node.engine.frozen.set()
        await asyncio.sleep(0.01)
        assert sum(len(batch) for batch in node.engine.link.batches[before:]) == 80

    play(scene, replace(OPTIONS, probe_interval_seconds=1000, probe_late_seconds=1000, probe_timeout_seconds=2000))


@pytest.mark.parametrize("bound", ["max_queue_messages", "max_queue_bytes"])
def test_the_queue_of_publications_is_bounded(bound: str) -> None:
    """When the engine does not answer, so many are taken and no more; afterwards there is room again."""

    async def scene(node: Node) -> None:
        await asyncio.sleep(0.5)
        node.engine.frozen.clear()
        taken = 0
        with pytest.raises(BrokerUnavailable, match="wait for the engine"):
            for _ in range(10_000):
                node.broker.post(envelope("r"))
                taken += 1
        assert taken == node.broker.statistics().queue_messages <= 100
        node.engine.frozen.set()
        await asyncio.sleep(0.01)
        assert (node.broker.statistics().queue_messages, node.broker.statistics().queue_bytes) == (0, 0)
        node.broker.post(envelope("r"))

    play(scene, replace(OPTIONS, **{bound: 100}))


def test_one_message_that_is_larger_than_the_queue_is_taken_alone() -> None:
    """A bound in bytes is no bound for the size of a message."""

    async def scene(node: Node) -> None:
        await asyncio.sleep(0.1)
        await node.broker.publish(envelope("r", "x" * 1000))

    play(scene, replace(OPTIONS, max_queue_bytes=100))


def test_what_the_engine_refuses_is_told_to_its_publisher_alone() -> None:
    """One of two; it is counted."""

    async def scene(node: Node) -> None:
        await asyncio.sleep(0.1)
        node.engine.refused = {1: "NOPERM"}
        results = await asyncio.gather(
            *(node.broker.publish(envelope("r", name)) for name in "ab"), return_exceptions=True
        )  # fmt: skip
        assert results[0] is None
        assert isinstance(results[1], BrokerUnavailable)
        assert "NOPERM" in str(results[1])
        assert node.broker.statistics().errors["publish"] == 1

    play(scene)


def test_a_message_that_the_engine_cannot_take_names_the_setting() -> None:
    """At once, and as an error that trying again does not mend."""

    async def run() -> None:
        engine = FakeEngine()
        engine.max_message_bytes = 100
        node = await Node(engine).start()
        with pytest.raises(TooBigForBroker, match=r"100 bytes.*TIDEGATE_MESSAGE__MAX_BYTES"):
            node.broker.post(envelope("r", "x" * 100))
        await node.broker.close()

    run_virtual(lambda _: run())


def test_an_engine_that_does_not_confirm_is_not_waited_for_without_end() -> None:
    """``publish`` gives up after its time."""

    async def scene(node: Node) -> None:
        node.engine.frozen.clear()
        with pytest.raises(BrokerUnavailable, match="not confirmed"):
            await node.broker.publish(envelope("r"))

    play(scene, replace(OPTIONS, publish_seconds=1))


# -- losing the engine


def test_nothing_is_taken_while_the_link_is_down() -> None:
    """From the very moment: post, publish, subscribe and check raise, with a time to come back."""

    async def scene(node: Node) -> None:
        node.engine.failing = [OSError("refused")] * 100
        node.engine.link.events.lost("the cable")
        broker = node.broker
        for attempt in (broker.publish(envelope("r")), broker.check(), broker.subscribe("r")):
            with pytest.raises(BrokerUnavailable, match="the cable") as caught:
                await attempt
            assert caught.value.retry_after > 0
        with pytest.raises(BrokerUnavailable):
            node.broker.post(envelope("r"))
        await asyncio.sleep(60)
        with pytest.raises(BrokerUnavailable, match="refused"):
            await node.broker.check()

    play(scene)


def test_what_was_under_way_is_lost_counted_and_told() -> None:
    """Nothing is sent a second time over the next link."""

    async def scene(node: Node) -> None:
        await asyncio.sleep(0.1)
        node.engine.frozen.clear()
        waiting = asyncio.create_task(node.broker.publish(envelope("r", "waited for")))
        await asyncio.sleep(0)
        for _ in range(5):
            node.broker.post(envelope("r", "posted"))
        await asyncio.sleep(0.01)
        first = node.engine.link
        first.events.lost("gone")
        with pytest.raises(BrokerUnavailable, match="lost"):
            await waiting
        node.engine.frozen.set()
        await node.until_up()
        await asyncio.sleep(1)
        assert node.broker.statistics().errors["publish"] == 6
        assert first.closed
        assert not any("r" in batch for batch in node.engine.link.batches)

    play(scene)


@pytest.mark.parametrize("call", ["publish", "subscribe", "verify"])
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("the handler is closed"),
        OSError("reset"),
        TimeoutError(110, "Connection timed out"),
        EngineError("the connection was lost"),
    ],
)
def test_whatever_a_link_raises_ends_it_and_leaves_nothing_behind(
    call: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits is told, what was taken is counted as lost, the next link carries on."""

    async def scene(node: Node) -> None:
        await asyncio.sleep(0.5)

        def raising(*_: object) -> Any:
            raise error

        monkeypatch.setattr(node.engine.link, call, raising)
        if call == "publish":
            for _ in range(10):
                node.broker.post(envelope("r"))
            with pytest.raises(BrokerUnavailable, match="lost"):
                await node.broker.publish(envelope("r"))
        elif call == "subscribe":
            with pytest.raises(BrokerUnavailable, match=r"the client failed|reset|Connection timed out|the connection was lost"):
                await node.broker.subscribe("new")
        await asyncio.sleep(OPTIONS.probe_interval_seconds)
        await node.until_up()
        statistics = node.broker.statistics()
        assert (len(node.engine.links), statistics.queue_messages, statistics.queue_bytes) == (2, 0, 0)
        assert statistics.errors["publish"] >= (11 if call == "publish" else 0)

    play(scene)


def test_every_live_room_is_subscribed_again_and_then_told_as_a_gap() -> None:
    """In batches, with one call of ``on_gap``; rooms that were given up meanwhile are not among them."""

    async def scene(node: Node) -> None:
        await asyncio.gather(*(node.broker.subscribe(f"r{number}") for number in range(250)))
        node.engine.link.events.lost("gone")
        await node.broker.unsubscribe("r0")
        assert not node.gaps
        await node.until_up()
        rooms = {f"r{number}" for number in range(1, 250)}
        assert len(node.engine.links) == 2
        assert rooms < node.engine.link.rooms
        assert max(len(batch) for batch in node.engine.link.subscribed) == 100
        assert [set(gap) for gap in node.gaps] == [rooms]
        statistics = node.broker.statistics()
        assert (statistics.reconnects, statistics.gaps, statistics.rooms, statistics.rooms_confirmed) == (1, 1, 249, 249)
        await node.broker.publish(envelope("r7", "again"))
        assert node.heard == ["again"]

    play(scene, replace(OPTIONS, batch_rooms=100))


def test_pauses_between_attempts_grow_to_a_bound_and_differ() -> None:
    """Exponential with full jitter; a node that was up for long begins with short ones again."""

    async def scene(node: Node) -> None:
        node.engine.failing = [OSError("refused")] * 60
        started = len(node.engine.attempts)
        await asyncio.sleep(10)
        node.engine.link.events.lost("gone")
        await node.until_up()
        attempts = node.engine.attempts[started:]
        pauses = [later - earlier for earlier, later in itertools.pairwise(attempts)]
        assert pauses[0] <= 2 * OPTIONS.retry_seconds + 0.1
        assert max(pauses) <= OPTIONS.retry_max_seconds + 0.1
        assert len({round(pause, 6) for pause in pauses}) > 30

    play(scene)


def test_an_engine_that_hangs_while_connecting_is_given_up() -> None:
    """An attempt has a time-out, and so has ``start``."""

    class Hanging(FakeEngine):
        async def connect(self, events: object, host: int) -> Any:
            await asyncio.Event().wait()

    async def run() -> None:
        node = Node(Hanging(), replace(OPTIONS, start_seconds=3, connect_seconds=1))
        with pytest.raises(BrokerUnavailable, match="no connection within 1 s"):
            await node.start()

    run_virtual(lambda _: run())


@pytest.mark.parametrize("shut", ["hangs", "refuses", "leads elsewhere"])
def test_a_host_that_is_shut_keeps_nobody_out(shut: str) -> None:
    """Of three, two: every attempt tries them all, within its time, whichever it begins with."""
    tried: list[int] = []

    class Several(FakeEngine):
        hosts = 3

        async def connect(self, events: Events, host: int) -> FakeLink:
            tried.append(host)
            if host == 1:
                return await super().connect(events, host)
            if shut == "hangs":
                await asyncio.Event().wait()
            raise OSError("refused") if shut == "refuses" else EngineError("not one of us", permanent=True)

    async def run() -> None:
        tried.clear()
        began = asyncio.get_running_loop().time()
        node = await Node(Several()).start()
        assert asyncio.get_running_loop().time() - began <= OPTIONS.connect_seconds
        first = tried[0]
        tried.clear()
        node.engine.link.events.lost("gone")
        await asyncio.sleep(0)
        await node.until_up()
        assert tried[0] == (first + 1) % 3
        await node.broker.close()

    for _ in range(10):
        run_virtual(lambda _: run())


@pytest.mark.parametrize("word", ["lost", "misled"])
def test_what_a_host_that_was_shut_has_told_does_not_end_the_link_of_the_next(word: str) -> None:
    """Its link may have said why it is of no use before it failed."""

    class Several(FakeEngine):
        hosts = 2

        async def connect(self, events: Events, host: int) -> FakeLink:
            if host == 0:
                getattr(events, word)("a replica")
                raise EngineError("a replica")
            return await super().connect(events, host)

    async def run() -> None:
        node = await Node(Several()).start()
        for links in range(2, 6):
            node.engine.link.events.lost("gone")
            await asyncio.sleep(0)
            await node.until_up()
            assert len(node.engine.links) == links
        await node.broker.close()

    run_virtual(lambda _: run())


@pytest.mark.parametrize(("seconds", "words"), [(120, "within 120 s"), (2.5, "within 2.5 s"), (0.2, "within 0.2 s")])
def test_how_long_was_waited_for_a_connection_is_told_in_plain_figures(seconds: float, words: str) -> None:
    """And a time-out of the system's own is told as such."""

    class Hanging(FakeEngine):
        async def connect(self, events: object, host: int) -> Any:
            if self.failing:
                raise self.failing.pop()
            await asyncio.Event().wait()

    async def run() -> None:
        for failing, told in (([], words), ([TimeoutError(110, "Connection timed out")], "Connection timed out")):
            engine = Hanging()
            engine.failing = [*failing]
            with pytest.raises(BrokerUnavailable, match=told):
                await Node(engine, replace(OPTIONS, start_seconds=0.001, connect_seconds=seconds)).start()

    run_virtual(lambda _: run())


def test_what_every_host_says_is_told() -> None:
    """And it is hopeless only when all of them are."""

    class Several(FakeEngine):
        hosts = 2

    async def run() -> None:
        engine = Several()
        engine.failing = [EngineError("wrong password", permanent=True), OSError("refused")] * 20
        began = asyncio.get_running_loop().time()
        with pytest.raises(BrokerUnavailable, match=r"wrong password; refused"):
            await Node(engine).start()
        assert asyncio.get_running_loop().time() - began >= OPTIONS.start_seconds

    run_virtual(lambda _: run())


def test_starting_tries_for_a_while_but_not_when_it_is_hopeless() -> None:
    """An engine that comes up late is waited for; a wrong password is not tried again."""

    async def run() -> None:
        engine = FakeEngine()
        engine.failing = [OSError("refused"), OSError("refused")]
        node = await Node(engine, replace(OPTIONS, start_seconds=60)).start()
        assert len(engine.attempts) == 3
        await node.broker.close()
        engine.failing = [EngineError("wrong password", permanent=True)] * 2
        with pytest.raises(BrokerUnavailable, match="wrong password"):
            await node.start()
        assert len(engine.attempts) == 4
        with pytest.raises(BrokerUnavailable, match="closed"):
            await node.broker.check()

    run_virtual(lambda _: run())


def test_a_start_that_is_called_off_leaves_nothing_running() -> None:
    """No supervisor, no link."""

    async def run() -> None:
        engine = FakeEngine()
        engine.failing = [OSError("refused")] * 1000
        starting = asyncio.create_task(Node(engine, replace(OPTIONS, start_seconds=60)).start())
        await asyncio.sleep(1)
        starting.cancel()
        await asyncio.wait([starting])
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(lambda _: run())


# -- subscriptions


def test_many_joins_share_few_round_trips() -> None:
    """What is asked for while one is under way goes with the next."""

    async def scene(node: Node) -> None:
        before = len(node.engine.link.subscribed)
        await asyncio.gather(*(node.broker.subscribe(f"r{number}") for number in range(1000)))
        assert len(node.engine.link.subscribed) - before <= 2

    play(scene)


@pytest.mark.parametrize("joins_again", [False, True])
def test_an_engine_that_is_slow_to_confirm_fails_who_joins_and_nothing_else(joins_again: bool) -> None:
    """The link stays; what is confirmed too late is given up, unless somebody wants it again by then."""

    async def scene(node: Node) -> None:
        await node.broker.subscribe("old")
        node.engine.frozen.clear()
        with pytest.raises(BrokerUnavailable, match="not confirmed"):
            await node.broker.subscribe("r")
        await node.broker.unsubscribe("old")
        again = asyncio.create_task(node.broker.subscribe("r")) if joins_again else None
        await asyncio.sleep(0.5)
        node.engine.frozen.set()
        if again is not None:
            await again
        await asyncio.sleep(0.5)
        wanted = {"r"} if joins_again else set()
        assert {room for room in node.engine.link.rooms if room[0] != "~"} == wanted
        statistics = node.broker.statistics()
        assert (statistics.rooms, statistics.rooms_confirmed, statistics.errors["subscribe"]) == (len(wanted), len(wanted), 1)
        assert (len(node.engine.links), node.gaps) == (1, [])
        await node.broker.publish(envelope("r", "heard by who is in it"))
        assert len(node.heard) == len(wanted)

    play(scene, replace(OPTIONS, subscribe_seconds=1))


def test_a_confirmation_that_never_comes_ends_the_link_as_a_probe_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although all else is well: else nobody could join any more."""

    async def scene(node: Node) -> None:
        monkeypatch.setattr(node.engine.link, "subscribe", lambda _: asyncio.Event().wait())
        with pytest.raises(BrokerUnavailable):
            await node.broker.subscribe("r")
        await asyncio.sleep(OPTIONS.probe_timeout_seconds)
        await node.until_up()
        await node.broker.subscribe("r")
        assert len(node.engine.links) == 2

    play(scene)


def test_a_room_that_the_engine_refuses_is_refused_alone() -> None:
    """To who joins it, also when it is asked for along with others; counted, and no gap."""

    async def scene(node: Node) -> None:
        node.engine.forbidden = {"secret"}
        for _ in range(2):
            results = await asyncio.gather(
                *(node.broker.subscribe(room) for room in ("a", "secret", "b")), return_exceptions=True
            )  # fmt: skip
            assert [type(result) for result in results] == [type(None), BrokerUnavailable, type(None)]
            assert "NOPERM" in str(results[1])
        statistics = node.broker.statistics()
        assert (statistics.rooms, statistics.rooms_confirmed, statistics.errors["subscribe"]) == (2, 2, 2)
        assert (len(node.engine.links), node.gaps) == (1, [])

    play(scene)


def test_a_room_that_is_refused_to_a_new_link_is_counted_and_holds_nobody_up() -> None:
    """Its members hear nothing, which is told; the others hear."""

    async def scene(node: Node) -> None:
        for room in ("a", "b"):
            await node.broker.subscribe(room)
        refused: list[Collection[str]] = []
        node.broker.on_refused = refused.append
        node.engine.forbidden = {"a"}
        node.engine.link.events.lost("gone")
        await asyncio.sleep(0)
        await node.until_up()
        assert refused == [["a"]]
        await node.broker.publish(envelope("b", "heard"))
        statistics = node.broker.statistics()
        assert (statistics.rooms, statistics.rooms_confirmed, statistics.errors["subscribe"]) == (2, 1, 1)
        assert (node.heard, [set(gap) for gap in node.gaps]) == (["heard"], [{"a", "b"}])

    play(scene)


@pytest.mark.parametrize("somebody_asks", ["not", "before", "meanwhile"])
def test_a_room_that_was_refused_for_a_while_is_heard_by_its_members_afterwards(somebody_asks: str) -> None:
    """Each new link is asked for it, whatever has become of who wanted to join while it was refused."""

    async def scene(node: Node) -> None:
        await node.broker.subscribe("r")
        node.engine.forbidden = {"r"}
        for _ in range(2):
            node.engine.link.events.lost("gone")
            await asyncio.sleep(0)
            await node.until_up()
            if somebody_asks == "before":
                with pytest.raises(BrokerUnavailable, match="NOPERM"):
                    await node.broker.subscribe("r")
        if somebody_asks == "meanwhile":
            node.engine.frozen.clear()
            asking = asyncio.create_task(node.broker.subscribe("r"))
            await asyncio.sleep(0.1)
        node.engine.forbidden = set()
        node.engine.link.events.lost("gone")
        if somebody_asks == "meanwhile":
            with pytest.raises(BrokerUnavailable, match="gone"):
                await asking
        node.engine.frozen.set()
        await asyncio.sleep(0)
        await node.until_up()
        await node.broker.publish(envelope("r", "heard"))
        assert node.heard == ["heard"]
        await node.broker.unsubscribe("r")
        await asyncio.sleep(0.1)
        assert node.broker.statistics().rooms == 0

    play(scene)


def test_who_joins_a_room_that_was_refused_to_a_new_link_is_told_so() -> None:
    """Although it has members here: the engine is asked again, and when it allows the room, its members hear, too."""

    async def scene(node: Node) -> None:
        subscriptions = Subscriptions(node.broker, linger_seconds=1)
        await subscriptions.hold("r")
        node.engine.forbidden = {"r"}
        node.engine.link.events.lost("gone")
        await asyncio.sleep(0)
        await node.until_up()
        assert not subscriptions.hold_now("r")
        with pytest.raises(BrokerUnavailable, match="NOPERM"):
            await subscriptions.hold("r")
        assert subscriptions.rooms == ["r"]
        node.engine.forbidden = set()
        await subscriptions.hold("r")
        assert subscriptions.hold_now("r")
        await node.broker.publish(envelope("r", "heard"))
        assert node.heard == ["heard"]
        for _ in range(3):
            subscriptions.release("r")
        await asyncio.sleep(2)
        assert (len(subscriptions), node.broker.statistics().rooms) == (0, 0)
        await subscriptions.close()

    play(scene)


def test_a_link_that_refuses_our_own_rooms_is_of_no_use() -> None:
    """Nothing could be known without probes; the reason is told."""

    async def run() -> None:
        engine = FakeEngine()
        node = Node(engine)
        engine.forbidden = {GAPS_ROOM}
        with pytest.raises(BrokerUnavailable, match="NOPERM"):
            await node.start()

    run_virtual(lambda _: run())


def test_an_engine_that_freezes_while_somebody_joins_and_leaves_loses_nothing() -> None:
    """For longer than a join waits, and shorter than a probe does."""

    async def scene(node: Node) -> None:
        await node.broker.subscribe("r")
        await node.broker.subscribe("left")
        node.engine.frozen.clear()
        node.broker.post(envelope("r", "taken before"))
        await node.broker.unsubscribe("left")
        with pytest.raises(BrokerUnavailable):
            await node.broker.subscribe("joined")
        await asyncio.sleep(OPTIONS.probe_timeout_seconds - OPTIONS.subscribe_seconds - 5)
        node.engine.frozen.set()
        await node.until_up()
        assert (node.heard, node.gaps, len(node.engine.links)) == (["taken before"], [], 1)

    play(scene)


def test_a_joiner_who_goes_away_gives_the_room_back() -> None:
    """Whether the engine has confirmed by then or not."""

    async def scene(node: Node) -> None:
        await asyncio.sleep(0.1)
        node.engine.frozen.clear()
        joining = asyncio.create_task(node.broker.subscribe("r"))
        await asyncio.sleep(0.1)
        joining.cancel()
        await asyncio.wait([joining])
        node.engine.frozen.set()
        await asyncio.sleep(0.1)
        assert "r" not in node.engine.link.rooms
        assert node.engine.link.unsubscribed == [["r"]]

    play(scene)


# -- probes


def test_an_engine_that_freezes_is_not_usable_and_recovers_without_a_gap() -> None:
    """Late probes make the check fail and publishing fail fast; when it goes on, all goes on, and nothing was lost."""

    async def scene(node: Node) -> None:
        await node.broker.subscribe("r")
        node.engine.frozen.clear()
        await asyncio.sleep(OPTIONS.probe_interval_seconds + OPTIONS.probe_late_seconds + 1)
        with pytest.raises(BrokerUnavailable, match="does not come back"):
            await node.broker.check()
        with pytest.raises(BrokerUnavailable):
            node.broker.post(envelope("r"))
        assert not node.broker.statistics().up
        node.engine.frozen.set()
        await asyncio.sleep(1)
        await node.broker.publish(envelope("r", "after"))
        assert (node.heard, node.gaps, len(node.engine.links)) == (["after"], [], 1)
        assert node.broker.statistics().errors["probe"] == 1

    play(scene)


def test_a_silent_death_is_found_and_the_link_made_anew() -> None:
    """Everything is confirmed, and nothing arrives: within the time of a probe."""

    async def scene(node: Node) -> None:
        await node.broker.subscribe("r")
        await asyncio.sleep(5)
        node.engine.deaf = True
        await asyncio.sleep(OPTIONS.probe_interval_seconds + OPTIONS.probe_late_seconds + 1)
        with pytest.raises(BrokerUnavailable):
            await node.broker.check()
        await asyncio.sleep(OPTIONS.probe_timeout_seconds - OPTIONS.probe_late_seconds)
        node.engine.deaf = False
        await node.until_up()
        assert len(node.engine.links) == 2
        assert [set(gap) for gap in node.gaps] == [{"r"}]

    play(scene)


def test_a_new_link_is_usable_when_its_first_probes_are_back() -> None:
    """However many links stay deaf: never up meanwhile, nobody is told that rooms are live; then once."""

    async def scene(node: Node) -> None:
        await node.broker.subscribe("r")
        node.engine.deaf = True
        await asyncio.sleep(OPTIONS.probe_interval_seconds + OPTIONS.probe_late_seconds + 1)
        for _ in range(100):
            assert not node.broker.statistics().up
            with pytest.raises(BrokerUnavailable, match=r"come back|connect"):
                await node.broker.check()
            await asyncio.sleep(1)
        assert len(node.engine.links) > 3
        assert (node.gaps, node.broker.statistics().reconnects) == ([], 0)
        node.engine.deaf = False
        await node.until_up()
        assert [set(gap) for gap in node.gaps] == [{"r"}]

    play(scene)


def test_many_rooms_may_take_longer_together_than_a_probe_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch is confirmed in time: one link, never up before all are, and then what is published comes back."""
    subscribe = FakeLink.subscribe

    async def slow(link: FakeLink, rooms: Sequence[str]) -> Mapping[str, str]:
        await asyncio.sleep(OPTIONS.probe_late_seconds / 2)
        return await subscribe(link, rooms)

    async def scene(node: Node) -> None:
        await asyncio.gather(*(node.broker.subscribe(f"r{number}") for number in range(100)))
        monkeypatch.setattr(FakeLink, "subscribe", slow)
        node.engine.link.events.lost("gone")
        await asyncio.sleep(2 * OPTIONS.probe_timeout_seconds - OPTIONS.retry_seconds)
        with pytest.raises(BrokerUnavailable, match="being subscribed to"):
            await node.broker.check()
        await node.until_up()
        assert (len(node.engine.links), node.broker.statistics().rooms_confirmed) == (2, 100)

    play(scene, replace(OPTIONS, batch_rooms=4))


def test_an_engine_that_is_deaf_from_the_start_is_not_waited_for_long() -> None:
    """Until its first probes are late, and with that reason."""

    async def run() -> None:
        engine = FakeEngine()
        engine.deaf = True
        began = asyncio.get_running_loop().time()
        with pytest.raises(BrokerUnavailable, match="does not come back"):
            await Node(engine).start()
        assert asyncio.get_running_loop().time() - began < OPTIONS.start_seconds + 1

    run_virtual(lambda _: run())


def test_one_deaf_path_of_two_is_enough() -> None:
    """A server of a cluster that carries nothing makes the rooms on it deaf."""

    async def scene(node: Node) -> None:
        node.engine.deaf_paths = ("/b",)
        node.engine.link.events.lost("gone")
        await asyncio.sleep(60)
        assert not node.broker.statistics().up
        node.engine.deaf_paths = ()
        await node.until_up()

    play(scene)


def test_a_loss_in_between_is_a_gap_although_the_link_goes_on() -> None:
    """A probe that did not arrive before the next one that did."""

    async def scene(node: Node) -> None:
        await node.broker.subscribe("r")
        await asyncio.sleep(5)
        node.engine.deaf = True
        await asyncio.sleep(OPTIONS.probe_interval_seconds)
        node.engine.deaf = False
        await asyncio.sleep(OPTIONS.probe_interval_seconds)
        assert {frozenset(gap) for gap in node.gaps} == {frozenset({"r"})}
        assert len(node.engine.links) == 1
        await node.broker.check()

    play(scene)


def test_every_path_is_probed_and_the_link_is_asked_for_its_right_to_be() -> None:
    """Two paths, one interval."""

    async def scene(node: Node) -> None:
        await asyncio.sleep(10 * OPTIONS.probe_interval_seconds + 0.5)
        probes = [room for batch in node.engine.link.batches for room in batch]
        assert {room.rpartition("/")[2] for room in probes} == {"a", "b"}
        assert 18 <= len(probes) <= 24
        assert 9 <= node.engine.link.verified <= 12

    play(scene)


# -- receiving


def test_what_is_no_envelope_is_counted_and_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever else publishes there; a probe that was never sent counts as such."""

    async def scene(node: Node) -> None:
        await node.broker.subscribe("r")
        received, probe_room = node.engine.link.events.received, node.engine.link.probe_rooms(node.broker._probes.stem)[0]
        for junk in (b"", b"junk", envelope(probe_room, "7").encode(), envelope(probe_room, "x").encode()):
            received(junk)
        received(envelope("elsewhere").encode())
        received(envelope("r", "good").encode())
        assert node.heard == ["good"]
        assert node.broker.statistics().errors["receive"] == 4

    with caplog.at_level(logging.WARNING, "tidegate.broker"):
        play(scene)
    assert len(caplog.records) == 1  # a flood of junk is not a flood of lines


def test_a_delivery_that_raises_does_not_stop_the_next(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged and counted."""

    async def run() -> None:
        engine = FakeEngine()
        broker = EngineBroker(engine, OPTIONS)
        heard: list[str] = []

        def deliver(one: Envelope) -> None:
            if one.message.data == "bad":
                raise RuntimeError("a bug")
            heard.append(one.message.data)  # type: ignore[arg-type]

        await broker.start(deliver)
        await broker.subscribe("r")
        for word in ("bad", "good"):
            await broker.publish(envelope("r", word))
        assert heard == ["good"]
        assert broker.statistics().errors["receive"] == 1
        await broker.close()

    run_virtual(lambda _: run())
    assert "could not be delivered" in caplog.text


def test_times_are_told_to_whoever_observes() -> None:
    """How long the engine took, and how old a message is when it arrives; never less than nothing."""

    async def scene(node: Node) -> None:
        published: list[float] = []
        lags: list[float] = []
        node.broker.on_publish_seconds, node.broker.on_lag_seconds = published.append, lags.append
        await node.broker.subscribe("r")
        await node.broker.publish(envelope("r"))
        await node.broker.publish(Envelope("r", Message("x"), id="n-2", node="n", published_at=4e9))
        assert len(published) >= 2
        assert len(lags) == 2
        assert lags[1] == 0
        assert node.broker.statistics().publish_seconds >= 0

    play(scene)


@pytest.mark.parametrize("wrong", [{"connect_seconds": 0}, {"batches": 0}, {"probe_late_seconds": 60}])
def test_options_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    """With the name of the option."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EngineOptions(**wrong)
