"""``Confirms``: sampled deliveries that the client's WebSocket stack confirms.

A ping right behind a message, and its pong: a client's stack reads frames in order, so the pong proves that it has read the
message. It proves no more than that: not that the page or the app has looked at it.

1. Every delivery is as likely to be sampled as any other (skips between samples are drawn from the geometric distribution).
2. There are at most ``per_second`` samples a second, and one at a time per connection.
3. A write to a thousand members costs a comparison. The shared frames stay shared; only a sampled member gets a ping of its own.
4. Every sample ends as ``confirmed``, ``closed_before`` or ``timeout``.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Sequence

from middleware.close import Close

from ..connection import Connection
from ..envelope import Envelope
from ..fan_out import FanOut
from ..observer import Observer, Observers

__all__ = ["RESULTS", "Confirms"]

RESULTS = ("confirmed", "closed_before", "timeout")

TICK_SECONDS = 1.0
TIMEOUT_SECONDS = 10.0
_FOR_EVER = 1 << 62
_TRIES, _TRIES_PER_SAMPLE = 16, 4
"""Who is asked and cannot confirm now, as under servers without the frames extension, is a try for nothing: so many in a second."""


class Confirms(Observer):
    """Samples deliveries and waits for their pongs.

    Args:
        per_second: how many at most; 0 samples none.
        observers: told of every sample when it comes to its end.
        timeout_seconds: how long a pong may take.
    """

    def __init__(
        self,
        *,
        per_second: float = 0.0,
        observers: Observers | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self.per_second = per_second
        self.results: Counter[str] = Counter(dict.fromkeys(RESULTS, 0))
        self._observers = observers or Observers()
        self._timeout_seconds = timeout_seconds
        self._skip = 0
        """How many deliveries are left out before the next one is asked about."""
        self._drawn = 0
        """What ``_skip`` was in this second, and what was added: less what it is, that are the deliveries there were."""
        self._share = 1.0
        self._budget = max(1.0, per_second)
        self._tries = self._most_tries = int(_TRIES + _TRIES_PER_SAMPLE * per_second)
        self._waiting: dict[Connection, tuple[Envelope, float]] = {}
        """In the order in which they were sent, with the time at which each is given up."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Samples under way."""
        return len(self._waiting)

    def reached(self, recipients: Sequence[Connection], fan_out: FanOut) -> None:
        """Members were written to just now: what is sent to one of them next stands right behind."""
        self._skip -= len(recipients) * len(fan_out.envelopes)
        if self._skip < 0:
            self._sample(recipients, fan_out)

    def _sample(self, recipients: Sequence[Connection], fan_out: FanOut) -> None:
        """Ask the members that the skips end at. What is skipped is counted when it has been drawn, so it is counted once."""
        messages = len(fan_out.envelopes)
        deliveries = len(recipients) * messages
        at = self._skip + deliveries
        while at < deliveries and self._budget >= 1 and self._tries > 0:
            self._tries -= 1
            place, message = divmod(at, messages)
            self.ask(recipients[place], fan_out, message)
            at += self._skipping(1 + self._draw())
        if at < deliveries:  # nobody is asked any more before the next tick, which draws anew
            at += self._skipping(_FOR_EVER)
        self._skip = at - deliveries
        self._keep_time()

    def _keep_time(self) -> None:
        if self._timer is None and self.per_second:
            self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def _skipping(self, deliveries: int) -> int:
        """Note that so many more deliveries are left out."""
        self._drawn += deliveries
        return deliveries

    def _draw(self) -> int:
        """How many deliveries to leave out before the next one."""
        if self._share >= 1:
            return 0
        return int(math.log(1.0 - random.random()) / math.log1p(-self._share))  # noqa: S311 - a sample, no secret

    def ask(self, member: Connection, fan_out: FanOut, message: int) -> None:
        """Have ``member`` confirm a message that was just written to it; does nothing when that is beyond the budget."""
        if not self.per_second or self._budget < 1 or member in self._waiting or not fan_out.has(member, message):
            return
        envelope = fan_out.envelopes[message]
        if member.confirm(lambda: self._confirmed(member)):
            self._budget -= 1
            self._waiting[member] = (envelope, asyncio.get_running_loop().time() + self._timeout_seconds)
            self._keep_time()  # whoever asks besides our own samples is to have a result too

    def _confirmed(self, member: Connection) -> None:
        self._finish(member, "confirmed")

    def ended(self, connection: Connection, close: Close) -> None:
        """A connection's end is decided."""
        if connection in self._waiting:
            self._finish(connection, "closed_before")

    def _finish(self, member: Connection, result: str) -> None:
        found = self._waiting.pop(member, None)
        if found is None:  # it was given up before
            return
        envelope, _ = found
        seconds = max(0.0, time.time() - envelope.published_at)  # another node's clock may be ahead
        self.results[result] += 1
        for told in self._observers.confirmed:
            told(member, envelope, result, seconds)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        for member, (_, give_up) in tuple(self._waiting.items()):
            if give_up > loop.time():
                break
            self._finish(member, "timeout")
        seen = self._drawn - self._skip
        if seen or self._waiting:
            self._timer = loop.call_later(TICK_SECONDS, self._tick)
        self._budget = max(1.0, self.per_second * TICK_SECONDS)
        self._tries = self._most_tries
        self._share = min(1.0, self.per_second * TICK_SECONDS / max(1, seen))
        self._skip = self._drawn = self._draw()  # drawing again changes nothing: the distribution has no memory
