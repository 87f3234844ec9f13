"""An application is told of gaps: one telling at a time, whatever it does."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import pytest

from gateway.broker import EngineBroker, GapTeller
from gateway.hub import Hub
from gateway.server import WebSocketServer
from tests.gateway.broker.engines import FakeEngine
from tests.gateway.broker.test_engine import OPTIONS
from tests.gateway.connections import frame_connection
from tests.middleware.virtual_time import run_virtual


async def test_gaps_that_come_while_one_is_told_are_told_together() -> None:
    """However often the engine comes and goes, there is one task."""
    gate = asyncio.Event()
    told: list[set[str]] = []

    async def on_gap(rooms: Collection[str]) -> None:
        told.append(set(rooms))
        await gate.wait()

    teller = GapTeller(on_gap, pause_seconds=0)
    tasks = len(asyncio.all_tasks())
    for number in range(100):
        teller({f"r{number}", "always"})
        await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == tasks + 1
    gate.set()
    await asyncio.sleep(0.01)
    assert told == [{"r0", "always"}, {f"r{number}" for number in range(1, 100)} | {"always"}]


async def test_a_plain_function_is_as_good_and_its_failing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The next gap is told all the same."""
    told: list[Collection[str]] = []

    def on_gap(rooms: Collection[str]) -> None:
        told.append(rooms)
        raise RuntimeError("a bug")

    teller = GapTeller(on_gap, pause_seconds=0)
    for _ in range(2):
        teller({"r"})
        await asyncio.sleep(0.01)
    teller(())
    await asyncio.sleep(0.01)
    assert told == [{"r"}, {"r"}]
    assert caplog.text.count("on_gap failed") == 2


async def test_what_was_not_told_by_the_end_is_not_told_after_the_next_start() -> None:
    """A gap is of the life in which it was found."""
    told: list[Collection[str]] = []
    teller = GapTeller(told.append, pause_seconds=0)
    teller({"before"})
    teller.stop()
    await asyncio.sleep(0.01)
    teller({"after"})
    await asyncio.sleep(0.01)
    assert told == [{"after"}]


def test_a_telling_that_makes_the_next_gap_is_no_storm() -> None:
    """An application may publish into the very room that loses: once a second."""

    async def run() -> None:
        told: list[Collection[str]] = []

        def on_gap(rooms: Collection[str]) -> None:
            told.append(rooms)
            teller({"r"})

        teller = GapTeller(on_gap)
        teller({"r"})
        await asyncio.sleep(9.5)
        teller.stop()
        assert len(told) == 10

    run_virtual(lambda _: run())


def test_a_server_tells_its_rooms_gap_when_they_are_live_again() -> None:
    """After the engine was away; its connections have stayed."""

    async def run() -> None:
        engine, told = FakeEngine(), []
        server = WebSocketServer(
            broker=EngineBroker(engine, OPTIONS, clock=asyncio.get_running_loop().time), node="me", on_gap=told.append
        )
        await server.start()
        connection, _ = frame_connection()
        await server.hub.hold(["r"])
        server.hub.enter(connection, ["r"])
        engine.link.events.lost("gone")
        await asyncio.sleep(30)
        assert [{room for room in rooms if room[0] != "~"} for rooms in told] == [{"r"}]
        assert connection.ending is None
        assert "r" in engine.link.rooms
        await server.stop()

    run_virtual(lambda _: run())


def test_a_hub_whose_first_rooms_cannot_be_heard_can_be_started_again() -> None:
    """A start that fails in its second half leaves no broker running."""

    async def run() -> None:
        engine = FakeEngine()
        hub = Hub(EngineBroker(engine, OPTIONS, clock=asyncio.get_running_loop().time))
        starting = asyncio.create_task(hub.start())
        while not engine.links or not engine.link.batches:
            await asyncio.sleep(0)
        engine.frozen.clear()
        starting.cancel()
        await asyncio.wait([starting])
        engine.frozen.set()
        if not hub.started:
            await hub.start()
        assert "~all" in engine.link.rooms
        await hub.stop()

    run_virtual(lambda _: run())
