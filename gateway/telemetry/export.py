"""How metrics and spans leave the process: the registry, ``GET /metrics``, and OTLP over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..version import __version__
from .span_counts import SpanCounts

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

__all__ = ["flush", "metrics_route", "new_registry", "tracer_provider"]

EXPORT_TIMEOUT_SECONDS = 5
FLUSH_SECONDS = 2.0
"""How long the end of the process waits for a collector to take the last spans."""


def new_registry() -> CollectorRegistry:
    """A registry with what Python and the process say of themselves."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def metrics_route(registry: CollectorRegistry) -> Route:
    """``GET /metrics``: the classic text format or OpenMetrics, whichever the scraper prefers."""

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return Route("/metrics", metrics)


def tracer_provider(endpoint: str | None, service: str = "tidegate", *, counts: SpanCounts | None = None) -> TracerProvider | None:
    """A provider that exports spans over OTLP/HTTP in batches from a bounded queue; ``None`` without an endpoint."""
    if endpoint is None:
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    from .spans import CountingProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": service, "service.version": __version__}))
    url = endpoint if endpoint.rstrip("/").endswith("/v1/traces") else endpoint.rstrip("/") + "/v1/traces"
    provider.add_span_processor(
        CountingProcessor(OTLPSpanExporter(endpoint=url, timeout=EXPORT_TIMEOUT_SECONDS), counts or SpanCounts())
    )
    return provider


async def flush(provider: TracerProvider) -> None:
    """Export what is left and end the exporter; a collector that does not answer is given up after ``FLUSH_SECONDS``."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def shut_down() -> None:
        provider.shutdown()
        with contextlib.suppress(RuntimeError):  # nobody waits any more: the loop is closed
            loop.call_soon_threadsafe(done.set)

    # A thread of its own, not the loop's executor: that one is waited for at the end, however long it takes.
    threading.Thread(target=shut_down, name="tidegate-flush", daemon=True).start()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FLUSH_SECONDS):
            await done.wait()
