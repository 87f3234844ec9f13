"""Rows of text for people: a table where it fits, else one block per row. Knows nothing of what the rows are about."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence

__all__ = ["columns_of_terminal", "table"]

NARROWEST = 40


def columns_of_terminal() -> int | None:
    """How wide the terminal is that standard error goes to; ``None`` when it goes to none."""
    try:
        return os.get_terminal_size(2).columns
    except OSError:
        return None


def table(head: Sequence[str], rows: Sequence[Sequence[str]], columns: int | None) -> str:
    """``rows`` under ``head``; when that is wider than ``columns``, a block for each: what it is about, then a line per cell."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    if columns is not None and sum(widths) + 2 * (len(head) - 1) > columns:
        return "\n\n".join(_block(head, row, max(NARROWEST, columns)) for row in rows)
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)]
    return "\n".join([lines[0], "  ".join("─" * width for width in widths), *lines[1:]])


def _block(head: Sequence[str], row: Sequence[str], columns: int) -> str:
    width = max(map(len, head[1:]))
    lines = [row[0]]
    for name, cell in zip(head[1:], row[1:], strict=True):
        if cell:
            lines += textwrap.wrap(
                f"  {name.ljust(width)}  {cell}", columns, subsequent_indent=" " * (width + 4), break_on_hyphens=False,
                break_long_words=False,
            )  # fmt: skip
    return "\n".join(lines)
