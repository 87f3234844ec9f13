"""``WireProtocol``: one WebSocket, an ASGI connection towards the app and ``middleware.asgi.Frames`` towards who knows it.

Made by an HTTP protocol class at an upgrade: uvicorn's own replay the request as bytes, ours hands it over (``take_over``).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast
from urllib.parse import unquote

from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState
from websockets.server import ServerProtocol

from middleware.asgi import DENIAL_EXTENSION, FRAMES_EXTENSION, Frames, Scope
from middleware.close import AT_CAPACITY, RESTARTING

from .admission import Admission, Pending
from .application import Application
from .deflate import offer
from .handshake import Accepted, HandshakeRequest, Refused, negotiate, parse_head
from .options import WireOptions
from .outbound import DENYING, HANDSHAKE, LOST, OPEN, logger
from .parser import ParserPool

__all__ = ["Ends", "WireProtocol", "wire_protocol"]


class Ends(NamedTuple):
    """Of a socket: the addresses as ASGI has them, and whether it is TLS. Asking for each is a system call."""

    server: tuple[str, int | None] | None
    client: tuple[str, int] | None
    secure: bool

    @classmethod
    def of(cls, transport: asyncio.Transport) -> Ends:
        """As uvicorn finds them."""
        return cls(get_local_addr(transport), get_remote_addr(transport), is_ssl(transport))


class WireProtocol(Application):
    """A WebSocket protocol class for uvicorn's ``ws=``. Its bounds are the class attribute ``options``."""

    handshaker: ClassVar[ServerProtocol]

    __slots__ = ("_requested",)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _equip(cls)

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not config.loaded:
            config.load()
        super().__init__(config, server_state, app_state, _loop or asyncio.get_running_loop())
        self._requested = False

    # Connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ours; the request follows."""
        self.transport = cast(asyncio.Transport, transport)
        self._server_state.connections.add(self)  # type: ignore[arg-type]  # it only needs shutdown()
        now = self._loop.time()
        self._deadlines.handshake = now + self.options.handshake_timeout_seconds
        self._arm()
        peer = get_remote_addr(self.transport)
        if not self.admission.enter(self, peer[0] if peer else "", now):
            self._refuse(503, AT_CAPACITY, [(b"retry-after", b"1")], "too many handshakes are pending")

    def take_over(
        self,
        transport: asyncio.Transport,
        ends: Ends,
        request: HandshakeRequest,
        rest: bytes,
        deadline: float,
        http: Pending,
        pending: Admission,
    ) -> None:
        """The socket is ours, and the request was already read; ``rest`` came behind it."""
        self.transport = transport
        self._server_state.connections.add(self)  # type: ignore[arg-type]  # as above
        pending.hand_over(http, self, self.admission)
        self._deadlines.handshake = deadline
        self._arm()
        self._start(request, ends)
        if rest:
            self.data_received(rest)

    def _keep(self, data: bytes) -> None:
        super()._keep(data)
        if not self._requested and self._phase == HANDSHAKE:
            head, end, rest = self._backlog.partition(b"\r\n\r\n")
            if end:
                self._backlog = rest
                try:
                    self._start(parse_head(head + end), Ends.of(self.transport))
                except Refused as refusal:
                    self._refuse_request(refusal)
            elif len(self._backlog) > self.options.head_bytes:
                self._refuse(431, None, (), "the request's head is too large")

    def _start(self, request: HandshakeRequest, ends: Ends) -> None:
        self._requested = True
        try:
            accepted = negotiate(request, self.handshaker)
        except Refused as refusal:
            self._refuse_request(refusal)
            return
        self._agreement = accepted.agreement
        task = self._loop.create_task(self._run(self._scope(request, ends, accepted)))
        self._server_state.tasks.add(task)
        task.add_done_callback(self._server_state.tasks.discard)

    def _scope(self, request: HandshakeRequest, ends: Ends, accepted: Accepted) -> Scope:
        return {
            "type": "websocket",
            "asgi": {"version": self._asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "wss" if ends.secure else "ws",
            "server": ends.server,
            "client": ends.client,
            "root_path": self._root_path,
            "path": self._root_path + unquote(accepted.path.decode()),
            "raw_path": self._root_path.encode() + accepted.path,
            "query_string": accepted.query,
            "headers": request.headers,
            "subprotocols": accepted.agreement.subprotocols,
            "state": self._app_state.copy(),
            "extensions": {DENIAL_EXTENSION: {}, FRAMES_EXTENSION: self},
        }

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._lost_client()
        self._tell_lost(0 if exc is None else None)
        self._phase = LOST
        self._stop_parsing()
        self._finder = None
        self._wheel.cancel(self)
        self.admission.leave(self)
        self._server_state.connections.discard(self)
        self._write_paused = False
        self._wake_drain_waiters()
        if not self._inbox and self._hold_timer is not None:
            self._hold_over()
        self._wake()
        if self._app_done:
            self._let_go()

    def shutdown(self) -> None:
        """The server stops (uvicorn calls it once per connection)."""
        if self._phase == HANDSHAKE:
            self.finish(RESTARTING, "server")
            self._refuse(503, RESTARTING, [(b"retry-after", b"1")], "the server is restarting")
        elif self._phase == OPEN:
            self.finish(RESTARTING, "server")
            ending = self.ending if self.ending is not None and self.ending.sendable else RESTARTING
            self._start_close(ending.code, ending.reason)

    def _handshake_expired(self) -> None:
        if self._phase == DENYING:
            self.abort()
        elif self._requested:
            self._refuse(503, AT_CAPACITY, [(b"retry-after", b"1")], "the handshake took too long")
        else:
            self._refuse(408, None, (), "the request took too long")


def _equip(cls: type[WireProtocol]) -> None:
    """What the connections of a class share."""
    options = cls.options
    cls.pool = ParserPool(
        max_message_bytes=options.max_message_bytes, fragment_charge_bytes=options.fragment_charge_bytes
    )  # fmt: skip
    cls.admission = Admission(
        total=options.pending_handshakes, per_client=options.pending_handshakes_per_client, exempt=options.pending_exempt
    )  # fmt: skip
    cls.handshaker = ServerProtocol(extensions=[offer()] if options.deflate else None, logger=_HANDSHAKE_LOGGER)


_HANDSHAKE_LOGGER = logger.getChild("handshake")
_equip(WireProtocol)


if TYPE_CHECKING:

    def _offered(wire: WireProtocol) -> Frames:
        """What the extension promises is what the protocol is."""
        return wire


def wire_protocol(options: WireOptions) -> type[WireProtocol]:
    """A protocol class with these bounds; its connections share one admission."""
    return type("WireProtocol", (WireProtocol,), {"__slots__": (), "options": options, "__module__": __name__})
