"""One wide event per connection, at its end: who, where, how long, how much, and how it ended.

1. Every connection has one event, also one that was refused; only where refusals come too fast are some counted instead,
   and the next event says how many.
2. Nothing in an event is more than one line, has a control character, or is longer than ``max_length``, whatever a client
   sent (CWE-117). The query is never in it, nor what looks like a token.
3. The event goes to any callable ``emit(event, **fields)``; the fields are texts and numbers only.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .asgi import CONNECTION_ID, SELF_CHECK, TRACE_ID, ASGIApp, Event, client_host, client_keys, header, user_id
from .close import GOING_AWAY, INTERNAL_ERROR, Close
from .layer import Guard, Layer, Link, Refuse

__all__ = ["AccessLogMiddleware", "Emit", "redact_tokens"]

REDACTED = "[redacted]"
SHORTEST_CAP = 32
LONGEST_CAP = 8192
_NUMBERS = (int, float, type(None))
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?", re.DOTALL)
_BEARER = re.compile(r"(bearer)[. ]\S+", re.IGNORECASE)
_RUN = re.compile(r"(?<![A-Za-z0-9_.-])[A-Za-z0-9_.-]{24,}")
"""What a JSON Web Token is written with, from its start; linear for any text, unlike a pattern for the token itself."""


class Emit(Protocol):
    """Where events go, for example ``structlog.get_logger().info``."""

    def __call__(self, event: str, /, **fields: Any) -> object: ...


class AccessLogMiddleware(Layer):
    """Writes ``websocket.closed``, ``.refused``, ``.abandoned`` (the client left first) or ``.failed`` (the app did).

    Options: ``logger``, which gets the fields as ``extra`` (``tidegate.access`` unless given), or ``emit``, a callable instead;
    ``new_id``, makes the connection's id and puts it into the scope (without it an id that nobody put there is made up for the
    event alone); ``refused_per_second``, how many events per second may tell of handshakes that were not accepted; ``max_length``,
    characters per text; ``trusted_proxies``, whose ``X-Forwarded-For`` names the client; ``redact``, what every text passes
    before it is written; ``clock``, seconds.

    Raises:
        ValueError: wrong options.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        logger: logging.Logger | None = None,
        emit: Emit | None = None,
        new_id: Callable[[], str] | None = None,
        refused_per_second: int | None = 20,
        max_length: int = 256,
        trusted_proxies: Sequence[str] = (),
        redact: Callable[[str], str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(app)
        if logger is not None and emit is not None:
            raise ValueError("give a logger or emit=, not both: an event is written once")
        if refused_per_second is not None and refused_per_second < 1:
            raise ValueError("refused_per_second is at least 1; None writes every refusal")
        if not SHORTEST_CAP <= max_length <= LONGEST_CAP:
            raise ValueError(f"max_length is {SHORTEST_CAP} to {LONGEST_CAP} characters, not {max_length}")
        client_keys(trusted_proxies)  # raises for what is no network
        self.clock = clock
        self.new_id = new_id
        self._emit = emit or _emit_to(logger or logging.getLogger("tidegate.access"))
        self._quota = _Quota(refused_per_second)
        self._max_length = max_length
        self._trusted_proxies = tuple(trusted_proxies)
        self._redact = redact

    async def open(self, link: Link) -> Guard | None:
        """Start the connection's clock; the process's own check of itself is nobody's connection."""
        if link.get(SELF_CHECK) is True:
            return None
        if self.new_id is not None and link.get(CONNECTION_ID) is None:
            link.set(**{CONNECTION_ID: self.new_id()})
        return _AccessLogGuard(self, link)

    def write(self, link: Link, close: Close, fields: dict[str, Any]) -> None:
        """Emit the event of a connection that has ended, with ``fields`` about its times and subprotocol."""
        event = _event(link, close)
        if event != "websocket.closed" and not self._quota.admits(self.clock()):
            link.observe("access_log_suppressed")
            return
        scope, channel = link.scope, link.channel
        fields = {
            "connection_id": _connection_id(link) or secrets.token_hex(8),
            "user": user_id(link.user),
            "route": link.route,
            "path": scope.get("path", ""),
            "client": client_host(scope, self._trusted_proxies),
            "origin": (header(scope, b"origin") or b"").decode("latin-1"),
            "trace_id": link.get(TRACE_ID) or _trace_id(header(scope, b"traceparent")),
            **fields,
            "received_messages": channel.received_messages,
            "received_bytes": channel.received_bytes,
            "sent_messages": channel.sent_messages,
            "sent_bytes": channel.sent_bytes,
            "status": link.status,
            "detail": _detail(link.refusal),
            "close_code": close.code,
            "close_reason": close.reason,
            "initiator": channel.initiator,
            "suppressed": self._quota.take_suppressed(),
        }
        kept = {}
        for name, value in fields.items():
            said = value if isinstance(value, _NUMBERS) else self._clean(str(value))
            if said is not None and said != "":  # else there is nothing to say
                kept[name] = said
        self._emit(event, **kept)

    def _clean(self, text: str) -> str:
        """The text as it may be written."""
        kept = redact_tokens(text[: 2 * self._max_length])
        if self._redact is not None:
            kept = self._redact(kept)
        visible = _visible(kept)
        cut = len(text) > 2 * self._max_length or len(visible) > self._max_length
        return visible[: self._max_length] + "…" if cut else visible


class _AccessLogGuard(Guard):
    """One connection's times, and the subprotocol that was selected."""

    __slots__ = ("_accepted_at", "_layer", "_link", "_opened_at", "_subprotocol")

    def __init__(self, layer: AccessLogMiddleware, link: Link) -> None:
        self._layer = layer
        self._link = link
        self._opened_at = layer.clock()
        self._accepted_at: float | None = None
        self._subprotocol: str | None = None

    def accepting(self, event: Event) -> Event:
        self._accepted_at = self._layer.clock()
        self._subprotocol = event.get("subprotocol")
        return event

    def closed(self, close: Close) -> None:
        handshake = None if self._accepted_at is None else round(self._accepted_at - self._opened_at, 6)
        fields = {
            "subprotocol": self._subprotocol,
            "handshake_seconds": handshake,
            "duration_seconds": round(self._layer.clock() - self._opened_at, 6),
        }
        self._layer.write(self._link, close, fields)


class _Quota:
    """At most ``per_second`` a second, the rest counted. One for all connections, of a fixed size."""

    def __init__(self, per_second: int | None) -> None:
        self._per_second = per_second
        self._began = -float("inf")
        self._admitted = 0
        self._suppressed = 0

    def admits(self, now: float) -> bool:
        if self._per_second is None:
            return True
        if now - self._began >= 1.0:
            self._began, self._admitted = now, 0
        if self._admitted < self._per_second:
            self._admitted += 1
            return True
        self._suppressed += 1
        return False

    def take_suppressed(self) -> int | None:
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed or None


def redact_tokens(text: str) -> str:
    """``text`` without ``bearer`` credentials and JSON Web Tokens (which all begin with ``eyJ``), whole or cut off."""
    if "bearer" in text.lower():
        text = _BEARER.sub(rf"\1 {REDACTED}", text)
    if "eyJ" in text:
        text = _RUN.sub(lambda run: REDACTED if "eyJ" in run[0] else run[0], text)
    return text


def _visible(text: str) -> str:
    """``text`` with everything that is not printable written out: controls, line separators, marks that turn the direction."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def _event(link: Link, close: Close) -> str:
    if link.channel.accepted:
        return "websocket.closed"
    if link.channel.initiator == "client":
        return "websocket.abandoned"
    failed = link.refusal is None and close in (INTERNAL_ERROR, GOING_AWAY)
    return "websocket.failed" if failed else "websocket.refused"


def _detail(refusal: Refuse | None) -> str:
    """Why a layer has refused: what the client was told, and what only operators are."""
    return ": ".join(filter(None, (refusal.detail, refusal.because))) if refusal is not None else ""


def _connection_id(link: Link) -> str:
    """The id that the app or an outer layer gave, in the scope or as ``scope["state"]["connection_id"]``."""
    state = link.get("state")
    named = state.get("connection_id") if isinstance(state, dict) else None
    return str(link.scope.get(CONNECTION_ID) or link.get(CONNECTION_ID) or named or "")


def _trace_id(traceparent: bytes | None) -> str | None:
    """The trace id of a valid ``traceparent`` (W3C Trace Context §3.2)."""
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent is not None and len(traceparent) <= 512 else None
    return match[1].decode() if match else None


def _emit_to(logger: logging.Logger) -> Emit:
    def emit(event: str, /, **fields: Any) -> None:
        if logger.isEnabledFor(logging.INFO):  # as logger.info(), without the search for the line of code that called it
            logger.handle(logger.makeRecord(logger.name, logging.INFO, "", 0, event, (), None, extra=fields))

    return emit
