"""``Crowd``: clients in rooms over all nodes, who come back when they are sent away, and judge everything they hear.

One member of each room publishes. Every message says who published it, on which node, in which of its sessions, and a number that
rises by one. So each member knows, for the time of one session of both: nothing may come twice or out of order, and a number that
is left out is a hole, to be explained by what the nodes have counted.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

import websockets
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.integration.cluster.nodes import Node

__all__ = ["Crowd", "Hole"]

PAUSE_SECONDS = 0.2
"""Between two messages of a publisher."""
COMING_AT_ONCE = 40


class Hole(NamedTuple):
    """Messages that a member did not hear."""

    publisher: str
    """Its session."""
    publisher_node: str
    member_node: str
    missing: range
    """Their numbers."""
    heard_before: float
    """When the member heard the last one before them; by ``time.monotonic``."""


class Member:
    """One client, in one room."""

    def __init__(self, crowd: Crowd, room: str, number: int, *, publishes: bool) -> None:
        self.room = room
        self.publishes = publishes
        self.node: Node | None = None
        """Where it is connected."""
        self.sessions = 0
        self.heard: dict[str, int] = {}
        """The last number of every publisher's session, as heard in this session of the member."""
        self._heard_at: dict[str, float] = {}
        self.sent = (f"{room}.0", -1)
        """A publisher's session, and its last number."""
        self._crowd = crowd
        self._number = number

    async def live(self) -> None:
        """Connect, hear, and come back, for ever."""
        for attempt in itertools.count(self._number):
            node = self._crowd.choose(attempt)
            try:
                async with self._crowd.coming, asyncio.timeout(20):
                    socket = await node.connect(self.room, ping_interval=None, open_timeout=None)
            except (OSError, InvalidHandshake, ConnectionClosed, TimeoutError, EOFError):
                await asyncio.sleep(0.2)
                continue
            self.heard, self.node = {}, node
            self.sessions += 1
            publishing = asyncio.create_task(self._publish(socket, node)) if self.publishes else None
            try:
                async for message in socket:
                    self._judge(str(message), node)
            except (ConnectionClosed, OSError):
                pass
            finally:
                self.node = None
                if publishing is not None:
                    publishing.cancel()
                    await asyncio.wait((publishing,))
                await socket.close()

    async def _publish(self, socket: websockets.ClientConnection, node: Node) -> None:
        session = f"{self.room}.{self.sessions}"
        try:
            for number in itertools.count():
                await socket.send(f"{session}@{node.name}:{number}")
                self.sent = (session, number)
                await asyncio.sleep(PAUSE_SECONDS)
        except (ConnectionClosed, OSError):
            return

    def _judge(self, message: str, node: Node) -> None:
        publisher, _, number = message.partition(":")
        session, _, publisher_node = publisher.partition("@")
        got, last = int(number), self.heard.get(session)
        before, now = self._heard_at.get(session, 0.0), time.monotonic()
        self.heard[session], self._heard_at[session] = got, now
        if last is None or got == last + 1:
            return
        if got <= last:
            self._crowd.wrong.append(f"{session}: {got} behind {last} on node {node.name}")
        else:
            self._crowd.holes.append(Hole(session, publisher_node, node.name, range(last + 1, got), before))


class Crowd:
    """All clients.

    Args:
        nodes: asked for whenever somebody connects: those that may be connected to now.
        rooms, members: how many rooms there are, and how many members each of them has.
    """

    def __init__(self, nodes: Callable[[], list[Node]], *, rooms: int = 30, members: int = 10) -> None:
        self.coming = asyncio.Semaphore(COMING_AT_ONCE)
        self.holes: list[Hole] = []
        self.wrong: list[str] = []
        """What came twice or out of order."""
        self._nodes = nodes
        numbers = itertools.count()
        self.members = [
            Member(self, f"room-{room}", next(numbers) + room, publishes=place == 0)
            for room in range(rooms)
            for place in range(members)
        ]
        self._publishers = {member.room: member for member in self.members if member.publishes}
        self._tasks: list[asyncio.Task[None]] = []

    def choose(self, attempt: int) -> Node:
        """A node to connect to."""
        nodes = self._nodes()
        return nodes[attempt % len(nodes)]

    @property
    def sessions(self) -> int:
        """How often somebody has connected."""
        return sum(member.sessions for member in self.members)

    async def come(self) -> None:
        """Everybody connects, and hears."""
        self._tasks = [asyncio.create_task(member.live()) for member in self.members]
        await self.all_hear(60)

    async def go(self) -> None:
        """Everybody leaves."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def all_hear(self, seconds: float) -> None:
        """Wait until every member has heard something that was published after this was called."""
        marks = {room: publisher.sent for room, publisher in self._publishers.items()}

        def waits(member: Member) -> bool:
            session, number = self._publishers[member.room].sent
            old_session, old_number = marks[member.room]
            at_least = old_number + 1 if session == old_session else 0
            return member.node is None or (not member.publishes and member.heard.get(session, -1) < max(at_least, min(number, 1)))

        try:
            async with asyncio.timeout(seconds):
                while any(map(waits, self.members)):
                    await asyncio.sleep(0.1)
        except TimeoutError:
            deaf = [(member.room, member.node and member.node.name) for member in self.members if waits(member)]
            raise AssertionError(f"{len(deaf)} of {len(self.members)} hear nothing after {seconds:g} s: {deaf[:10]}") from None

    def take_holes(self) -> list[Hole]:
        """The holes since this was last called."""
        holes, self.holes = self.holes, []
        return holes
