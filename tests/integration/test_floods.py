"""One client does too much, or everybody at once: what the others notice, and whether every message is accounted for."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterable

import pytest
import websockets
from websockets.exceptions import ConnectionClosed

from tests.integration.gateway_process import GatewayProcess, hear, running
from tests.integration.raw_client import RawClient, frame


async def talk(client: websockets.ClientConnection, name: str, count: int) -> None:
    for number in range(count):
        await client.send(json.dumps([name, number]))
        await asyncio.sleep(0.001)  # let others talk, come and go


async def close_all(clients: Iterable[websockets.ClientConnection]) -> None:
    await asyncio.gather(*(client.close() for client in clients))


async def no_one_is_in(gateway: GatewayProcess) -> None:
    async with asyncio.timeout(10):
        while await gateway.metric("tidegate_registered_connections"):
            await asyncio.sleep(0.03)


async def ledger_balances(gateway: GatewayProcess) -> bool:
    """Messages times recipients are written, dropped for a reason, or met a connection that had ended."""
    parts = (f"tidegate_deliveries_{what}_total" for what in ("expected", "written", "dropped", "closed"))
    expected, *rest = await gateway.metrics(*parts)
    return expected == sum(rest)


async def test_a_flooder_is_slowed_down_and_the_others_lose_nothing() -> None:
    """By default nothing is lost, the flooder's either: it is read as slowly as its rate allows, and starts no task."""
    async with (
        running(RATE_LIMIT__MESSAGES_PER_SECOND="100", RATE_LIMIT__BURST="20") as gateway,
        RawClient(gateway.public) as flooder,
    ):
        quiet = [await gateway.connect(f"quiet-{number % 2}") for number in range(6)]
        neighbour = await gateway.connect("loud")
        assert await flooder.shake_hands("/ws/loud") == 101
        tasks = await gateway.metric("tidegate_event_loop_tasks")
        flood = asyncio.create_task(flooder.send(b"".join(frame(b"%06d" % number) for number in range(100_000))))
        for number in range(60):
            await quiet[number % 6].send(f"{number}")
            others = [client for index, client in enumerate(quiet) if index % 2 == number % 2 and index != number % 6]
            for client in others:
                assert await hear(client, 1) == [f"{number}"]
        assert await hear(neighbour, 40) == [f"{number:06}" for number in range(40)]
        assert await gateway.metric("tidegate_rate_limit_delay_seconds_count") > 0
        assert await gateway.metric("tidegate_event_loop_tasks") <= tasks + 1
        assert (await gateway.get("/readyz"))[0] == 200
        flood.cancel()
        flooder.reset()
        await asyncio.wait((flood,))
        await close_all([*quiet, neighbour])


async def test_what_a_flooder_loses_is_counted_to_the_last_message() -> None:
    """With ``drop`` the others hear exactly what was not counted as dropped, in order, and the flooder is told."""
    count = 3_000
    settings = {"RATE_LIMIT__MESSAGES_PER_SECOND": "100", "RATE_LIMIT__BURST": "20", "RATE_LIMIT__EXCEEDED": "drop"}
    async with running(**settings) as gateway, gateway.connect("loud") as neighbour, gateway.connect("loud") as flooder:
        for number in range(count):
            await flooder.send(f"{number:06}")
        await (await flooder.ping())  # all was read
        assert "rate-limited" in (await hear(flooder, 1))[0]
        dropped = await gateway.metric("tidegate_rate_limit_dropped_total")
        heard = await hear(neighbour, count - int(dropped))
        assert heard == sorted(set(heard))
        assert heard[:20] == [f"{number:06}" for number in range(20)]
        assert 0 < dropped < count
        await (await neighbour.ping())
        assert not neighbour.recv_messages.frames
        assert await ledger_balances(gateway)


async def test_a_flooder_can_be_sent_away_with_the_reason() -> None:
    """With ``close`` it ends as rate-limited after its burst, which still arrives; the others stay."""
    settings = {"RATE_LIMIT__MESSAGES_PER_SECOND": "1", "RATE_LIMIT__BURST": "20", "RATE_LIMIT__EXCEEDED": "close"}
    async with running(**settings) as gateway, gateway.connect("loud") as neighbour, gateway.connect("loud") as flooder:
        for number in range(200):
            await flooder.send(f"{number}")
        with pytest.raises(ConnectionClosed):
            await hear(flooder, 1)
        assert flooder.close_code == 1008
        assert flooder.close_reason == "rate-limited"
        assert await hear(neighbour, 20) == [f"{number}" for number in range(20)]
        assert await gateway.metric("tidegate_rate_limit_closed_total") == 1
        await (await neighbour.ping())


async def test_a_flood_of_large_messages_into_a_crowd_arrives_whole() -> None:
    """Its sender is read as fast as the room gets on; nothing is lost by it, and a neighbour is answered meanwhile."""
    count, members = 12, 20
    async with running(OUTBOX__MAX_BYTES=str(8 << 20)) as gateway, gateway.connect("loud", max_queue=None) as sender:
        crowd = [await gateway.connect("loud", max_queue=None) for _ in range(members)]
        async with gateway.connect("quiet?echo=1") as neighbour:
            hearing = [asyncio.create_task(hear(client, count)) for client in crowd]
            for number in range(count):
                await sender.send(f"{number:06}" + "x" * 400_000)
                await neighbour.send(f"{number}")
                assert await hear(neighbour, 1) == [f"{number}"]
            for heard in await asyncio.gather(*hearing):
                assert [message[:6] for message in heard] == [f"{number:06}" for number in range(count)]
        assert await ledger_balances(gateway)
        await close_all(crowd)


async def test_a_client_that_sent_too_much_is_not_taken_for_dead() -> None:
    """Its pongs queue behind its own messages, which are read slowly: the keepalive waits for what we do not read."""
    settings = {"KEEPALIVE__INTERVAL_SECONDS": "1.5", "KEEPALIVE__TIMEOUT_SECONDS": "1.5"}
    rate = {"RATE_LIMIT__MESSAGES_PER_SECOND": "30", "RATE_LIMIT__BURST": "10"}  # what it sends takes 3.7 s
    async with running(**settings, **rate) as gateway, gateway.connect("r", ping_interval=None) as hasty:
        async with gateway.connect("r", ping_interval=None) as other:
            for number in range(120):
                await hasty.send(f"{number:06}" + "x" * 4_000)
            assert [heard[:6] for heard in await hear(other, 120)] == [f"{number:06}" for number in range(120)]
            assert await gateway.metric("tidegate_closes_total") == 0
            assert await gateway.metric("tidegate_registered_connections") == 2


async def test_every_member_hears_every_sender_in_order_while_others_come_and_go() -> None:
    """A room in which everybody talks at once, with clients that join, talk, and leave in all ways meanwhile."""
    count, senders = 200, 6
    async with running() as gateway:
        members = [await gateway.connect("busy", max_queue=None) for _ in range(senders)]
        chance = random.Random(7)
        done = asyncio.Event()

        async def listen(client: websockets.ClientConnection) -> dict[str, list[int]]:
            heard: dict[str, list[int]] = {}
            async with asyncio.timeout(60):
                while sum(len(numbers) for name, numbers in heard.items() if name[0] == "m") < count * (senders - 1):
                    name, number = json.loads(await client.recv())
                    heard.setdefault(name, []).append(number)
            return heard

        async def churn(name: int) -> None:
            while not done.is_set():
                client = await gateway.connect("busy", max_queue=None)  # else its close may wait for messages to be read
                await talk(client, f"c{name}-{chance.random()}", 5)
                if chance.random() < 0.5:
                    client.transport.abort()
                await client.close()

        churning = [asyncio.create_task(churn(number)) for number in range(4)]
        listening = [asyncio.create_task(listen(client)) for client in members]
        await asyncio.gather(*(talk(client, f"m{number}", count) for number, client in enumerate(members)))
        heard_by_all = await asyncio.gather(*listening)
        done.set()
        await asyncio.gather(*churning)
        for own, heard in enumerate(heard_by_all):
            for number in range(senders):
                assert heard.pop(f"m{number}", []) == (list(range(count)) if number != own else [])
            for numbers in heard.values():
                assert numbers == list(range(len(numbers)))
        await close_all(members)
        await no_one_is_in(gateway)
        assert await ledger_balances(gateway)
        assert await gateway.metric("tidegate_deliveries_dropped_total") == 0
        assert not [event for event in gateway.log if event["level"] in ("warning", "error", "critical")]


@pytest.mark.parametrize("seed", range(2))
async def test_from_joining_to_leaving_a_member_misses_nothing_and_hears_nothing_twice(seed: int) -> None:
    """Clients join and leave rooms at random moments while numbered messages are published to all of them."""
    rooms = ["r0", "r1", "r2"]
    chance = random.Random(seed)
    async with running() as gateway:
        all_have_left = asyncio.Event()

        async def publish(room: str) -> int:
            async with gateway.connect(room) as ticker:
                number = 0
                while not all_have_left.is_set():
                    for _ in range(chance.randrange(1, 6)):
                        await ticker.send(f"{room} {number}")
                        number += 1
                    await asyncio.sleep(0.004)
                return number

        async def act() -> None:
            for _ in range(12):
                room = chance.choice(rooms)
                async with gateway.connect(room, max_queue=None) as client:
                    first: int | None = None
                    for offset in range(chance.randrange(1, 25)):
                        name, number = (await hear(client, 1))[0].split()
                        first = int(number) if first is None else first
                        assert (name, int(number)) == (room, first + offset)
                    if chance.random() < 0.3:
                        client.transport.abort()

        publishing = [asyncio.create_task(publish(room)) for room in rooms]
        endings = await asyncio.gather(*(act() for _ in range(8)), return_exceptions=True)
        all_have_left.set()
        assert min(await asyncio.gather(*publishing)) > 20
        assert endings == [None] * 8
        await no_one_is_in(gateway)
        assert await ledger_balances(gateway)
        assert await gateway.metric("tidegate_rooms") == 0


async def test_a_stop_in_the_middle_of_a_crowd_coming_in() -> None:
    """Clients connect without end while the process is told to end: it ends, with 0, and nobody caused an error."""
    async with running(DRAIN__PERIOD_SECONDS="0.3", DRAIN__ABORT_AFTER_SECONDS="0.5") as gateway:
        came = 0

        async def come(number: int) -> None:
            nonlocal came
            while gateway.process.returncode is None:
                try:
                    async with RawClient(gateway.public) as client:
                        came += await client.shake_hands(f"/ws/r{number % 3}") == 101
                        if number % 2:
                            await client.send(frame(b"hello"))
                            await client.receive()
                except OSError:
                    await asyncio.sleep(0.01)

        crowd = [asyncio.create_task(come(number)) for number in range(30)]
        async with asyncio.timeout(60):
            while came < 100:
                await asyncio.sleep(0.01)
        assert await gateway.stop() == 0
        async with asyncio.timeout(30):
            await asyncio.gather(*crowd)
        assert not [event for event in gateway.log if event["level"] in ("error", "critical") or "exception" in event]


async def test_a_client_that_is_read_slowly_and_vanishes_is_noticed() -> None:
    """While its messages are held back it is pinged all the same: a reset shows when we write."""
    settings = {"KEEPALIVE__INTERVAL_SECONDS": "0.3", "KEEPALIVE__TIMEOUT_SECONDS": "0.3", "RATE_LIMIT__MESSAGES_PER_SECOND": "1"}
    async with running(**settings) as gateway, RawClient(gateway.public) as flooder:
        assert await flooder.shake_hands("/ws/r") == 101
        try:
            async with asyncio.timeout(1):
                await flooder.send(frame(b"x" * 100) * 100_000)
        except TimeoutError:
            pass
        flooder.reset()
        await no_one_is_in(gateway)
