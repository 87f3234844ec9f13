"""Rows of the delivery dashboard about how messages are packed, and about telemetry itself."""

from __future__ import annotations

from .board import Row
from .kit import BYTES_PER_SECOND, COUNT, MESSAGES, PER_SECOND, SHARE, Query, lines

__all__ = ["COMPRESSION", "TELEMETRY"]


def _both(expression: str, legend: str) -> tuple[Query, Query]:
    """The same of zstd per message and of permessage-deflate; ``CODEC`` stands for the word in the names."""
    return (
        Query(expression.replace("CODEC", "compression"), f"zstd {legend}"),
        Query(expression.replace("CODEC", "deflate"), f"deflate {legend}"),
    )


COMPRESSION = Row(
    "Compression: zstd per message, and permessage-deflate",
    [
        lines(
            "Ratio",
            "Bytes before packing per byte on the wire. Near 1 compression costs CPU for nothing: train a dictionary. No line: "
            "nobody "
            "negotiated it.",
            COUNT,
            *_both(
                "sum by (direction) (rate(tidegate_CODEC_raw_bytes_total{@}[@])) / "
                "sum by (direction) (rate(tidegate_CODEC_wire_bytes_total{@}[@]))",
                "{{direction}}",
            ),
            width=6,
        ),
        lines(
            "Saved by packing",
            "Bytes per second that packing took off, each message counted once, however many clients get it.",
            BYTES_PER_SECOND,
            *_both(
                "sum(rate(tidegate_CODEC_raw_bytes_total{@}[@])) - sum(rate(tidegate_CODEC_wire_bytes_total{@}[@]))",
                "saved",
            ),
            width=6,
        ),
        lines(
            "CPU for it",
            "Seconds of packing and unpacking per second: share of one core.",
            SHARE,
            *_both("sum by (direction) (rate(tidegate_CODEC_seconds_total{@}[@]))", "{{direction}}"),
            width=6,
        ),
        lines(
            "Packed once, sent often",
            "Messages packed and unpacked; sends that needed no packing because the message was packed already; and clients "
            "that "
            "negotiate zstd.",
            MESSAGES,
            *_both("sum by (direction) (rate(tidegate_CODEC_messages_total{@}[@]))", "{{direction}}"),
            Query("sum(rate(tidegate_compression_cache_hits_total{@}[@]))", "zstd sent again"),
            Query("sum(rate(tidegate_compression_connections_total{@}[@]))", "new connections with zstd"),
            width=6,
        ),
    ],
)

TELEMETRY = Row(
    "Telemetry itself",
    [
        lines(
            "What could not be told apart",
            "Messages in rooms whose prefix is not declared (`TIDEGATE_NAMESPACES`), connections under route `other`, "
            "observations without a metric, refused handshakes without a log line. Nothing is lost; detail is.",
            PER_SECOND,
            Query("sum(rate(tidegate_namespaces_overflow_total{@}[@]))", "undeclared namespace"),
            Query("sum(rate(tidegate_routes_overflow_total{@}[@]))", "too many routes"),
            Query("sum(rate(tidegate_observations_unknown_total{@}[@]))", "unknown observation"),
            Query("sum(rate(tidegate_access_log_suppressed_total{@}[@]))", "no log line"),
            width=12,
        ),
        lines(
            "Traces",
            "Sampled spans that ended, and those that the collector took (`ok`) or did not (`failed`). Ended for long without "
            "being "
            "taken: the collector is away or too slow, and the queue drops. Serving is not held up.",
            PER_SECOND,
            Query("sum(rate(tidegate_spans_ended_total{@}[@]))", "ended"),
            Query("sum by (result) (rate(tidegate_spans_exported_total{@}[@]))", "exported: {{result}}"),
            width=12,
        ),
    ],
)
