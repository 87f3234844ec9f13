"""Every exception of the gateway.

::

    TidegateError
    ├── ConnectionClosed        the connection has ended (also a Starlette ``WebSocketDisconnect``)
    ├── InvalidRoomName         the name breaks the rules of ``message.check_room`` (also a ``ValueError``)
    ├── InvalidMessage          what a client sent breaks the server's rules; carries the ``Close`` to answer with
    ├── InvalidEnvelope         bytes from a broker that are not an envelope of ours
    ├── JoinRefused             this connection may not be in that room; carries status and ``Close``
    ├── BrokerUnavailable       the broker cannot take a message or a subscription now; try again later
    │   └── TooBigForBroker     the engine does not take messages of this size: trying again will not help
    ├── IllegalTransition       a connection was driven through a state change that cannot be: a bug in the caller
    ├── SettingsError           settings that cannot work (``settings``)
    └── StartupError            the process cannot start; one sentence says why and what to do

Errors that carry ``close`` are endings, not failures: a driver or server that sees one ends the connection with it quietly.
"""

from __future__ import annotations

from starlette.websockets import WebSocketDisconnect

from middleware.close import FORBIDDEN, Close

__all__ = [
    "BrokerUnavailable",
    "ConnectionClosed",
    "IllegalTransition",
    "InvalidEnvelope",
    "InvalidMessage",
    "InvalidRoomName",
    "JoinRefused",
    "StartupError",
    "TidegateError",
    "TooBigForBroker",
]


class TidegateError(Exception):
    """Base of all."""


class ConnectionClosed(TidegateError, WebSocketDisconnect):
    """The connection has ended, for the reason in ``close``; ``except WebSocketDisconnect`` catches it too."""

    def __init__(self, close: Close) -> None:
        WebSocketDisconnect.__init__(self, close.code, close.reason)
        self.close = close

    def __str__(self) -> str:
        return f"{self.close.code} {self.close.reason}"


class InvalidRoomName(TidegateError, ValueError):
    """The room name breaks the rules; the text says which."""


class InvalidMessage(TidegateError):
    """A client's message breaks the server's rules."""

    def __init__(self, close: Close, detail: str) -> None:
        super().__init__(detail)
        self.close = close
        self.detail = detail


class InvalidEnvelope(TidegateError, ValueError):
    """Bytes that are not an envelope this version understands."""


class JoinRefused(TidegateError):
    """A connection may not join a room."""

    def __init__(self, detail: str, *, status: int = 403, close: Close = FORBIDDEN) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.close = close


class BrokerUnavailable(TidegateError):
    """The broker cannot be used at the moment. ``retry_after`` is in seconds."""

    def __init__(self, detail: str, *, retry_after: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class TooBigForBroker(BrokerUnavailable):
    """The engine does not take messages of this size; the text names the settings. Whoever handles only the base is safe too."""


class IllegalTransition(TidegateError):
    """A state change that the state table does not have. Nothing was changed."""


class StartupError(TidegateError):
    """The process cannot start."""
