"""What is measured: topologies of connections, and cases of traffic over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .compression import events

__all__ = ["WORKLOADS", "Case", "Topology", "Workload", "quick"]


@dataclass(frozen=True)
class Topology:
    """``groups`` rooms of ``members`` connections; the first of each publishes. ``slow`` members of the first never read."""

    groups: int
    members: int
    echo: bool = False
    slow: int = 0

    @property
    def connections(self) -> int:
        return self.groups * self.members


@dataclass(frozen=True)
class Case:
    """One line of traffic over a topology."""

    name: str
    title: str
    window: int
    """Messages of one publisher in flight."""
    payloads: Callable[[], list[bytes]]
    pace: int = 0
    """Messages a second of all publishers, instead of a window."""


@dataclass(frozen=True)
class Workload:
    """Cases that share connections; ``kind`` is the part that measures: ``traffic``, ``brokers``, ``idle`` or ``handshakes``."""

    name: str
    title: str
    unit: str
    kind: str = "traffic"
    topology: Topology = Topology(0, 0)
    cases: tuple[Case, ...] = ()
    variants: tuple[str, ...] = ("",)
    """Ways to compress, each measured for the servers that know it."""
    rounds: int = 3
    seconds: float = 1.0
    alone: bool = False
    """Too many connections for several servers at a time: connect anew for every turn."""
    leave_out: frozenset[str] = frozenset()
    """Servers that would take minutes."""


def text(size: int) -> Callable[[], list[bytes]]:
    """One message of ``size`` letters."""
    return lambda: [b"tidegate"[: size % 8] + b"tidegate" * (size // 8)]


def json_events() -> list[bytes]:
    """Different events of about 234 bytes."""
    return events(2000, seed=2)


KNOW_NO_COMPRESSION = frozenset({"picows", "starlette", "socketio", "channels", "centrifuge", "centrifugo", "nats"})
SLOW_TO_CONNECT = frozenset({"channels", "socketio"})

WORKLOADS: tuple[Workload, ...] = (
    Workload(
        "echo", "Echo, 100 connections, 1 message in flight each", "message", topology=Topology(100, 1, echo=True),
        cases=(Case("echo-64", "64 bytes", 1, text(64)), Case("echo-4096", "4 KiB", 1, text(4096))),
    ),
    Workload(
        "fan-out", "Fan-out to 500 members", "delivery", topology=Topology(1, 500),
        cases=(
            Case("fan-out-128-1", "128 bytes, 1 in flight", 1, text(128)),
            Case("fan-out-128-16", "128 bytes, 16 in flight", 16, text(128)),
            Case("fan-out-1024-1", "1 KiB, 1 in flight", 1, text(1024)),
            Case("fan-out-1024-16", "1 KiB, 16 in flight", 16, text(1024)),
        ),
    ),
    Workload(
        "compressed", "Compressed fan-out to 500 members, JSON events of 234 bytes", "delivery", topology=Topology(1, 500),
        cases=(Case("events-1", "1 in flight", 1, json_events), Case("events-16", "16 in flight", 16, json_events)),
        variants=("", "zstd", "deflate"), leave_out=KNOW_NO_COMPRESSION,
    ),
    Workload(
        "rooms", "1,000 rooms of 10 members, 1 message in flight in each", "delivery", topology=Topology(1000, 10),
        cases=(Case("rooms-128", "128 bytes", 1, text(128)),), rounds=2, seconds=2.0, alone=True, leave_out=SLOW_TO_CONNECT,
    ),
    Workload(
        "slow", "Fan-out to 200 members, 10 of which never read", "delivery", topology=Topology(1, 200, slow=10),
        cases=(Case("slow-16384-4", "16 KiB, 4 in flight", 4, text(16384)),), rounds=1, seconds=4.0,
        leave_out=frozenset({"socketio", "channels"}),
    ),
    Workload(
        "brokers", "Two nodes on one engine, 50 rooms: one publishes on the first node, one hears on the second", "delivery",
        kind="brokers", topology=Topology(50, 2), seconds=2.0,
        cases=(
            Case("brokers-full", "128 bytes, as much as goes, 16 in flight in each room", 16, text(128)),
            Case("brokers-5000", "128 bytes, 5,000 messages a second", 0, text(128), pace=5000),
            Case("brokers-1000", "128 bytes, 1,000 messages a second", 0, text(128), pace=1000),
        ),
    ),
    Workload(
        "brokers-rooms", "Two nodes on one engine, 10 rooms: one publishes on the first node, 50 hear on the second", "delivery",
        kind="brokers", topology=Topology(10, 51), seconds=2.0,
        cases=(Case("brokers-rooms-full", "128 bytes, as much as goes, 4 in flight in each room", 4, text(128)),),
    ),
    Workload("handshakes", "Handshakes, opened and closed, 32 at a time", "handshake", kind="handshakes"),
    Workload("idle", "Idle connections", "connection", kind="idle", topology=Topology(100, 100), rounds=1, alone=True),
)  # fmt: skip


def quick() -> tuple[Workload, ...]:
    """What two minutes are enough for."""
    from dataclasses import replace

    by_name = {workload.name: workload for workload in WORKLOADS}
    fan_out = by_name["fan-out"]
    return (
        replace(by_name["echo"], cases=by_name["echo"].cases[:1], rounds=2, seconds=0.5),
        replace(fan_out, cases=fan_out.cases[:2], rounds=2, seconds=0.5, leave_out=SLOW_TO_CONNECT),
        replace(by_name["handshakes"], rounds=1, seconds=0.5),
        replace(by_name["idle"], topology=Topology(5, 100)),
    )
