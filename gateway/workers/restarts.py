"""``Restarts``: when a worker that died is started again. No clock: times are arguments.

1. Who has lived long is started again at once; who dies at once, waits longer each time, up to a bound.
2. What dies at once again and again is ``hopeless``; what is done about that is the supervisor's matter.
"""

from __future__ import annotations

__all__ = ["LONGEST_DELAY_SECONDS", "MOST_QUICK_DEATHS", "QUICK_SECONDS", "Restarts"]

QUICK_SECONDS = 10.0
"""Who dies within this time of its start has died at once."""
MOST_QUICK_DEATHS = 5
"""As many in a row are hopeless."""
SHORTEST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0


class Restarts:
    """One worker's deaths."""

    def __init__(self) -> None:
        self.quick_deaths = 0
        """Of those in a row up to now."""

    @property
    def hopeless(self) -> bool:
        return self.quick_deaths >= MOST_QUICK_DEATHS

    def died(self, lived_seconds: float) -> float:
        """Note a death; returns how many seconds to wait with the next start."""
        if lived_seconds >= QUICK_SECONDS:
            self.quick_deaths = 0
            return 0.0
        self.quick_deaths += 1
        if self.hopeless:
            return LONGEST_DELAY_SECONDS
        return float(SHORTEST_DELAY_SECONDS * 2 ** (self.quick_deaths - 1))
