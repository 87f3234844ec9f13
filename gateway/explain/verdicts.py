"""What became of one publication for one connection: a word for machines and a sentence for people. No I/O, no clock."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from ..ledger import LEFT, REPLACED, SLOW, UNSENT
from .records import Publication, Story

__all__ = ["Verdict", "Waiting", "alone", "judge", "moment"]


class Waiting(NamedTuple):
    """What is in the outbox of an open connection."""

    buffered_bytes: int
    messages: frozenset[str]
    """The newest of the publications, by id."""
    others: int
    """How many waited before those."""


class Verdict(NamedTuple):
    """``got`` is ``None`` where this node cannot know."""

    word: str
    got: bool | None
    words: str


_EXCLUDED = (
    "It was published for everybody but this connection, which is so of what a client says itself without ?echo=1, "
    "and of the API's exclude=."
)
_DROPPED = {
    SLOW: "It was dropped: the connection's outbox was full because the client reads too slowly (slow-consumer).",
    LEFT: "It was not written: the connection left the room before its turn in the fan-out.",
    REPLACED: "It was taken into the connection's full outbox, where a newer message took its place (policy latest).",
    UNSENT: "It was in the connection's outbox, or in the kernel's hands in part, when the connection was lost: it was not sent.",
    "closed": "It was not written: the end of the connection was already decided.",
}


def judge(publication: Publication, room: str, story: Story, waiting: Waiting | None) -> Verdict:
    """The verdict.

    Args:
        publication: of ``room``.
        story: of the connection.
        waiting: what is in its outbox now; ``None`` when the connection is over.
    """
    if publication.exclude == story.id:
        return Verdict("excluded", False, _EXCLUDED)
    covering = [one for one in story.memberships(room) if one.covers(publication.set_out_at)]
    if not covering:
        return _was_no_member(publication, room, story)
    if covering[-1].joined_at >= publication.late_since:
        return Verdict("joined-later", False, "The connection joined the room when this message was already on its way.")
    for happening in reversed(story.happenings):
        if happening.message == publication.id:
            return _happened(happening.what, happening.seconds)
    if publication.set_out_at <= story.forgotten_until:
        return Verdict("forgotten", None, "It was written or dropped; of so much that happened since, this is not remembered.")
    return _written(publication, story, waiting)


def _was_no_member(publication: Publication, room: str, story: Story) -> Verdict:
    if story.close is not None and story.ended_at <= publication.set_out_at:
        ended = f"{moment(story.ended_at)} ({story.close.reason}, by the {story.initiator})"
        return Verdict("closed", False, f"The connection had ended at {ended}.")
    if story.since <= publication.set_out_at <= story.left_forgotten_until:
        return Verdict("forgotten", None, "Whether the connection was in the room then is not remembered any more.")
    later = [one for one in story.memberships(room) if one.joined_at > publication.set_out_at]
    before = [one for one in story.memberships(room) if one.left_at is not None and one.left_at < publication.set_out_at]
    if later:
        return Verdict("joined-later", False, f"The connection joined the room only at {moment(later[0].joined_at)}.")
    if before:
        return Verdict("left", False, f"The connection had left the room at {moment(before[-1].left_at or 0.0)}.")
    return Verdict("not-a-member", False, "The connection was not in the room, as far as this node remembers.")


def _happened(what: str, seconds: float | None) -> Verdict:
    if what == "confirmed":
        return Verdict(
            "confirmed", True,
            f"It was written; {seconds or 0.0:.3f} s after it was accepted the client's WebSocket stack confirmed having read it.",
        )  # fmt: skip
    if what == "timeout":
        return Verdict("unconfirmed", None, "It was written, but the ping behind it was not answered in time.")
    return Verdict(what, False, _DROPPED.get(what, f"It was dropped: {what}."))


def _written(publication: Publication, story: Story, waiting: Waiting | None) -> Verdict:
    if waiting is None and story.buffered_bytes:
        return Verdict(
            "maybe-unsent", None,
            f"It was written to the connection's outbox, in which {story.buffered_bytes} bytes still waited when the connection "
            f"ended ({story.close.reason if story.close else 'lost'}); the socket has still time to take them.",
        )  # fmt: skip
    if waiting is not None and (publication.id in waiting.messages or waiting.others):
        where = "It was written to the connection's outbox, where "
        if publication.id not in waiting.messages:
            where += f"it may be one of the {waiting.others} messages that wait there longest, as "
        return Verdict("buffered", None, f"{where}{waiting.buffered_bytes} bytes wait: the client reads slowly.")
    return Verdict(
        "written", True, "It was written to the connection and the kernel took it. If the client shows nothing, look at the client."
    )


def alone(what: str) -> str:
    """What became of a message for one connection alone."""
    return "It was written to the connection." if what == "sent" else _happened(what, None).words


def moment(at: float) -> str:
    """A time for people: UTC, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S.%f")[:-3] + " UTC"
