"""``Explainer``: answers to "why did this client not get that message?", from what is remembered and what is there now."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..hub import Hub
from ..message import user_room
from .records import PER_ROOM, Publication, Records, Story
from .verdicts import Verdict, alone, judge, moment

__all__ = ["Explainer"]

Json = dict[str, Any]

MOST_CONNECTIONS = 20


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
        """``answer`` in plain words and, for machines, ``connections`` and ``rooms``; at least one name is needed."""
        stories, missing = self._stories(connection, user)
        told = [self._connection(story, room, message) for story in stories]
        rooms = [self._room(room, message)] if room is not None else []
        answer = [
            *missing,
            *(line for one in told for line in one.pop("lines")),
            *(line for one in rooms for line in one.pop("lines")),
        ]
        return {"node": self._hub.node, "answer": answer, "connections": told, "rooms": rooms}

    # -- who is asked about

    def _stories(self, connection: str | None, user: str | None) -> tuple[list[Story], list[str]]:
        if connection is not None:
            story = self._records.story(connection)
            return ([story], []) if story is not None else ([], [self._unknown(connection)])
        if user is None:
            return [], []
        found = [story for story in self._all() if story.user == user]
        if not found:
            return [], ["This node remembers no connection of that user. It may be on another node: GET /api/nodes lists them."]
        more = len(found) - MOST_CONNECTIONS
        return found[-MOST_CONNECTIONS:], [f"{more} older connections of the user are left out."] if more > 0 else []

    def _all(self) -> Iterable[Story]:
        yield from self._records.ended_stories.values()
        yield from self._records.live.values()

    def _unknown(self, connection: str) -> str:
        node = connection.rpartition("-")[0]
        if node and node != self._hub.node:
            return f"The connection is not of this node but of node {node}: ask that one."
        if self._hub.registry.get(connection) is not None:
            return "The connection is open, but nothing of it is remembered: it is in no room, or older than what is kept."
        return "This node does not know the connection: it never was here, or ended too long ago to be remembered."

    # -- what is told

    def _connection(self, story: Story, room: str | None, message: str | None) -> Json:
        live = self._hub.registry.get(story.id)
        buffered = live.outlet.buffered_bytes() if live is not None else None
        names = [room] if room is not None else sorted({*story.rooms, *(one.room for one in story.past)})
        deliveries = [
            self._delivery(publication, name, judge(publication, name, story, buffered))
            for name in names
            for publication in self._publications(name, message)
        ]
        return {
            "id": story.id, "user": story.user, "since": story.since, "rooms": sorted(story.rooms),
            "ended": _ended(story), "buffered_bytes": buffered,
            "deliveries": deliveries,
            "happenings": [one._asdict() for one in story.happenings],
            "lines": [_introduction(story, buffered), *self._lines(story, names, deliveries, message)],
        }  # fmt: skip

    def _delivery(self, publication: Publication, room: str, verdict: Verdict) -> Json:
        return {"room": room, **_about(publication), "verdict": verdict.word, "got": verdict.got, "words": verdict.words}

    def _publications(self, room: str, message: str | None) -> list[Publication]:
        return [one for one in self._records.publications(room) if message in (None, one.id)]

    def _lines(self, story: Story, names: list[str], deliveries: list[Json], message: str | None) -> Iterable[str]:
        direct = [one for one in story.happenings if message is not None and one.message == message and not one.room]
        for happening in direct:
            yield f"{moment(happening.at)} message {message} to this connection alone: {alone(happening.what)}"
        if message is not None and not deliveries and not direct:
            yield self._never_seen(message, names)
        for one in deliveries:
            yield f"{moment(one['published_at'])} message {one['message']} to {one['room']}: {one['words']}"

    def _never_seen(self, message: str, names: list[str]) -> str:
        where = f"room {names[0]}" if len(names) == 1 else "its rooms"
        return (
            f"This node has delivered no message {message} to {where}, of which it remembers the last {PER_ROOM} each: it went to "
            "another room, was longer ago, or did not arrive here; the counters of the broker tell of refusals and gaps."
        )

    def _room(self, name: str, message: str | None) -> Json:
        found, publications = self._hub.registry.rooms.get(name), self._publications(name, message)
        members = len(found.members) if found is not None else 0
        lines = [
            f"Room {name} has {members} {'member' if members == 1 else 'members'} on this node."
            if members
            else f"Room {name} has no member on this node, so nothing is delivered here."
        ]
        lines += [_words(one) for one in publications]
        if not publications:
            lines.append("No message to it is remembered." if message is None else self._never_seen(message, [name]))
        return {"name": name, "members": members, "publications": [_about(one) for one in publications], "lines": lines}


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


def _introduction(story: Story, buffered: int | None) -> str:
    who = f"Connection {story.id}" + (f" of user {story.user}" if story.user else "")
    if story.close is not None:
        ended = f"{moment(story.ended_at)}: {story.close.reason}, by the {story.initiator}"
        return f"{who} came at {moment(story.since)} and ended at {ended}."
    rooms = ", ".join(room for room in sorted(story.rooms) if room != user_room(story.user or "")) or "no room"
    waits = f"; {buffered} bytes wait to be sent" if buffered else ""
    return f"{who} is open since {moment(story.since)}, in {rooms}{waits}."
