"""``LoopLag``: how late the event loop runs its timers, sampled by a timer that sets itself again; there is no task.

A timer that should have run at a certain moment runs later when something keeps the loop busy: what it is late by is what
every connection of the process waits, too. The mean over the window tells a loop that is overloaded (every sample late)
from one that stumbled once (a collection of garbage), so that is what readiness judges.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["LoopLag", "LoopLagStatistics"]

logger = logging.getLogger("tidegate.health")


class LoopLagStatistics(NamedTuple):
    """Lag in seconds: of the newest sample, and over the window."""

    current_seconds: float
    mean_seconds: float
    max_seconds: float
    samples: int


class LoopLag:
    """Samples the lag of the loop it was started on.

    Args:
        interval_seconds: time between samples.
        window_seconds: how far back mean and maximum look; at least one sample is always kept.
        on_sample: told every sample in seconds, for a histogram.
    """

    def __init__(
        self,
        *,
        interval_seconds: float = 0.25,
        window_seconds: float = 10.0,
        on_sample: Callable[[float], None] | None = None,
    ) -> None:
        if not 0 < interval_seconds <= window_seconds:
            raise ValueError(
                f"interval_seconds is above 0 and at most window_seconds, not {interval_seconds:g} of {window_seconds:g}"
            )
        self._interval_seconds = interval_seconds
        self._window_seconds = window_seconds
        self._on_sample = on_sample
        # Samples come no faster than the interval, so the window bounds their number.
        self._samples: deque[tuple[float, float]] = deque(maxlen=int(window_seconds / interval_seconds) + 2)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Sample the running loop from now on; does nothing when it is done already."""
        if self._timer is None:
            self._loop = asyncio.get_running_loop()
            self._set(self._loop)

    def stop(self) -> None:
        """Sample no more; what was seen stays to be looked at."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def statistics(self) -> LoopLagStatistics:
        """What the window holds now; all zero before the first sample."""
        self._forget()
        lags = [lag for _, lag in self._samples]
        if not lags:
            return LoopLagStatistics(0.0, 0.0, 0.0, 0)
        return LoopLagStatistics(lags[-1], sum(lags) / len(lags), max(lags), len(lags))

    def _set(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + self._interval_seconds
        self._timer = loop.call_at(due, self._sample, loop, due)

    def _sample(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        now = loop.time()
        lag = max(0.0, now - due)  # a loop may run a timer early by the resolution of its clock
        self._samples.append((now, lag))
        self._set(loop)
        if self._on_sample is not None:
            try:
                self._on_sample(lag)
            except Exception:  # an observer's mistake must not cost the next sample
                logger.exception("the observer of the loop's lag failed")

    def _forget(self) -> None:
        if self._loop is None or self._timer is None:
            return
        oldest = self._loop.time() - self._window_seconds
        while len(self._samples) > 1 and self._samples[0][0] < oldest:
            self._samples.popleft()
