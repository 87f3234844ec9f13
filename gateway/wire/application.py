"""``Application``: the ASGI side of one connection: ``receive``, ``send``, and the app's run from handshake to end."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.server import ServerState

from middleware.asgi import Disconnected, Event, Hooks, Receive, Scope, Send
from middleware.close import ABNORMAL, GOING_AWAY, INTERNAL_ERROR, NORMAL, Close

from ..frame import BINARY, TEXT, server_frame
from .answers import Answers
from .delivery import STOPPED
from .hooks import Composed
from .outbound import DENYING, ENDING, HANDSHAKE, LOST, OPEN, logger

__all__ = ["Application"]


class Application(Answers):
    """What the app sees of a connection; see the module."""

    __slots__ = ("_app", "_app_done", "_app_state", "_asgi_version", "_connect_told", "_failing", "_handling", "_root_path")

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(server_state, loop)
        self._app = config.loaded_app
        self._root_path = config.root_path
        self._asgi_version = config.asgi_version
        self._app_state = app_state
        self._app_done = False
        self._connect_told = False
        self._failing: tuple[Close, str] | None = None
        self._handling = False

    # Channel

    def carries(self, receive: Receive, send: Send) -> bool:
        """``Frames.carries``."""
        return receive == self.receive and send == self.send

    def install(self, hooks: Hooks) -> None:
        """``Channel.install``."""
        self._hooks = hooks if self._hooks is None else Composed(self._hooks, hooks)

    async def receive(self) -> Event:
        """The next event for the app; the disconnect for ever, once there is nothing else."""
        if self._handling:
            self._handling = False
            if self._hooks is not None:
                self._hooks.waiting()
        if not self._connect_told:
            self._connect_told = True
            return {"type": "websocket.connect"}
        while True:
            if self._inbox and self._on_message is None and not self._blocked & STOPPED:
                event = self._next_event()
                if event is not None:
                    return event
            elif self._failing is not None and not self._inbox:
                self._fail_now()
            elif self._disconnect is not None and not (self._inbox and self._on_message is None):
                code, reason = self._disconnect
                return {"type": "websocket.disconnect", "code": code, "reason": reason}
            else:
                if self._waiter is not None and not self._waiter.done():
                    raise RuntimeError("receive() is already being waited for")
                self._waiter = self._loop.create_future()
                await self._waiter

    def _next_event(self) -> Event | None:
        message = self._take_from_inbox()
        event: Event | None = {"type": "websocket.receive", "text" if isinstance(message, str) else "bytes": message}
        if self._hooks is not None:
            event = self._hooks.inbound(event)  # type: ignore[arg-type]  # set just above
        self._handling = event is not None
        return None if self.initiator == "server" else event  # a hook may just have closed

    async def send(self, event: Event) -> None:
        """Take an event of the app; waits while the client does not read."""
        if self._write_paused:
            await self._drain()
        kind = event["type"]
        if kind == "websocket.send":
            self._send_message(event)
        elif kind == "websocket.accept":
            self._accept(event)
        elif kind == "websocket.close":
            self._send_close(event)
        elif kind == "websocket.http.response.start":
            self._start_denial(event)
        elif kind == "websocket.http.response.body":
            self._deny(event)
        else:
            raise RuntimeError(f"not an event of a WebSocket: {kind!r}")

    def _send_message(self, event: Event) -> None:
        self._refuse_if_ended()
        if self._phase != OPEN:
            raise RuntimeError("websocket.send before websocket.accept")
        if self._hooks is not None:
            passed = self._hooks.outbound(event)
            if passed is None:
                return
            self._refuse_if_ended()  # a hook may just have closed: nothing is sent behind that
            event = passed
        binary = event.get("bytes")
        text = binary is None
        payload: bytes = event["text"].encode() if text else bytes(cast(bytes, binary))
        if self.encoder is None:
            frame = server_frame(TEXT if text else BINARY, payload)
        else:
            frame = server_frame(*self.encoder.encode(payload, text=text))
        self.write(frame, 1, len(payload))

    # A client that broke a rule behind messages that the app is still busy with

    def _fail(self, close: Close, detail: str) -> None:
        if self.ending is None and (self._inbox or self._handling) and self._on_message is None:
            self._failing = (close, detail)  # once the app asks for more: what was right is answered first
            self._stop_parsing()
            self._read_on()
            self._deadlines.close = self._loop.time() + self.options.close_timeout_seconds
            self._arm()
        else:
            super()._fail(close, detail)

    def _fail_now(self) -> None:
        failing, self._failing = self._failing, None
        if failing is not None:
            super()._fail(*failing)

    def _close_overdue(self) -> None:
        if self._failing is not None:
            self._fail_now()
        else:
            super()._close_overdue()

    # The app

    async def _run(self, scope: Scope) -> None:
        try:
            await self._run_to_its_end(scope)
        finally:
            self._app_done = True
            if self._phase == LOST:
                self._let_go()

    def _let_go(self) -> None:
        """Both the socket and the app are through: break the cycles, so that nothing waits for the garbage collector."""
        self._hooks = self._on_message = self.encoder = self.on_drained = self._probe = None

    async def _run_to_its_end(self, scope: Scope) -> None:
        try:
            result = await self._app(scope, self.receive, self.send)
        except asyncio.CancelledError:
            self._app_ended(GOING_AWAY)
            raise
        except Exception as error:  # noqa: BLE001  # the app's own failure, told once
            self._app_failed(error)
        else:
            if result is not None:
                logger.error("an ASGI app returns None, not %r", result)
            if self._phase == HANDSHAKE and self.ending is None:
                logger.error("the app returned without answering the handshake")
                self._app_ended(INTERNAL_ERROR)
            else:
                self._app_ended(NORMAL)

    def _app_failed(self, error: Exception) -> None:
        close = getattr(error, "close", None)
        if not isinstance(close, Close):
            if isinstance(error, _quiet_errors()):
                close = Close.received(getattr(error, "code", 1000)) if not isinstance(error, OSError) else ABNORMAL
            else:
                logger.error("Exception in ASGI application", exc_info=error)
                close = INTERNAL_ERROR
        self._app_ended(close)

    def _app_ended(self, close: Close) -> None:
        """The app is through with this connection, so it ends; ``ending`` may already say how."""
        self._fail_now()
        self.finish(close, "server")
        ending = self.ending
        assert ending is not None, "finish() sets it"
        if self._phase == OPEN:
            ending = ending if ending.sendable else NORMAL
            self._start_close(ending.code, ending.reason)
        elif self._phase == HANDSHAKE:
            self._refuse(ending.status, ending, (), ending.reason)
        elif self._phase == DENYING:
            self._give_up_denial()
        if self._phase >= ENDING:
            self._inbox.clear()


def _quiet_errors() -> tuple[type[Exception], ...]:
    """What an app lets through when the client has left: nothing is wrong with it."""
    starlette = sys.modules.get("starlette.websockets")
    disconnect = getattr(starlette, "WebSocketDisconnect", None)
    return (Disconnected, ClientDisconnected) if disconnect is None else (Disconnected, ClientDisconnected, disconnect)
