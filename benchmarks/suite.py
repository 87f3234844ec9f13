"""Lets the servers take turns: A B C, A B C, …, so that a busy machine disturbs all alike and ratios stay true."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .brokers import BrokerTurn, OverEngine
from .drivers import Driver
from .handshakes import handshake_rate
from .idle import idle_memory
from .processes import Cores, Server, free_port
from .profiling import profile
from .results import Results, Row, Sample
from .traffic import Stalled, Traffic
from .workloads import Case, Workload

__all__ = ["Suite", "label"]

PROFILED = ("echo-64", "fan-out-128-1", "fan-out-128-16", "handshakes", "brokers-full")
BROKERS_PROFILED = ("tidegate-redis", "tidegate-nats")
PROFILE_SECONDS = 3.0
FAILURES = (Stalled, OSError, RuntimeError, AssertionError, TimeoutError, ExceptionGroup)


def label(driver: Driver | str, compressed: str) -> str:
    """The key of a server in a row; a way to compress stands behind a plus."""
    name = driver if isinstance(driver, str) else driver.name
    return f"{name}+{compressed}" if compressed else name


class Turn:
    """One server at one workload: started once, connected once (or anew for each turn), measured several times."""

    def __init__(self, driver: Driver, compressed: str, workload: Workload, suite: Suite) -> None:
        self.driver, self.compressed, self.workload, self._suite = driver, compressed, workload, suite
        self.problem = ""
        self._server: Server | None = None
        self._traffic: Traffic | None = None

    async def open(self) -> None:
        port = free_port()
        launch = self.driver.launch(port, self.compressed)
        log = self._suite.cache / "logs" / f"{label(self.driver, self.compressed)}.log"
        self._server = await Server.start(launch, port, self._suite.cores, log)
        if self.workload.kind == "traffic":
            self._traffic = Traffic(self.driver, self._server, self.workload.topology, self.compressed)
            await self._traffic.open()

    async def measure(self, case: Case | None) -> Sample:
        assert self._server is not None, "opened"
        if self.workload.kind == "idle":
            return await idle_memory(self.driver, self._server, self.workload.topology, self.compressed)
        if self.workload.kind == "handshakes":
            return await self.measure_handshakes(self.workload.seconds)
        assert case is not None, "traffic is of a case"
        assert self._traffic is not None, "opened"
        return await self._traffic.measure(case, self.workload.seconds)

    async def measure_handshakes(self, seconds: float) -> Sample:
        assert self._server is not None, "opened"
        return await handshake_rate(self.driver, self._server, seconds, self.compressed)

    async def profile(self, case: Case | None) -> list[tuple[str, float]]:
        """By function; a handshake is so many functions that only files tell anything."""
        assert self._server is not None, "opened"
        if case is None:
            return await profile(self._server.pid, self.measure_handshakes(PROFILE_SECONDS), PROFILE_SECONDS, by_file=True)
        assert self._traffic is not None, "opened"
        return await profile(self._server.pid, self._traffic.measure(case, PROFILE_SECONDS), PROFILE_SECONDS)

    def close(self) -> None:
        if self._traffic is not None:
            self._traffic.close()
        if self._server is not None:
            self._server.stop()
        self._traffic = self._server = None


def _name(turns: Sequence[Turn | BrokerTurn], case: Case | None) -> str:
    return case.name if case is not None else turns[0].workload.name if turns else ""


class Suite:
    """A run.

    Args:
        results: where the rows go.
        cores: who runs where.
        cache: where the servers' logs go.
        say: told what is being done.
        with_profiles: also look where Tidegate's time goes.
    """

    def __init__(
        self, results: Results, cores: Cores, cache: Path, say: Callable[[str], None], *, with_profiles: bool = False
    ) -> None:
        self.results, self.cores, self.cache = results, cores, cache
        self._say = say
        self._with_profiles = with_profiles

    async def run(self, workload: Workload, drivers: Iterable[Driver]) -> None:
        """Measure one workload at every driver, in turn."""
        self._say(f"{workload.title}")
        turns = self._turns(workload, drivers)
        cases: tuple[Case | None, ...] = workload.cases or (None,)
        rows = {(turn, case): self._row(turn, case) for case in cases for turn in turns}
        try:
            if not workload.alone:
                for turn in turns:
                    await self._guarded(turn, turn.open)
            for case in cases:
                for _ in range(workload.rounds):
                    for turn in turns:
                        await self._take(turn, case, rows[turn, case])
            for case in cases:
                await self._profile(turns, case)
        finally:
            for turn in turns:
                turn.close()
        for (turn, case), row in rows.items():
            row.problem = row.problem or (turn.problem if not row.samples else "")
            self._say_row(row, case)

    def _turns(self, workload: Workload, drivers: Iterable[Driver]) -> list[Turn | BrokerTurn]:
        """Those who take part: on one engine two nodes of a kind, else one server in each way to compress."""
        if workload.kind == "brokers":
            return [BrokerTurn(driver, workload, self) for driver in drivers if isinstance(driver, OverEngine)]
        return [
            Turn(driver, compressed, workload, self)
            for driver in drivers
            for compressed in workload.variants
            if compressed in driver.variants and driver.name not in workload.leave_out and not isinstance(driver, OverEngine)
        ]

    def _row(self, turn: Turn | BrokerTurn, case: Case | None) -> Row:
        row = Row(turn.workload.name, case.name if case else turn.workload.name, label(turn.driver, turn.compressed))
        self.results.rows.append(row)
        return row

    async def _take(self, turn: Turn | BrokerTurn, case: Case | None, row: Row) -> None:
        if turn.problem:
            return
        alone = turn.workload.alone
        if alone:
            await self._guarded(turn, turn.open)
        if not turn.problem:

            async def measured() -> None:
                row.samples.append(await turn.measure(case))

            await self._guarded(turn, measured)
            row.problem = turn.problem
        if alone:
            turn.close()

    async def _guarded(self, turn: Turn | BrokerTurn, work: Callable[[], object]) -> None:
        """A server that fails is out of this workload; why is kept."""
        try:
            await work()  # type: ignore[misc]  # every caller's is a coroutine function
        except FAILURES as error:
            first: BaseException = error
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            turn.problem = f"{type(first).__name__}: {first}"[:300]
            turn.close()

    async def _profile(self, turns: Sequence[Turn | BrokerTurn], case: Case | None) -> None:
        name = _name(turns, case)
        if not self._with_profiles or name not in PROFILED:
            return
        for turn in turns:
            if isinstance(turn, BrokerTurn):
                if turn.driver.name in BROKERS_PROFILED and not turn.problem:
                    assert case is not None, "named above"
                    found = await turn.profiles(case, PROFILE_SECONDS)
                    self.results.profiles |= {f"{name} {turn.driver.name}, {node}": lines for node, lines in found.items()}
            elif turn.driver.name == "tidegate" and not turn.compressed and not turn.problem:
                self.results.profiles[name] = await turn.profile(case)

    def _say_row(self, row: Row, case: Case | None) -> None:
        cpu, p99 = row.figure("cpu_us"), row.figure("p99_ms")
        if cpu is None:
            self._say(f"  {row.case:<18} {row.peer:<18} {row.problem}")
            return
        kib, server_busy = row.figure("kib_per_connection"), row.busy()[0]
        memory = "" if kib is None else f"{kib:7.1f} KiB each"
        latency = "" if p99 is None else f"{row.figure('p50_ms') or 0:8.2f} / {p99:.2f} ms  busy {server_busy:.0%}"
        rate = f"{row.figure('per_second') or 0:>12,.0f}/s" if row.figure("per_second") else ""
        self._say(f"  {row.case:<18} {row.peer:<18} {cpu:9.2f} µs {rate} {latency} {memory} {row.problem}")
