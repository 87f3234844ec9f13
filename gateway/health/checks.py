"""``NamedCheck``: asks one thing whether it works, not too often and not for too long.

1. However many ask at once, the check runs once; who asks again within ``cache_seconds`` gets the same result.
2. A check that takes longer than ``timeout_seconds`` has failed. It is cancelled, and while it does not end it is not
   started again: a check that hangs for ever holds one task, not one per question.
3. Who asked and went away does not take the others' run with them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from ..logs import redact_text
from ..visible import visible

__all__ = ["Check", "CheckResult", "NamedCheck"]

Check = Callable[[], Awaitable[object]]
"""Raises when it fails. A string that it returns is told to people as detail."""

LONGEST_DETAIL = 300


class CheckResult(NamedTuple):
    """How one check went."""

    name: str
    ok: bool
    seconds: float
    """How long it took."""
    detail: str
    """What failed, or what the check had to say; ``""`` for nothing. For operators: it may name internals."""
    finished_at: float
    """On the check's clock."""
    readiness: bool
    """Whether failing makes the node unready."""


class NamedCheck:
    """A check with its name, its cache and its time-out; see ``Health.add``."""

    def __init__(
        self,
        name: str,
        check: Check,
        *,
        readiness: bool = True,
        cache_seconds: float = 5.0,
        timeout_seconds: float = 3.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not name:
            raise ValueError("a check has a name")
        if cache_seconds < 0 or timeout_seconds <= 0:
            raise ValueError(
                f"cache_seconds is 0 or more and timeout_seconds above 0, not {cache_seconds:g} and {timeout_seconds:g}"
            )
        self.name = name
        self.readiness = readiness
        self.last: CheckResult | None = None
        self._check = check
        self._cache_seconds = cache_seconds
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._run: asyncio.Task[CheckResult] | None = None
        self._hanging: asyncio.Task[object] | None = None

    async def result(self) -> CheckResult:
        """The newest result, made now unless there is one that is fresh enough."""
        if self._run is None:
            if self.last is not None and self._clock() - self.last.finished_at < self._cache_seconds:
                return self.last
            self._run = asyncio.get_running_loop().create_task(self._make(), name=f"health check {self.name}")
            self._run.add_done_callback(self._made)
        return await self._shared(self._run)

    def cancel(self) -> None:
        """End what is running; whoever waits for it is told that it failed."""
        for task in (self._run, self._hanging):
            if task is not None:
                task.cancel()

    async def _shared(self, run: asyncio.Task[CheckResult]) -> CheckResult:
        try:
            return await asyncio.shield(run)
        except asyncio.CancelledError:
            asking = asyncio.current_task()
            if not run.cancelled() or asking is None or asking.cancelling():
                raise
            return CheckResult(self.name, False, 0.0, "the check was called off", self._clock(), self.readiness)

    def _made(self, run: asyncio.Task[CheckResult]) -> None:
        self._run = None
        if not run.cancelled():
            self.last = run.result()

    async def _make(self) -> CheckResult:
        started = self._clock()
        ok, detail = await self._attempt()
        now = self._clock()
        return CheckResult(self.name, ok, now - started, _presentable(detail), now, self.readiness)

    async def _attempt(self) -> tuple[bool, str]:
        if self._hanging is not None:
            return False, "the last attempt has not ended yet, although it was cancelled"
        task = asyncio.ensure_future(_awaited(self._check))
        try:
            done, _ = await asyncio.wait((task,), timeout=self._timeout_seconds)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not done:
            self._give_up(task)
            return False, f"no result within {self._timeout_seconds:g} s"
        if task.cancelled():
            return False, "the check cancelled itself"
        error = task.exception()
        if error is not None:
            return False, str(error) or type(error).__name__
        said = task.result()
        return True, said if isinstance(said, str) else ""

    def _give_up(self, task: asyncio.Task[object]) -> None:
        self._hanging = task
        task.add_done_callback(self._ended)
        task.cancel()

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._hanging = None
        if not task.cancelled():
            task.exception()  # nobody is left who wants to know


async def _awaited(check: Check) -> object:
    return await check()


def _presentable(detail: str) -> str:
    """One line without secrets, and not too long."""
    text = visible(redact_text(detail[: 2 * LONGEST_DETAIL]))
    return text if len(text) <= LONGEST_DETAIL else text[:LONGEST_DETAIL] + "…"
