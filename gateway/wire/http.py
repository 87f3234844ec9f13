"""``GuardedHttpProtocol``: uvicorn's httptools protocol class with every bound that a public listener needs.

1. A request head has a size, a number of headers and a deadline; connections that are not through with one are counted.
2. Only while its client waits for an answer a connection has no deadline. None is extended by bytes that complete nothing.
3. What is refused is answered at once and its socket closed with a FIN behind the answer.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, ClassVar, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from .admission import Admission
from .deadlines import NEVER
from .descriptors import is_scarce
from .handshake import HandshakeRequest, has_valid_host, tokens
from .intake import Intake
from .lingering import Lingering
from .options import WireOptions
from .patience import Patience
from .protocol import Ends, WireProtocol
from .refusals import refusal
from .wheel import Wheel, wheel_of

__all__ = ["GuardedHttpProtocol", "http_protocol"]

logger = logging.getLogger("tidegate.wire")

_HEAD, _BODY, _NOTHING = range(3)
"""What of a request is expected. Before the first it is a head; between two, nothing."""


class _Refuse(Exception):
    """Raised inside a callback of the parser."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class GuardedHttpProtocol(HttpToolsProtocol):
    """A protocol class for uvicorn's ``http=``. Its bounds are the class attribute ``options``."""

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
        self._expected = _HEAD
        self._body = bytearray()
        self._begun = False  # in the chunk that is being parsed
        self._head_bytes = self._unfinished_bytes = 0
        self._refused = self._upgrading = False
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

    def _enter(self, now: float) -> bool:
        return self.admission.enter(self, self.client[0] if self.client else "", now)

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
        if self.options.write_timeout_seconds is not None:
            if self._patience is None:
                self._patience = Patience(self.transport, self.loop, self.options.write_timeout_seconds)
            self._patience.begin()

    def resume_writing(self) -> None:
        """It has caught up (called by the transport)."""
        super().resume_writing()
        if self._patience is not None:
            self._patience.end()

    def evict(self) -> None:
        """Others need the place (``admission.Pending``)."""
        self._refuse(503)

    def on_timer(self, now: float) -> None:
        """What is expected is overdue (``wheel.Timed``)."""
        if self.flow.read_paused:  # by the app: it is not the client who is late
            self._set_deadline(now + self.options.handshake_timeout_seconds)
        elif self._expected == _NOTHING:
            self.timeout_keep_alive_handler()
        elif self._expected == _HEAD or not self.cycle.response_started:
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
        if self._deadline == NEVER and self.cycle.response_complete and not self.transport.is_closing():
            self._set_deadline(self.loop.time() + self.timeout_keep_alive)

    # Bytes

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        self.flow.take(data)

    def _feed(self, data: bytes) -> None:
        self._begun = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            if self._upgrading:
                self._upgrade(rest)
            else:
                self._feed(self._head_without_upgrade() + rest)
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause.status if isinstance(cause, _Refuse) else 400)
        else:
            self._hand_over_body()
            if self._expected == _HEAD and not self._begun:
                self._unfinished_bytes += len(data)
                if self._unfinished_bytes > self.options.head_bytes:
                    self._refuse(414 if len(self.url) > self.options.url_bytes else 431)

    def on_message_begin(self) -> None:
        """A request begins (called by the parser)."""
        super().on_message_begin()
        if len(self.pipeline) >= self.options.pipelined_requests:
            raise _Refuse(503)
        self._begun = True
        self._head_bytes = self._unfinished_bytes = 0
        if self._expected == _NOTHING:
            self._expected = _HEAD
            now = self.loop.time()
            self._set_deadline(now + self.options.handshake_timeout_seconds)
            if not self._enter(now):
                raise _Refuse(503)

    def on_url(self, url: bytes) -> None:
        """A part of the request target (called by the parser)."""
        if len(self.url) + len(url) > self.options.url_bytes:
            raise _Refuse(414)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header (called by the parser)."""
        options = self.options
        size = len(name) + len(value) + 4
        self._head_bytes += size
        if len(self.headers) >= options.headers or size > options.header_bytes or self._head_bytes > options.head_bytes:
            raise _Refuse(431)
        super().on_header(name, value.rstrip(b" \t"))  # RFC 9112 §5.1: what surrounds a value is not of it

    def on_headers_complete(self) -> None:
        """The head is whole (called by the parser)."""
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self._upgrading = (
            self.parser.should_upgrade() and self._should_upgrade_to_ws() and b"websocket" in tokens(self.headers, b"upgrade")
        )
        if self._upgrading:
            for name, value in self.headers:
                if name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0")):
                    raise _Refuse(400)
            return
        if self._wants_websocket():
            raise _Refuse(426)
        if not has_valid_host(self.headers, required=self.parser.get_http_version() == "1.1"):
            raise _Refuse(400)
        if self.parser.should_upgrade():
            if self.scope["method"] == "CONNECT":
                raise _Refuse(400)
            return  # it begins again, without
        self._through()
        self._expected = _BODY
        if self.options.body_timeout_seconds is not None:
            self._set_deadline(self.loop.time() + self.options.body_timeout_seconds)
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        """A part of the body, of one byte perhaps (called by the parser): handed over with the others of its slice."""
        self._body += body

    def _hand_over_body(self) -> None:
        if self._body:
            body, self._body = bytes(self._body), bytearray()
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The body is whole, too (called by the parser)."""
        if self.parser.should_upgrade():
            return  # the head's deadline goes on: to the 101, or until it is read again
        self._hand_over_body()
        super().on_message_complete()
        self._expected = _NOTHING
        self._set_deadline(NEVER)
        self._expect_more()

    def on_response_complete(self) -> None:
        """The answer is written (called by the request)."""
        super().on_response_complete()
        self._unset_keepalive_if_required()  # any byte would stop that clock
        self._expect_more()

    # Upgrades

    def _should_upgrade(self) -> bool:
        """Asked for every part of a request, decided once its head is whole."""
        return self._upgrading

    def _wants_websocket(self) -> bool:
        return self._should_upgrade_to_ws() and any(name == b"sec-websocket-key" for name, _ in self.headers)

    def _request(self) -> HandshakeRequest:
        return HandshakeRequest(self.scope["method"], self.url, self.parser.get_http_version(), self.headers)

    def _head_without_upgrade(self) -> bytes:
        """An upgrade to something else is ignored (RFC 9110 §7.8). The parser takes no body of it, so it gets another head."""
        head = self._request().head(without=b"upgrade")
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return head

    def _upgrade(self, rest: bytes) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._refuse(400)
            return
        request = self._request()
        protocol_class: Any = self.ws_protocol_class
        protocol = protocol_class(
            config=self.config, server_state=self.server_state, app_state=self.app_state, _loop=self.loop
        )  # fmt: skip
        self.connections.discard(self)
        self.wheel.cancel(self)
        if self._patience is not None:
            self._patience.end()
        rest += self.flow.release()
        self.parser = cast(Any, None)
        if isinstance(protocol, WireProtocol):
            self.transport.set_protocol(protocol)
            ends = Ends(self.server, self.client, self.scheme == "https")
            protocol.take_over(self.transport, ends, request, rest, self._deadline, self, self.admission)
        else:
            self.admission.leave(self)
            protocol.connection_made(self.transport)
            protocol.data_received(request.head())
            self.transport.set_protocol(protocol)
        if self.flow.write_paused:  # by an answer that its client has not read yet; the transport will not say it again
            protocol.pause_writing()

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


def http_protocol(options: WireOptions, websocket: type[WireProtocol] | None = None) -> type[GuardedHttpProtocol]:
    """A protocol class with these bounds. With ``websocket`` given, both count pending connections together."""
    admission = websocket.admission if websocket is not None else Admission(
        total=options.pending_handshakes, per_client=options.pending_handshakes_per_client, exempt=options.pending_exempt
    )  # fmt: skip
    return type(
        "GuardedHttpProtocol", (GuardedHttpProtocol,), {"options": options, "admission": admission, "__module__": __name__}
    )  # fmt: skip
