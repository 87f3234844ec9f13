"""GCRA buckets and the table of them: what conforms, what never waits, what is remembered."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from middleware.bucket import FULL, BucketTable, TokenBucket

rates = st.floats(0.1, 10_000)
bursts = st.floats(1, 1_000)
gaps = st.lists(st.floats(0, 5), min_size=1, max_size=200)
SLACK_SECONDS = 2e-5


def test_a_full_bucket_gives_its_burst_at_once_and_not_a_token_more() -> None:
    """Ten tokens of burst: the eleventh request at the same moment waits one refill."""
    bucket, full_at = TokenBucket(2, 10), FULL
    for _ in range(10):
        assert bucket.wait_seconds(full_at, 5.0) == 0
        full_at = bucket.spend(full_at, 5.0)
    assert bucket.wait_seconds(full_at, 5.0) == pytest.approx(0.5)


def test_waiting_as_long_as_told_is_enough() -> None:
    """The number of seconds returned is exactly what it takes."""
    bucket = TokenBucket(3, 1)
    full_at = bucket.spend(FULL, 100.0)
    wait = bucket.wait_seconds(full_at, 100.0)
    assert bucket.wait_seconds(full_at, 100.0 + wait * 0.99) > 0
    assert bucket.wait_seconds(full_at, 100.0 + wait) == 0


def test_more_than_the_burst_is_granted_when_the_bucket_is_full_and_paid_for_afterwards() -> None:
    """A message larger than the burst is late, not lost; and the long-run rate holds."""
    bucket = TokenBucket(per_second=10, burst=20)
    assert bucket.wait_seconds(bucket.spend(FULL, 0.0), 0.0, 50) == pytest.approx(0.1)
    assert bucket.wait_seconds(FULL, 0.0, 50) == 0
    assert bucket.wait_seconds(bucket.spend(FULL, 0.0, 50), 0.0) == pytest.approx(3.1)


@given(rates, bursts, gaps)
def test_no_span_conforms_to_more_than_burst_and_rate_allow(per_second: float, burst: float, gaps: list[float]) -> None:
    """For any two conforming requests, what lies between them fits into burst + rate x time."""
    bucket, full_at, now = TokenBucket(per_second, burst), FULL, 1e6
    granted: list[float] = []
    for gap in gaps:
        now += gap
        if not bucket.wait_seconds(full_at, now):
            full_at = bucket.spend(full_at, now)
            granted.append(now)
    for first in range(0, len(granted), 7):
        for last in range(first, len(granted)):
            allowed = burst + per_second * (granted[last] - granted[first] + SLACK_SECONDS)
            assert last - first + 1 <= allowed + 1e-6 * allowed


@given(rates, bursts, st.floats(0, 1e8))
def test_who_keeps_the_rate_never_waits(per_second: float, burst: float, now: float) -> None:
    """A request per refill is never made to wait, on a clock of any age."""
    bucket, full_at = TokenBucket(per_second, burst), FULL
    for step in range(200):
        at = now + step / per_second
        assert bucket.wait_seconds(full_at, at) == 0
        full_at = bucket.spend(full_at, at)


@pytest.mark.parametrize(("per_second", "burst"), [(0, 1), (-1, 1), (math.inf, 1), (math.nan, 1), (1, 0), (1, 0.5), (1, math.inf)])
def test_a_rate_or_burst_that_makes_no_sense_is_refused(per_second: float, burst: float) -> None:
    """A bucket that never or always gives is a mistake in the configuration."""
    with pytest.raises(ValueError, match="must be a finite number"):
        TokenBucket(per_second, burst)


def test_the_burst_defaults_to_two_seconds_worth() -> None:
    """And is never below the one token that a request takes."""
    assert TokenBucket.of(50, None).burst == 100
    assert TokenBucket.of(0.1, None).burst == 1
    assert TokenBucket.of(50, 7).burst == 7


def test_keys_do_not_share_a_bucket() -> None:
    """One key's excess is nobody else's."""
    table = BucketTable(TokenBucket(1, 1), max_keys=10)
    assert table.take("a", 0.0) == 0
    assert table.take("a", 0.0) == pytest.approx(1)
    assert table.take("b", 0.0) == 0


def test_a_bucket_that_is_full_again_keeps_no_memory() -> None:
    """After a storm of a thousand clients the table shrinks as others come."""
    table = BucketTable(TokenBucket(1, 2), max_keys=10_000)
    for number in range(1000):
        table.take(f"client {number}", 0.0)
    assert len(table) == 1000
    for number in range(150):
        table.take("somebody", 10.0 + 10 * number)
    assert len(table) == 1
    assert table.forgotten == 0


def test_a_full_table_forgives_the_key_that_was_quiet_longest() -> None:
    """The bound holds, whoever keeps pushing stays limited, and the loss is counted."""
    table = BucketTable(TokenBucket(0.001, 1), max_keys=3)
    for key in ("busy", "quiet", "third"):
        table.take(key, 0.0)
    assert table.take("busy", 1.0) > 0
    table.take("fourth", 2.0)
    assert len(table) == 3
    assert table.forgotten == 1
    assert table.take("busy", 3.0) > 0
    assert table.take("quiet", 3.0) == 0


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 2)), max_size=300), st.integers(1, 10))
def test_a_table_never_holds_more_keys_than_its_bound(requests: list[tuple[int, float]], max_keys: int) -> None:
    """Whatever comes: at most max_keys, and every limit that is remembered is kept."""
    table, now = BucketTable(TokenBucket(1, 2), max_keys), 0.0
    for key, gap in requests:
        now += gap
        table.take(str(key), now)
        assert len(table) <= max_keys


def test_a_table_without_room_is_refused() -> None:
    """Zero keys would forgive everybody."""
    with pytest.raises(ValueError, match="at least 1 key"):
        BucketTable(TokenBucket(1, 1), 0)
