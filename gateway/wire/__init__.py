"""The wire: protocol classes for uvicorn that make WebSockets fast and bounded.

    uvicorn --ws gateway.wire:WireProtocol --http gateway.wire:GuardedHttpProtocol app:app

``WireProtocol`` speaks plain ASGI to the app and offers ``middleware.asgi.Frames`` as ``scope["extensions"]["tidegate.frames"]``.
``docs/wire.md`` lists its bounds. May import ``middleware``, ``gateway.frame`` and third parties; nothing else of ``gateway``.
"""

from .deflate import deflate_totals
from .http import GuardedHttpProtocol, http_protocol
from .options import WireOptions
from .protocol import WireProtocol, wire_protocol

__all__ = ["GuardedHttpProtocol", "WireOptions", "WireProtocol", "deflate_totals", "http_protocol", "wire_protocol"]
