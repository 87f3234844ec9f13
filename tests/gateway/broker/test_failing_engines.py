"""Real engines that die, freeze, come back empty, go deaf, or do not let us in: every kind of them alike.

The times of ``EngineOptions`` are short here; that they are kept to in every case is tested in virtual time (``test_engine``).
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.broker import Broker, EngineBroker, EngineOptions, Subscriptions, open_broker
from gateway.envelope import Envelope
from gateway.errors import BrokerUnavailable, TooBigForBroker
from gateway.message import Message
from tests.certificates import make_certificates
from tests.gateway.broker.conftest import Engines
from tests.gateway.broker.test_contract import Listener, envelope
from tests.proxies import Proxy
from tests.servers import Nats, Redis, Server

QUICK = EngineOptions(
    start_seconds=10, connect_seconds=2, subscribe_seconds=5, publish_seconds=5, close_seconds=0.3,
    retry_seconds=0.02, retry_max_seconds=0.1,
    probe_interval_seconds=0.05, probe_late_seconds=30, probe_timeout_seconds=60,
)  # fmt: skip
WATCHFUL = replace(QUICK, probe_late_seconds=0.5)
SILENT = EngineOptions(
    start_seconds=10, connect_seconds=1, subscribe_seconds=5, retry_seconds=0.02, retry_max_seconds=0.1, close_seconds=0.3,
    probe_interval_seconds=0.05, probe_late_seconds=0.4, probe_timeout_seconds=1.5,
)  # fmt: skip

WITHOUT_CLUSTER = pytest.mark.parametrize("kind", ["redis", "nats"], indirect=True)
"""A cluster names its servers itself, so that no proxy stands between; and each takes two seconds to start."""


class Node:
    """A broker on an engine, what it heard and what gaps it was told."""

    def __init__(self, url: str, options: EngineOptions = QUICK) -> None:
        broker = open_broker(url, options=options)
        assert isinstance(broker, EngineBroker)
        self.broker = broker
        self.listener = Listener()
        self.gaps: list[set[str]] = []
        broker.on_gap = self._told

    def _told(self, rooms: Collection[str]) -> None:
        self.gaps.append(set(rooms))

    async def start(self, *rooms: str) -> Node:
        await self.broker.start(self.listener)
        for room in rooms:
            await self.broker.subscribe(room)
        return self

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not is_so():
                await asyncio.sleep(0.01)

    async def until_up(self) -> None:
        await self.until(lambda: self.broker.statistics().up)

    async def until_down(self) -> None:
        await self.until(lambda: not self.broker.statistics().up)

    async def hears_itself(self, room: str) -> None:
        before = len(self.listener.got)
        await self.broker.publish(envelope(room, "hello"))
        await self.listener.wait_for(before + 1)


Make = Callable[..., Node]


@pytest.fixture
async def node() -> AsyncIterator[Make]:
    """Makes nodes and closes them."""
    made: list[Node] = []

    def make(url: str, options: EngineOptions = QUICK) -> Node:
        made.append(Node(url, options))
        return made[-1]

    yield make
    for one in made:
        await one.broker.close()


async def refused(broker: Broker) -> None:
    """Everything that needs the engine is refused at once, with a sentence and a time to come back."""
    with pytest.raises(BrokerUnavailable) as caught:
        broker.post(envelope("r"))
    assert caught.value.retry_after > 0
    for attempt in (broker.publish(envelope("r")), broker.check(), broker.subscribe("new")):
        with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1"):
            await attempt


async def test_an_engine_that_dies_and_comes_back_empty(own_engine: Server, node: Make) -> None:
    """Meanwhile all is refused; afterwards every room is heard again, and was told as a gap once."""
    one = await node(own_engine.url).start("a", "b")
    own_engine.stop()
    await one.until_down()
    await refused(one.broker)
    own_engine.start()
    await one.until_up()
    assert one.gaps == [{"a", "b"}]
    for room in "ab":
        await one.hears_itself(room)
    assert one.broker.statistics().reconnects == 1


@WITHOUT_CLUSTER
async def test_an_engine_that_freezes_for_a_while(own_engine: Server, node: Make) -> None:
    """What was on its way arrives when it goes on, in order and once; meanwhile all is refused."""
    one = await node(own_engine.url, WATCHFUL).start("r")
    own_engine.signal(signal.SIGSTOP)
    posted = 0
    try:
        while one.broker.statistics().up:
            one.broker.post(envelope("r", str(posted)))
            posted += 1
            await asyncio.sleep(0.01)
    except BrokerUnavailable:
        pass
    await refused(one.broker)
    own_engine.signal(signal.SIGCONT)
    await one.until_up()
    got = await one.listener.wait_for(posted)
    assert [message.message.data for message in got] == [str(number) for number in range(posted)]
    assert one.gaps == []


@WITHOUT_CLUSTER
async def test_a_frozen_engine_holds_up_no_teardown(own_engine: Server, node: Make) -> None:
    """Leaving rooms waits for nothing, and closing not for long."""
    one = await node(own_engine.url).start()
    subscriptions = Subscriptions(one.broker, linger_seconds=0)
    for number in range(100):
        await subscriptions.hold(f"r{number}")
    own_engine.signal(signal.SIGSTOP)
    for number in range(100):
        subscriptions.release(f"r{number}")
    async with asyncio.timeout(20):  # each waiting for the engine's answer would take minutes
        while len(subscriptions):
            await asyncio.sleep(0.01)
        await subscriptions.close()
        await one.broker.close()


@WITHOUT_CLUSTER
async def test_a_connection_that_is_cut(own_engine: Server, node: Make) -> None:
    """The engine is well and the way to it is not: again a gap, and all is as before."""
    proxy = Proxy(own_engine.port)
    await proxy.start()
    one = await node(own_engine.url_at(proxy.port)).start("r")
    other = await node(own_engine.url).start()
    proxy.cut()
    await one.until(lambda: bool(one.gaps))
    await other.broker.publish(envelope("r", "from the other"))
    await one.listener.wait_for(1)
    assert (one.gaps, other.gaps) == ([{"r"}], [])
    await proxy.stop()


@WITHOUT_CLUSTER
async def test_a_silent_death_is_found(own_engine: Server, node: Make) -> None:
    """TCP is healthy and the engine confirms what is published, but no message comes through: found, told, mended."""
    proxy = Proxy(own_engine.port)
    await proxy.start()
    one = await node(own_engine.url_at(proxy.port), SILENT).start("r")
    first_connections = proxy.connections
    proxy.to_client = lambda piece: b"" if b"message\r\n" in piece or b"MSG " in piece else piece
    await one.until_down()
    await refused(one.broker)
    await one.until(lambda: proxy.connections > first_connections)
    for _ in range(50):  # the new connection carries nothing either
        assert not one.broker.statistics().up
        await asyncio.sleep(0.01)
    assert one.gaps == []
    proxy.to_client = lambda piece: piece
    await one.until(lambda: bool(one.gaps))
    await one.until_up()
    await one.hears_itself("r")
    assert one.broker.statistics().errors["probe"] >= 1
    await proxy.stop()


@WITHOUT_CLUSTER
async def test_a_black_hole_is_left(own_engine: Server, node: Make) -> None:
    """Nothing comes and nothing goes, and nobody says so: the link is given up, and the next one is tried until it works."""
    proxy = Proxy(own_engine.port)
    await proxy.start()
    one = await node(own_engine.url_at(proxy.port), SILENT).start("r")
    proxy.open.clear()
    await one.until_down()
    await one.until(lambda: proxy.connections > 3)
    proxy.open.set()
    await one.until_up()
    await one.hears_itself("r")
    assert {frozenset(gap) for gap in one.gaps} == {frozenset("r")}
    await proxy.stop()


@WITHOUT_CLUSTER
async def test_ten_thousand_rooms_are_back_after_a_restart(own_engine: Server, node: Make) -> None:
    """In a few round trips."""
    one = await node(own_engine.url).start()
    await asyncio.gather(*(one.broker.subscribe(f"r{number}") for number in range(10_000)))
    own_engine.stop()
    await one.until_down()
    own_engine.start()
    await one.until_up()
    assert one.broker.statistics().rooms_confirmed == 10_000
    assert len(one.gaps[0]) == 10_000


# -- getting in


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        ("redis-cluster", "dead"),
        ("redis-cluster", "frozen"),
        ("redis-cluster", "of no cluster"),
        ("nats", "dead"),
        ("nats", "frozen"),
    ],
    indirect=["kind"],
)
async def test_any_host_of_several_lets_in(own_engine: Server, first: str, tmp_path: Path, node: Make) -> None:
    """Whatever the others do, whichever is tried first."""
    other = Redis(tmp_path, cluster=True)
    other.start_without_slots()
    try:
        if first == "dead":
            other.stop()
        elif first == "frozen":
            other.signal(signal.SIGSTOP)
        url = f"{own_engine.scheme}://127.0.0.1:{other.port},127.0.0.1:{own_engine.port}"
        for _ in range(3):  # which of them comes first is left to chance
            one = await node(url, replace(QUICK, connect_seconds=3, start_seconds=3)).start("r")
            await one.hears_itself("r")
    finally:
        other.stop()


@pytest.mark.parametrize(
    ("kind", "options", "right", "wrong"),
    [
        (Redis, ("--requirepass", "s3cret"), ":s3cret", ":wr0ng"),
        (Redis, ("--user", "me on >s3cret allchannels allcommands"), "me:s3cret", "me:wr0ng"),
        (Nats, ("--user", "me", "--pass", "s3cret"), "me:s3cret", "me:wr0ng"),
        (Nats, ("--auth", "s3cret"), "s3cret", "wr0ng"),
    ],
)
async def test_credentials_let_in_and_stay_secret(
    kind: Any, options: tuple[str, ...], right: str, wrong: str, tmp_path: Path, node: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """A password, a user or a token; wrong ones are told at once, without repeating them anywhere."""
    if "--user" in options and kind is Redis:
        options = ("--user", *options[1].split())
    server: Server = kind(tmp_path, options=options, userinfo=right)
    server.start()
    caplog.set_level(logging.DEBUG)
    try:
        one = await node(server.url).start("r")
        await one.hears_itself("r")
        with pytest.raises(BrokerUnavailable) as caught:
            await node(server.url.replace(right, wrong)).start()
    finally:
        server.stop()
    assert "127.0.0.1" in str(caught.value)
    told = str(caught.value) + caplog.text + repr(one.broker.statistics())
    assert "wr0ng" not in told
    assert "s3cret" not in told


@pytest.mark.parametrize("kind", [Redis, Nats])
async def test_tls_with_an_authority_of_ones_own(kind: Any, tmp_path: Path, node: Make) -> None:
    """Encrypted and verified; an authority that is not known is refused."""
    files = make_certificates(tmp_path)
    if kind is Redis:
        options = [
            "--tls-cert-file", files.certificate, "--tls-key-file", files.key,
            "--tls-ca-cert-file", files.authority, "--tls-auth-clients", "no",
        ]  # fmt: skip
    else:
        options = ["--tls", "--tlscert", files.certificate, "--tlskey", files.key]
    server: Server = kind(tmp_path, tls=True, options=tuple(map(str, options)))
    server.start()
    try:
        one = await node(f"{server.url}?ca={files.authority}").start("r")
        await one.hears_itself("r")
        unknown = EngineOptions(start_seconds=0.01)
        with pytest.raises(BrokerUnavailable, match=r"(?i)certificate"):
            await node(server.url, unknown).start()
    finally:
        server.stop()


async def test_tls_is_not_given_up_when_the_server_has_none(tmp_path: Path, node: Make) -> None:
    """NATS says in clear text whether it encrypts; a password does not go out when it does not."""
    server = Nats(tmp_path, options=("--user", "me", "--pass", "s3cret"))
    server.start()
    try:
        with pytest.raises(BrokerUnavailable, match="does not offer TLS"):
            await node(f"tls://me:s3cret@127.0.0.1:{server.port}").start()
    finally:
        server.stop()


# -- what only one kind does


async def test_nats_names_the_limit_of_its_messages(tmp_path: Path, node: Make) -> None:
    """A message beyond ``max_payload`` is an error that says what to change; the connection stays."""
    (tmp_path / "nats.conf").write_text("max_payload: 2000\n")
    server = Nats(tmp_path, options=("-c", str(tmp_path / "nats.conf")))
    server.start()
    try:
        one = await node(server.url).start("r")
        with pytest.raises(TooBigForBroker, match="2000 bytes"):
            await one.broker.publish(envelope("r", "x" * 2000))
        await one.hears_itself("r")
    finally:
        server.stop()


async def test_nats_cuts_off_who_reads_too_slowly_and_that_is_a_gap(tmp_path: Path, node: Make) -> None:
    """Its server closes the connection of a slow consumer: found, told, mended."""
    (tmp_path / "nats.conf").write_text('max_pending: 100000\nmax_payload: 50000\nwrite_deadline: "0.3s"\n')
    server = Nats(tmp_path, options=("-c", str(tmp_path / "nats.conf")))
    server.start()
    proxy = Proxy(server.port)
    await proxy.start()
    try:
        slow = await node(server.url_at(proxy.port)).start("r")
        talker = await node(server.url).start()
        proxy.open.clear()
        for _ in range(500):
            await talker.broker.publish(envelope("r", "x" * 40_000))
        proxy.open.set()
        await slow.until(lambda: bool(slow.gaps))
        await slow.until_up()
        await slow.hears_itself("r")
        assert slow.gaps[0] == {"r"}
        await proxy.stop()
    finally:
        server.stop()


async def test_redis_cuts_off_its_subscriber_and_that_is_a_gap(tmp_path: Path, node: Make) -> None:
    """As it does with one that reads too slowly (``client-output-buffer-limit pubsub``)."""
    server = Redis(tmp_path)
    server.start()
    try:
        one = await node(server.url).start("r")
        server.ask("CLIENT KILL TYPE pubsub")
        await one.until(lambda: bool(one.gaps))
        await one.hears_itself("r")
        assert one.gaps == [{"r"}]
    finally:
        server.stop()


async def test_replies_of_redis_that_are_lost_on_the_way_end_the_connection(engines: Engines, node: Make) -> None:
    """Each later one would confirm what it does not mean."""
    server = engines("redis")
    proxy = Proxy(server.port)
    await proxy.start()
    one = await node(f"{server.url_at(proxy.port)}?prefix=replies", QUICK).start("r")
    as_it_is = proxy.to_client

    def drop_one(piece: bytes) -> bytes:
        if piece != b":1\r\n":
            return piece
        proxy.to_client = as_it_is
        return b""

    proxy.to_client = drop_one
    one.broker.post(envelope("r"))
    await one.until(lambda: one.broker.statistics().reconnects == 1)
    await one.hears_itself("r")
    assert {"r"} in one.gaps
    await proxy.stop()


async def test_a_master_that_is_demoted_is_left(tmp_path: Path, node: Make) -> None:
    """What is published at a replica reaches nobody else: the link is lost, and no link is made until there is a master."""
    server = Redis(tmp_path)
    server.start()
    try:
        one = await node(server.url).start("r")
        server.ask("REPLICAOF 127.0.0.1 1")
        await one.until_down()
        with pytest.raises(BrokerUnavailable, match="replica"):
            await node(server.url, EngineOptions(start_seconds=0.01)).start()
        server.ask("REPLICAOF NO ONE")
        await one.until_up()
        await one.hears_itself("r")
        assert one.gaps == [{"r"}]
    finally:
        server.stop()


async def test_slots_of_a_cluster_that_move_are_followed(tmp_path: Path, node: Make) -> None:
    """Two servers; half of the slots go from one to the other: every room is heard again where it lives now."""
    first, second = Redis(tmp_path, cluster=True), Redis(tmp_path, cluster=True)
    first.start()
    second.start_without_slots()
    try:
        one = await node(first.url).start(*(f"r{number}" for number in range(20)))
        second.join(first)
        second.take_slots_of(first, 8192, 16383)
        await one.until(lambda: bool(one.gaps))
        for number in range(20):
            await one.until_up()
            await one.hears_itself(f"r{number}")
        assert {len(gap) for gap in one.gaps} == {20}
    finally:
        first.stop()
        second.stop()


async def test_a_user_who_may_not_use_a_channel_is_told(tmp_path: Path, node: Make) -> None:
    """Redis' access lists: publishing and joining there are refused, other rooms go on, whatever they are asked for with."""
    server = Redis(
        tmp_path,
        options=("--user", "me", "on", ">pw", "resetchannels", "&tidegate*:~probe*", "&tidegate*:~gaps", "&tidegate*:ok*", "+@all"),
    )
    server.start()
    try:
        one = await node(server.url.replace("//", "//me:pw@")).start("ok")
        with pytest.raises(BrokerUnavailable, match="not taken"):
            await one.broker.publish(Envelope("other", Message("x"), id="n-1", node="n"))
        await one.hears_itself("ok")
        joined = [one.broker.subscribe(room) for room in ("ok 1", "secret", "ok 2")]
        refused = await asyncio.gather(*joined, return_exceptions=True)
        assert [type(answer) for answer in refused] == [type(None), BrokerUnavailable, type(None)]
        for room in ("ok 1", "ok", "ok 2"):
            await one.hears_itself(room)
        statistics = one.broker.statistics()
        assert (one.gaps, statistics.reconnects, statistics.rooms, statistics.errors["subscribe"]) == ([], 0, 3, 1)
    finally:
        server.stop()
