"""Pages of names that several nodes have: which names there are behind a given one, and how often, over all of them.

Each node gives the first of its own names, in order, and says whether it has more. What is merged ends where the first node that
has more has stopped, so that every figure on a page is complete: nothing is estimated, and no list is longer than a page.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

__all__ = ["LARGEST_PART_BYTES", "Gathered", "Part", "merge", "part_of"]

LARGEST_PART_BYTES = 64 * 1024
"""How many bytes of names one node gives; a page may be shorter than was asked for."""


class Part(NamedTuple):
    """One node's names behind the one asked for, in order, and how many there are in all."""

    total: int
    names: dict[str, int]
    """And how often the node has each."""
    more: bool
    """It has names behind the last of these."""


class Gathered(NamedTuple):
    """A page of names over all nodes."""

    names: dict[str, int]
    local: Mapping[str, int]
    """How many of them are on this node."""
    total: int
    """The sum of the nodes' totals: what is on two nodes counts twice."""
    total_local: int
    next: str | None
    """What to ask for as ``after`` to get the next page; ``None`` at the end."""
    silent: tuple[str, ...]
    """Nodes that did not answer in time; what they have is missing."""
    complete: bool
    """Every node that is known was asked and has answered."""


def part_of(sizes: Mapping[str, int], after: str, limit: int, max_bytes: int | None = None) -> Part:
    """The first ``limit`` names behind ``after``, and of those as many as ``max_bytes`` allow, but one at least."""
    found = heapq.nsmallest(limit + 1, (name for name in sizes if name > after))
    kept = found[:limit] if max_bytes is None else list(_within(found[:limit], max_bytes))
    return Part(len(sizes), {name: sizes[name] for name in kept}, len(found) > len(kept))


def _within(names: Iterable[str], max_bytes: int) -> Iterable[str]:
    size = 0
    for name in names:
        size += len(name.encode("utf-8", "surrogatepass")) + 8
        if size > max_bytes and size > len(name) + 8:
            return
        yield name


def merge(local: Part, others: Iterable[Part], limit: int, silent: Iterable[str] = (), *, complete: bool = True) -> Gathered:
    """One page of all parts."""
    parts = [local, *others]
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(part.names)
    ends = [max(part.names) for part in parts if part.more]
    horizon = min(ends, default=None)
    names = sorted(name for name in counts if horizon is None or name <= horizon)
    page = names[:limit]
    missing = tuple(sorted(silent))
    return Gathered(
        {name: counts[name] for name in page},
        local.names,
        sum(part.total for part in parts),
        local.total,
        page[-1] if page and (len(names) > limit or horizon is not None) else None,
        missing,
        complete and not missing,
    )
