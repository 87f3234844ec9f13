"""``Backlog``: what an outlet has taken and the kernel has not, oldest first, and the namespaces it is accounted for in.

It exists only while something waits. Positions are in whatever unit the outlet counts in (bytes of frames, or messages) and only
ever grow. What was taken ends in exactly one of three ways: settled (the kernel has it), forgotten (the connection was lost first)
or withdrawn (a newer message took its place).
"""

from __future__ import annotations

from collections import Counter, deque

from .ledger import NamespaceTotals

__all__ = ["MAX_ENTRIES", "Backlog"]

MAX_ENTRIES = 256
"""Beyond it what is taken is counted with what was taken before: coarser, but bounded, however small the messages are."""


class _Entry:
    __slots__ = ("end", "messages")

    def __init__(self, end: int) -> None:
        self.end = end
        self.messages: Counter[NamespaceTotals] = Counter()


class Backlog:
    """See the module."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: deque[_Entry] = deque()

    def __bool__(self) -> bool:
        return bool(self._entries)

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
        entries = self._entries
        while entries and entries[0].end <= position:
            for totals, messages in entries.popleft().messages.items():
                totals.buffered -= messages

    def withdraw(self, totals: NamespaceTotals | None, reason: str) -> None:
        """The last message that was added will not be sent."""
        if totals is not None and self._entries:
            self._entries[-1].messages[totals] -= 1
            totals.buffered -= 1
            totals.lose(1, reason)

    def forget(self, reason: str) -> None:
        """Nothing of it will be sent any more."""
        for entry in self._entries:
            for totals, messages in entry.messages.items():
                totals.buffered -= messages
                totals.lose(messages, reason)
        self._entries.clear()
