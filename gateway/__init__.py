"""Tidegate, an observability-first WebSocket gateway.

    from gateway import Settings, WebSocketServer, create_app

The public names; ``middleware`` has those of the layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from middleware.close import Close

    from .app import Gateway, create_app
    from .connection import Connection
    from .errors import BrokerUnavailable, ConnectionClosed, InvalidRoomName, JoinRefused, TidegateError
    from .message import Message
    from .outlet import OutletOptions
    from .server import WebSocketServer
    from .settings import Settings

__all__ = [
    "BrokerUnavailable",
    "Close",
    "Connection",
    "ConnectionClosed",
    "Gateway",
    "InvalidRoomName",
    "JoinRefused",
    "Message",
    "OutletOptions",
    "Settings",
    "TidegateError",
    "WebSocketServer",
    "__version__",
    "create_app",
]

_HOMES = {
    "BrokerUnavailable": "gateway.errors",
    "Close": "middleware.close",
    "Connection": "gateway.connection",
    "ConnectionClosed": "gateway.errors",
    "Gateway": "gateway.app",
    "InvalidRoomName": "gateway.errors",
    "JoinRefused": "gateway.errors",
    "Message": "gateway.message",
    "OutletOptions": "gateway.outlet",
    "Settings": "gateway.settings",
    "TidegateError": "gateway.errors",
    "WebSocketServer": "gateway.server",
    "create_app": "gateway.app",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for, so that the command line and the wire alone load no server."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
