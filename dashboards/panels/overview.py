"""The overview: is it well, and where to look when it is not."""

from __future__ import annotations

from .board import Board, Row
from .kit import (
    BYTES,
    BYTES_PER_SECOND,
    COUNT,
    HANDSHAKES,
    MESSAGES,
    PER_SECOND,
    SECONDS,
    SHARE,
    Query,
    lines,
    note,
    number,
    quantiles,
)
from .objectives import OBJECTIVES

__all__ = ["OVERVIEW"]

_START = """\
**Read from the top.** A red number names its problem; its link (the ↗ on the panel) opens the runbook: meaning, impact, \
diagnosis, mitigation. Clients cannot get in: *Errors*. Messages are late or missing: **[Delivery](/d/tidegate-delivery)**. \
The process is full or busy: **[Capacity](/d/tidegate-capacity)**. Nodes do not hear each other: \
**[Broker and cluster](/d/tidegate-broker)**. *Which client did not get which message?* Ask the ops port of its node: \
`/api/explain`."""

_WELL = Row(
    "Is it well?",
    [
        number(
            "Nodes ready",
            "Nodes that take new clients, and nodes that Prometheus hears of. Fewer ready ones than nodes is normal "
            "only while some are starting or draining.",
            COUNT,
            Query("sum(tidegate_ready{@})", "ready"),
            Query("count(tidegate_build_info{@})", "nodes"),
            alert="GatewayNotReady",
        ),
        number("Connections", "Open WebSockets on all chosen nodes.", COUNT, Query("sum(tidegate_connections{@})", "connections")),
        number(
            "Fullest node",
            "Share of its connection limit that the fullest node has used. At 100 % new clients are refused with 503.",
            SHARE,
            Query("max(tidegate_slots_taken{@} / tidegate_slots_limit{@})", "fullest"),
            steps=[(0.8, "orange"), (0.95, "red")],
            alert="GatewayAtCapacity",
        ),
        number(
            "Handshakes that succeed",
            "Of the clients that had a right to come in, how many did (5 minutes; the target is 99.9 % over "
            "30 days). Refused tokens, origins and rate limits are not failures. No data: nobody tried.",
            SHARE,
            Query('1 - max(job:tidegate_handshake_errors:ratio_rate5m{job=~"$job"})', "success"),
            below="red",
            steps=[(0.985, "orange"), (0.999, "green")],
            decimals=2,
            alert="HandshakesFailing",
        ),
        number(
            "Delivered within 1 s",
            "Of the sampled deliveries, how many the client's end confirmed within a second of publishing "
            "(5 minutes; the target is 99 % over 30 days). No data: TIDEGATE_TELEMETRY__CONFIRMS_PER_SECOND is 0.",
            SHARE,
            Query('1 - max(job:tidegate_delivery_errors:ratio_rate5m{job=~"$job"})', "within 1 s"),
            below="red",
            steps=[(0.9, "orange"), (0.99, "green")],
            decimals=2,
            alert="DeliveriesSlow",
        ),
        number(
            "Messages unaccounted for",
            "Deliveries that were neither written nor dropped for a reason nor ended by a close. Anything "
            "but 0 is a bug of the gateway.",
            COUNT,
            Query("sum(abs(tidegate_deliveries_unaccounted{@}))", "unaccounted"),
            steps=[(1, "red")],
            alert="MessagesUnaccounted",
        ),
        number(
            "Broker",
            "1 when every chosen node can use its broker, 0 when one cannot: nobody on it hears anything then.",
            COUNT,
            Query("min(tidegate_broker_up{@})", "up"),
            below="red",
            steps=[(1, "green")],
            alert="BrokerDown",
        ),
        number(
            "Alerts",
            "Alerts of Tidegate that are firing. Their names are in Alertmanager, each with a link to its runbook.",
            COUNT,
            Query('count(ALERTS{service="tidegate", alertstate="firing", job=~"$job|"}) or vector(0)', "firing"),
            steps=[(1, "red")],
        ),
    ],
)

_TRAFFIC = Row(
    "Traffic",
    [
        lines(
            "Connections by node",
            "A step down on one node and up on the others is a drain or a restart; a step down on all is the "
            "network or the proxy in front.",
            COUNT,
            Query("sum by (instance) (tidegate_connections{@})", "{{instance}}"),
            stacked=True,
        ),
        lines(
            "Handshakes by outcome",
            "Accepted, refused (by a layer or the app), abandoned (the client left first), failed (an error). "
            "A peak of accepted ones is a crowd that reconnects.",
            HANDSHAKES,
            Query("sum by (outcome) (rate(tidegate_handshakes_total{@}[@]))", "{{outcome}}"),
            stacked=True,
        ),
        lines(
            "Messages",
            "On the wire; one publication to a room of 100 is 100 outbound messages.",
            MESSAGES,
            Query("sum by (direction) (rate(tidegate_messages_total{@}[@]))", "{{direction}}"),
        ),
        lines(
            "Payload",
            "Bytes of the messages, without frame headers.",
            BYTES_PER_SECOND,
            Query("sum by (direction) (rate(tidegate_message_bytes_total{@}[@]))", "{{direction}}"),
        ),
        lines(
            "Publications by namespace",
            "Messages accepted for rooms, by room name prefix. `other` is everything that TIDEGATE_NAMESPACES does not declare.",
            MESSAGES,
            Query("sum by (namespace) (rate(tidegate_deliveries_accepted_total{@}[@]))", "{{namespace}}"),
            stacked=True,
        ),
        lines(
            "HTTP API",
            "Requests to the ops port's API, by what was asked and how it was answered.",
            HANDSHAKES,
            Query("sum by (operation, status) (rate(tidegate_api_requests_total{@}[@]))", "{{operation}} {{status}}"),
        ),
    ],
)

_ERRORS = Row(
    "Errors",
    [
        lines(
            "Clients sent away, by reason",
            "Handshakes that did not succeed. `at-capacity`, `unavailable` and `internal-error` are ours; "
            "`unauthorized`, `forbidden` and `rate-limited` are the clients'.",
            HANDSHAKES,
            Query(
                'sum by (outcome, reason) (rate(tidegate_handshakes_total{@, outcome!="accepted"}[@]))', "{{outcome}}: {{reason}}"
            ),
            alert="HandshakesFailing",
        ),
        lines(
            "Connections ended by the server, by reason",
            "`slow-consumer`: does not keep up. `restarting`: a drain. `ping-timeout`: "
            "vanished. `internal-error`: a bug of the app or the gateway; look for it in the log.",
            PER_SECOND,
            Query('sum by (reason) (rate(tidegate_closes_total{@, initiator="server"}[@]))', "{{reason}}"),
            alert="SlowConsumersRising",
        ),
        lines(
            "Deliveries not made, by reason",
            "Messages that a client did not get although it was in the room, and why. Dropped by the "
            "outbox policy, or the connection was ending.",
            MESSAGES,
            Query("sum by (reason) (rate(tidegate_deliveries_dropped_total{@}[@]))", "dropped: {{reason}}"),
            Query("sum(rate(tidegate_deliveries_closed_total{@}[@]))", "connection was ending"),
            alert="SlowConsumersRising",
        ),
        lines(
            "Refused by the wire, by status",
            "Requests refused before any layer saw them: malformed (400), too large (431), too slow "
            "(408), too many half-open ones or out of descriptors (503). Mostly attacks and broken clients.",
            HANDSHAKES,
            Query("sum by (status) (rate(tidegate_wire_refused_total{@}[@]))", "{{status}}"),
        ),
        lines(
            "Refused at the door",
            "By the limiter (what was used up), for the origin of the page, for the token, for connecting too often.",
            HANDSHAKES,
            Query("sum by (limit) (rate(tidegate_slots_refused_total{@}[@]))", "limit: {{limit}}"),
            Query("sum by (why) (rate(tidegate_auth_refused_total{@}[@]))", "token: {{why}}"),
            Query("sum(rate(tidegate_origin_refused_total{@}[@]))", "origin"),
            Query("sum(rate(tidegate_rate_limit_handshakes_refused_total{@}[@]))", "too often"),
            alert="GatewayAtCapacity",
        ),
        lines(
            "Broker errors",
            "Failures towards Redis or NATS, by what was tried, and messages that it did not take.",
            PER_SECOND,
            Query("sum by (operation) (rate(tidegate_broker_errors_total{@}[@]))", "{{operation}}"),
            Query("sum(rate(tidegate_broker_refused_total{@}[@]))", "message not taken"),
            alert="BrokerDown",
        ),
    ],
)

_LATENCY = Row(
    "Latency",
    [
        lines(
            "Handshake",
            "From connect to the answer; tokens and waiting for a slot included.",
            SECONDS,
            *quantiles("tidegate_handshake_seconds", where=', outcome="accepted"', at=(0.5, 0.9, 0.99)),
        ),
        lines(
            "Publish to kernel (residency)",
            "From a message being accepted until it was handed to the kernel: what the gateway itself adds.",
            SECONDS,
            *quantiles("tidegate_delivery_residency_seconds", at=(0.5, 0.9, 0.99)),
            alert="DeliveriesSlow",
        ),
        lines(
            "Publish to client (confirmed)",
            "From a message being accepted until the client's end answered a ping right behind it: "
            "the whole way, network included.",
            SECONDS,
            *quantiles("tidegate_delivery_confirm_seconds", at=(0.5, 0.9, 0.99)),
            steps=[(1, "red")],
            alert="DeliveriesSlow",
        ),
    ],
)

_SATURATION = Row(
    "Saturation",
    [
        lines(
            "Slots used",
            "Share of the connection limit, by node.",
            SHARE,
            Query("tidegate_slots_taken{@} / tidegate_slots_limit{@}", "{{instance}}"),
            width=6,
            steps=[(0.8, "orange"), (0.95, "red")],
            most=1,
            alert="GatewayAtCapacity",
        ),
        lines(
            "Event loop lag, p99",
            "How late the loop runs a timer. One loop does everything, so this is how late everything is.",
            SECONDS,
            *quantiles("tidegate_loop_lag_seconds", by="instance", at=(0.99,)),
            width=6,
            steps=[(0.1, "orange"), (0.5, "red")],
            alert="EventLoopLagging",
        ),
        lines(
            "CPU",
            "Cores used, by node. One process uses one core: near 1 it is at its end.",
            COUNT,
            Query("rate(process_cpu_seconds_total{@}[@])", "{{instance}}"),
            width=6,
            steps=[(0.8, "orange"), (0.95, "red")],
            alert="EventLoopLagging",
        ),
        lines(
            "Resident memory",
            "By node. Buffers of slow clients and the number of connections move it.",
            BYTES,
            Query("process_resident_memory_bytes{@}", "{{instance}}"),
            width=6,
        ),
    ],
)


_LIFE = Row(
    "Versions and drains",
    [
        lines(
            "Versions",
            "Nodes by version: two lines during a rollout.",
            COUNT,
            Query("count by (version) (tidegate_build_info{@})", "{{version}}"),
            stacked=True,
        ),
        lines(
            "Draining",
            "Connections that draining nodes have still to close. It must reach 0 within the drain period.",
            COUNT,
            Query("sum by (instance) (tidegate_drain_connections_left{@})", "{{instance}}"),
            alert="DrainStuck",
        ),
        lines(
            "Uptime",
            "Time since the process started. A saw's teeth are a crash loop.",
            SECONDS,
            Query("time() - process_start_time_seconds{@}", "{{instance}}"),
        ),
    ],
)

OVERVIEW = Board(
    "tidegate-overview",
    "Golden signals and objectives of all gateway nodes. Start here.",
    [
        Row("Start here", [note("How to read this", _START, height=3)]),
        _WELL,
        _TRAFFIC,
        _ERRORS,
        _LATENCY,
        _SATURATION,
        OBJECTIVES,
        _LIFE,
    ],
)
