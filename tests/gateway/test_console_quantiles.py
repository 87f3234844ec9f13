"""``gateway.console.quantiles``: percentiles out of buckets."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.console.quantiles import AT_MOST, MORE_THAN, Quantile, added, count, quantile, subtracted

INF = math.inf


@pytest.mark.parametrize(
    ("share", "buckets", "value"),
    [
        (0.5, {}, Quantile(None)),
        (0.5, {1.0: 0.0, INF: 0.0}, Quantile(None)),
        (0.25, {1.0: 10.0, 2.0: 20.0, INF: 20.0}, Quantile(0.5)),
        (1.0, {1.0: 10.0, 2.0: 20.0, INF: 20.0}, Quantile(2.0)),
        (0.75, {1.0: 5.0, 3.0: 10.0, INF: 10.0}, Quantile(2.0)),
        (0.0, {1.0: 5.0, 2.0: 10.0, INF: 10.0}, Quantile(0.0)),
    ],
)
def test_values_are_spread_evenly_within_their_bucket(share: float, buckets: dict[float, float], value: Quantile) -> None:
    """As Prometheus has it; of nothing there is no percentile."""
    assert quantile(share, buckets) == value


@pytest.mark.parametrize(
    ("share", "buckets", "value"),
    [
        (0.5, {1.0: 0.0, 2.0: 1.0, INF: 1.0}, Quantile(2.0, AT_MOST)),
        (0.5, {1.0: 8.0, 2.0: 9.0, INF: 9.0}, Quantile(1.0, AT_MOST)),
        (0.99, {1.0: 8.0, 2.0: 9.0, INF: 9.0}, Quantile(2.0, AT_MOST)),
        (0.99, {1.0: 500.0, 2.0: 500.0, INF: 500.0}, Quantile(1.0, AT_MOST)),
        (0.99, {1.0: 5.0, 2.0: 5.0, INF: 10.0}, Quantile(2.0, MORE_THAN)),
        (0.5, {1.0: 0.0, INF: 1.0}, Quantile(1.0, MORE_THAN)),
    ],
)
def test_nothing_is_made_up_of_a_few_values(share: float, buckets: dict[float, float], value: Quantile) -> None:
    """Of fewer than ten, of all in one bucket and of those above the last bound only a bound is known, and said to be one."""
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
    found = [quantile(share, change).value for share in (0.5, 0.9, 0.99)]
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
