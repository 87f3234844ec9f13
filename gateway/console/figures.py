"""``Snapshot``: what the console, ``tidegate top`` and ``GET /api/stats`` show; their JSON and its schema come from here.

Totals are since the process started. What is per second is over the ``interval_seconds`` before the snapshot and ``null`` in a
first one, which has nothing to compare with. Everything is of the node that answers.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

__all__ = [
    "Broker", "Closes", "Connections", "Drain", "Latency", "Ledger", "Messages", "Node", "Process", "RoomFigures", "Rooms",
    "Snapshot", "schemas",
]  # fmt: skip

Rate = Annotated[float, Meta(description="Per second, over the interval of the snapshot.")] | None


class Node(Struct, frozen=True):
    """Which node, and where it stands."""

    id: str
    version: str
    python: str
    uptime_seconds: float
    state: Annotated[str, Meta(description="starting, ready, failing (a check of /readyz), draining or stopped.")]
    api_key_set: Annotated[bool, Meta(description="Whether the rest of the API can be used at all.")]


class Connections(Struct, frozen=True):
    """Open WebSockets, and handshakes."""

    now: int
    peak: int
    limit: Annotated[int, Meta(description="Slots in all.")] | None
    slots_taken: int
    slots_waiting: Annotated[int, Meta(description="Handshakes that wait for a slot.")]
    accepted_total: int
    refused_total: int
    accepted_per_second: Rate
    refused_per_second: Rate
    closed_per_second: Rate


class Messages(Struct, frozen=True):
    """Messages on the wire, and their payload bytes."""

    received_total: int
    received_bytes_total: int
    sent_total: int
    sent_bytes_total: int
    received_per_second: Rate
    received_bytes_per_second: Rate
    sent_per_second: Rate
    sent_bytes_per_second: Rate


class Latency(Struct, frozen=True):
    """Percentiles of one histogram, as near as its buckets tell."""

    name: Annotated[str, Meta(description="Of the metric, without prefix and unit, such as `delivery_confirm`.")]
    window_seconds: Annotated[float, Meta(description="What it looks back; null: since the start, or a first snapshot.")] | None
    count: Annotated[int, Meta(description="Observations in the window.")]
    p50_seconds: float | None
    p90_seconds: float | None
    p99_seconds: float | None
    bounds: Annotated[
        dict[str, str],
        Meta(
            description="Percentiles (`p50`, `p90`, `p99`) of which nothing nearer is known than a bucket's bound, which is what is"
            " given: `at_most` (fewer than ten observations, or all in one bucket) or `more_than` (above the last bound)."
        ),
    ]


class RoomFigures(Struct, frozen=True):
    """One room on this node."""

    name: str
    members: int
    messages_per_second: Rate


class Rooms(Struct, frozen=True):
    """All rooms in numbers, and the largest and the busiest by name."""

    rooms: int
    users: int
    memberships: int
    top_by_members: list[RoomFigures]
    top_by_rate: Annotated[list[RoomFigures], Meta(description="Only rooms in which something was said.")]


class Closes(Struct, frozen=True):
    """Ended connections of one reason."""

    reason: str
    initiator: Annotated[str, Meta(description="client or server.")]
    total: int
    per_second: Rate


class Drain(Struct, frozen=True):
    """How far a drain has come."""

    draining: bool
    connections_left: int
    overdue_seconds: float


class Process(Struct, frozen=True):
    """What the process itself uses."""

    loop_lag_mean_seconds: float
    loop_lag_max_seconds: float
    tasks: int
    resident_bytes: int
    cpu_ratio: Annotated[float, Meta(description="Share of one core, over the interval.")] | None
    open_descriptors: int
    most_descriptors: int


class Ledger(Struct, frozen=True):
    """What became of every delivery: expected = written + dropped + closed + buffered + in_progress + unaccounted."""

    accepted: int
    expected: int
    written: int
    dropped: int
    closed: int
    buffered: int
    in_progress: int
    unaccounted: Annotated[int, Meta(description="Zero, or there is a bug.")]
    dropped_by_reason: dict[str, int]
    accepted_per_second: Rate
    written_per_second: Rate
    dropped_per_second: Rate


class Broker(Struct, frozen=True):
    """What carries messages between nodes."""

    kind: str
    up: Annotated[bool, Meta(description="null while nobody has asked it.")] | None
    refused: Annotated[int, Meta(description="Messages it did not take.")]
    errors: int


class Snapshot(Struct, frozen=True):
    """The figures of one moment."""

    at: Annotated[float, Meta(description="Seconds since 1970, UTC.")]
    interval_seconds: Annotated[float, Meta(description="What the rates are over; null in a first snapshot.")] | None
    node: Node
    connections: Connections
    messages: Messages
    latency: Annotated[list[Latency], Meta(description="Over the last seconds.")]
    latency_total: Annotated[list[Latency], Meta(description="The same since the start.")]
    rooms: Rooms
    closes: list[Closes]
    drain: Drain
    process: Process
    ledger: Ledger
    broker: Broker


def schemas(prefix: str = "#/components/schemas/") -> dict[str, object]:
    """JSON schemas of a snapshot and its parts, by name, for the description of the API."""
    _, components = msgspec.json.schema_components((Snapshot,), ref_template=prefix + "Statistics{name}")
    return {f"Statistics{name}": schema for name, schema in components.items()}
