"""Tidegate, an observability-first WebSocket gateway."""

__version__ = "0.1.0"
