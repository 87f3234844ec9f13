"""``GuardedHttpProtocol``: uvicorn's httptools protocol class with every bound that a public listener needs.

A request head has a size and a number of headers; what an upgrade needs is looked at here, too. How long everything may take, and
how many may be on their way, is ``http_connection``'s.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.server import ServerState

from .admission import Admission
from .deadlines import NEVER
from .handshake import HandshakeRequest, has_valid_host, tokens
from .http_connection import BODY, HEAD, NOTHING, HttpConnection
from .options import WireOptions
from .protocol import Ends, WireProtocol

__all__ = ["GuardedHttpProtocol", "http_protocol"]


class _Refuse(Exception):
    """Raised inside a callback of the parser."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class GuardedHttpProtocol(HttpConnection):
    """A protocol class for uvicorn's ``http=``. Its bounds are the class attribute ``options``."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._upgrading = False
        self._body = bytearray()
        self._begun = False  # in the slice that is being parsed
        self._head_bytes = self._unfinished_bytes = 0

    # Bytes

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
            if self._expected == HEAD and not self._begun:
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
        if self._expected == NOTHING:
            self._expected = HEAD
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
        self._expected = BODY
        if self.options.body_timeout_seconds is not None:
            self._set_deadline(self.loop.time() + self.options.body_timeout_seconds)
        super().on_headers_complete()

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
        self._expected = NOTHING
        self._set_deadline(NEVER)
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


def http_protocol(options: WireOptions, websocket: type[WireProtocol] | None = None) -> type[GuardedHttpProtocol]:
    """A protocol class with these bounds. With ``websocket`` given, both count pending connections together."""
    admission = websocket.admission if websocket is not None else Admission(
        total=options.pending_handshakes, per_client=options.pending_handshakes_per_client, exempt=options.pending_exempt
    )  # fmt: skip
    return type(
        "GuardedHttpProtocol", (GuardedHttpProtocol,), {"options": options, "admission": admission, "__module__": __name__}
    )  # fmt: skip
