"""The ledger of a real gateway, asked all the time while clients read slowly, reset, vanish, are thrown out and are drained."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.gateway_process import GatewayProcess, running
from tests.integration.raw_client import RawClient, frame

PADDING = b"x" * 20_000
PARTS = ("written_total", "buffered", "in_progress", "dropped_total", "closed_total")
_NUMBER = re.compile(rb"#(\d{6})")

Book = dict[str, Counter[str]]
"""By namespace: what became of deliveries, by the ends of the metrics' names."""


async def book_of(gateway: GatewayProcess) -> Book:
    """The ledger as one scrape shows it."""
    _, text = await gateway.get("/metrics")
    book: Book = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("tidegate_deliveries_"):
                totals = book.setdefault(sample.labels["namespace"], Counter())
                totals[sample.name.removeprefix("tidegate_deliveries_")] += int(sample.value)
                if "reason" in sample.labels:
                    totals[sample.labels["reason"]] += int(sample.value)
    return book


def balances(book: Book) -> bool:
    return all(
        totals["unaccounted"] == 0 and totals["expected_total"] == sum(totals[part] for part in PARTS) for totals in book.values()
    )


class Auditor:
    """Scrapes without a pause; every scrape has to balance."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._gateway = gateway
        self.books: list[Book] = []

    async def run(self) -> None:
        while True:
            book = await book_of(self._gateway)
            assert balances(book), book
            self.books.append(book)
            await asyncio.sleep(0.01)


@asynccontextmanager
async def audited(gateway: GatewayProcess) -> AsyncIterator[Auditor]:
    auditor = Auditor(gateway)
    task = asyncio.create_task(auditor.run())
    try:
        yield auditor
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.wait((task,))
    assert auditor.books


class Listener(RawClient):
    """A member that reads when it is told to, and counts."""

    reading: asyncio.Task[None] | None = None

    def begin(self) -> asyncio.Task[None]:
        """Read everything, up to the end of the stream."""

        async def read() -> None:
            await self.receive_all()

        self.reading = asyncio.create_task(read())
        return self.reading

    def numbers(self) -> list[int]:
        """The numbers of the messages that came whole; of a stream that was cut the last one may not have."""
        found = [(int(match[1]), match.end()) for match in _NUMBER.finditer(self.received)]
        return [number for number, end in found if end + len(PADDING) <= len(self.received)]

    def has(self, number: int) -> bool:
        """True when it has message ``number``, or there will be nothing more."""
        assert self.reading is not None
        return self.reading.done() or self.received.rfind(b"#%06d" % number) >= 0


class Crowd:
    """Clients of a gateway; all sockets are closed in the end."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._gateway = gateway
        self._clients: list[Listener] = []

    async def __aenter__(self) -> Crowd:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            if client.reading is not None:
                client.reading.cancel()
                await asyncio.wait((client.reading,))
            client.sock.close()

    async def member(self, *, reads: bool = False) -> Listener:
        """One that reads all the time, or has a small buffer and does not read by itself."""
        client = Listener(self._gateway.public, receive_buffer_bytes=None if reads else 4096)
        self._clients.append(client)
        await client.connect()
        assert await client.shake_hands("/ws/chat:a") == 101
        client.received = bytearray(client.received)  # type: ignore[assignment]  # megabytes are added to it
        if reads:
            client.begin()
        return client


async def settled(gateway: GatewayProcess) -> Counter[str]:
    """What became of the messages of namespace chat, when nothing is under way any more."""
    async with asyncio.timeout(20):
        while True:
            chat = (await book_of(gateway))["chat"]
            if not chat["buffered"] and not chat["in_progress"]:
                return chat
            await asyncio.sleep(0.02)


async def publish(publisher: Listener, count: int, quick: list[Listener]) -> None:
    """As a client of the room that does not hear itself, no faster than ``quick`` read."""
    for number in range(count):
        await publisher.send(frame(b"#%06d" % number + PADDING))
        while number % 5 == 4 and not all(client.has(number - 4) for client in quick):
            await asyncio.sleep(0.002)
    publisher.finish()
    await publisher.receive_all()


@pytest.mark.parametrize("policy", ["drop", "latest"])
async def test_written_is_what_the_clients_have_counted(policy: str) -> None:
    """To the last message, with members that read nothing for a while: what was not written was dropped for its reason."""
    count, reading = 400, 3
    settings = {
        "NAMESPACES": "chat",
        "OUTBOX__POLICY": policy,
        "OUTBOX__MAX_BYTES": "65536",
        "TELEMETRY__CONFIRMS_PER_SECOND": "50",
    }
    async with running(**settings) as gateway, audited(gateway), Crowd(gateway) as crowd:
        quick = [await crowd.member(reads=True) for _ in range(reading)]
        slow = [await crowd.member() for _ in range(2)]
        await publish(await crowd.member(), count, quick)
        while (await book_of(gateway))["chat"]["expected_total"] < count * (reading + 2):
            await asyncio.sleep(0.02)
        tasks = [client.begin() for client in slow]
        chat = await settled(gateway)
        _, room = await gateway.get("/api/rooms/chat:a")
        for connection in room["connections"]:
            assert (await gateway.request("DELETE", f"/api/connections/{connection}"))[0] < 300
        await asyncio.wait_for(asyncio.gather(*tasks), 60)
        assert [client.numbers() for client in quick] == [list(range(count))] * reading
        heard = [client.numbers() for client in slow]
        assert all(one == sorted(set(one)) and len(one) < count for one in heard)
        assert chat["written_total"] == count * reading + sum(len(one) for one in heard)
        assert chat["slow-consumer"] + chat["replaced"] == chat["dropped_total"] > 0
        if policy == "latest":
            assert [one[-1] for one in heard] == [count - 1] * 2


async def test_whoever_goes_and_however_it_balances_all_the_time() -> None:
    """Resets, FINs, closes, orders to close and full outboxes in the middle of traffic; who stays has got everything."""
    count, chance = 300, random.Random(5)  # 6 MB: more than a kernel buffers for who does not read (tcp_wmem: 4 MB)
    settings = {"NAMESPACES": "chat", "OUTBOX__MAX_BYTES": "65536", "DRAIN__ABORT_AFTER_SECONDS": "0.5"}
    async with running(**settings) as gateway, audited(gateway) as auditor, Crowd(gateway) as crowd:
        quick = [await crowd.member(reads=True) for _ in range(3)]
        stuck = [await crowd.member() for _ in range(2)]  # they do not read
        publisher = await crowd.member()
        _, room = await gateway.get("/api/rooms/chat:a")
        staying = frozenset(room["connections"])
        assert len(staying) == 6
        over = asyncio.Event()

        async def come_and_go(number: int) -> None:
            while not over.is_set():
                client = await crowd.member()
                for _ in range(chance.randrange(4)):
                    await client.receive()
                await asyncio.sleep(chance.random() * 0.1)
                match number % 4:
                    case 0:
                        client.reset()
                    case 1:
                        client.finish()
                    case 2:
                        await client.send(frame(b"", 8))
                    case _:  # does not read: its outbox fills, or somebody is ordered to go
                        _, room = await gateway.get("/api/rooms/chat:a")
                        await asyncio.sleep(0.05)
                        for connection in [one for one in room["connections"] if one not in staying][-1:]:  # there may be none
                            await gateway.request("DELETE", f"/api/connections/{connection}")
                client.sock.close()

        comers = [asyncio.create_task(come_and_go(number)) for number in range(7)]
        await publish(publisher, count, quick)
        over.set()
        await asyncio.gather(*comers)
        for client in stuck:
            client.reset()
        chat = await settled(gateway)
        while not all(client.has(count - 1) for client in quick):
            await asyncio.sleep(0.01)
        assert [client.numbers() for client in quick] == [list(range(count))] * 3
        assert 3 * count <= chat["written_total"] < chat["expected_total"]
        assert chat["unsent"] + chat["slow-consumer"] + chat["closed_total"] > 0
        assert len(auditor.books) > 5


async def test_a_drain_balances_until_the_process_is_gone() -> None:
    """Members that read, and members whose outboxes are full, are closed one after the other while messages come."""
    settings = {
        "NAMESPACES": "chat", "OUTBOX__MAX_BYTES": "65536", "OUTBOX__POLICY": "drop", "DRAIN__PERIOD_SECONDS": "1",
        "DRAIN__ABORT_AFTER_SECONDS": "0.5",
    }  # fmt: skip
    async with running(**settings) as gateway, Crowd(gateway) as crowd:
        quick = [await crowd.member(reads=True) for _ in range(6)]
        for _ in range(6):
            await crowd.member()
        publisher = await crowd.member()
        auditor = Auditor(gateway)
        auditing = asyncio.create_task(auditor.run())

        async def talk() -> None:
            with contextlib.suppress(OSError):
                for number in range(10_000):
                    await publisher.send(frame(b"#%06d" % number + PADDING))
                    await asyncio.sleep(0.01)

        talking = asyncio.create_task(talk())
        while not auditor.books or not auditor.books[-1]["chat"]["buffered"]:
            await asyncio.sleep(0.01)
            assert not auditing.done()
        assert await gateway.stop(timeout_seconds=20) == 0
        await asyncio.wait([auditing, talking, *(client.reading for client in quick if client.reading)])
        assert isinstance(auditing.exception(), OSError)  # there was nobody any more to ask
        for client in quick:
            assert (heard := client.numbers()) == sorted(set(heard))
            assert b"restarting" in client.received[-30:]
        assert len(auditor.books) > 3
