"""Percentiles out of buckets: how histograms of a fixed set of bounds are added, subtracted and read. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

__all__ = ["Buckets", "added", "count", "quantile", "subtracted"]

Buckets = Mapping[float, float]
"""Upper bound, ``inf`` the last, → how many values were at or below it."""


def added(left: Buckets, right: Buckets) -> Buckets:
    """Both together."""
    return {bound: left.get(bound, 0.0) + right.get(bound, 0.0) for bound in {**left, **right}}


def subtracted(now: Buckets, before: Buckets) -> Buckets:
    """What came between two readings of one histogram; it never counts back."""
    return {bound: max(0.0, value - before.get(bound, 0.0)) for bound, value in now.items()}


def count(buckets: Buckets) -> int:
    """How many values there are."""
    return int(max(buckets.values(), default=0.0))


def quantile(share: float, buckets: Buckets) -> float | None:
    """The value that ``share`` of all values are at or below; ``None`` when there are none.

    Within a bucket values count as evenly spread, as Prometheus' ``histogram_quantile`` has it; what lies above the last bound is
    given as that bound.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a quantile is from 0 to 1, not {share:g}")
    total = count(buckets)
    if not total:
        return None
    wanted, low, below = share * total, 0.0, 0.0
    for bound in sorted(buckets):
        cumulated = buckets[bound]
        if cumulated >= wanted and cumulated > below:
            if math.isinf(bound):
                return low
            return low + (bound - low) * max(0.0, wanted - below) / (cumulated - below)
        low, below = (low if math.isinf(bound) else bound), cumulated
    return low
