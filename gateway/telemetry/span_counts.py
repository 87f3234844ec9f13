"""``SpanCounts``: how many spans were to be exported, and what became of them."""

from __future__ import annotations

__all__ = ["SpanCounts"]


class SpanCounts:
    """What became of spans that were to be exported."""

    __slots__ = ("ended", "exported", "failed", "lost")

    def __init__(self) -> None:
        self.ended = self.exported = self.failed = self.lost = 0

    def values(self) -> dict[str, dict[tuple[str, ...], float]]:
        """As values of metrics."""
        return {
            "spans_ended_total": {(): self.ended},
            "spans_exported_total": {("ok",): self.exported, ("failed",): self.failed, ("lost",): self.lost},
        }
