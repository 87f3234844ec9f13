"""``Losses``: rooms in which publications of this node may have been lost, and how other nodes are told. No loop, no clock.

Whose own connection to the engine breaks knows what it had under way; who was to hear that does not. And what a server confirmed
that was not the right one any more (demoted, deaf) may have reached nobody, in any room. So it is said, behind the next
reconnect, in a room that every broker hears, and is a gap to all who have members of the rooms it names.

1. What is kept is bounded, in rooms and in bytes of names: beyond that the notice says "all".
2. Rooms are kept until a notice of them is confirmed; a notice that is lost is said again after the next reconnect.
3. The notice has a room of its own, which an older node does not hear: it never reaches a client as a message.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec

from ..envelope import Envelope
from ..errors import InvalidEnvelope
from ..message import Message

__all__ = ["GAPS_ROOM", "Losses"]

GAPS_ROOM = "~gaps"
MOST_ROOMS = 1_000
MOST_BYTES = 64 * 1024
"""Of names in one notice."""

_Rooms = Annotated[list[str], msgspec.Meta(max_length=MOST_ROOMS)]
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Rooms)


class Losses:
    """What is to be told.

    Args:
        name: unique to this node; its own notices are told apart by it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._rooms: set[str] = set()
        self._bytes = 0
        self._all = False
        self._under_way: Losses | None = None

    def __bool__(self) -> bool:
        return self._all or bool(self._rooms)

    def add(self, rooms: Iterable[str]) -> None:
        """Something for each of ``rooms`` may have been lost."""
        for room in rooms:
            if self._all:
                return
            if room not in self._rooms:
                self._rooms.add(room)
                self._bytes += len(room.encode("utf-8", "surrogatepass"))
                if len(self._rooms) > MOST_ROOMS or self._bytes > MOST_BYTES:
                    self.add_all()

    def add_all(self) -> None:
        """Something may have been lost in any room."""
        self._rooms, self._bytes, self._all = set(), 0, True

    def notice(self) -> Envelope | None:
        """What is to be published now; ``None`` when there is nothing, or a notice is under way. To be followed by ``said``."""
        if not self or self._under_way is not None:
            return None
        self._under_way = told = Losses(self._name)
        told._rooms, told._bytes, told._all = self._rooms, self._bytes, self._all
        self._rooms, self._bytes, self._all = set(), 0, False
        return Envelope(GAPS_ROOM, Message(_encoder.encode(sorted(told._rooms))), id=self._name, node="")

    def said(self, *, confirmed: bool) -> None:
        """What has become of the last notice."""
        told, self._under_way = self._under_way, None
        if told is not None and not confirmed:
            if told._all:
                self.add_all()
            self.add(told._rooms)

    def heard(self, envelope: Envelope, mine: Iterable[str]) -> frozenset[str]:
        """Which of the rooms ``mine`` a notice means; none when it is our own. Raises ``InvalidEnvelope``."""
        if envelope.id == self._name:
            return frozenset()
        try:
            rooms = _decoder.decode(envelope.message.payload)
        except (msgspec.MsgspecError, ValueError) as error:
            raise InvalidEnvelope(f"not a notice of a gap: {error}") from None
        return frozenset(mine).intersection(rooms) if rooms else frozenset(mine)
