"""Writes ``docs/performance.md`` and its plots from the results of a run."""

from .document import write_report

__all__ = ["write_report"]
