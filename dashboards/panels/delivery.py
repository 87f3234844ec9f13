"""Delivery: what became of every message, how long it took, and who does not keep up."""

from __future__ import annotations

from .board import Board, Row
from .encoding import COMPRESSION, TELEMETRY
from .kit import (
    BYTES,
    COUNT,
    MESSAGES,
    PER_SECOND,
    SECONDS,
    SHARE,
    Query,
    heat,
    lines,
    number,
    quantiles,
)

__all__ = ["DELIVERY"]

_LEDGER = Row(
    "The ledger: every delivery is accounted for",
    [
        number(
            "Unaccounted, as the nodes see it",
            "Deliveries expected minus those written, dropped for a reason, ended by a close, or "
            "still under way. Anything but 0 is a bug.",
            COUNT,
            Query("sum(abs(tidegate_deliveries_unaccounted{@}))", "unaccounted"),
            width=4,
            steps=[(1, "red")],
            alert="MessagesUnaccounted",
        ),
        number(
            "Unaccounted, as Prometheus sees it",
            "The same sum made by Prometheus from the counters, independently of the gateway's own arithmetic.",
            COUNT,
            Query("sum(abs(instance_namespace:tidegate_deliveries_unaccounted:residual{@}))", "unaccounted"),
            width=4,
            steps=[(1, "red")],
            alert="MessagesUnaccounted",
        ),
        number(
            "Written",
            "Share of expected deliveries that were handed to a connection. The rest was dropped for a reason or went to "
            "connections that were ending.",
            SHARE,
            Query(
                "sum(rate(tidegate_deliveries_written_total{@}[@])) / sum(rate(tidegate_deliveries_expected_total{@}[@]))",
                "written",
            ),
            width=4,
            decimals=2,
            below="red",
            steps=[(0.9, "orange"), (0.99, "green")],
            alert="SlowConsumersRising",
        ),
        number(
            "Recipients of a publication",
            "Expected deliveries per accepted message.",
            COUNT,
            Query(
                "sum(rate(tidegate_deliveries_expected_total{@}[@])) / sum(rate(tidegate_deliveries_accepted_total{@}[@]))", "mean"
            ),
            width=4,
            decimals=1,
        ),
        number(
            "In fan-outs still running",
            "Deliveries of big rooms that are written in several turns of the loop. Large and growing: the loop cannot keep up.",
            COUNT,
            Query("sum(tidegate_deliveries_in_progress{@})", "in progress"),
            width=4,
            alert="EventLoopLagging",
        ),
        number(
            "In the sockets' buffers",
            "Deliveries taken by the server's own buffer and not yet by the kernel: they wait for clients that read slowly.",
            COUNT,
            Query("sum(tidegate_deliveries_buffered{@})", "buffered"),
            width=4,
            alert="SlowConsumersRising",
        ),
        lines(
            "What became of deliveries",
            "Parts of a whole: written, dropped for a reason, connection was ending.",
            MESSAGES,
            Query("sum(rate(tidegate_deliveries_written_total{@}[@]))", "written"),
            Query("sum by (reason) (rate(tidegate_deliveries_dropped_total{@}[@]))", "dropped: {{reason}}"),
            Query("sum(rate(tidegate_deliveries_closed_total{@}[@]))", "connection was ending"),
            stacked=True,
            alert="SlowConsumersRising",
        ),
        lines(
            "Expected deliveries by namespace",
            "Messages times the recipients they had.",
            MESSAGES,
            Query("sum by (namespace) (rate(tidegate_deliveries_expected_total{@}[@]))", "{{namespace}}"),
            stacked=True,
        ),
        lines(
            "Under way",
            "Not yet with the kernel: waiting in buffers, or of fan-outs still running. By namespace.",
            COUNT,
            Query("sum by (namespace) (tidegate_deliveries_buffered{@})", "buffered: {{namespace}}"),
            Query("sum by (namespace) (tidegate_deliveries_in_progress{@})", "in progress: {{namespace}}"),
        ),
    ],
)

_LATENCY = Row(
    "How long it takes",
    [
        heat(
            "Publish to client, confirmed",
            "From accepted to the pong of a ping right behind the message, for sampled deliveries: the "
            "client's stack has processed all before it. A second band far up is a group of clients on a bad network.",
            SECONDS,
            "tidegate_delivery_confirm_seconds",
            alert="DeliveriesSlow",
        ),
        heat(
            "Publish to kernel (residency)",
            "From accepted to handed to the kernel: what the gateway adds. High here: a busy loop or "
            "slow readers. Low here but late at the client: the network.",
            SECONDS,
            "tidegate_delivery_residency_seconds",
            alert="DeliveriesSlow",
        ),
        lines(
            "Confirmed",
            "Quantiles of publish to client.",
            SECONDS,
            *quantiles("tidegate_delivery_confirm_seconds", at=(0.5, 0.9, 0.99)),
            width=6,
            steps=[(1, "red")],
            alert="DeliveriesSlow",
        ),
        lines(
            "Confirmations by result",
            "`confirmed`, `closed_before` (the connection ended first), `timeout` (no pong in time; counts "
            "as late). None at all: TIDEGATE_TELEMETRY__CONFIRMS_PER_SECOND is 0.",
            PER_SECOND,
            Query("sum by (result) (rate(tidegate_delivery_confirms_total{@}[@]))", "{{result}}"),
            width=6,
            stacked=True,
            alert="DeliveriesSlow",
        ),
        lines(
            "Residency",
            "Quantiles of publish to kernel.",
            SECONDS,
            *quantiles("tidegate_delivery_residency_seconds", at=(0.5, 0.9, 0.99)),
            width=6,
            alert="DeliveriesSlow",
        ),
        lines(
            "Round trip of keepalive pings",
            "How far away clients are, whether messages flow or not.",
            SECONDS,
            *quantiles("tidegate_ping_rtt_seconds", at=(0.5, 0.9, 0.99)),
            width=6,
        ),
    ],
)

_FANOUT = Row(
    "Fan-out and handling",
    [
        lines(
            "Members written to at once",
            "Size of the rooms that are published to.",
            COUNT,
            *quantiles("tidegate_fanout_recipients", at=(0.5, 0.99)),
            width=6,
        ),
        lines(
            "Time to write to a room",
            "From setting out until the last member is written to. A big room is written to in parts, between which "
            "the loop does other work: that time is in it.",
            SECONDS,
            *quantiles("tidegate_fanout_seconds", at=(0.5, 0.99)),
            width=6,
            alert="EventLoopLagging",
        ),
        lines(
            "Handling a client's message",
            "From handing it to the room handler or app until it asks for the next.",
            SECONDS,
            *quantiles("tidegate_handling_seconds", at=(0.5, 0.99)),
            width=6,
        ),
        lines(
            "Size of messages",
            "p99 of the payloads that pass the layers, by direction; ready-made frames of rooms are not in it.",
            BYTES,
            *quantiles("tidegate_message_size_bytes", by="direction", at=(0.99,)),
            width=6,
        ),
        lines(
            "Size of publications",
            "Payloads that were published to rooms, each counted once, however many got it.",
            BYTES,
            *quantiles("tidegate_publication_size_bytes", by="kind", at=(0.5, 0.99)),
            width=6,
        ),
    ],
)

_SLOW = Row(
    "Slow consumers and fast senders",
    [
        lines(
            "Clients that do not keep up",
            "Clients that let their outbox overflow, by node, whatever the policy does about it; each once in ten minutes. "
            "All nodes at once: the network or a client release; one node: look at its loop.",
            PER_SECOND,
            Query("sum by (instance) (rate(tidegate_slow_consumers_total{@}[@]))", "{{instance}}"),
            width=6,
            alert="SlowConsumersRising",
        ),
        lines(
            "Waiting in outboxes",
            "Bytes that wait for clients to read, all connections.",
            BYTES,
            Query("sum by (instance) (tidegate_outbox_bytes{@})", "{{instance}}"),
            width=6,
            stacked=True,
            alert="SlowConsumersRising",
        ),
        lines(
            "Largest outbox",
            "The slowest client of each node. At TIDEGATE_OUTBOX__MAX_BYTES (1 MiB unless set) the policy acts.",
            BYTES,
            Query("tidegate_outbox_largest_bytes{@}", "{{instance}}"),
            width=6,
            alert="SlowConsumersRising",
        ),
        lines(
            "Too fast senders",
            "Messages slowed down, dropped, and connections closed, by the rate limit's policy.",
            PER_SECOND,
            Query("sum(rate(tidegate_rate_limit_delay_seconds_count{@}[@]))", "slowed down"),
            Query("sum(rate(tidegate_rate_limit_dropped_total{@}[@]))", "dropped"),
            Query("sum(rate(tidegate_rate_limit_closed_total{@}[@]))", "closed"),
            width=6,
        ),
    ],
)

DELIVERY = Board(
    "tidegate-delivery",
    "What became of every message, how long it took to the kernel and to the client, and who does not keep up.",
    [_LEDGER, _LATENCY, _FANOUT, _SLOW, COMPRESSION, TELEMETRY],
)
