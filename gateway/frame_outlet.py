"""``FrameOutlet``: the outlet where the server takes ready-made frames (``outlet`` has the promises)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from middleware.asgi import Frames
from middleware.close import INTERNAL_ERROR, SLOW_CONSUMER, Close

from .backlog import Backlog, named
from .ledger import REPLACED, UNSENT, Taken
from .message import Batch
from .outlet import OutletOptions, Owner, wait_among, wake_all

__all__ = ["FrameOutlet"]

_LARGEST_HIGH_WATER_BYTES = 512 * 1024
"""The highest mark that event loops set by themselves (for TLS): a transport tells that it has drained only from above it."""


class FrameOutlet:
    """Writes whole frames straight to the server's protocol object."""

    __slots__ = (
        "_backlog", "_frames", "_latest", "_max_bytes", "_owner", "_policy", "_position", "_unsent", "_waiters",
        "replaced_messages",
    )  # fmt: skip

    def __init__(self, frames: Frames, options: OutletOptions, owner: Owner) -> None:
        self._frames = frames
        self._owner: Owner | None = owner
        """Until the socket is lost: it would keep its own outlet alive."""
        self._max_bytes = options.max_bytes
        self._policy = options.policy
        self._latest: Batch | None = None
        """What was taken beyond the bound (``latest``); it waits here, behind what waits in the socket's buffer."""
        self._unsent = 0
        """Bytes in the socket's buffer after the last write."""
        self._backlog: Backlog | None = None
        self._position = 0
        """Bytes of frames written since there is a backlog."""
        self._waiters: list[asyncio.Future[None]] = []
        self.replaced_messages = 0
        frames.on_lost = self._on_lost
        if options.max_bytes < 2 * _LARGEST_HIGH_WATER_BYTES:  # else whoever waits for half the bound might wait for ever
            frames.set_high_water(min(64 * 1024, options.max_bytes // 2))

    def write(self, batch: Batch) -> int:
        if self._unsent:
            if self._frames.ending is not None:
                return len(batch)
            self.settle()
            if self._unsent > self._max_bytes or self._latest is not None:
                return self._overflow(batch)
            self._unsent = 0
        frames = self._frames
        if frames.encoder is batch.encoder:
            blob, payload_bytes = batch.blob, batch.blob_bytes
        else:
            encoded = batch.encoded(frames.encoder)
            if encoded is None:  # an encoder's mistake is the end of who needs it, and nobody else's
                frames.close(INTERNAL_ERROR)
                return len(batch)
            blob, payload_bytes = encoded
        unsent = frames.write(blob, len(batch.messages), payload_bytes)
        if unsent:
            if unsent < 0:
                return len(batch)
            self._unsent = unsent
            self._wait_with(batch, len(blob))
        return 0

    def _wait_with(self, batch: Batch, size: int) -> None:
        """Remember what the kernel has not taken at once."""
        if not self._backlog:
            self._backlog, self._position = self._backlog or Backlog(), 0
        self._position += size
        if batch.totals is not None:
            self._backlog.take(self._position, batch)
            batch.totals.ledger.watch(self)

    def settle(self) -> bool:
        self._unsent = self._frames.buffered_bytes()
        if self._backlog:
            self._backlog.settle(self._position - self._unsent)
        return not self._backlog and self._latest is None

    def waiting(self) -> tuple[list[Taken], int]:
        self.settle()
        taken, messages = self._backlog.waiting() if self._backlog else ([], 0)
        latest = named(self._latest) if self._latest is not None else ()
        return [*taken, *latest], messages + len(latest)

    @property
    def sent_messages(self) -> int:
        return self._frames.sent_messages

    @property
    def sent_bytes(self) -> int:
        return self._frames.sent_bytes

    async def flushed(self) -> None:
        return None

    def buffered_bytes(self) -> int:
        return self._frames.buffered_bytes() + (self._latest.payload_bytes if self._latest else 0)

    def ping(self, payload: bytes, on_answer: Callable[[], None]) -> bool:
        return self._latest is None and self._frames.ping(payload, on_answer)  # it would overtake what waits here

    def close(self, close: Close) -> None:
        if self._latest is not None and self._frames.ending is None:  # it was taken, so it leaves before the close
            self._put_latest()
        self._frames.close(close)

    async def drained(self) -> None:
        while self._frames.ending is None and self._frames.buffered_bytes() > self._max_bytes // 2:
            self._frames.on_drained = self._on_drained
            await wait_among(self._waiters)

    def wake(self) -> None:
        wake_all(self._waiters)

    def lost(self) -> None:
        self._drop_latest(UNSENT)
        self.wake()

    def _on_lost(self, unsent: int | None) -> None:
        """The socket is gone with so many bytes in its buffer; ``None``: nobody knows, so what was not seen to leave did not."""
        self._drop_latest(UNSENT)
        taken: list[Taken] = []
        messages = 0
        if self._backlog:
            if unsent is not None:
                self._backlog.settle(self._position - unsent)
            taken, messages = self._backlog.forget(UNSENT)
        self._tell(taken, messages, UNSENT)
        self._owner = None

    def _overflow(self, batch: Batch) -> int:
        if self._policy == "latest":
            if self._latest is not None:
                self.replaced_messages += 1
                self._drop_latest(REPLACED)
            self._latest = latest = batch.newest()
            if latest.totals is not None:
                latest.totals.buffered += 1
                latest.totals.ledger.watch(self)
            self._frames.on_drained = self._on_drained
            return len(batch) - 1
        if self._policy == "close":
            self._frames.close(SLOW_CONSUMER)
        return len(batch)

    def _drop_latest(self, reason: str) -> None:
        latest, self._latest = self._latest, None
        if latest is not None and latest.totals is not None:
            latest.totals.buffered -= 1
            latest.totals.lose(1, reason)
            self._tell(named(latest), 1, reason)

    def _tell(self, taken: Sequence[Taken], messages: int, reason: str) -> None:
        if self._owner is not None:
            self._owner.gave_up(taken, messages, reason)

    def _put_latest(self) -> None:
        latest, self._latest = self._latest, None
        if latest is not None:
            if latest.totals is not None:
                latest.totals.buffered -= 1
            self._unsent = 0  # it is its turn, whatever the bound
            if self.write(latest) and latest.totals is not None:
                latest.totals.lose(1, UNSENT)
                self._tell(named(latest), 1, UNSENT)

    def _on_drained(self) -> None:
        self._unsent = self._frames.buffered_bytes()
        self._put_latest()
        self.wake()
