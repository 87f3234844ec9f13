"""What a link says to NATS, byte for byte: a confirmation is worth something only when it is asked for behind what it confirms."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.broker.address import Address
from gateway.broker.link import EngineError, Events
from gateway.broker.nats import NatsEngine, NatsLink

INFO = b'INFO {"server_id":"x","version":"2.9.10","proto":1,"max_payload":1048576,"headers":true}\r\n'


class _Server:
    """Notes the lines that it hears; answers a ``PING`` while it is ``open``."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.open = asyncio.Event()
        self.open.set()
        self.pings = asyncio.Semaphore(0)
        self.gone = asyncio.Event()
        self.lost: asyncio.Queue[str] = asyncio.Queue()
        """Why the link was lost, as it says."""
        self.writer: asyncio.StreamWriter

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        writer.write(INFO)
        while line := await _line(reader):
            if not line.startswith(b"CONNECT"):
                self.lines.append(line.strip())
            if line == b"PING\r\n":
                self.pings.release()
                await self.open.wait()
                writer.write(b"PONG\r\n")
        writer.close()
        self.gone.set()


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ConnectionError:  # links are not closed, they are cut
        return b""


@pytest.fixture
async def server() -> _Server:
    return _Server()


@pytest.fixture
async def link(server: _Server) -> AsyncIterator[NatsLink]:
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    made = await NatsEngine(Address.parse(f"nats://127.0.0.1:{port}")).connect(
        Events(*[lambda _: None] * 4)._replace(lost=server.lost.put_nowait), 0
    )
    server.lines.clear()
    yield made
    await made.close()
    await server.gone.wait()
    await asyncio.sleep(0)
    listener.close()


async def test_a_confirmation_is_asked_for_behind_what_it_confirms(link: NatsLink, server: _Server) -> None:
    """Else who has joined could miss what is published next, and who has published would be told too early."""
    await link.subscribe(["a", "b"])
    await link.publish([("a", b"1"), ("b", b"22")])
    await link.unsubscribe(["a"])
    assert server.lines == [
        b"SUB tidegate.a  1", b"SUB tidegate.b  2", b"PING",
        b"PUB tidegate.a 1", b"1", b"PUB tidegate.b 2", b"22", b"PING",
        b"UNSUB 1", b"PING",
    ]  # fmt: skip


async def test_who_no_longer_waits_takes_nobody_elses_confirmation(link: NatsLink, server: _Server) -> None:
    """The answer to a batch that was given up still comes, and is not the next one's."""
    server.open.clear()
    server.pings = asyncio.Semaphore(0)
    first, second = link.publish([("a", b"1")]), link.publish([("a", b"2")])
    await server.pings.acquire()
    first.cancel()
    server.open.set()
    assert await second == {}
    assert server.lines == [b"PUB tidegate.a 1", b"1", b"PING", b"PUB tidegate.a 1", b"2", b"PING"]


REVOKED = b'-ERR \'Permissions Violation for Subscription to "tidegate.a" (sid "1")\'\r\n'


async def test_a_right_that_is_taken_away_ends_the_link(link: NatsLink, server: _Server) -> None:
    """It belongs to nothing that was said just now: the room is not heard any more, and the next link is told so when it asks."""
    await link.subscribe(["a"])
    server.writer.write(REVOKED)
    async with asyncio.timeout(5):
        assert "tidegate.a" in await server.lost.get()


async def test_a_right_to_hear_that_is_taken_away_refuses_no_publication(link: NatsLink, server: _Server) -> None:
    """Although one to the same room is under way."""
    await link.subscribe(["a"])
    server.open.clear()
    server.pings = asyncio.Semaphore(0)
    answer = link.publish([("a", b"1")])
    await server.pings.acquire()
    server.writer.write(REVOKED)
    server.open.set()
    assert await answer == {}
    assert "tidegate.a" in server.lost.get_nowait()


async def test_a_closed_connection_says_so_at_once(link: NatsLink) -> None:
    """Nothing is written into a connection that is over, and nobody waits for an answer."""
    await link.close()
    with pytest.raises(EngineError):
        link.publish([("a", b"1")])
