"""``EventStream``: an answer that goes on, as server-sent events (WHATWG HTML §9.2).

1. It ends when what produces it ends, when the client leaves, or when the client has not read for ``write_timeout_seconds``.
2. Nothing is queued here: who produces waits until the server has taken what it wrote.
3. A comment every ``heartbeat_seconds`` of silence finds out about clients that have vanished.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from starlette.responses import Response

from middleware.asgi import Receive, Scope, Send

from .responses import NO_STORE

__all__ = ["EVENT_STREAM", "EventStream", "Write", "event"]

logger = logging.getLogger("tidegate.api")

EVENT_STREAM = "text/event-stream"
_GRACE_SECONDS = 5.0
"""What a producer gets to end by itself once the client has left."""

Write = Callable[[bytes], Awaitable[None]]
"""Hands over whole events. Raises ``TimeoutError`` (an ``OSError``) when the client does not read."""


def event(data: bytes, name: str = "") -> bytes:
    """One event; ``data`` is JSON and so has no line break."""
    return (b"event: %s\n" % name.encode() if name else b"") + b"data: %s\n\n" % data


class EventStream(Response):
    """Sends what ``produce`` writes.

    Args:
        produce: writes events until there are no more.
        on_left: called once, when the client has left or the stream is over for another reason; ``produce`` is to return soon.
        write_timeout_seconds: how long a client may take to read what was written.
        heartbeat_seconds: silence after which a comment is sent.
    """

    media_type = EVENT_STREAM

    def __init__(
        self,
        produce: Callable[[Write], Awaitable[None]],
        on_left: Callable[[], None],
        *,
        write_timeout_seconds: float = 35.0,  # the wire gives up sooner, and drops the socket, too
        heartbeat_seconds: float = 15.0,
    ) -> None:
        # Proxies that gather an answer before they pass it on would make it useless (X-Accel-Buffering).
        super().__init__(headers={**NO_STORE, "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._produce = produce
        self._on_left = on_left
        self._write_timeout_seconds = write_timeout_seconds
        self._heartbeat_seconds = heartbeat_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write(data: bytes) -> None:
            async with asyncio.timeout(self._write_timeout_seconds):
                await send({"type": "http.response.body", "body": data, "more_body": True})

        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            complete = scope["method"] == "HEAD" or await self._run(receive, write)
        finally:
            self._on_left()
        if complete:
            with contextlib.suppress(TimeoutError):  # what was written before may still be unread
                async with asyncio.timeout(self._write_timeout_seconds):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _run(self, receive: Receive, write: Write) -> bool:
        """Produce until one side ends; True when the client is still there and reads."""
        leaving = asyncio.ensure_future(_until_left(receive))
        producing = asyncio.ensure_future(self._produce(write))
        try:
            while not (await asyncio.wait((leaving, producing), timeout=self._heartbeat_seconds, return_when="FIRST_COMPLETED"))[0]:
                await write(b":\n\n")
            self._on_left()
            await asyncio.wait((producing,), timeout=_GRACE_SECONDS)
        except TimeoutError:  # it does not read
            return False
        finally:
            for task in (leaving, producing):
                task.cancel()
            await asyncio.wait((leaving, producing))
        return _has_succeeded(producing) and not _has_succeeded(leaving)


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _has_succeeded(task: asyncio.Future[None]) -> bool:
    if task.cancelled():
        return False
    error = task.exception()
    if error is not None and not isinstance(error, OSError):
        with contextlib.suppress(Exception):
            logger.error("an event stream failed", exc_info=error)
    return error is None
