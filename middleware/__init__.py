"""Pure-ASGI middlewares for WebSockets, usable in any ASGI app under any ASGI server.

    from middleware import ConnectionLimitMiddleware, RateLimitMiddleware

Each one is a ``Layer``; layers that stand next to each other run as one. ``docs/middleware.md`` shows every option and how
to write a layer of your own in ten lines.
"""

from .access_log import AccessLogMiddleware
from .auth import AuthMiddleware, User
from .close import Close
from .compression import CompressionMiddleware
from .connection_limit import ConnectionLimitMiddleware
from .layer import Guard, Layer, Link, Refuse
from .metrics import MetricsMiddleware
from .origin import OriginMiddleware
from .rate_limit import RateLimitMiddleware
from .tracing import TracingMiddleware

__all__ = [
    "AccessLogMiddleware",
    "AuthMiddleware",
    "Close",
    "CompressionMiddleware",
    "ConnectionLimitMiddleware",
    "Guard",
    "Layer",
    "Link",
    "MetricsMiddleware",
    "OriginMiddleware",
    "RateLimitMiddleware",
    "Refuse",
    "TracingMiddleware",
    "User",
]
