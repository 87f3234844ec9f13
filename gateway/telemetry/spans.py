"""The way of finished spans to the collector, counted. It imports OpenTelemetry's SDK: imported only where spans are exported."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from .span_counts import SpanCounts

__all__ = ["CountingProcessor"]


_NUMBER = "_tidegate_number"
"""Of a span among those that were queued. They leave in this order, so a gap before one is what had to give way."""


class CountingProcessor(BatchSpanProcessor):
    """Batches in a bounded queue, with a thread of its own; beyond the bound the oldest spans are lost."""

    def __init__(self, exporter: SpanExporter, counts: SpanCounts) -> None:
        super().__init__(_Counting(exporter, counts))
        self._counts = counts

    def on_end(self, span: ReadableSpan) -> None:
        """Count a sampled span, and queue it."""
        if span.context.trace_flags.sampled:
            self._counts.ended += 1
            setattr(span, _NUMBER, self._counts.ended)
        super().on_end(span)


class _Counting(SpanExporter):
    def __init__(self, exporter: SpanExporter, counts: SpanCounts) -> None:
        self._exporter = exporter
        self._counts = counts

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        counts = self._counts
        counts.lost = getattr(spans[-1], _NUMBER) - len(spans) - counts.exported - counts.failed
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            if result is SpanExportResult.SUCCESS:
                counts.exported += len(spans)
            else:
                counts.failed += len(spans)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)
