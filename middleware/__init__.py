"""Pure-ASGI middlewares for WebSockets, usable in any ASGI app under any ASGI server.

    from middleware import ConnectionLimitMiddleware, RateLimitMiddleware

Each one is a ``Layer``; layers that stand next to each other run as one. ``docs/middleware.md`` shows every option and how
to write a layer of your own in ten lines.
"""

from .close import Close
from .layer import Guard, Layer, Link, Refuse

__all__ = ["Close", "Guard", "Layer", "Link", "Refuse"]
