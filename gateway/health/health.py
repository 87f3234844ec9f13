"""Health: what state the node is in, whether what it needs works, and the three addresses that tell.

* ``/healthz``: liveness. The loop answers; nothing else is asked, because a restart mends nothing else.
* ``/readyz``: 200 only while the state is ready, every readiness check passes and the loop's lag is below its limit. A
  node that is full is ready: refusing is the limiter's work.
* ``/startupz``: 200 once the node has started.

==========  =========  ==========  =========
state       started    draining    stopped
==========  =========  ==========  =========
STARTING    READY      DRAINING    STOPPED
READY       READY      DRAINING    STOPPED
DRAINING    (illegal)  DRAINING    STOPPED
STOPPED     (illegal)  (illegal)   STOPPED
==========  =========  ==========  =========

An illegal transition raises ``IllegalTransition`` and changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from enum import Enum
from typing import Any, Literal, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ..errors import IllegalTransition
from .checks import Check, CheckResult, NamedCheck
from .loop_lag import LoopLag, LoopLagStatistics

__all__ = ["Health", "HealthState", "HealthStatistics", "Report", "health_routes"]

LOOP_LAG = "loop-lag"
"""The name under which the loop's lag stands among the checks."""
STALE_SECONDS = 60.0
"""A result this old says nothing about now: nobody asks for readiness any more."""


class HealthState(Enum):
    """Where the node stands."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


_TRANSITIONS: dict[Literal["started", "draining", "stopped"], dict[HealthState, HealthState]] = {
    "started": {HealthState.STARTING: HealthState.READY, HealthState.READY: HealthState.READY},
    "draining": dict.fromkeys((HealthState.STARTING, HealthState.READY, HealthState.DRAINING), HealthState.DRAINING),
    "stopped": dict.fromkeys(HealthState, HealthState.STOPPED),
}


class Report(NamedTuple):
    """The answer to "are you ready?"."""

    status: str
    """``ready``, ``failing``, or the state that is not ready."""
    checks: tuple[CheckResult, ...]
    """Empty unless the state is ready: nobody needs to be asked then."""

    @property
    def ready(self) -> bool:
        return self.status == "ready"

    @property
    def failing(self) -> list[str]:
        """Names of the checks that make the node unready."""
        return [check.name for check in self.checks if check.readiness and not check.ok]


class HealthStatistics(NamedTuple):
    """A snapshot; asks no check anything."""

    state: HealthState
    uptime_seconds: float
    loop_lag: LoopLagStatistics
    checks: tuple[CheckResult, ...]
    """The last result of every check that was asked yet."""


class Health:
    """State, checks and loop lag of one node.

    Args:
        lag_limit_seconds: a mean lag of the event loop above this makes the node unready; ``None`` switches that off.
        on_loop_lag: told every sample of the lag in seconds.
        lag: the sampler, when another than the default is wanted.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        *,
        lag_limit_seconds: float | None = 0.5,
        on_loop_lag: Callable[[float], None] | None = None,
        lag: LoopLag | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if lag_limit_seconds is not None and lag_limit_seconds <= 0:
            raise ValueError(f"lag_limit_seconds is above 0, or None for no limit, not {lag_limit_seconds:g}")
        if lag is not None and on_loop_lag is not None:
            raise ValueError("on_loop_lag is for the default sampler; give lag an on_sample of its own")
        self.state = HealthState.STARTING
        self.lag = lag or LoopLag(on_sample=on_loop_lag)
        self._lag_limit_seconds = lag_limit_seconds
        self._clock = clock
        self._created_at = clock()
        self._checks: dict[str, NamedCheck] = {}
        self._has_started = False

    def add(
        self,
        name: str,
        check: Check,
        *,
        readiness: bool = True,
        cache_seconds: float = 5.0,
        timeout_seconds: float = 3.0,
    ) -> None:
        """Ask ``check`` whenever readiness is asked for.

        Args:
            name: as it stands in the answers; unique.
            check: a coroutine function that raises when it fails; a string it returns is shown as detail.
            readiness: whether failing makes the node unready, or is only told.
            cache_seconds: how long a result is good.
            timeout_seconds: a check that takes longer has failed.

        Raises:
            ValueError: the name is taken or an option makes no sense.
        """
        if name in self._checks or name == LOOP_LAG:
            raise ValueError(f"there is a check called {name!r} already")
        self._checks[name] = NamedCheck(
            name, check, readiness=readiness, cache_seconds=cache_seconds, timeout_seconds=timeout_seconds, clock=self._clock
        )

    # -- states

    def started(self) -> None:
        """The node serves. To be called on its event loop, whose lag is sampled from now on."""
        self._move("started")
        self._has_started = True
        self.lag.start()

    def draining(self) -> None:
        """The node is about to go: no new clients, please."""
        self._move("draining")

    def stopped(self) -> None:
        """The node has gone: no check runs on."""
        self._move("stopped")
        self.lag.stop()
        for check in self._checks.values():
            check.cancel()

    def _move(self, event: Literal["started", "draining", "stopped"]) -> None:
        target = _TRANSITIONS[event].get(self.state)
        if target is None:
            raise IllegalTransition(f"health: cannot be {event!r} when {self.state.value}")
        self.state = target

    # -- answers

    @property
    def has_started(self) -> bool:
        """True from the first ``started`` on."""
        return self._has_started

    async def report(self) -> Report:
        """Whether new clients may come, and what says so."""
        if not self._is_ready():
            return Report(self.state.value, ())
        results = await asyncio.gather(*(check.result() for check in self._checks.values()))
        if not self._is_ready():  # any more
            return Report(self.state.value, ())
        report = Report("ready", (*results, self._lag_result()))
        return report._replace(status="failing") if report.failing else report

    def looks_ready(self) -> bool:
        """What ``report`` would say by state, lag and the last results, as far as they are fresh; asks no check anything."""
        fresh = [check for check in self.statistics().checks if self.age_seconds(check) < STALE_SECONDS]
        return self._is_ready() and all(check.ok for check in (*fresh, self._lag_result()) if check.readiness)

    def statistics(self) -> HealthStatistics:
        """A snapshot, for people and metrics."""
        last = tuple(check.last for check in self._checks.values() if check.last is not None)
        return HealthStatistics(self.state, self._clock() - self._created_at, self.lag.statistics(), last)

    def age_seconds(self, result: CheckResult) -> float:
        """How old a result is."""
        return self._clock() - result.finished_at

    def _is_ready(self) -> bool:
        return self.state is HealthState.READY

    def _lag_result(self) -> CheckResult:
        lag, limit = self.lag.statistics(), self._lag_limit_seconds
        ok = limit is None or lag.mean_seconds < limit
        detail = f"mean {lag.mean_seconds * 1000:.1f} ms, most {lag.max_seconds * 1000:.1f} ms"
        if limit is not None:
            detail += f"; the mean is to stay below {limit * 1000:g} ms"
        return CheckResult(LOOP_LAG, ok, 0.0, detail, self._clock(), True)


def health_routes(health: Health, *, details: bool, startup: bool = True) -> list[BaseRoute]:
    """``/healthz``, ``/readyz`` and, with ``startup``, ``/startupz``.

    Args:
        details: for operators: times, texts of failures, and all there is to say with ``?verbose``. Without it only names
            of checks and whether they pass are told, whatever the query says.
    """

    async def healthz(request: Request) -> Response:
        return _answer(200, {"status": "ok", "state": health.state.value, **_more(health, _is_verbose(request, details))})

    async def readyz(request: Request) -> Response:
        report = await health.report()
        verbose = _is_verbose(request, details)
        body: dict[str, Any] = {"status": report.status}
        if report.failing:
            body["failing"] = report.failing
        body["checks"] = {check.name: _shown(health, check, details=details, verbose=verbose) for check in report.checks}
        return _answer(200 if report.ready else 503, {**body, **_more(health, verbose)})

    async def startupz(request: Request) -> Response:
        status, word = (200, "started") if health.has_started else (503, "starting")
        return _answer(status, {"status": word, **_more(health, _is_verbose(request, details))})

    routes: list[BaseRoute] = [Route("/healthz", healthz), Route("/readyz", readyz)]
    return [*routes, Route("/startupz", startupz)] if startup else routes


def _is_verbose(request: Request, details: bool) -> bool:
    return details and request.query_params.get("verbose", "no").lower() not in ("no", "0", "false")


def _shown(health: Health, check: CheckResult, *, details: bool, verbose: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {"ok": check.ok}
    if details:
        shown["ms"] = round(check.seconds * 1000, 1)
        if check.detail and (verbose or not check.ok):
            shown["detail"] = check.detail
    if verbose:
        shown |= {"readiness": check.readiness, "age_ms": round(health.age_seconds(check) * 1000, 1)}
    return shown


def _more(health: Health, verbose: bool) -> dict[str, Any]:
    if not verbose:
        return {}
    statistics = health.statistics()
    lag = statistics.loop_lag
    return {
        "state": statistics.state.value,
        "uptime_seconds": round(statistics.uptime_seconds, 1),
        "loop_lag": {
            "current_ms": round(lag.current_seconds * 1000, 2),
            "mean_ms": round(lag.mean_seconds * 1000, 2),
            "max_ms": round(lag.max_seconds * 1000, 2),
            "samples": lag.samples,
        },
    }


def _answer(status: int, body: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(body), status, {"Cache-Control": "no-store"}, "application/json")
