"""``Explainer``: answers to "why did this client not get that message?", from what is remembered and what is there now."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Sequence, Set
from typing import Any

from ..connection import Connection
from ..hub import Hub
from .records import PER_ROOM, SET_OUT_AT, Publication, Records, Story
from .verdicts import Verdict, Waiting, alone, judge, moment

__all__ = ["LISTENER", "Explainer"]

Json = dict[str, Any]

MOST_CONNECTIONS = 20
"""Connections of a user, the newest."""
MOST_DELIVERIES = 640
"""In one answer, the newest of each connection; what is asked about one room is never too much."""
MOST_WITNESSES = 100
"""Connections whose verdicts are summed up for each message of a room."""
LISTENER = "tidegate.listener"
"""In the scope of a member that is no WebSocket but a stream of the API."""
MOST_ROOMS = 100
"""Rooms that a connection is said to be in."""


class Explainer:
    """Reads a hub's records. All answers are of this node; another node's connections are to be asked there.

    Args:
        hub: whose connections and rooms.
        records: what it remembers; they are observers of the hub.
    """

    def __init__(self, hub: Hub, records: Records) -> None:
        self._hub = hub
        self._records = records

    def explain(
        self, *, connection: str | None = None, user: str | None = None, room: str | None = None, message: str | None = None
    ) -> Json:
        """``answer`` in plain words and, for machines, ``connections``, ``rooms`` and what was ``left_out``.

        At least one is needed. Of much the newest is told: ``MOST_…``. In place of a connection's id that of a message is taken,
        too, which publishing answers with: they look alike, and none is both.
        """
        parts = self._parts(connection, user, room, message)
        while True:
            try:
                next(parts)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]  # what the generator returns

    async def explain_in_turns(self, **asked: str) -> Json:
        """As ``explain``; between one connection and the next the event loop does other work."""
        parts = self._parts(asked.get("connection"), asked.get("user"), asked.get("room"), asked.get("message"))
        while True:
            try:
                next(parts)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]  # what the generator returns
            await asyncio.sleep(0)

    def _parts(
        self, connection: str | None, user: str | None, room: str | None, message: str | None
    ) -> Generator[None, None, Json]:
        if connection is not None and message is None and self._records.story(connection) is None:
            connection, message = (None, connection) if self._records.rooms_of(connection) else (connection, None)
        stories, answer = self._stories(connection, user)
        left_out = {"connections": max(0, len(stories) - MOST_CONNECTIONS), "deliveries": 0}
        told, stories = [], stories[-MOST_CONNECTIONS:]
        for story in stories:
            yield
            one = self._connection(story, room, message, max(PER_ROOM, MOST_DELIVERIES // len(stories)))
            answer += one.pop("lines")
            left_out["deliveries"] += one["left_out"]
            told.append(one)
        if left_out["connections"]:
            answer.insert(0, f"{left_out['connections']} older connections of the user are left out.")
        rooms = [self._room(name, message) for name in self._names(connection or user, room, message)]
        if message is not None and not (connection or user or rooms):
            answer.append(self._never_seen(message, ()))
        for found in rooms:
            answer += found.pop("lines")
        return {"node": self._hub.node, "answer": answer, "connections": told, "rooms": rooms, "left_out": left_out}

    # -- who is asked about

    def _stories(self, connection: str | None, user: str | None) -> tuple[list[Story], list[str]]:
        if connection is not None:
            story = self._records.story(connection)
            return ([story], []) if story is not None else ([], [self._unknown(connection)])
        if user is None:
            return [], []
        found = [story for story in self._all() if story.user == user]
        if not found:
            return [], ["This node remembers no connection of that user."]
        return found, []

    def _names(self, whose: str | None, room: str | None, message: str | None) -> list[str]:
        """The rooms to tell of themselves: the one that is asked about, or where a message went that is asked about alone."""
        if room is not None:
            return [room]
        return self._records.rooms_of(message) if message is not None and whose is None else []

    def _all(self) -> Iterable[Story]:
        yield from self._records.ended_stories.values()
        yield from self._records.live.values()

    def _unknown(self, connection: str) -> str:
        node = connection.rpartition("-")[0]
        if node and node != self._hub.node:
            return f"The connection is not of this node but of node {node}."
        if self._hub.registry.get(connection) is not None:
            return "The connection is open, but nothing of it is remembered: others have needed the memory since it came."
        return "This node does not know the connection: it never was here, or ended too long ago to be remembered."

    # -- what is told

    def _connection(self, story: Story, room: str | None, message: str | None, most: int) -> Json:
        live = self._hub.registry.get(story.id)
        waiting = _waiting(live) if live is not None else None
        buffered = waiting.buffered_bytes if waiting is not None else None
        names = {room} if room is not None else {*story.rooms, *(one.room for one in story.past)}
        newest, more = self._newest(names, message, most)
        rooms = [one for one in story.rooms if one[0] != "~"]
        deliveries = [self._delivery(publication, name, judge(publication, name, story, waiting)) for name, publication in newest]
        return {
            "id": story.id, "user": story.user, "since": story.since, "rooms": _some(rooms), "rooms_total": len(rooms),
            "ended": _ended(story), "buffered_bytes": buffered,
            "deliveries": deliveries, "left_out": more,
            "happenings": [one._asdict() for one in story.happenings],
            "lines": [_introduction(story, rooms, buffered), *self._lines(story, names, deliveries, message, more)],
        }  # fmt: skip

    def _newest(self, names: Set[str], message: str | None, most: int) -> tuple[list[tuple[str, Publication]], int]:
        """The newest publications to rooms, by room and in order, and how many there are besides."""
        rings = self._records.rooms
        found = [
            (one[SET_OUT_AT], name, place)
            for name in names & rings.keys()
            for place, one in enumerate(rings[name])
            if message in (None, one[0])
        ]
        newest = sorted(heapq.nlargest(most, found), key=lambda one: (one[1], one[2]))
        return [(name, Publication._make(rings[name][place])) for _, name, place in newest], len(found) - len(newest)

    def _delivery(self, publication: Publication, room: str, verdict: Verdict) -> Json:
        return {"room": room, **_about(publication), "verdict": verdict.word, "got": verdict.got, "words": verdict.words}

    def _publications(self, room: str, message: str | None) -> list[Publication]:
        return [one for one in self._records.publications(room) if message in (None, one.id)]

    def _lines(self, story: Story, names: Set[str], deliveries: list[Json], message: str | None, more: int) -> Iterable[str]:
        direct = [one for one in story.happenings if message is not None and one.message == message and not one.room]
        for happening in direct:
            yield f"{moment(happening.at)} message {message} to this connection alone: {alone(happening.what)}"
        if message is not None and not deliveries and not direct:
            yield self._never_seen(message, names)
        if more:
            yield f"{more} older messages to its rooms are left out; naming a room leaves out those to others alone."
        for one in deliveries:
            yield f"{moment(one['published_at'])} message {one['message']} to {one['room']}: {one['words']}"

    def _never_seen(self, message: str, names: Collection[str]) -> str:
        where = f"room {next(iter(names))}" if len(names) == 1 else "its rooms" if names else "any room"
        return (
            f"This node has delivered no message {message} to {where}, of which it remembers the last {PER_ROOM} each: it went to "
            f"{'another room' if names else 'one connection alone'}, was longer ago, or did not arrive here; the counters of the "
            "broker tell of refusals and gaps."
        )

    def _room(self, name: str, message: str | None) -> Json:
        found, publications = self._hub.registry.rooms.get(name), self._publications(name, message)
        members = len(found.members) if found is not None else 0
        by_http = sum(1 for one in found.members if one.scope.get(LISTENER)) if found is not None else 0
        listeners = f", of whom {by_http} {'listens' if by_http == 1 else 'listen'} by HTTP, as the console does" if by_http else ""
        lines = [
            f"Room {name} has {members} {'member' if members == 1 else 'members'} on this node{listeners}."
            if members
            else f"Room {name} has no member on this node, so nothing is delivered here."
        ]
        witnesses = self._witnesses(name)
        lines += [_words(one) + _sum(one, name, witnesses) for one in publications]
        if not publications:
            lines.append("No message to it is remembered." if message is None else self._never_seen(message, {name}))
        return {"name": name, "members": members, "publications": [_about(one) for one in publications], "lines": lines}

    def _witnesses(self, room: str) -> list[tuple[Story, Waiting | None]]:
        """Who is or was in a small room, with what waits for each; of a large one nobody, as that would take long."""
        found = self._hub.registry.rooms.get(room)
        members = list(found.members) if found is not None else []
        gone = [story for story in self._records.ended_stories.values() if story.memberships(room)]
        if len(members) + len(gone) > MOST_WITNESSES:
            return []
        live = [(self._records.story(one.id), _waiting(one)) for one in members]
        return [(story, None) for story in gone] + [(story, waiting) for story, waiting in live if story is not None]


def _sum(publication: Publication, room: str, witnesses: Sequence[tuple[Story, Waiting | None]]) -> str:
    """How many of those whom it set out to have what verdict, as far as they are known."""
    words = Counter(
        verdict.word
        for story, waiting in witnesses
        if any(one.covers(publication.set_out_at) for one in story.memberships(room))
        and (verdict := judge(publication, room, story, waiting)).word != "joined-later"
    )
    return f" Of these {', '.join(f'{count} {word}' for word, count in words.most_common())}." if words else ""


def _waiting(connection: Connection) -> Waiting:
    named, messages = connection.outlet.waiting()
    return Waiting(connection.outlet.buffered_bytes(), frozenset(one.message for one in named), messages - len(named))


def _words(publication: Publication) -> str:
    members = "1 member" if publication.recipients == 1 else f"{publication.recipients} members"
    lost = f" {publication.lost} deliveries of what set out with it were given up." if publication.lost else ""
    return f"{moment(publication.published_at)} message {publication.id}: It set out to {members} on this node.{lost}"


def _about(publication: Publication) -> Json:
    return {
        "message": publication.id, "node": publication.node, "trace_id": publication.trace_id or None,
        "published_at": publication.published_at, "set_out_at": publication.set_out_at,
        "payload_bytes": publication.payload_bytes, "recipients": publication.recipients, "lost": publication.lost,
    }  # fmt: skip


def _ended(story: Story) -> Json | None:
    if story.close is None:
        return None
    return {"at": story.ended_at, "reason": story.close.reason, "code": story.close.code, "initiator": story.initiator}


def _introduction(story: Story, rooms: Sequence[str], buffered: int | None) -> str:
    who = f"Connection {story.id}" + (f" of user {story.user}" if story.user else "")
    if story.close is not None:
        ended = f"{moment(story.ended_at)}: {story.close.reason}, by the {story.initiator}"
        return f"{who} came at {moment(story.since)} and ended at {ended}."
    more = f" and {len(rooms) - MOST_ROOMS} more" if len(rooms) > MOST_ROOMS else ""
    named = ", ".join(_some(rooms)) + more or "no room"
    waits = f"; {buffered} bytes wait to be sent" if buffered else ""
    return f"{who} is open since {moment(story.since)}, in {named}{waits}."


def _some(rooms: Iterable[str]) -> list[str]:
    """The first rooms by name."""
    return heapq.nsmallest(MOST_ROOMS, rooms)
