"""``gateway.console.quantiles``: percentiles out of buckets."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.console.quantiles import added, count, quantile, subtracted

INF = math.inf


@pytest.mark.parametrize(
    ("share", "buckets", "value"),
    [
        (0.5, {}, None),
        (0.5, {1.0: 0.0, INF: 0.0}, None),
        (0.5, {1.0: 10.0, INF: 10.0}, 0.5),
        (1.0, {1.0: 10.0, 2.0: 10.0, INF: 10.0}, 1.0),
        (0.5, {1.0: 0.0, 2.0: 10.0, INF: 10.0}, 1.5),
        (0.75, {1.0: 5.0, 3.0: 10.0, INF: 10.0}, 2.0),
        (0.99, {1.0: 5.0, 2.0: 5.0, INF: 10.0}, 2.0),
        (0.0, {1.0: 5.0, 2.0: 10.0, INF: 10.0}, 0.0),
    ],
)
def test_values_are_spread_evenly_within_their_bucket(share: float, buckets: dict[float, float], value: float | None) -> None:
    """As Prometheus has it; what is above the last bound is given as that bound, and of nothing there is no percentile."""
    assert quantile(share, buckets) == value


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_a_share(share: float) -> None:
    """A percentile of 110 is a mistake of the caller."""
    with pytest.raises(ValueError, match="0 to 1"):
        quantile(share, {1.0: 1.0, INF: 1.0})


BOUNDS = (0.001, 0.01, 0.1, 1.0, INF)


def cumulated(counts: list[int]) -> dict[float, float]:
    return {bound: float(sum(counts[: at + 1])) for at, bound in enumerate(BOUNDS)}


@given(st.lists(st.integers(0, 50), min_size=5, max_size=5), st.lists(st.integers(0, 50), min_size=5, max_size=5))
@settings(max_examples=60)
def test_percentiles_rise_with_the_share_and_lie_in_a_bucket_that_holds_something(first: list[int], more: list[int]) -> None:
    """Of what came between two readings: p50 ≤ p90 ≤ p99, and none outside the buckets that have values."""
    before, now = cumulated(first), added(cumulated(first), cumulated(more))
    change = subtracted(now, before)
    assert count(change) == sum(more)
    found = [quantile(share, change) for share in (0.5, 0.9, 0.99)]
    if not sum(more):
        assert found == [None] * 3
        return
    values = [value for value in found if value is not None]
    assert values == sorted(values)
    filled = [at for at, n in enumerate(more) if n]
    low = BOUNDS[filled[0] - 1] if filled[0] else 0.0
    high = min(BOUNDS[filled[-1]], 1.0)
    assert all(low <= value <= high for value in values)


def test_a_histogram_that_began_anew_counts_nothing_back() -> None:
    """Fewer than before means another life of the process; nothing negative comes of it."""
    assert subtracted({1.0: 2.0, INF: 2.0}, {1.0: 5.0, INF: 9.0}) == {1.0: 0.0, INF: 0.0}
