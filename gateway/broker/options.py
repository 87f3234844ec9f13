"""``EngineOptions``: times and bounds of every broker over an engine. The defaults are for production; tests make them short."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["EngineOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Times in seconds, all above 0; bounds of at least 1. Anything else raises ``ValueError``."""

    start_seconds: float = 5.0
    """How long ``start`` tries to reach the engine before it gives up."""
    connect_seconds: float = 5.0
    """How long one attempt to connect may take."""
    publish_seconds: float = 5.0
    """How long ``publish`` waits for the engine's confirmation."""
    subscribe_seconds: float = 5.0
    """How long ``subscribe`` waits for the engine's confirmation."""
    close_seconds: float = 1.0
    """How long ``close`` waits for the confirmation of what was taken."""
    retry_seconds: float = 0.1
    """The first pause before connecting again is up to this long; each further one up to twice as long as the last."""
    retry_max_seconds: float = 3.0
    """No pause is longer. A link that lasted this long makes the pauses short again."""
    probe_interval_seconds: float = 2.0
    probe_late_seconds: float = 4.0
    """A probe that is not back by then makes the broker unusable until it is."""
    probe_timeout_seconds: float = 24.0
    """A probe that is not back by then ends the link, and so does a subscription that is not confirmed by then."""
    max_queue_messages: int = 20_000
    """Most messages that may be taken and not confirmed."""
    max_queue_bytes: int = 32 * 1024 * 1024
    batch_messages: int = 1_000
    """Most messages in one write."""
    batch_bytes: int = 1024 * 1024
    batches: int = 4
    """Most writes under way. When they all are, what is published meanwhile goes into one."""
    batch_rooms: int = 1_000
    """Most rooms subscribed to in one go."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value <= 0:
                raise ValueError(f"{field.name} is above 0, not {value}")
        if not self.probe_late_seconds <= self.probe_timeout_seconds:
            raise ValueError("probe_late_seconds is at most probe_timeout_seconds")
