"""The numbers Tidegate is built to reach, and whether a run shows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..results import Results

__all__ = ["TARGETS", "Target"]


@dataclass(frozen=True)
class Target:
    """One promise: a figure of a run and the bound it has to keep."""

    title: str
    bound: float
    measure: Callable[[Results], float | None]
    unit: str = "×"
    at_least: bool = False

    def reached(self, results: Results) -> bool | None:
        """``None`` when the run cannot tell."""
        value = self.measure(results)
        if value is None:
            return None
        return value >= self.bound if self.at_least else value <= self.bound

    def bound_text(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:,g} {self.unit}"


def cpu_ratio(case: str, peer: str, other: str) -> Callable[[Results], float | None]:
    return lambda results: results.ratio(case, peer, other)


def figure(case: str, peer: str, name: str) -> Callable[[Results], float | None]:
    def read(results: Results) -> float | None:
        row = results.row(case, peer)
        return None if row is None else row.figure(name)

    return read


def size_ratio(case: str, plain: str, packed: str) -> Callable[[Results], float | None]:
    """Bytes of a plain delivery over those of a compressed one."""
    return lambda results: results.ratio(case, plain, packed, "bytes_per_delivery")


def rate_ratio(case: str, peer: str, other: str) -> Callable[[Results], float | None]:
    return lambda results: results.ratio(case, peer, other, "per_second")


TARGETS = (
    Target("echo of 64 bytes: CPU against bare uvicorn", 0.5, cpu_ratio("echo-64", "tidegate", "uvicorn")),
    Target("echo of 64 bytes: CPU against Bun", 1.6, cpu_ratio("echo-64", "tidegate", "bun")),
    Target("fan-out 500 × 128 bytes, 1 in flight: CPU against Bun", 1.1, cpu_ratio("fan-out-128-1", "tidegate", "bun")),
    Target("fan-out 500 × 128 bytes, 16 in flight: CPU against Bun", 1.5, cpu_ratio("fan-out-128-16", "tidegate", "bun")),
    Target("memory of an idle connection", 18, figure("idle", "tidegate", "kib_per_connection"), "KiB"),
    Target("handshakes per CPU-second", 2500, figure("handshakes", "tidegate", "per_cpu_second"), "", at_least=True),
    Target("compressed fan-out (zstd) against plain: CPU", 1.2, cpu_ratio("events-1", "tidegate+zstd", "tidegate")),
    Target("compressed fan-out (zstd): size ratio", 2.9, size_ratio("events-1", "tidegate", "tidegate+zstd"), "", at_least=True),
    Target(
        "two nodes over Redis: deliveries a second against python-socketio", 2,
        rate_ratio("brokers-full", "tidegate-redis", "socketio-redis"), at_least=True,
    ),
    Target("two nodes over Redis, 5,000 messages a second: p99", 5, figure("brokers-5000", "tidegate-redis", "p99_ms"), "ms"),
    Target("two nodes over NATS, 5,000 messages a second: p99", 5, figure("brokers-5000", "tidegate-nats", "p99_ms"), "ms"),
)  # fmt: skip
