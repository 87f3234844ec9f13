"""What NATS does not allow it says to nobody in particular: the call succeeds, and the answer comes behind it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.broker import EngineBroker, open_broker
from gateway.envelope import Envelope
from gateway.message import Message
from tests.servers import Nats

RIGHTS = 'authorization {{users: [{{user: me, password: pw, permissions: {{{kind}: {{deny: ["tidegate.secret"]}}}}}}]}}'


@pytest.mark.parametrize("kind", ["publish", "subscribe"])
async def test_a_refusal_is_counted_logged_and_told(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Never silent; and other rooms go on."""
    (tmp_path / "nats.conf").write_text(RIGHTS.format(kind=kind))
    server = Nats(tmp_path, options=("-c", str(tmp_path / "nats.conf")))
    server.start()
    heard: asyncio.Queue[Envelope] = asyncio.Queue()
    gaps: asyncio.Queue[set[str]] = asyncio.Queue()
    broker = open_broker(server.url.replace("//", "//me:pw@"))
    assert isinstance(broker, EngineBroker)
    broker.on_gap = lambda rooms: gaps.put_nowait(set(rooms))
    try:
        await broker.start(heard.put_nowait)
        await broker.subscribe("open")
        if kind == "publish":
            await broker.publish(Envelope("secret", Message("x"), id="n-1", node="n"))
        else:
            await broker.subscribe("secret")
        async with asyncio.timeout(10):
            assert "open" in await gaps.get()
            await broker.publish(Envelope("open", Message("y"), id="n-2", node="n"))
            assert (await heard.get()).id == "n-2"
        assert broker.statistics().errors["receive"] == 1
        assert "permissions violation" in caplog.text.lower()
        assert "pw" not in caplog.text
    finally:
        await broker.close()
        server.stop()
