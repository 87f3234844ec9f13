"""``SlowConsumers``: how many clients do not keep up, whatever the outbox policy does about it.

A batch that one client does not get may be hundreds of messages, so dropped messages do not tell how many clients are slow; and
where messages are dropped nobody is closed for it.

1. A connection counts when it is closed as a slow consumer, or a message to it is dropped or replaced, but not again within
   ``AGAIN_SECONDS``: over as long a time the increase is the number of clients.
2. What is kept of it ends with the connection.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from middleware.close import SLOW_CONSUMER, Close

from ..connection import Connection
from ..envelope import Envelope
from ..ledger import REPLACED, SLOW, Taken
from ..observer import Observer

__all__ = ["AGAIN_SECONDS", "SlowConsumers"]

AGAIN_SECONDS = 600.0


class SlowConsumers(Observer):
    """Counts; see the module.

    Args:
        clock: seconds that only ever grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = 0
        self._clock = clock
        self._counted_at: dict[Connection, float] = {}

    def dropped(self, connection: Connection, envelopes: Sequence[Envelope], reason: str) -> None:
        """Publications were not written to a connection."""
        if reason == SLOW and connection.ending is None:  # else its end has told
            self._count(connection)

    def gave_up(self, connection: Connection, taken: Sequence[Taken], messages: int, reason: str) -> None:
        """What was taken is not sent."""
        if reason == REPLACED and connection.ending is None:
            self._count(connection)

    def ended(self, connection: Connection, close: Close) -> None:
        """A connection's end is decided."""
        if close.reason == SLOW_CONSUMER.reason:
            self._count(connection)
        self._counted_at.pop(connection, None)

    def _count(self, connection: Connection) -> None:
        now = self._clock()
        counted_at = self._counted_at.get(connection)
        if counted_at is None or now - counted_at >= AGAIN_SECONDS:
            self._counted_at[connection] = now
            self.total += 1
