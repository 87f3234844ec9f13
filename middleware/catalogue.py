"""The catalogue: every metric of the middlewares in one tuple, and which observation feeds which metric.

Documentation, dashboards and alerts are checked against it. Labels only ever take values from sets that are known when the
process starts: routes as the router declares them, reason slugs, and the words below. This file imports nothing of the package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["CATALOGUE", "OBSERVATIONS", "Metric", "catalogue_markdown"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name without the namespace, what it counts, and how its values are spread over buckets.

    ``name`` ends in the unit (``_seconds``, ``_bytes``) and, for a counter, in ``_total``, as OpenMetrics has it.
    """

    name: str
    type: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    unit: Literal["", "seconds", "bytes"]
    help: str
    buckets: tuple[float, ...] = ()

    def full_name(self, namespace: str = "tidegate") -> str:
        """The name of the series that a query uses."""
        return f"{namespace}_{self.name}"


_HANDSHAKE = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_HANDLING = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_WAIT = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_DURATION = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
_SIZE = (64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0)

CATALOGUE: tuple[Metric, ...] = (
    Metric(
        "handshakes_total", "counter", ("route", "outcome", "reason"), "",
        "Handshakes: accepted, refused (by a layer or the app), abandoned (the client left first) or failed (an error); "
        "reason is the slug of the ending, none when accepted.",
    ),
    Metric("handshake_seconds", "histogram", ("outcome",), "seconds", "From connect to the handshake's answer.", _HANDSHAKE),
    Metric("connections", "gauge", ("route",), "", "Open connections."),
    Metric("connections_peak", "gauge", ("route",), "", "Most connections that were open at once since the process started."),
    Metric("connection_duration_seconds", "histogram", ("route",), "seconds", "From accept to the end of a connection.", _DURATION),
    Metric(
        "closes_total", "counter", ("reason", "initiator"), "",
        "Ends of accepted connections, by reason slug and by who decided it: client or server.",
    ),
    Metric("messages_total", "counter", ("direction",), "", "Messages on the wire, ready-made frames included."),
    Metric("message_bytes_total", "counter", ("direction",), "bytes", "Payload bytes of the messages on the wire."),
    Metric(
        "message_size_bytes", "histogram", ("direction", "kind"), "bytes",
        "Payload sizes of the messages that passed this layer, text or binary; ready-made frames pass no layer.", _SIZE,
    ),
    Metric(
        "handling_seconds", "histogram", ("route",), "seconds",
        "From handing a message to the app until it asks for the next; waiting for the client is not in it.", _HANDLING,
    ),
    Metric("origin_refused_total", "counter", (), "", "Handshakes refused because of their Origin."),
    Metric(
        "auth_refused_total", "counter", ("why",), "",
        "Handshakes refused for their token: missing, invalid, expired, or unavailable (it could not be judged).",
    ),
    Metric("auth_key_fetches_total", "counter", ("result",), "", "Fetches of the key set: ok or failed."),
    Metric("rate_limit_delay_seconds", "histogram", (), "seconds", "How long reading stopped for messages too fast.", _WAIT),
    Metric("rate_limit_dropped_total", "counter", (), "", "Messages dropped because they came too fast."),
    Metric("rate_limit_closed_total", "counter", (), "", "Connections closed for being too fast."),
    Metric("rate_limit_handshakes_refused_total", "counter", (), "", "Handshakes refused because their client connects too often."),
    Metric("rate_limit_table_full_total", "counter", (), "", "Clients forgotten because the table of clients was full."),
    Metric(
        "rate_limit_shared_unavailable_total", "counter", (), "",
        "Handshakes judged by this process alone because the shared limiter did not answer.",
    ),
    Metric("slots_taken", "gauge", (), "", "Connections that hold a slot of the total."),
    Metric("slots_waiting", "gauge", (), "", "Handshakes that wait for a slot."),
    Metric("slots_waited_seconds", "histogram", (), "seconds", "Handshakes' wait for a slot, whether they got one or not.", _WAIT),
    Metric(
        "slots_refused_total", "counter", ("limit",), "",
        "Handshakes refused for want of a slot, by what was used up: total, room, client, user or accept_rate.",
    ),
    Metric("compression_connections_total", "counter", (), "", "Connections accepted in compressed mode."),
    Metric(
        "compression_messages_total", "counter", ("direction",), "",
        "Messages packed (outbound; once, however many get it) and unpacked (inbound).",
    ),
    Metric("compression_raw_bytes_total", "counter", ("direction",), "bytes", "Their bytes before packing or after unpacking."),
    Metric("compression_wire_bytes_total", "counter", ("direction",), "bytes", "Their bytes on the wire."),
    Metric("compression_seconds_total", "counter", ("direction",), "seconds", "Time spent packing and unpacking."),
    Metric("compression_cache_hits_total", "counter", (), "", "Messages sent again without being packed again."),
    Metric("access_log_suppressed_total", "counter", (), "", "Refused handshakes without a log line of their own."),
    Metric("routes_overflow_total", "counter", (), "", "Connections put under route other: there were too many routes."),
    Metric("observations_unknown_total", "counter", (), "", "Figures reported under a name without a metric."),
)  # fmt: skip

OBSERVATIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "access_log_suppressed": ("access_log_suppressed_total", ()),
    "origin_refused": ("origin_refused_total", ()),
    "auth_refused_missing": ("auth_refused_total", ("missing",)),
    "auth_refused_invalid": ("auth_refused_total", ("invalid",)),
    "auth_refused_expired": ("auth_refused_total", ("expired",)),
    "auth_refused_unavailable": ("auth_refused_total", ("unavailable",)),
    "auth_keys_fetched": ("auth_key_fetches_total", ("ok",)),
    "auth_keys_failed": ("auth_key_fetches_total", ("failed",)),
    "rate_limit_delay_seconds": ("rate_limit_delay_seconds", ()),
    "rate_limit_dropped": ("rate_limit_dropped_total", ()),
    "rate_limit_closed": ("rate_limit_closed_total", ()),
    "rate_limit_handshakes_refused": ("rate_limit_handshakes_refused_total", ()),
    "rate_limit_table_full": ("rate_limit_table_full_total", ()),
    "rate_limit_shared_unavailable": ("rate_limit_shared_unavailable_total", ()),
    "slots_taken": ("slots_taken", ()),
    "slots_waiting": ("slots_waiting", ()),
    "slots_waited_seconds": ("slots_waited_seconds", ()),
    "slots_refused_total": ("slots_refused_total", ("total",)),
    "slots_refused_room": ("slots_refused_total", ("room",)),
    "slots_refused_client": ("slots_refused_total", ("client",)),
    "slots_refused_user": ("slots_refused_total", ("user",)),
    "slots_refused_accept_rate": ("slots_refused_total", ("accept_rate",)),
    "compression_connections": ("compression_connections_total", ()),
    "compression_messages": ("compression_messages_total", ("outbound",)),
    "compression_raw_bytes": ("compression_raw_bytes_total", ("outbound",)),
    "compression_wire_bytes": ("compression_wire_bytes_total", ("outbound",)),
    "compression_seconds": ("compression_seconds_total", ("outbound",)),
    "compression_cache_hits": ("compression_cache_hits_total", ()),
    "decompression_messages": ("compression_messages_total", ("inbound",)),
    "decompression_raw_bytes": ("compression_raw_bytes_total", ("inbound",)),
    "decompression_wire_bytes": ("compression_wire_bytes_total", ("inbound",)),
    "decompression_seconds": ("compression_seconds_total", ("inbound",)),
}
"""What a layer reports with ``link.observe`` → (metric, label values). A gauge is set, a counter raised, a histogram fed."""


def catalogue_markdown(metrics: tuple[Metric, ...] = CATALOGUE, namespace: str = "tidegate") -> str:
    """The metrics as a Markdown table, one line each, as the documentation has it."""
    lines = ["| metric | type | labels | unit | meaning |", "|---|---|---|---|---|"]
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "-"
        lines.append(f"| `{metric.full_name(namespace)}` | {metric.type} | {labels} | {metric.unit or '-'} | {metric.help} |")
    return "\n".join(lines) + "\n"
