"""``TokenBucket``: the generic cell rate algorithm (GCRA), without I/O, clock or state; ``BucketTable``: one bucket per key.

A bucket holds ``burst`` tokens and is refilled at ``per_second``. All that one bucket needs to remember is the time at which
it will be full again, so the state is one float, and it belongs to the caller: a slot of a guard, a value in a table. The
object here is what all buckets of one kind have in common. (The classic form, ITU-T I.371, calls that float the theoretical
arrival time.)

1. Over any span of ``t`` seconds no bucket conforms to more than ``burst + per_second * t`` tokens, but for what one single
   request larger than the burst asks on top.
2. Who never exceeds the rate is never made to wait.
3. Time never gives more than a full bucket, and a clock that stands still gives nothing.
4. A table never holds more than ``max_keys`` buckets, and a bucket that is full again is forgotten.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final

__all__ = ["FULL", "BucketTable", "TokenBucket"]

FULL: Final = -math.inf
"""The state of a bucket that nobody has taken from."""

_SLACK_SECONDS: Final = 1e-5
"""Forgives the rounding of floats; it is granted once per bucket, not once per token."""

_SWEEP: Final = 8
"""Full buckets forgotten per request: more than the one that a request can add, so that a table shrinks after a storm."""


class TokenBucket:
    """One kind of bucket: ``burst`` tokens at most, ``per_second`` tokens of refill; both may be fractions."""

    __slots__ = ("_capacity_seconds", "_token_seconds", "ample_seconds", "burst", "per_second")

    def __init__(self, per_second: float, burst: float) -> None:
        if not (per_second > 0 and math.isfinite(per_second)):
            raise ValueError(f"a rate must be a finite number above 0, not {per_second!r}")
        if not (burst >= 1 and math.isfinite(burst)):
            raise ValueError(f"a burst must be a finite number of at least 1, not {burst!r}: a smaller one lets nothing through")
        self.per_second = per_second
        self.burst = burst
        self._token_seconds = 1 / per_second
        self._capacity_seconds = burst / per_second
        self.ample_seconds = self._capacity_seconds - self._token_seconds
        """A bucket that is full again in less has a token now: spares the common case the call of ``wait_seconds``."""

    @classmethod
    def of(cls, per_second: float, burst: float | None) -> TokenBucket:
        """The bucket of a rate; without a burst it holds two seconds' worth, and at least one token."""
        return cls(per_second, max(1.0, 2 * per_second) if burst is None else burst)

    def wait_seconds(self, full_at: float, now: float, tokens: float = 1.0) -> float:
        """Seconds from ``now`` until ``tokens`` may be taken; 0.0 when they may be taken at once.

        More tokens than the bucket can hold may be taken when it is full: a message larger than the burst gets its turn,
        and what follows pays for it.
        """
        if full_at <= now:
            return 0.0
        needed_seconds = min(tokens * self._token_seconds, self._capacity_seconds)
        wait = full_at + needed_seconds - self._capacity_seconds - now
        return wait if wait > _SLACK_SECONDS else 0.0

    def spend(self, full_at: float, now: float, tokens: float = 1.0) -> float:
        """Take ``tokens`` whether they are there or not, and return the bucket's new state: when it will be full again."""
        return (full_at if full_at > now else now) + tokens * self._token_seconds


class BucketTable:
    """One bucket per key, bounded: above ``max_keys`` the key that was quiet longest is forgotten, i.e. forgiven."""

    __slots__ = ("_full_at", "bucket", "forgotten", "max_keys")

    def __init__(self, bucket: TokenBucket, max_keys: int) -> None:
        if max_keys < 1:
            raise ValueError(f"a table needs room for at least 1 key, not {max_keys!r}")
        self.bucket = bucket
        self.max_keys = max_keys
        self.forgotten = 0
        """Keys forgotten before their bucket was full again, because the table was."""
        self._full_at: OrderedDict[str, float] = OrderedDict()  # quiet longest first

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: str, now: float) -> float:
        """Take one token of ``key``'s bucket and return 0.0, or take nothing and return the seconds until there is one."""
        self._forget_full(now)
        full_at = self._full_at.get(key, FULL)
        wait = self.bucket.wait_seconds(full_at, now)
        self._full_at[key] = full_at if wait else self.bucket.spend(full_at, now)
        self._full_at.move_to_end(key)
        if len(self._full_at) > self.max_keys:
            self._full_at.popitem(last=False)
            self.forgotten += 1
        return wait

    def _forget_full(self, now: float) -> None:
        for _ in range(min(_SWEEP, len(self._full_at))):
            key = next(iter(self._full_at))
            if self._full_at[key] > now:
                return  # what was touched later is full at most one whole refill later
            del self._full_at[key]
