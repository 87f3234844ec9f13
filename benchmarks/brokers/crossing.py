"""Messages that cross from one node to the other: publishers on the first, members of their rooms on the second.

Every message carries the time at which it was sent, by the load generator's clock; whoever hears it reads it by the same clock. So
a latency is of one delivery, and a message that is lost disturbs no other's.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from time import perf_counter_ns

from picows import WSFrame, WSMsgType, WSTransport

from ..drivers.base import Driver
from ..processes import Server
from ..results import Sample, percentile
from ..sockets import Group, Member, connect
from ..traffic import Stalled, gathered, no_garbage_collection
from ..workloads import Case, Topology

__all__ = ["Crossing", "stamp_of", "stamped"]

WARM_UP_SECONDS = 0.5
SETTLE_SECONDS = 15.0
STALL_SECONDS = 5.0
TICK_SECONDS = 0.001
MOST_UNDER_WAY = 2_000
"""At a given pace publishers wait while as many messages are under way: who cannot keep up is shown to be, and not buried."""
_MARK = b"@"
_DIGITS = 19


def stamped(size: int, now_ns: int) -> bytes:
    """``size`` bytes of text that say when."""
    return (_MARK + b"%0*d" % (_DIGITS, now_ns)).ljust(size, b"t")


def stamp_of(frame: bytes) -> int | None:
    """When the message in a frame of any protocol was sent; ``None`` when there is none in it."""
    start = frame.find(_MARK) + 1
    digits = frame[start : start + _DIGITS]
    return int(digits) if start and len(digits) == _DIGITS and digits.isdigit() else None


class Room(Group):
    """One publisher and its audience. With a window, what has been heard everywhere makes room for the next."""

    __slots__ = ("_audience", "crossing", "index", "publisher", "window")

    def __init__(self, index: int, crossing: Crossing) -> None:
        super().__init__()
        self.index, self.crossing = index, crossing
        self.window = 0
        self.publisher: WSTransport

    def publish(self) -> None:
        crossing = self.crossing
        payload = stamped(crossing.size, perf_counter_ns())
        crossing.sent += 1
        self.publisher.send(WSMsgType.TEXT, crossing.driver.publication(f"room-{self.index}", payload, echo=False))

    def heard(self, sent_ns: int) -> None:
        self.latencies.append(perf_counter_ns() - sent_ns)
        self.received += 1
        if self.window and not self.received % self.crossing.audience and self.crossing.running:
            self.publish()


class Hearer(Member):
    """A connection to either node; what it hears is told to its room."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        payload = frame.get_payload_as_bytes()
        if self._conversation is not None:
            self._converse(payload)
            return
        sent_ns = stamp_of(payload)
        if sent_ns is not None:
            assert isinstance(self._group, Room), "made for one"
            self._group.heard(sent_ns)
        elif (answer := self._driver.answer(payload)) is not None:
            transport.send(WSMsgType.TEXT, answer)


class Crossing:
    """Rooms over two nodes.

    Args:
        driver: its protocol.
        first, second: where the publishers are, and everybody else.
        engine: between them.
        topology: ``members`` counts the publisher.
    """

    def __init__(self, driver: Driver, first: Server, second: Server, engine: Server, topology: Topology) -> None:
        self.driver = driver
        self.audience = topology.members - 1
        self.size = 0
        self.sent = 0
        self.running = False
        self._servers = (first, second, engine)
        self.rooms = [Room(index, self) for index in range(topology.groups)]

    async def open(self) -> None:
        """Connect everybody."""
        await gathered(self._connect(room, self._servers[0].port) for room in self.rooms)
        for room in self.rooms:
            transport = room.members[0].transport
            assert transport is not None, "connected"
            room.publisher = transport
        await gathered(self._connect(room, self._servers[1].port) for room in self.rooms for _ in range(self.audience))
        await asyncio.sleep(0.5)  # some enter the room behind their answer to the handshake

    async def _connect(self, room: Room, port: int) -> Member:
        return await connect(self.driver, port, f"room-{room.index}", room, member=Hearer)

    def close(self) -> None:
        for room in self.rooms:
            for member in room.members:
                if member.transport is not None:
                    member.transport.disconnect(graceful=False)

    @property
    def received(self) -> int:
        return sum([room.received for room in self.rooms])

    async def measure(self, case: Case, seconds: float) -> Sample:
        """Let the case's traffic flow, after a warm-up. Raises ``Stalled``, ``ConnectionError``."""
        self.size = len(case.payloads()[0])
        self.sent = 0
        for room in self.rooms:
            room.received, room.window = 0, 0 if case.pace else case.window
        self.running = True
        pacing = asyncio.create_task(self._at_pace(case.pace)) if case.pace else None
        if pacing is None:
            for room in self.rooms:
                for _ in range(case.window):
                    room.publish()
        try:
            with no_garbage_collection():
                await self._flowing()
                sample = await self._window(seconds)
        finally:
            self.running = False
            if pacing is not None:
                pacing.cancel()
            lost = await self._settled()
        sample.extra["lost"] = float(lost)
        if any(member.lost for room in self.rooms for member in room.members):
            raise ConnectionError(f"connections were closed: {self._servers[1].log_tail() or self._servers[0].log_tail()}")
        return sample

    async def _at_pace(self, pace: int) -> None:
        """Every thousandth of a second what is due by then, room after room."""
        began, done, rooms = time.perf_counter(), 0, deque(self.rooms)
        while True:
            due = int((time.perf_counter() - began) * pace)
            for _ in range(due - done):
                if self.sent - self.received // self.audience < MOST_UNDER_WAY:
                    rooms[0].publish()
                    rooms.rotate(-1)
            done = due  # what was not sent is not owed
            await asyncio.sleep(TICK_SECONDS)

    async def _flowing(self) -> None:
        await asyncio.sleep(WARM_UP_SECONDS)
        deadline = time.monotonic() + STALL_SECONDS
        while not self.received:
            if time.monotonic() > deadline:
                raise Stalled(f"nothing has crossed within {STALL_SECONDS:.0f} seconds")
            await asyncio.sleep(0.1)

    async def _window(self, seconds: float) -> Sample:
        for room in self.rooms:
            room.latencies.clear()
        before, own, sent = [server.usage().cpu_seconds for server in self._servers], time.process_time(), self.sent
        received, began = self.received, time.perf_counter()
        await asyncio.sleep(seconds)
        elapsed, deliveries = time.perf_counter() - began, self.received - received
        used = [server.usage().cpu_seconds - was for server, was in zip(self._servers, before, strict=True)]
        if not deliveries:
            raise Stalled(f"deliveries stopped: none within {elapsed:.1f} seconds")
        latencies = [latency for room in self.rooms for latency in room.latencies]
        p50, p99 = (percentile(latencies, share) / 1e6 for share in (0.5, 0.99))
        extra = {name: cpu / deliveries * 1e6 for name, cpu in zip(("first_us", "second_us", "engine_us"), used, strict=True)}
        extra["messages_per_second"] = (self.sent - sent) / elapsed
        return Sample(deliveries, elapsed, used[0] + used[1], time.process_time() - own, p50, p99, extra)

    async def _settled(self) -> int:
        """Wait until what is under way has landed, or nothing comes any more; returns how many deliveries are missing."""
        deadline, quiet = time.monotonic() + SETTLE_SECONDS, 0
        while (missing := self.sent * self.audience - self.received) and time.monotonic() < deadline and quiet < 20:
            before = self.received
            await asyncio.sleep(0.05)
            quiet = quiet + 1 if self.received == before else 0
        await self._at_rest()
        return missing

    async def _at_rest(self) -> None:
        """Wait, not for long, until our servers do nothing: the next turn is another's, on the same core."""
        for _ in range(50):
            before = sum(server.usage().cpu_seconds for server in self._servers)
            await asyncio.sleep(0.1)
            if sum(server.usage().cpu_seconds for server in self._servers) - before <= 0.02:
                return
