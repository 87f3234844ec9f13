"""``Answers``: how a handshake is answered: the 101, a denial of the app's making, or a refusal of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import ClassVar

from uvicorn.server import ServerState

from middleware.asgi import REFUSED_AS, Disconnected, Event
from middleware.close import AT_CAPACITY, Close

from .admission import Admission
from .deflate import deflate_encoder
from .delivery import CLOSED, WAITING
from .handshake import Agreement, HeaderList, Refused, response
from .inbound import Inbound
from .outbound import CLOSING, DENYING, HANDSHAKE, OPEN

__all__ = ["Answers"]


class Answers(Inbound):
    """A handshake is answered once; what comes later raises ``RuntimeError`` when it is the app's mistake."""

    admission: ClassVar[Admission]

    __slots__ = ("_agreement", "_denial", "_server_state")

    def __init__(self, server_state: ServerState, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._server_state = server_state
        self._agreement: Agreement | None = None
        self._denial: tuple[int, HeaderList] | None = None

    # Of the app

    def _accept(self, event: Event) -> None:
        self._refuse_if_ended()
        if self._phase != HANDSHAKE or self._agreement is None:
            raise RuntimeError("websocket.accept after the handshake was answered")
        if self._hooks is not None:
            event = self._hooks.accepting(event)
            self._refuse_if_ended()
        agreement = self._agreement
        headers = [*self._server_state.default_headers, *agreement.headers, *(event.get("headers") or ())]
        if event.get("subprotocol"):
            headers.append((b"sec-websocket-protocol", event["subprotocol"].encode()))
        if agreement.windows is not None and self.encoder is None:
            self._inflate_bits, bits = agreement.windows
            self.encoder = deflate_encoder(self.options.deflate_level, bits, self.options.deflate_minimum_bytes)
            headers += agreement.extensions
        self.transport.write(response(101, headers))
        self._agreement = None
        self._phase = OPEN
        self.accepted = self._open = True
        self.admission.leave(self)
        self._start_clocks()
        self._unblock(WAITING)

    def _send_close(self, event: Event) -> None:
        code, reason = event.get("code", 1000), event.get("reason") or ""
        if self._phase == OPEN:
            self.finish(Close.received(code, reason), "server")
            self._start_close(code, reason)
        elif self._phase == HANDSHAKE:
            self.finish(event.get(REFUSED_AS) or Close.for_status(403), "server")
            self._refuse(403, None, (), "")
        elif self._phase == DENYING:
            raise RuntimeError("websocket.close within a response")

    def _start_denial(self, event: Event) -> None:
        status = event["status"]
        if not 200 <= status < 600:
            raise RuntimeError(f"not the status of a response that refuses: {status!r}")
        if self._phase == HANDSHAKE:
            self.status = status
            self.finish(event.get(REFUSED_AS) or Close.for_status(status), "server")
            self._phase = DENYING
            self._blocked |= CLOSED
            self._denial = (status, [*self._server_state.default_headers, *(event.get("headers") or ())])
        elif self._phase < CLOSING:
            raise RuntimeError("the handshake was already answered")

    def _deny(self, event: Event) -> None:
        if self._phase != DENYING:
            if self._phase < CLOSING:
                raise RuntimeError("a response's body before its start")
            return
        body, more = event.get("body", b""), event.get("more_body", False)
        data = body
        if self._denial is not None:
            status, headers = self._denial
            names = {name.lower() for name, _ in headers}
            if not more and b"content-length" not in names and b"transfer-encoding" not in names:
                headers.append((b"content-length", b"%d" % len(body)))
            headers = [(name, value) for name, value in headers if name.lower() != b"connection"]
            data = response(status, [*headers, (b"connection", b"close")], body)
            self._denial = None
        if more:
            self.transport.write(data)
        else:
            self._answer(data)

    def _give_up_denial(self) -> None:
        """The app's response never came to its end; when not even its head has left, the client gets an answer all the same."""
        if self._denial is None:
            self._half_close()
            return
        self._denial = None
        self._answer(response(500, [(b"content-length", b"0"), (b"connection", b"close")], b""))

    def _refuse_if_ended(self) -> None:
        if self.ending is not None:
            raise Disconnected(f"the connection has ended: {self.ending.reason}")

    # Of ours

    def _refuse_request(self, refusal: Refused) -> None:
        self._refuse(refusal.status, None, refusal.headers, refusal.detail)

    def _refuse(self, status: int, close: Close | None, headers: Iterable[tuple[bytes, bytes]], detail: str) -> None:
        """Answer the handshake with an error, if it is not answered yet."""
        if self._phase != HANDSHAKE:
            return
        self.finish(close or Close.for_status(status), "server")
        body = detail.encode()
        self._answer(
            response(status, [
                *self._server_state.default_headers, *headers, (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", b"%d" % len(body)), (b"connection", b"close"),
            ], body)
        )  # fmt: skip
        if self.options.on_refused is not None:
            self.options.on_refused(status)

    def _answer(self, data: bytes) -> None:
        """The last bytes of a refusal."""
        self.transport.write(data)
        self.admission.leave(self)
        self._tell_disconnected(1006, "")
        self._half_close()

    def close(self, close: Close) -> None:
        """End the connection (``Channel.close``)."""
        if self.ending is None and self._phase == HANDSHAKE:
            self.finish(close, "server")
            self._refuse(close.status, close, (), close.reason)
        else:
            super().close(close)

    def evict(self) -> None:
        """Others need the place (``admission.Pending``)."""
        self._refuse(503, AT_CAPACITY, [(b"retry-after", b"1")], "too many handshakes are pending")
