"""``HttpConnection``: the life of one plain HTTP connection, whatever its requests say.

1. Only while its client waits for an answer a connection has no deadline. None is extended by bytes that complete nothing.
2. Between accept, or the first byte of a later request, and the end of the head it is counted as pending.
3. What is unsent and not read has a deadline while it is much, and when the connection is to be closed.
4. What is refused is answered at once and its socket closed with a FIN behind the answer.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, ClassVar, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from .admission import Admission
from .deadlines import NEVER
from .descriptors import is_scarce
from .intake import Intake
from .lingering import Lingering
from .options import WireOptions
from .patience import Patience
from .protocol import WireProtocol
from .refusals import refusal
from .wheel import Wheel, wheel_of

__all__ = ["BODY", "HEAD", "NOTHING", "HttpConnection"]

logger = logging.getLogger("tidegate.wire")

HEAD, BODY, NOTHING = range(3)
"""What of a request is expected. Before the first it is a head; between two, nothing."""


class HttpConnection(HttpToolsProtocol):
    """uvicorn's protocol class with bounds on time and on what is pending; see the module."""

    options: ClassVar[WireOptions] = WireOptions()
    admission: ClassVar[Admission] = WireProtocol.admission

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.wheel: Wheel = wheel_of(self.loop)
        self.wheel_tick: int | None = None
        self._deadline = NEVER
        self._expected = HEAD
        self._refused = False
        self._patience: Patience | None = None
        self._running: RequestResponseCycle | None = None
        """The request that is being answered; ``cycle`` is the newest, which may still wait in the pipeline."""

    # The socket

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base
        """A client has connected."""
        super().connection_made(transport)
        self.flow: Intake = Intake(transport, self.loop, self._feed)
        now = self.loop.time()
        self._set_deadline(now + self.options.handshake_timeout_seconds)
        if is_scarce(transport, self.options.reserved_descriptors) or not self._enter(now):
            self._refuse(503)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._through()
        if self._patience is not None:
            self._patience.end()
        self._disconnect()
        self.flow.release()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered (called by the transport)."""
        super().pause_writing()
        self._expect_reading()

    def _expect_reading(self) -> None:
        if self.options.write_timeout_seconds is not None and self.transport.get_write_buffer_size():
            if self._patience is None:
                self._patience = Patience(self.transport, self.loop, self.options.write_timeout_seconds)
            self._patience.begin()

    def resume_writing(self) -> None:
        """It has caught up (called by the transport)."""
        super().resume_writing()
        if self._patience is not None and not self.transport.is_closing():
            self._patience.end()

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        self.flow.take(data)

    def _feed(self, data: bytes) -> None:
        """The next of them for the parser."""
        raise NotImplementedError

    # Requests

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """The answer is written (called by the request)."""
        super().on_response_complete()
        self._unset_keepalive_if_required()  # any byte would stop that clock
        if self.transport.is_closing():
            self._expect_reading()
        else:
            self._expect_more()

    # Time and place

    def evict(self) -> None:
        """Others need the place (``admission.Pending``)."""
        self._refuse(503)

    def _enter(self, now: float) -> bool:
        return self.admission.enter(self, self.client[0] if self.client else "", now)

    def on_timer(self, now: float) -> None:
        """What is expected is overdue (``wheel.Timed``)."""
        if self.flow.read_paused:  # by the app: it is not the client who is late
            self._set_deadline(now + self.options.handshake_timeout_seconds)
        elif self._expected == NOTHING:
            self.timeout_keep_alive_handler()
            self._expect_reading()
        elif self._expected == HEAD or not self.cycle.response_started:
            self._refuse(408)
        else:
            self.transport.abort()

    def _set_deadline(self, at: float) -> None:
        self._deadline = at
        if at == NEVER:
            self.wheel.cancel(self)
        else:
            self.wheel.schedule(self, at)

    def _through(self) -> None:
        """The head was read (or the connection is over)."""
        self.admission.leave(self)
        self._set_deadline(NEVER)

    def _expect_more(self) -> None:
        """A client that is not waiting for us has so long for the rest of its request, or to begin the next."""
        if self._deadline == NEVER and self.cycle.response_complete:
            self._set_deadline(self.loop.time() + self.timeout_keep_alive)

    # Refusing

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        self._refuse(400)

    def _refuse(self, status: int) -> None:
        """Answer with an error and end the connection."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self._through()
        if self.options.on_refused is not None:
            self.options.on_refused(status)
        logger.debug("request refused with %d", status)
        running = self._running
        if running is None or running.response_complete or not running.response_started:
            self.transport.write(refusal(status, self.headers, self.server_state.default_headers))
        self.connections.discard(self)
        self._disconnect()
        self.flow.release()
        self.parser = cast(Any, None)
        Lingering.take_over(self.transport, self.connections, self.loop, self.options.close_timeout_seconds)

    def _disconnect(self) -> None:
        """Tell the app, of the request that is being answered and of the newest; those between them have not begun."""
        for cycle in (self._running, self.cycle):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()
