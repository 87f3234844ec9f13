"""``Cluster``: which nodes there are, and what they have together, asked and told through the broker like everything else.

Every node says in the room ``~nodes`` that it is there, every ``heartbeat_seconds``, with a handful of figures whose size does
not depend on how many rooms or connections it has. What is in the rooms of all nodes is asked for when somebody wants to know:
the question goes to ``~nodes``, each node answers to the asker's own room with its part of the page.

Heartbeats are numbered: who misses some knows it. An engine of several servers (NATS) can lose what goes from one to another
while each server serves its own nodes well, which no probe to oneself can find: then a jump in another node's numbers is the sign.

1. Nothing here is needed to deliver a message: a cluster that hears nothing serves its clients all the same.
2. What is kept is bounded: nodes, open questions, the size of an answer, and how long one is waited for.
3. What is not understood, not for this node or from too many is ignored and counted (``IGNORED``); it never raises.
4. A heartbeat that the engine has confirmed and this node has not heard is a gap in all its rooms (``missed``).
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable
from typing import Literal, NamedTuple

from ..envelope import Envelope
from ..errors import BrokerUnavailable
from ..hub import Hub
from ..message import Message, node_room
from ..version import __version__
from .missed import Missed
from .nodes import MISSED, Node, NodeTable
from .pages import LARGEST_PART_BYTES, Gathered, Part, merge, part_of
from .wire import Answer, Ask, Control, Gone, Here, InvalidControl, decode, encode, is_node_id

__all__ = ["IGNORED", "NODES_ROOM", "Cluster", "ClusterStatistics"]

NODES_ROOM = "~nodes"
"""Where nodes are heard by all nodes."""
MOST_QUESTIONS = 64
"""Questions of this node that may be open at the same time."""
SHORTEST_MEASURE_SECONDS = 1.0
"""Over less time than this a load would be noise."""
IGNORED = ("malformed", "same-id", "too-many-nodes", "not-asked")
"""Why something is ignored: no message of nodes; from another process with this node's id; no place in the table; an answer that
nobody waits for, as it comes after its deadline."""

logger = logging.getLogger("tidegate.cluster")


class ClusterStatistics(NamedTuple):
    """A snapshot, and running totals."""

    nodes: int
    """Nodes that this one hears of, itself too."""
    ignored: dict[str, int]
    """Messages of nodes that were ignored, by reason (``IGNORED``)."""
    gaps: int
    """How often something that other nodes published may have been missed, by the numbers of their heartbeats."""


class _Question:
    """What was asked, and who has answered."""

    def __init__(self, waiting: set[str]) -> None:
        self.waiting = waiting
        self.parts: dict[str, Part] = {}
        self.done = asyncio.Event()

    def answered(self, node: str, part: Part) -> None:
        self.parts[node] = part
        self.waiting.discard(node)
        if not self.waiting:
            self.done.set()


class Cluster:
    """The nodes that share a broker.

    Args:
        hub: of this node. The cluster listens in its node's room and in ``NODES_ROOM``, and is to be made before the hub starts.
        heartbeat_seconds: how often this node says that it is there.
        answer_seconds: how long a question waits for the other nodes.
        cpu_seconds: the process's CPU time.
    """

    def __init__(
        self,
        hub: Hub,
        *,
        heartbeat_seconds: float = 2.0,
        answer_seconds: float = 1.0,
        cpu_seconds: Callable[[], float] = time.process_time,
    ) -> None:
        if not 0.05 <= heartbeat_seconds <= 60 or answer_seconds <= 0:
            raise ValueError("heartbeat_seconds is from 0.05 to 60, answer_seconds above 0")
        self.draining = False
        """Told to the others."""
        self._hub = hub
        self._heartbeat_seconds = heartbeat_seconds
        self._answer_seconds = answer_seconds
        self._cpu_seconds = cpu_seconds
        self._instance = ""
        self._confirmed = 0
        """Heartbeats that the engine has taken."""
        self._refused_at = -math.inf
        """When the engine last did not take one."""
        self._told_away = False
        self._table = NodeTable()
        self._ignored = Counter(dict.fromkeys(IGNORED, 0))
        self._questions: dict[int, _Question] = {}
        self._number = 0
        self._missed = Missed(hub, heartbeat_seconds)
        self._started_at = math.inf
        self._cpu_before = (0.0, 0.0)
        self._load = 0.0
        self._soon = asyncio.Event()
        self._beating: asyncio.Task[None] | None = None
        self._warned = False
        if not hub.broker.local:
            hub.listen(NODES_ROOM, self._on_envelope)
            hub.listen(node_room(hub.node), self._on_envelope)

    # -- life

    def start(self) -> None:
        """Say that this node is here, from now on; to be called when the hub has started."""
        if self._beating is None:
            loop = asyncio.get_running_loop()
            self._instance, self._confirmed, self._table = secrets.token_hex(8), 0, NodeTable()
            self._started_at = loop.time()
            self._cpu_before = (self._started_at, self._cpu_seconds())
            if not self._hub.broker.local:
                self._beating = loop.create_task(self._beat())

    async def stop(self) -> None:
        """Say goodbye, as far as the broker takes it, and nothing more."""
        beating, self._beating = self._beating, None
        if beating is None:
            return
        beating.cancel()
        await asyncio.wait((beating,))
        self._missed.stop()
        self._post(NODES_ROOM, Gone(self._instance))  # the broker sends what it took before it closes

    def drain(self) -> None:
        """This node is going: the others are told at once."""
        self.draining = True
        self._soon.set()

    # -- looking at it

    def nodes(self) -> list[Node]:
        """The nodes that are known, this one first. To be called on the event loop, once started."""
        own = self._here()
        mine = Node(
            self._hub.node, own.version, own.age_seconds, own.connections, own.rooms, own.load, own.is_draining, 0.0
        )  # fmt: skip
        return [mine, *self._table.nodes(asyncio.get_running_loop().time())]

    def statistics(self) -> ClusterStatistics:
        """A snapshot."""
        return ClusterStatistics(1 + len(self._table), dict(self._ignored), self._missed.gaps)

    async def rooms(self, after: str = "", limit: int = 100, *, local: bool = False) -> Gathered:
        """A page of the rooms behind ``after``, by name, with how many members they have on all nodes (or on this one alone)."""
        return await self._gather("rooms", "", after, limit, local=local)

    async def members(self, room: str, after: str = "", limit: int = 100, *, local: bool = False) -> Gathered:
        """A page of the connections in ``room``, by id; ``total`` is how many there are."""
        return await self._gather("members", room, after, limit, local=local)

    # -- questions

    async def _gather(self, about: Literal["rooms", "members"], room: str, after: str, limit: int, *, local: bool) -> Gathered:
        own = self._part(about, room, after, limit)
        if local or not len(self._table):
            return merge(own, (), limit)
        if len(self._questions) >= MOST_QUESTIONS:
            raise BrokerUnavailable("too many questions to the other nodes are open")
        self._number += 1
        number, question = self._number, _Question(set(self._table.ids))
        self._questions[number] = question
        try:
            asked = self._post(NODES_ROOM, Ask(number, about, room, after, limit))
            if asked:
                await self._wait_for(question)
        finally:
            del self._questions[number]
        return merge(own, question.parts.values(), limit, question.waiting, complete=asked)

    async def _wait_for(self, question: _Question) -> None:
        try:
            async with asyncio.timeout(self._answer_seconds):
                await question.done.wait()
        except TimeoutError:
            pass  # whoever is silent is named

    def _part(self, about: str, room: str, after: str, limit: int, max_bytes: int | None = None) -> Part:
        registry = self._hub.registry
        if about == "rooms":
            sizes = {one.name: len(one.members) for one in registry.public_rooms()}
        else:
            sizes = {member.id: 1 for member in registry.members(room)}
        return part_of(sizes, after, limit, max_bytes)

    # -- what is said

    async def _beat(self) -> None:
        loop, is_new = asyncio.get_running_loop(), True
        while True:
            self._bury(loop.time())
            self._missed.look()
            self._soon.clear()  # not after the waiting: who comes, or what is to be told, meanwhile is answered, too
            is_new = not await self._say_here(is_new=is_new) and is_new
            try:
                async with asyncio.timeout(self._heartbeat_seconds * random.uniform(0.9, 1.0)):  # noqa: S311 - no secret
                    await self._soon.wait()
            except TimeoutError:
                continue
            # However many come at once, they are answered together.
            await asyncio.sleep(self._heartbeat_seconds * random.uniform(0.05, 0.15))  # noqa: S311 - no secret

    def _bury(self, now: float) -> None:
        """Drop those that were not heard of for too long. While the engine is away that says nothing of them, and is told once."""
        dead = self._table.drop_dead(now)
        is_away = now - self._refused_at < (MISSED + 0.5) * self._heartbeat_seconds  # what it refused of us, it did of them
        if not is_away:
            self._told_away = False
            for node in dead:
                logger.warning("node %s has not been heard of for too long and is taken for dead", node)
        elif dead and not self._told_away:
            self._told_away = True
            logger.warning("the broker does not take heartbeats: other nodes are heard of again when it does")

    async def _say_here(self, *, is_new: bool) -> bool:
        """Say it; False when the engine has not confirmed it. What it had under way when a link broke is nobody's jump."""
        try:
            await self._hub.broker.publish(self._envelope(NODES_ROOM, self._here(is_new=is_new)))
        except BrokerUnavailable:
            self._refused_at = asyncio.get_running_loop().time()
            return False
        self._confirmed += 1
        return True

    def _measure(self, now: float) -> None:
        before, cpu_before = self._cpu_before
        if now - before >= SHORTEST_MEASURE_SECONDS:
            cpu = self._cpu_seconds()
            self._load = round(max(0.0, cpu - cpu_before) / (now - before), 3)
            self._cpu_before = (now, cpu)

    def _here(self, *, is_new: bool = False) -> Here:
        registry, now = self._hub.registry, asyncio.get_running_loop().time()
        self._measure(now)
        return Here(
            instance=self._instance,
            version=__version__,
            age_seconds=round(now - self._started_at, 3),
            interval_seconds=self._heartbeat_seconds,
            connections=len(registry),
            rooms=sum(1 for _ in registry.public_rooms()),
            load=self._load,
            is_draining=self.draining,
            is_new=is_new,
            number=self._confirmed,
        )

    def _post(self, room: str, control: Control) -> bool:
        """Say it; False when the broker does not take it."""
        try:
            self._hub.broker.post(self._envelope(room, control))
        except BrokerUnavailable:
            return False
        return True

    def _envelope(self, room: str, control: Control) -> Envelope:
        return Envelope(room, Message(encode(control)), id=self._hub.new_id(), node=self._hub.node)

    # -- what is heard

    def _on_envelope(self, envelope: Envelope) -> None:
        """What the hub calls for everything in the rooms of nodes that is for no connection, while the others know of this node."""
        if self._beating is None:
            return
        try:
            control = decode(envelope.message.payload)
            if not is_node_id(envelope.node) or envelope.close is not None or envelope.message.is_text:
                raise InvalidControl("not sent by a node")
        except InvalidControl as error:
            self._ignored["malformed"] += 1
            logger.debug("ignored what was said in the rooms of nodes: %s", error)
            return
        if envelope.node == self._hub.node:
            self._on_own(control)
        elif isinstance(control, Here):
            self._on_here(envelope.node, control)
        elif isinstance(control, Gone):
            self._table.left(envelope.node, control.instance)
            self._missed.left(envelope.node, control.instance)
        elif isinstance(control, Ask):
            part = self._part(control.about, control.room, control.after, control.limit, LARGEST_PART_BYTES)
            counts = tuple(part.names.values()) if control.about == "rooms" else ()
            self._post(node_room(envelope.node), Answer(control.number, part.total, tuple(part.names), counts, part.more))
        else:
            self._on_answer(envelope.node, control)

    def _on_own(self, control: Control) -> None:
        """Our own words come back; a heartbeat that is not ours is of somebody else under our name."""
        if not isinstance(control, Here) or control.instance == self._instance:
            return
        self._ignored["same-id"] += 1
        if not self._warned:
            self._warned = True
            logger.error("another process is a node of this cluster under the same id, %s: give each its own", self._hub.node)

    def _on_here(self, node: str, here: Here) -> None:
        now, is_known = asyncio.get_running_loop().time(), node in self._table
        if not self._table.heard(node, here, now):
            self._ignored["too-many-nodes"] += 1
            return
        self._missed.heard(node, here, now - self._started_at)
        if here.is_new or not is_known:
            self._soon.set()

    def _on_answer(self, node: str, answer: Answer) -> None:
        question = self._questions.get(answer.number)
        if question is None or (node not in question.waiting and len(question.parts) >= len(self._table)):
            self._ignored["not-asked"] += 1
            return
        counts = answer.counts or (1,) * len(answer.names)
        question.answered(node, Part(answer.total, dict(zip(answer.names, counts, strict=True)), answer.more))
