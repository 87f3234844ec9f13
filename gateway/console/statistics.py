"""``Statistics``: makes a ``Snapshot`` of what is now and what was a moment ago.

Rates are over the time since the sample before, percentiles over the last ``WINDOW`` samples: one second has too few slow ones.
"""

from __future__ import annotations

import asyncio
import heapq
import platform
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import islice

from .figures import (
    Broker,
    Closes,
    Connections,
    Drain,
    Latency,
    Ledger,
    Messages,
    Node,
    Process,
    RoomFigures,
    Rooms,
    Snapshot,
)
from .quantiles import Buckets, count, quantile, subtracted
from .sampling import PREFIX, ROOMS_PER_TURN, RoomReading, Sample, Sources

__all__ = ["LATENCIES", "TOP", "WINDOW", "Statistics"]

TOP = 20
"""Rooms in each of the lists."""
WINDOW = 10
"""Samples that percentiles look back."""
LATENCIES = (
    "delivery_confirm_seconds",
    "delivery_residency_seconds",
    "fanout_seconds",
    "handling_seconds",
    "handshake_seconds",
    "ping_rtt_seconds",
    "broker_publish_seconds",
    "broker_lag_seconds",
)
"""Histograms that are shown, of those that there are; what says most about delivery comes first."""


class Statistics:
    """Snapshots of one process.

    Args:
        sources: where the figures come from.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._before: Sample | None = None
        self._readings: deque[tuple[float, Mapping[str, Buckets]]] = deque(maxlen=WINDOW)

    def forget(self) -> None:
        """Nobody watches any more: the next snapshot is a first one."""
        self._before = None
        self._readings.clear()

    async def take(self) -> Snapshot:
        """The figures now, compared with those of the call before."""
        now = await self._sources.take()
        before, self._before = self._before, now
        change = _Change(now, before)
        snapshot = self._snapshot(change, await _rooms(change, int(now.total("users"))))
        self._readings.append((now.at, {name: now.histograms.get(PREFIX + name, {}) for name in LATENCIES}))
        return snapshot

    def _snapshot(self, change: _Change, rooms: Rooms) -> Snapshot:
        return Snapshot(
            at=round(time.time(), 3),
            interval_seconds=change.seconds and round(change.seconds, 3),
            node=self._node(broker := self._broker(change.now)),
            connections=_connections(change, self._sources.connection_limit),
            messages=_messages(change),
            latency=self._latencies(change.now),
            latency_total=[_latency(name, None, buckets) for name, buckets in self._histograms(change.now)],
            rooms=rooms,
            closes=_closes(change),
            drain=self._drain(change.now),
            process=self._process(change),
            ledger=_ledger(change),
            broker=broker,
        )

    def _node(self, broker: Broker) -> Node:
        sources, health = self._sources, self._sources.health.statistics()
        failing = health.state.value == "ready" and (broker.up is False or not sources.health.looks_ready())
        return Node(
            id=sources.server.hub.node,
            version=sources.version,
            python=platform.python_version(),
            uptime_seconds=round(health.uptime_seconds, 1),
            state="failing" if failing else health.state.value,
            api_key_set=sources.api_key_set,
        )

    def _latencies(self, now: Sample) -> list[Latency]:
        at, before = self._readings[0] if self._readings else (None, {})
        window = None if at is None else round(now.at - at, 1)
        return [
            _latency(name, window, {} if at is None else subtracted(buckets, before.get(name, {})))
            for name, buckets in self._histograms(now)
        ]

    def _histograms(self, now: Sample) -> Iterator[tuple[str, Buckets]]:
        for name in LATENCIES:
            buckets = now.histograms.get(PREFIX + name)
            if buckets is not None and not (self._sources.broker == "memory" and name.startswith("broker_")):  # it has no way to go
                yield name, buckets

    def _drain(self, now: Sample) -> Drain:
        draining = self._sources.health.statistics().state.value == "draining" or self._sources.server.admission.draining
        left = len(self._sources.server.registry.connections) if draining else 0
        return Drain(draining, left, round(now.total("drain_overdue_seconds"), 1))

    def _process(self, change: _Change) -> Process:
        lag, now = self._sources.health.statistics().loop_lag, change.now
        cpu = change.rate_of(lambda sample: sample.process("cpu_seconds_total"))
        return Process(
            loop_lag_mean_seconds=round(lag.mean_seconds, 6),
            loop_lag_max_seconds=round(lag.max_seconds, 6),
            tasks=int(now.total("event_loop_tasks")),
            resident_bytes=int(now.process("resident_memory_bytes")),
            cpu_ratio=cpu,
            open_descriptors=int(now.process("open_fds")),
            most_descriptors=int(now.process("max_fds")),
        )

    def _broker(self, now: Sample) -> Broker:
        checks = {check.name: check.ok for check in self._sources.health.statistics().checks}
        up = bool(now.total("broker_up")) if now.has("broker_up") else checks.get("broker")
        return Broker(self._sources.broker, up, int(now.total("broker_refused_total")), int(now.total("broker_errors_total")))


class _Change:
    """A sample and the one before it, if there is one."""

    def __init__(self, now: Sample, before: Sample | None) -> None:
        self.now = now
        self.before = before
        self.seconds = now.at - before.at if before is not None and now.at > before.at else None

    def rate_of(self, read: Callable[[Sample], float]) -> float | None:
        """How fast a total grows; one that went back (a room that began anew) counts as what it is now."""
        if self.before is None or self.seconds is None:
            return None
        value, earlier = read(self.now), read(self.before)
        return round((value - earlier if value >= earlier else value) / self.seconds, 3)

    def rate(self, name: str, **labels: str) -> float | None:
        return self.rate_of(lambda sample: sample.total(name, **labels))


def _connections(change: _Change, limit: int | None) -> Connections:
    now = change.now
    accepted = now.total("handshakes_total", outcome="accepted")

    def refused(sample: Sample) -> float:
        at_the_wire = sample.total("wire_refused_total")
        return sample.total("handshakes_total") - sample.total("handshakes_total", outcome="accepted") + at_the_wire

    return Connections(
        now=int(now.total("connections")),
        peak=int(now.total("connections_peak")),
        limit=limit,
        slots_taken=int(now.total("slots_taken")),
        slots_waiting=int(now.total("slots_waiting")),
        accepted_total=int(accepted),
        refused_total=int(refused(now)),
        accepted_per_second=change.rate("handshakes_total", outcome="accepted"),
        refused_per_second=change.rate_of(refused),
        closed_per_second=change.rate("closes_total"),
    )


def _messages(change: _Change) -> Messages:
    now = change.now
    return Messages(
        received_total=int(now.total("messages_total", direction="inbound")),
        received_bytes_total=int(now.total("message_bytes_total", direction="inbound")),
        sent_total=int(now.total("messages_total", direction="outbound")),
        sent_bytes_total=int(now.total("message_bytes_total", direction="outbound")),
        received_per_second=change.rate("messages_total", direction="inbound"),
        received_bytes_per_second=change.rate("message_bytes_total", direction="inbound"),
        sent_per_second=change.rate("messages_total", direction="outbound"),
        sent_bytes_per_second=change.rate("message_bytes_total", direction="outbound"),
    )


def _latency(name: str, window: float | None, buckets: Buckets) -> Latency:
    p50, p90, p99 = (quantile(share, buckets) for share in (0.5, 0.9, 0.99))
    bounds = {part: one.is_bound for part, one in (("p50", p50), ("p90", p90), ("p99", p99)) if one.is_bound}
    return Latency(name.removesuffix("_seconds"), window, count(buckets), p50.value, p90.value, p99.value, bounds)


async def _rooms(change: _Change, users: int) -> Rooms:
    """The lists of the largest and the busiest; between many rooms the event loop does other work."""
    now, before = change.now.rooms, change.before.rooms if change.before is not None else {}
    largest: list[tuple[int, str]] = []
    busiest: list[tuple[int, str]] = []
    names = iter(now)
    while part := tuple(islice(names, ROOMS_PER_TURN)):
        largest = heapq.nsmallest(TOP, [*largest, *((-now[name].members, name) for name in part)])
        if change.seconds:
            busiest = heapq.nsmallest(TOP, [*busiest, *((-said, name) for name in part if (said := _said(name, now, before)) > 0)])
        await asyncio.sleep(0)

    def figures(name: str) -> RoomFigures:
        rate = round(_said(name, now, before) / change.seconds, 3) if change.seconds else None
        return RoomFigures(name, now[name].members, rate)

    return Rooms(
        rooms=len(now),
        users=users,
        memberships=sum([reading.members for reading in now.values()]),
        top_by_members=[figures(name) for _, name in largest],
        top_by_rate=[figures(name) for _, name in busiest],
    )


def _said(name: str, now: Mapping[str, RoomReading], before: Mapping[str, RoomReading]) -> int:
    """The messages of a room since the sample before."""
    earlier = before.get(name)
    return _grown(now[name].messages, earlier.messages if earlier is not None else 0)


def _grown(now: int, before: int) -> int:
    return now - before if now >= before else now


def _closes(change: _Change) -> list[Closes]:
    found = []
    for (reason, initiator), total in change.now.by("closes_total", "reason", "initiator").items():
        if total:  # all there can be are counted from the start
            found.append(Closes(reason, initiator, int(total), change.rate("closes_total", reason=reason, initiator=initiator)))
    return sorted(found, key=lambda closes: (-closes.total, closes.reason))


def _ledger(change: _Change) -> Ledger:
    now = change.now

    def part(name: str) -> int:
        return int(now.total(f"deliveries_{name}"))

    expected, written, dropped, closed = (part(f"{name}_total") for name in ("expected", "written", "dropped", "closed"))
    buffered, in_progress = part("buffered"), part("in_progress")
    left = expected - written - dropped - closed - buffered - in_progress
    return Ledger(
        accepted=part("accepted_total"),
        expected=expected,
        written=written,
        dropped=dropped,
        closed=closed,
        buffered=buffered,
        in_progress=in_progress,
        unaccounted=part("unaccounted") if now.has("deliveries_unaccounted") else left,
        dropped_by_reason={reason: int(value) for (reason,), value in now.by("deliveries_dropped_total", "reason").items()},
        accepted_per_second=change.rate("deliveries_accepted_total"),
        written_per_second=change.rate("deliveries_written_total"),
        dropped_per_second=change.rate("deliveries_dropped_total"),
    )
