"""The catalogue of what the gateway itself counts; the layers have their own. ``docs/metrics.md`` shows both."""

from __future__ import annotations

from middleware.catalogue import CATALOGUE as LAYERS
from middleware.catalogue import Metric, catalogue_markdown

__all__ = ["CATALOGUE", "KINDS", "metrics_markdown"]

_MEMBERS = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0)
_FANOUT = (0.00001, 0.00005, 0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_API = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_RTT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)
_LAG = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_RESIDENCY = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_CONFIRM = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BROKER = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZE = (64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0)
_SPACE = ("namespace",)

KINDS = ("text", "binary")
"""Of messages."""

CATALOGUE: tuple[Metric, ...] = (
    Metric(
        "build_info", "gauge", ("version", "python", "node"), "", "Always 1; which version runs, on which Python, as which node."
    ),
    Metric("registered_connections", "gauge", (), "", "Connections in the registry."),
    Metric("rooms", "gauge", (), "", "Rooms with at least one member on this node."),
    Metric("users", "gauge", (), "", "Users with at least one connection on this node."),
    Metric("memberships", "gauge", (), "", "Memberships of connections in rooms."),
    Metric("subscriptions", "gauge", (), "", "Rooms this node listens to, the gateway's own and lingering ones too."),
    Metric("event_loop_tasks", "gauge", (), "", "Tasks of the event loop."),
    Metric("loop_lag_seconds", "histogram", (), "seconds", "How late the event loop ran a timer.", _LAG),
    Metric(
        "ready",
        "gauge",
        (),
        "",
        "1 while the node is started, not draining, and no check of /readyz failed when last asked.",
    ),
    Metric("slots_limit", "gauge", (), "", "Connections that there may be (slots_taken counts them); no series without a limit."),
    Metric("draining", "gauge", (), "", "1 while the node drains."),
    Metric("drain_connections_left", "gauge", (), "", "Connections that a drain has still to close."),
    Metric(
        "drain_overdue_seconds", "gauge", (), "seconds", "How long a drain has been running beyond the time it was given; else 0."
    ),
    Metric("nodes", "gauge", (), "", "Nodes of the cluster that this one hears of, itself too."),
    Metric(
        "nodes_ignored_total",
        "counter",
        ("reason",),
        "",
        "Messages of nodes that were ignored: malformed, same-id, too-many-nodes, not-asked (an answer after its deadline).",
    ),
    Metric("broker_up", "gauge", (), "", "1 while the broker is connected, hears every room and carries what is published."),
    Metric("broker_publish_seconds", "histogram", (), "seconds", "From taking a batch until the engine has it.", _BROKER),
    Metric(
        "broker_lag_seconds",
        "histogram",
        (),
        "seconds",
        "From accepting a message until it arrives here through the engine, by the two nodes' clocks.",
        _BROKER,
    ),
    Metric(
        "broker_errors_total",
        "counter",
        ("operation",),
        "",
        "What went wrong with the engine; each message that was taken and not confirmed is one of publish.",
    ),
    Metric("broker_reconnects_total", "counter", (), "", "Times that the engine was reached again."),
    Metric("broker_gaps_total", "counter", (), "", "Times that rooms of this node may have missed something."),
    Metric("broker_queue_messages", "gauge", (), "", "Messages taken that the engine has not confirmed."),
    Metric("broker_refused_total", "counter", (), "", "Messages of clients that the broker did not take."),
    Metric("deliveries_accepted_total", "counter", _SPACE, "", "Messages that were fanned out."),
    Metric("deliveries_expected_total", "counter", _SPACE, "", "Messages times the recipients they had."),
    Metric("deliveries_written_total", "counter", _SPACE, "", "Deliveries that the kernel has (or a foreign server)."),
    Metric("deliveries_buffered", "gauge", _SPACE, "", "Deliveries that wait in the outbox of a connection."),
    Metric("deliveries_in_progress", "gauge", _SPACE, "", "Deliveries that a running fan-out has still to make."),
    Metric(
        "deliveries_dropped_total",
        "counter",
        (*_SPACE, "reason"),
        "",
        "Deliveries left out, and why: slow-consumer (its outbox was full), replaced (by a newer message, policy latest), unsent "
        "(the connection was lost with it in its outbox), left (the member left the room before its turn).",
    ),
    Metric("deliveries_closed_total", "counter", _SPACE, "", "Deliveries to connections whose end was decided before the write."),
    Metric(
        "deliveries_unaccounted",
        "gauge",
        _SPACE,
        "",
        "expected - written - buffered - in progress - dropped - closed: 0, or messages disappear.",
    ),
    Metric(
        "namespaces_overflow_total",
        "counter",
        (),
        "",
        "Messages in rooms with a prefix that is not declared; they count under other.",
    ),
    Metric(
        "slow_consumers_total",
        "counter",
        (),
        "",
        "Connections closed as slow consumers, or to which messages were dropped or replaced because they read too slowly; each "
        "counts once in ten minutes at most.",
    ),
    Metric("outbox_bytes", "gauge", (), "bytes", "What waits to be sent, of all connections."),
    Metric("outbox_largest_bytes", "gauge", (), "bytes", "What waits to be sent on the connection with most of it."),
    Metric(
        "delivery_residency_seconds",
        "histogram",
        (),
        "seconds",
        "From accepting a message for publishing, on whichever node, until this node has written it to the last member.",
        _RESIDENCY,
    ),
    Metric(
        "delivery_confirm_seconds",
        "histogram",
        (),
        "seconds",
        "Of sampled deliveries: from accepting the message for publishing to the pong of a ping sent right behind it.",
        _CONFIRM,
    ),
    Metric(
        "delivery_confirms_total",
        "counter",
        ("result",),
        "",
        "Sampled deliveries: confirmed, closed_before (the connection ended first) or timeout.",
    ),
    Metric(
        "publication_size_bytes",
        "histogram",
        ("kind",),
        "bytes",
        "Payload sizes of the messages that were fanned out, text or binary; one value each, however many got it.",
        _SIZE,
    ),
    Metric("fanout_recipients", "histogram", (), "", "Members a write to a room went to.", _MEMBERS),
    Metric("fanout_seconds", "histogram", (), "seconds", "Time a write to all members of a room took.", _FANOUT),
    Metric(
        "deflate_messages_total",
        "counter",
        ("direction",),
        "",
        "Messages deflated (outbound; once, however many get it) and inflated (inbound) with permessage-deflate.",
    ),
    Metric("deflate_raw_bytes_total", "counter", ("direction",), "bytes", "Their bytes before deflating or after inflating."),
    Metric("deflate_wire_bytes_total", "counter", ("direction",), "bytes", "Their bytes on the wire."),
    Metric("deflate_seconds_total", "counter", ("direction",), "seconds", "Time spent deflating and inflating."),
    Metric("spans_ended_total", "counter", (), "", "Sampled spans that were handed to the exporter's queue."),
    Metric(
        "spans_exported_total",
        "counter",
        ("result",),
        "",
        "Spans that the collector took (ok) or did not (failed), and those that gave way in a full queue (lost; counted when the "
        "next ones leave it). What was ended and is none of them waits.",
    ),
    Metric("ping_rtt_seconds", "histogram", (), "seconds", "From a keepalive ping to its pong.", _RTT),
    Metric(
        "wire_refused_total", "counter", ("status",), "", "Handshakes and requests that the wire refused before any layer saw them."
    ),
    Metric("api_requests_total", "counter", ("operation", "status"), "", "Requests to the HTTP API."),
    Metric("api_request_seconds", "histogram", (), "seconds", "Time to answer a request to the HTTP API.", _API),
)


def metrics_markdown() -> str:
    """``docs/metrics.md``."""
    return f"""# Metrics

`GET /metrics` on the ops listener, as Prometheus text or OpenMetrics, whichever the scraper prefers. Labels take values from sets
that are known when the process starts; no room, user, address or path is ever one. A namespace is the part of a room's name before
the first `:`, when `TIDEGATE_NAMESPACES` declares it; all other rooms are `other`. The usual `process_*` and `python_*` are there
too.

## The gateway

{catalogue_markdown(CATALOGUE)}
At all times and for every namespace, expected = written + buffered + in progress + dropped + closed;
see [observability](observability.md).

## The layers

{catalogue_markdown(LAYERS)}"""
