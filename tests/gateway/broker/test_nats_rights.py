"""What NATS does not allow it says to nobody in particular: the command succeeds, and the answer comes behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.broker import BrokerStatistics
from gateway.errors import BrokerUnavailable
from tests.gateway.broker.test_contract import envelope
from tests.gateway.broker.test_failing_engines import Make, Node, node
from tests.servers import Nats

__all__ = ["node"]

RIGHTS = 'authorization {{users: [{{user: me, password: pw, permissions: {{{kind}: {{deny: ["tidegate.Secret"]}}}}}}]}}'


@pytest.fixture
async def one(request: pytest.FixtureRequest, tmp_path: Path, node: Make) -> AsyncIterator[Node]:
    """A node that hears ``open`` and may not do one thing in ``Secret``."""
    (tmp_path / "nats.conf").write_text(RIGHTS.format(kind=request.param))
    server = Nats(tmp_path, options=("-c", str(tmp_path / "nats.conf")))
    server.start()
    yield await node(server.url.replace("//", "//me:pw@")).start("open")
    server.stop()


async def well(one: Node) -> BrokerStatistics:
    """Nothing but what was refused has suffered."""
    await one.hears_itself("open")
    statistics = one.broker.statistics()
    assert (one.gaps, statistics.reconnects, statistics.errors["receive"]) == ([], 0, 0)
    return statistics


@pytest.mark.parametrize("one", ["publish"], indirect=True)
async def test_a_publication_that_is_refused_is_told_to_its_publisher_alone(one: Node, caplog: pytest.LogCaptureFixture) -> None:
    """In one write with others; it is counted and logged, and no gap: an ``on_gap`` that publishes there would make the next."""
    rooms = ["open", "Secret", "open", "Secret"]
    results = await asyncio.gather(*(one.broker.publish(envelope(room)) for room in rooms), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), BrokerUnavailable] * 2
    one.broker.post(envelope("Secret"))
    await one.hears_itself("open")
    assert (await well(one)).errors["publish"] == 3
    assert "permissions violation" in caplog.text.lower()
    assert "pw" not in caplog.text


@pytest.mark.parametrize("one", ["subscribe"], indirect=True)
async def test_a_room_that_may_not_be_heard_is_refused_to_who_joins_it(one: Node, caplog: pytest.LogCaptureFixture) -> None:
    """Each time, and to nobody else."""
    for _ in range(2):
        results = await asyncio.gather(*map(one.broker.subscribe, ("a", "Secret", "b")), return_exceptions=True)
        assert [type(result) for result in results] == [type(None), BrokerUnavailable, type(None)]
    for room in ("a", "b"):
        await one.hears_itself(room)
    statistics = await well(one)
    assert (statistics.errors["subscribe"], statistics.rooms, statistics.rooms_confirmed) == (2, 3, 3)
    assert "permissions violation" in caplog.text.lower()
