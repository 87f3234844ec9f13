"""What a broker over an engine tells of itself: figures to be read at any time, and observers that are called.

An optional capability beside ``Broker``: ``isinstance(broker, Reports)`` says whether a broker has it. Memory needs none: it
cannot be down, and what it takes has arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

__all__ = ["OPERATIONS", "BrokerStatistics", "Reports"]

OPERATIONS = ("connect", "publish", "subscribe", "receive", "probe")
"""What can go wrong: the values of the label ``operation``."""


class BrokerStatistics(NamedTuple):
    """A snapshot; the counts are running totals."""

    up: bool
    """Connected, every room subscribed, and the engine answers."""
    rooms: int
    """Rooms that are to be heard."""
    rooms_confirmed: int
    """Of these, those whose subscription the engine has confirmed."""
    reconnects: int
    gaps: int
    """How often something may have been missed: a connection was lost, or a probe or a message did not arrive."""
    errors: Mapping[str, int]
    """By operation, one of ``OPERATIONS``; a message that was taken and not confirmed is one error of ``publish``."""
    queue_messages: int
    """Taken, not yet confirmed by the engine."""
    queue_bytes: int
    publish_seconds: float
    """How long the newest batch took from being taken to being confirmed."""


class Reports:
    """Base of brokers that report. Observers are plain attributes, called on the event loop; they must not raise or wait."""

    def __init__(self) -> None:
        self.on_publish_seconds: Callable[[float], None] = _ignore
        """Told, once per batch of publications, how long its first message took until the engine had it."""
        self.on_lag_seconds: Callable[[float], None] = _ignore
        """Told, for every envelope that arrives, how long ago its publisher accepted it (by the two nodes' clocks)."""
        self.on_gap: Callable[[Collection[str]], None] = _ignore
        """Told, when they are live again, the rooms in which something may have been missed."""
        self.on_refused: Callable[[Collection[str]], None] = _ignore
        """Told the rooms that were subscribed to and that the engine does not allow any more: nothing is heard in them now."""

    def statistics(self) -> BrokerStatistics:
        """The figures now."""
        raise NotImplementedError


def _ignore(_: object) -> None:
    """Nobody listens."""
