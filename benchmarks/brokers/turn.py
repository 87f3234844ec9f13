"""One server at one workload over an engine: the engine, two nodes, and everybody connected."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ..processes import Cores, Server, free_port
from ..profiling import profile
from ..results import Sample
from ..workloads import Case, Workload
from .crossing import Crossing
from .drivers import OverEngine

__all__ = ["BrokerTurn"]

REHEARSAL_SECONDS = 1.0
"""Pools of connections are filled by the first messages; that is not measured."""


class Surroundings(Protocol):
    """What a turn needs of the suite."""

    cores: Cores
    cache: Path


class BrokerTurn:
    """As ``suite.Turn``, with an engine and two nodes."""

    compressed = ""

    def __init__(self, driver: OverEngine, workload: Workload, suite: Surroundings) -> None:
        self.driver, self.workload, self._suite = driver, workload, suite
        self.problem = ""
        self._servers: list[Server] = []
        self._crossing: Crossing | None = None

    async def open(self) -> None:
        engine_kind, cores, cache = self.driver.engine, self._suite.cores, self._suite.cache
        logs = cache / "logs"
        engine = await engine_kind.start(cores, cache / "engines", logs / f"{self.driver.name}.engine.log")
        self._servers.append(engine)
        for name in ("first", "second"):
            port = free_port()
            launch = self.driver.node(port, engine_kind.url(engine.port))
            self._servers.append(await Server.start(launch, port, cores, logs / f"{self.driver.name}.{name}.log"))
        self._crossing = Crossing(self.driver, self._servers[1], self._servers[2], engine, self.workload.topology)
        await self._crossing.open()
        await self._crossing.measure(self.workload.cases[0], REHEARSAL_SECONDS)

    async def measure(self, case: Case | None) -> Sample:
        assert case is not None, "what crosses is of a case"
        assert self._crossing is not None, "opened"
        return await self._crossing.measure(case, self.workload.seconds)

    async def profiles(self, case: Case, seconds: float) -> dict[str, list[tuple[str, float]]]:
        """Where the time of each node goes."""
        assert self._crossing is not None, "opened"
        nodes = {"the publishers' node": self._servers[1], "the members' node": self._servers[2]}
        return {name: await profile(node.pid, self._crossing.measure(case, seconds), seconds) for name, node in nodes.items()}

    def close(self) -> None:
        if self._crossing is not None:
            self._crossing.close()
        for server in self._servers:
            server.stop()
        self._crossing, self._servers = None, []
