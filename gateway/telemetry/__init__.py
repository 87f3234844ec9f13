"""What the core counts (``catalogue``, ``collector``) and how it leaves the process (``export``)."""

from .catalogue import CATALOGUE, metrics_markdown
from .collector import GatewayCollector
from .export import metrics_route, new_registry, tracer_provider

__all__ = ["CATALOGUE", "GatewayCollector", "metrics_markdown", "metrics_route", "new_registry", "tracer_provider"]
