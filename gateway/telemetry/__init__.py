"""Telemetry: what the core counts (``catalogue``, ``collector``, ``confirms``), spans (``traces``), the ways out (``export``)."""

from .catalogue import CATALOGUE, metrics_markdown
from .collector import GatewayCollector
from .export import flush, metrics_route, new_registry, tracer_provider
from .traces import DeliveryTraces

__all__ = [
    "CATALOGUE",
    "DeliveryTraces",
    "GatewayCollector",
    "flush",
    "metrics_markdown",
    "metrics_route",
    "new_registry",
    "tracer_provider",
]
