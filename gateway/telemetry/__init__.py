"""Telemetry: what there is to count (``catalogue``), who counts (``collector``, ``confirms``, ``nodes``), spans, the ways out."""

from .catalogue import CATALOGUE, metrics_markdown
from .collector import GatewayCollector
from .export import flush, metrics_route, new_registry, tracer_provider
from .nodes import report_nodes
from .span_counts import SpanCounts
from .traces import DeliveryTraces

__all__ = [
    "CATALOGUE",
    "DeliveryTraces",
    "GatewayCollector",
    "SpanCounts",
    "flush",
    "metrics_markdown",
    "metrics_route",
    "new_registry",
    "report_nodes",
    "tracer_provider",
]
