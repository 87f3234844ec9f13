"""Percentiles out of buckets: how histograms of a fixed set of bounds are added, subtracted and read. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["AT_MOST", "FEW", "MORE_THAN", "Buckets", "Quantile", "added", "count", "quantile", "subtracted"]

Buckets = Mapping[float, float]
"""Upper bound, ``inf`` the last, → how many values were at or below it."""

FEW = 10
"""Of fewer values than this nobody knows how they lie within their bucket."""
AT_MOST, MORE_THAN = "at_most", "more_than"


class Quantile(NamedTuple):
    """A percentile, in the unit of the bounds."""

    value: float | None
    """``None`` when there are no values."""
    is_bound: str = ""
    """``AT_MOST`` or ``MORE_THAN`` when ``value`` is a bucket's bound and nothing nearer is known."""


def added(left: Buckets, right: Buckets) -> Buckets:
    """Both together."""
    return {bound: left.get(bound, 0.0) + right.get(bound, 0.0) for bound in {**left, **right}}


def subtracted(now: Buckets, before: Buckets) -> Buckets:
    """What came between two readings of one histogram; it never counts back."""
    return {bound: max(0.0, value - before.get(bound, 0.0)) for bound, value in now.items()}


def count(buckets: Buckets) -> int:
    """How many values there are."""
    return int(max(buckets.values(), default=0.0))


def quantile(share: float, buckets: Buckets) -> Quantile:
    """The value that ``share`` of all values are at or below.

    Within a bucket values count as evenly spread, as Prometheus' ``histogram_quantile`` has it. Of fewer than ``FEW`` values, and
    while all are in one bucket, that would be made up: then it is the bucket's upper bound. What lies
    above the last bound is given as that bound.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a quantile is from 0 to 1, not {share:g}")
    total = count(buckets)
    if not total:
        return Quantile(None)
    wanted, low, below = share * total, 0.0, 0.0
    for bound in sorted(buckets):
        cumulated = buckets[bound]
        if cumulated >= wanted and cumulated > below and not math.isinf(bound):
            if total < FEW or cumulated - below == total:
                return Quantile(bound, AT_MOST)
            return Quantile(low + (bound - low) * max(0.0, wanted - below) / (cumulated - below))
        low, below = (low if math.isinf(bound) else bound), cumulated
    return Quantile(low, MORE_THAN)
