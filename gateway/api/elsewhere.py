"""``Elsewhere``: which other node to ask about a connection, a user or a room that this node does not have, or not alone.

A connection's id begins with its node's; who is in a room, and so also a user's connections, the cluster tells. Nodes know each
other by id: where the ops listener of each can be reached is known to whoever started them.
"""

from __future__ import annotations

from typing import NamedTuple

from ..cluster import Cluster
from ..errors import BrokerUnavailable
from ..message import MAX_ROOM_BYTES

__all__ = ["MOST_MEMBERS", "Elsewhere", "Node"]

MOST_MEMBERS = 200
"""Connections that are looked at to learn their nodes."""
MOST_NODES = 10
"""Nodes that are named in a sentence."""


class Node(NamedTuple):
    """A node to ask."""

    node: str
    is_heard: bool
    """This node hears of it."""
    connections: tuple[str, ...] = ()
    """Those of its connections that it is to be asked about, as far as they were looked at."""


class Elsewhere:
    """Reads the cluster of a node."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def of_connection(self, connection_id: str) -> tuple[str, list[Node]]:
        """What to say of a connection that is not here, and the node to ask if there is one."""
        node = connection_id.rpartition("-")[0]
        own, *others = self._cluster.nodes()
        if not node:
            return f"An id of a connection is its node's, a dash and a number; this node is {own.id}.", []
        if node == own.id:
            return "Its id is of this node, so it has ended, or never was.", []
        for other in others:
            if other.id == node:
                heard = f"heard of {other.heard_seconds_ago:.1f} s ago"
                return f"Its id is of node {node} ({heard}): ask the ops listener of that one.", [Node(node, is_heard=True)]
        known = f"It hears of {_names([other.id for other in others])}." if others else "It hears of no other node."
        unheard = f"Its id is of node {node}, of which this node, {own.id}, does not hear: it has stopped, or has another broker."
        return f"{unheard} {known}", [Node(node, is_heard=False)]

    async def of_room(self, room: str) -> tuple[list[str], list[Node]]:
        """What to say of a room's members on other nodes, and those nodes."""
        own, *others = self._cluster.nodes()
        if not others:
            return [], []
        if len(room) > MAX_ROOM_BYTES:
            return ["The name is too long to ask the other nodes about; GET /api/nodes lists them."], []
        try:
            gathered = await self._cluster.members(room, limit=MOST_MEMBERS)
        except BrokerUnavailable:
            return ["The other nodes cannot be asked now; GET /api/nodes lists them."], []
        found: dict[str, list[str]] = {}
        for member in gathered.names:
            node = member.rpartition("-")[0]
            if node != own.id:
                found.setdefault(node, []).append(member)
        heard = {other.id for other in others}
        nodes = [Node(node, node in heard, tuple(members)) for node, members in found.items()]
        return [*map(_sentence, nodes[:MOST_NODES]), *_gaps(gathered.silent, is_more=gathered.next is not None)], nodes


def _sentence(node: Node) -> str:
    count = len(node.connections)
    first = f"{node.connections[0]} and others" if count > 1 else node.connections[0]
    number = "1 connection" if count == 1 else f"{count} connections"
    return f"Node {node.node} has {number} of it ({first}): ask the ops listener of that one, too."


def _gaps(silent: tuple[str, ...], *, is_more: bool) -> list[str]:
    lines = ["More members were not looked at."] if is_more else []
    return [*lines, f"Nodes that were asked and did not answer: {_names(silent)}."] if silent else lines


def _names(nodes: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(nodes) - MOST_NODES} more" if len(nodes) > MOST_NODES else ""
    return ", ".join(nodes[:MOST_NODES]) + more
