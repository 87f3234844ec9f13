"""``Confirms``: sampled deliveries that the client's WebSocket stack confirms.

A ping right behind a message, and its pong: a client's stack reads frames in order, so the pong proves that it has read the
message. It proves no more than that: not that the page or the app has looked at it.

1. Every delivery is as likely to be sampled as any other: of each ``_interval`` deliveries that follow each other one is, at a
   random place. The interval follows from how many deliveries there were in the seconds before, and grows before a fan-out that
   has more than are left in the plan for this second, so that no fan-out spends the budget on its first members.
2. There are at most ``per_second`` samples a second, and one at a time per connection. Who is asked besides (``ask``) is no sample:
   it has a budget of its own and is not in the figures.
3. A write to a thousand members costs two comparisons. The shared frames stay shared; only a sampled member gets a ping of its own.
4. Every sample ends as ``confirmed``, ``closed_before`` or ``timeout``.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from middleware.close import Close

from ..connection import Connection
from ..envelope import Envelope
from ..fan_out import FanOut
from ..observer import Observer, Observers

__all__ = ["RESULTS", "Confirms"]

RESULTS = ("confirmed", "closed_before", "timeout")

TICK_SECONDS = 1.0
TIMEOUT_SECONDS = 10.0
REMEMBERED = 0.95
"""What is expected falls to this part of itself in a second that had fewer deliveries, unless it had none."""
_FOR_EVER = 1 << 62


class _Asked(NamedTuple):
    envelope: Envelope
    give_up_at: float
    is_sample: bool


class Confirms(Observer):
    """Samples deliveries and waits for their pongs.

    Args:
        per_second: how many at most; 0 samples none.
        observers: told of everything that was asked when it comes to its end.
        on_confirmed: told of the samples that were confirmed, and how many seconds after they had been accepted.
        timeout_seconds: how long a pong may take.
    """

    def __init__(
        self,
        *,
        per_second: float = 0.0,
        observers: Observers | None = None,
        on_confirmed: Callable[[Envelope, float], None] | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self.per_second = per_second
        self.results: Counter[str] = Counter(dict.fromkeys(RESULTS, 0))
        self._observers = observers or Observers()
        self._on_confirmed = on_confirmed
        self._timeout_seconds = timeout_seconds
        self._expected = 0.0
        """How many deliveries there are likely to be in a second that has some."""
        self._seen = 0
        """How many there were in this second. By their numbers: the next sample, where its interval starts, where the plan ends."""
        self._next = self._start = 0
        self._until = 0.0
        self._interval = 1
        self._left = self._left_besides = 0.0
        """What is left of the budgets."""
        self._waiting: dict[Connection, _Asked] = {}
        """In the order in which they were asked."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many were asked and have not answered."""
        return len(self._waiting)

    # -- sampling

    def reached(self, recipients: Sequence[Connection], fan_out: FanOut) -> None:
        """Members were written to just now: what is sent to one of them next stands right behind."""
        messages, before = len(fan_out.envelopes), self._seen
        self._seen = after = before + len(recipients) * messages
        end = after + (len(fan_out.recipients) - fan_out.at) * messages  # of the whole fan-out, which may take more turns
        if after > self._next or end > self._until:
            self._sample(recipients, fan_out, before, end)

    def _sample(self, recipients: Sequence[Connection], fan_out: FanOut, before: int, end: int) -> None:
        """Ask those of the recipients, the first of whose deliveries is number ``before``, that are samples."""
        self._keep_time()
        if end > self._until:
            self._thin_out(before, end)
        while self._next < self._seen:
            place, message = divmod(self._next - before, len(fan_out.envelopes))
            if self._left >= 1 and self._ask(recipients[place], fan_out, message, is_sample=True):
                self._left -= 1
            self._begin_interval(self._start + self._interval)

    def _thin_out(self, before: int, end: int) -> None:
        """There are more deliveries than were expected: what is left of the plan is for all of them, or there is nothing left."""
        left = self._until - before
        if left <= 0:
            self._until = self._next = _FOR_EVER
            return
        self._interval = math.ceil(self._interval * (end - before) / left)
        self._until = end
        self._begin_interval(before)

    def _begin_interval(self, start: int) -> None:
        self._start = start
        self._next = start + int(random.random() * self._interval)  # noqa: S311 - a sample, no secret

    # -- asking

    def ask(self, member: Connection, fan_out: FanOut, message: int) -> bool:
        """Have ``member`` confirm a message that was just written to it, besides the samples; False when that cannot be asked."""
        if not self.per_second:
            return False
        self._keep_time()  # whoever asks besides our own samples is to have a result too
        if self._left_besides < 1 or not self._ask(member, fan_out, message, is_sample=False):
            return False
        self._left_besides -= 1
        return True

    def _ask(self, member: Connection, fan_out: FanOut, message: int, *, is_sample: bool) -> bool:
        if member in self._waiting or not fan_out.has(member, message) or not member.confirm(lambda: self._confirmed(member)):
            return False
        give_up_at = asyncio.get_running_loop().time() + self._timeout_seconds
        self._waiting[member] = _Asked(fan_out.envelopes[message], give_up_at, is_sample)
        return True

    def _confirmed(self, member: Connection) -> None:
        self._finish(member, "confirmed")

    def ended(self, connection: Connection, close: Close) -> None:
        """A connection's end is decided."""
        if connection in self._waiting:
            self._finish(connection, "closed_before")

    def _finish(self, member: Connection, result: str) -> None:
        asked = self._waiting.pop(member, None)
        if asked is None:  # it was given up before
            return
        envelope = asked.envelope
        seconds = max(0.0, time.time() - envelope.published_at)  # another node's clock may be ahead
        if asked.is_sample:
            self.results[result] += 1
            if self._on_confirmed is not None and result == "confirmed":
                self._on_confirmed(envelope, seconds)
        for told in self._observers.confirmed:
            told(member, envelope, result, seconds)

    # -- the seconds

    def _keep_time(self) -> None:
        if self._timer is None and self.per_second:
            self._begin_second()

    def _begin_second(self) -> None:
        """Plan the samples: as many as the budget has, spread over what is expected."""
        budget = self.per_second * TICK_SECONDS
        self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)
        self._left = self._left_besides = max(1.0, budget)
        self._interval = max(1, math.ceil(self._expected / budget))
        self._until = self._interval * budget
        self._begin_interval(0)

    def _tick(self) -> None:
        now = asyncio.get_running_loop().time()
        self._timer = None
        for member, asked in tuple(self._waiting.items()):
            if asked.give_up_at > now:
                break
            self._finish(member, "timeout")
        seen, self._seen, self._until = self._seen, 0, 0.0
        if seen:
            self._expected = max(seen, REMEMBERED * self._expected)
        if seen or self._waiting:
            self._begin_second()
