"""Capacity: how full a node is, and of what."""

from __future__ import annotations

from .board import Board, Row
from .kit import BYTES, COUNT, HANDSHAKES, PER_SECOND, SECONDS, SHARE, Query, heat, lines, number, quantiles

__all__ = ["CAPACITY"]

_PER_CONNECTION = "process_resident_memory_bytes{@} / on (job, instance) (sum by (job, instance) (tidegate_connections{@}) > 0)"
_DESCRIPTORS = "process_open_fds{@} / process_max_fds{@} and on (job, instance) tidegate_build_info{@}"

_HEADROOM = Row(
    "Headroom of the fullest node",
    [
        number(
            "Slots",
            "Connections by their limit. At 100 % clients are refused with 503.",
            SHARE,
            Query("max(tidegate_slots_taken{@} / tidegate_slots_limit{@})", "used"),
            width=4,
            steps=[(0.8, "orange"), (0.95, "red")],
            alert="GatewayAtCapacity",
        ),
        number(
            "Descriptors",
            "Open files by their limit. At the end new clients are refused with 503.",
            SHARE,
            Query(f"max({_DESCRIPTORS})", "used"),
            width=4,
            steps=[(0.75, "orange"), (0.9, "red")],
            alert="DescriptorsRunningOut",
        ),
        number(
            "CPU of one core",
            "Of the one core that a process can use.",
            SHARE,
            Query("max(rate(process_cpu_seconds_total{@}[@]))", "used"),
            width=4,
            steps=[(0.8, "orange"), (0.95, "red")],
            alert="EventLoopLagging",
        ),
        number(
            "Loop lag, p99",
            "How late the event loop runs a timer.",
            SECONDS,
            Query("max(histogram_quantile(0.99, sum by (instance, le) (rate(tidegate_loop_lag_seconds_bucket{@}[@]))))", "p99"),
            width=4,
            steps=[(0.1, "orange"), (0.5, "red")],
            alert="EventLoopLagging",
        ),
        number(
            "Memory for a connection",
            "Resident memory divided by connections: meaningful from some hundred connections on; the full "
            "chain takes 13 KiB each above the empty process.",
            BYTES,
            Query(f"min({_PER_CONNECTION})", "per connection"),
            width=4,
        ),
        number(
            "Outbox",
            "Bytes that wait for slow clients: the part of memory that clients decide on.",
            BYTES,
            Query("max(tidegate_outbox_bytes{@})", "waiting"),
            width=4,
            alert="SlowConsumersRising",
        ),
    ],
)

_SLOTS = Row(
    "Connections",
    [
        lines(
            "Slots used",
            "Share of the connection limit, by node.",
            SHARE,
            Query("tidegate_slots_taken{@} / tidegate_slots_limit{@}", "{{instance}}"),
            most=1,
            steps=[(0.8, "orange"), (0.95, "red")],
            alert="GatewayAtCapacity",
        ),
        lines(
            "Now, and the most at once",
            "Open connections by route, and the most since each process started.",
            COUNT,
            Query("sum by (route) (tidegate_connections{@})", "{{route}} now"),
            Query("sum by (route) (tidegate_connections_peak{@})", "{{route}} most"),
        ),
        lines(
            "Refused for want of a slot",
            "By what was used up: total, room, client, user, or handshakes per second.",
            HANDSHAKES,
            Query("sum by (limit) (rate(tidegate_slots_refused_total{@}[@]))", "{{limit}}"),
            alert="GatewayAtCapacity",
        ),
        lines(
            "Waiting for a slot",
            "Handshakes in the queue (`TIDEGATE_CONNECTION_LIMIT__WAITING`).",
            COUNT,
            Query("sum by (instance) (tidegate_slots_waiting{@})", "{{instance}}"),
            alert="GatewayAtCapacity",
        ),
        lines(
            "Time in the queue",
            "Seconds that handshakes waited for a slot, whether it came or not, of all together per second: "
            "how many waited, times how long.",
            COUNT,
            Query("sum(rate(tidegate_slots_waited_seconds_sum{@}[@]))", "seconds waited per second"),
            alert="GatewayAtCapacity",
        ),
        lines(
            "How long connections last",
            "Quantiles of the connections that ended. Minutes where hours were: something cuts them, "
            "often a proxy's idle time-out.",
            SECONDS,
            *quantiles("tidegate_connection_duration_seconds", at=(0.5, 0.9)),
        ),
        lines(
            "Coming and going",
            "Accepted and ended connections. A peak of both is a reconnect storm.",
            PER_SECOND,
            Query('sum(rate(tidegate_handshakes_total{@, outcome="accepted"}[@]))', "accepted"),
            Query("sum(rate(tidegate_closes_total{@}[@]))", "ended"),
        ),
        lines(
            "Rooms and users",
            "In the registry, all nodes: a room or user on two nodes counts twice.",
            COUNT,
            Query("sum(tidegate_rooms{@})", "rooms"),
            Query("sum(tidegate_users{@})", "users"),
            Query("sum(tidegate_memberships{@})", "memberships"),
            Query("sum(tidegate_registered_connections{@})", "connections"),
        ),
        lines(
            "Clients in limit tables",
            "Times per second that a client was forgotten because a table of clients was full, and that the "
            "shared limiter did not answer.",
            PER_SECOND,
            Query("sum(rate(tidegate_rate_limit_table_full_total{@}[@]))", "forgotten"),
            Query("sum(rate(tidegate_rate_limit_shared_unavailable_total{@}[@]))", "shared limiter silent"),
        ),
    ],
)

_LOOP = Row(
    "The event loop and the CPU",
    [
        heat(
            "Loop lag",
            "How late the loop ran its timers. A band that climbs is overload; single dots are pauses.",
            SECONDS,
            "tidegate_loop_lag_seconds",
            alert="EventLoopLagging",
        ),
        lines(
            "Loop lag by node, p99",
            "One node alone: its rooms or its neighbours on the machine.",
            SECONDS,
            *quantiles("tidegate_loop_lag_seconds", by="instance", at=(0.99,)),
            width=12,
            steps=[(0.1, "orange"), (0.5, "red")],
            alert="EventLoopLagging",
        ),
        lines(
            "CPU",
            "Cores used, by node; one process uses one.",
            COUNT,
            Query("rate(process_cpu_seconds_total{@}[@])", "{{instance}}"),
            width=6,
            steps=[(0.8, "orange"), (0.95, "red")],
            alert="EventLoopLagging",
        ),
        lines(
            "CPU per message",
            "CPU seconds per message on the wire, both directions: rises when rooms shrink, messages grow or compression joins.",
            SECONDS,
            Query("sum(rate(process_cpu_seconds_total{@}[@])) / sum(rate(tidegate_messages_total{@}[@]))", "per message"),
            width=6,
        ),
        lines(
            "Tasks",
            "Tasks of the event loop. Rooms need none per connection: growth here without growth of connections is a leak.",
            COUNT,
            Query("tidegate_event_loop_tasks{@}", "{{instance}}"),
            width=6,
        ),
        lines(
            "Garbage collections",
            "Runs per second of Python's cycle collector, by generation.",
            PER_SECOND,
            Query("sum by (generation) (rate(python_gc_collections_total{@}[@]))", "generation {{generation}}"),
            width=6,
        ),
    ],
)

_MEMORY = Row(
    "Memory, buffers, descriptors",
    [
        lines(
            "Resident memory",
            "By node. It follows connections and what waits for slow clients; growth without either is a leak.",
            BYTES,
            Query("process_resident_memory_bytes{@}", "{{instance}}"),
            width=6,
        ),
        lines(
            "Memory per connection",
            "Resident memory divided by connections.",
            BYTES,
            Query(_PER_CONNECTION, "{{instance}}"),
            width=6,
        ),
        lines(
            "Waiting in outboxes",
            "Bytes that wait for clients: all, and the largest of one client.",
            BYTES,
            Query("sum(tidegate_outbox_bytes{@})", "all"),
            Query("max(tidegate_outbox_largest_bytes{@})", "largest"),
            width=6,
            alert="SlowConsumersRising",
        ),
        lines(
            "Descriptors used",
            "Share of the open-files limit.",
            SHARE,
            Query(_DESCRIPTORS, "{{instance}}"),
            width=6,
            most=1,
            steps=[(0.75, "orange"), (0.9, "red")],
            alert="DescriptorsRunningOut",
        ),
    ],
)

_DRAIN = Row(
    "Drain and readiness",
    [
        lines(
            "Ready",
            "1: takes new clients. 0: starting, draining, or a check fails; /readyz?verbose on the ops port names it.",
            COUNT,
            Query("tidegate_ready{@}", "{{instance}}"),
            width=6,
            most=1,
            alert="GatewayNotReady",
        ),
        lines(
            "Draining",
            "1 from SIGTERM to the end.",
            COUNT,
            Query("tidegate_draining{@}", "{{instance}}"),
            width=6,
            most=1,
            alert="DrainStuck",
        ),
        lines(
            "Connections left to close",
            "A straight line down to 0 over the drain period.",
            COUNT,
            Query("tidegate_drain_connections_left{@}", "{{instance}}"),
            width=6,
            alert="DrainStuck",
        ),
        lines(
            "Drain overdue",
            "Time beyond the drain's own period; 0 unless it hangs.",
            SECONDS,
            Query("tidegate_drain_overdue_seconds{@}", "{{instance}}"),
            width=6,
            steps=[(1, "orange"), (30, "red")],
            alert="DrainStuck",
        ),
    ],
)

_API = Row(
    "The HTTP API and signing keys",
    [
        lines(
            "API latency",
            "Time to answer a request of the HTTP API.",
            SECONDS,
            *quantiles("tidegate_api_request_seconds", at=(0.5, 0.99)),
            width=12,
        ),
        lines(
            "Fetches of signing keys",
            "From the issuer (`AUTH__JWKS_URL`). Failing for long, tokens with new keys are refused.",
            PER_SECOND,
            Query("sum by (result) (rate(tidegate_auth_key_fetches_total{@}[@]))", "{{result}}"),
            width=12,
        ),
    ],
)

CAPACITY = Board(
    "tidegate-capacity",
    "How full each node is: slots, CPU and event loop, memory, buffers, descriptors; and how it drains.",
    [_HEADROOM, _SLOTS, _LOOP, _MEMORY, _DRAIN, _API],
)
