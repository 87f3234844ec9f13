"""``Backlog``: what an outlet has taken and the kernel has not, oldest first, and the namespaces it is accounted for in.

It exists only while something waits. Positions are in whatever unit the outlet counts in (bytes of frames, or messages) and only
ever grow. What was taken ends in exactly one of three ways: settled (the kernel has it), forgotten (the connection was lost first)
or withdrawn (a newer message took its place).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from .ledger import NamespaceTotals, Taken
from .message import Batch

__all__ = ["MAX_ENTRIES", "MAX_NAMED", "Backlog", "named"]

MAX_ENTRIES = 256
"""Beyond it what is taken is counted with what was taken before: coarser, but bounded, however small the messages are."""
MAX_NAMED = 32
"""Of how many publications, the newest, the names are kept; those that waited longest are the least likely to be given up."""


class _Entry:
    __slots__ = ("end", "messages")

    def __init__(self, end: int) -> None:
        self.end = end
        self.messages: Counter[NamespaceTotals] = Counter()


class Backlog:
    """See the module."""

    __slots__ = ("_entries", "_named")

    def __init__(self) -> None:
        self._entries: deque[_Entry] = deque()
        self._named: deque[tuple[int, Taken]] = deque(maxlen=MAX_NAMED)
        """With the position where each is through, or the batch that it belongs to."""

    def __bool__(self) -> bool:
        return bool(self._entries)

    def take(self, end: int, batch: Batch) -> None:
        """A batch was taken and is through when position ``end`` is."""
        self.add(end, batch.totals, len(batch))
        for taken in named(batch)[-MAX_NAMED:]:
            self._named.append((end, taken))

    def add(self, end: int, totals: NamespaceTotals | None, messages: int) -> None:
        """``messages`` were taken and are through when position ``end`` is; without ``totals`` they are nobody's."""
        entries = self._entries
        if len(entries) < MAX_ENTRIES:
            entries.append(_Entry(end))
        entries[-1].end = end
        if totals is not None:
            entries[-1].messages[totals] += messages
            totals.buffered += messages

    def settle(self, position: int) -> None:
        """Everything up to ``position`` is the kernel's."""
        entries, named = self._entries, self._named
        while entries and entries[0].end <= position:
            for totals, messages in entries.popleft().messages.items():
                totals.buffered -= messages
        while named and named[0][0] <= position:
            named.popleft()

    def withdraw(self, totals: NamespaceTotals | None, reason: str) -> list[Taken]:
        """The last message that was added will not be sent; returns its name if it has one."""
        if totals is not None and self._entries:
            self._entries[-1].messages[totals] -= 1
            totals.buffered -= 1
            totals.lose(1, reason)
        is_named = self._entries and self._named and self._named[-1][0] == self._entries[-1].end
        return [self._named.pop()[1]] if is_named else []

    def waiting(self) -> tuple[list[Taken], int]:
        """The names of the newest publications in it, and how many there are."""
        return [taken for _, taken in self._named], sum([entry.messages.total() for entry in self._entries])

    def forget(self, reason: str) -> tuple[list[Taken], int]:
        """Nothing of it will be sent any more; returns what was ``waiting``."""
        waited = self.waiting()
        for entry in self._entries:
            for totals, messages in entry.messages.items():
                totals.buffered -= messages
                totals.lose(messages, reason)
        self._entries.clear()
        self._named.clear()
        return waited


def named(batch: Batch) -> Sequence[Taken]:
    """The publications in a batch; its names are made once, however many outlets have to wait with it."""
    if batch.names is None:
        batch.names = [Taken.of(envelope) for envelope in batch.envelopes]
    return batch.names
