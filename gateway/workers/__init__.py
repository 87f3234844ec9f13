"""``tidegate serve --workers N``: processes on one port, each a node, and the supervisor that keeps them (``supervisor``)."""

from .supervisor import supervise

__all__ = ["supervise"]
