"""The command ``tidegate``: ``main`` has the commands; each imports what it needs when it runs."""

from .main import main

__all__ = ["main"]
