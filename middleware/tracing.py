"""TracingMiddleware: OpenTelemetry spans around what happens on a socket, never around the socket itself.

1. No span lasts as long as a connection: the handshake's ends at accept or refusal, a message's when the app asks for the
   next one (or after ``message_timeout_seconds``), and the close span is over at once.
2. Whether a message is traced is decided before anything is made for it. A message's span is the root of its own trace and
   linked to the handshake's, so a trace is as short as the work that it shows.
3. A span is the current one exactly where the app works on it: in the task that called ``receive``. What is attached carries
   the context that it covers, and leaving puts that back in whatever context a hook runs; no token crosses a task.
4. No path, query string, header or subprotocol becomes an attribute: each may hold a token.
5. Nothing a client sends reaches the propagator before its size and form were checked: it logs what it does not like.

Only the OpenTelemetry API is used. Without a configured provider a connection gets no guard and a message costs nothing.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context, attach, create_key, get_current, get_value, set_value
from opentelemetry.trace import Span, SpanContext, SpanKind, Tracer, TracerProvider, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .asgi import CONNECTION_ID, SELF_CHECK, TRACE_ID, ASGIApp, Event, Scope, payload_bytes
from .close import INTERNAL_ERROR, Close
from .layer import Guard, Layer, Link

__all__ = ["SPAN_CONTEXT", "TracingMiddleware"]

SPAN_CONTEXT: Final = "tidegate.span_context"
"""Scope key: the ``SpanContext`` of the handshake, for whoever makes a span that links to this connection."""

# The names of attributes. OpenTelemetry's semantic conventions for HTTP servers, where they have one (version 1.27):
CLIENT_ADDRESS: Final = "client.address"
ERROR_TYPE: Final = "error.type"
METHOD: Final = "http.request.method"
PROTOCOL: Final = "network.protocol.name"
PROTOCOL_VERSION: Final = "network.protocol.version"
ROUTE: Final = "http.route"
SCHEME: Final = "url.scheme"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
STATUS: Final = "http.response.status_code"
# There are no conventions for WebSockets; these are ours:
CLOSE_CODE: Final = "websocket.close.code"
CLOSE_INITIATOR: Final = "websocket.close.initiator"
CLOSE_REASON: Final = "websocket.close.reason"
MESSAGE_BYTES: Final = "websocket.message.payload_bytes"
MESSAGE_OUTCOME: Final = "tidegate.message.outcome"
"""``handled``, ``dropped`` (by a layer further in), ``closed`` or ``timeout``: what ended the span."""
MESSAGE_TYPE: Final = "websocket.message.type"
CONNECTION: Final = "tidegate.connection.id"
RECEIVED_BYTES: Final = "tidegate.connection.received_bytes"
RECEIVED_MESSAGES: Final = "tidegate.connection.received_messages"
SENT_BYTES: Final = "tidegate.connection.sent_bytes"
SENT_MESSAGES: Final = "tidegate.connection.sent_messages"

_COVERED = create_key("tidegate-covered-context")
"""Key in an attached context: (the handshake's ``SpanContext`` of who attached it, the context that it covers)."""
_PROPAGATOR = TraceContextTextMapPropagator()
_TRACEPARENT_BYTES = 128
"""Version 00 has 55; later versions may append (W3C Trace Context §3.2)."""
_TRACESTATE_BYTES = 512
_TRACESTATE_MEMBER = re.compile(r"[a-z0-9][a-z0-9_*/@-]{0,255}=[ -+\--<>-~]{0,255}[!-+\--<>-~]")
"""W3C Trace Context §3.3.1.3."""


class TracingMiddleware(Layer):
    """Traces handshakes, sampled messages and closes.

    Options: ``tracer_provider``, else the global one, also when it is set later; ``message_ratio``, the share of messages
    that get a span, 0.0 to 1.0; ``inherit``, whether only connections with a sampled handshake have their messages traced
    (default) or all; ``public_endpoint``, whether a client's ``traceparent`` is only linked to instead of being the parent,
    so that strangers do not decide what is sampled; ``message_timeout_seconds``, after which the span of a message ends
    although the app has not asked for another (``None``: never); ``chance``, draws a float from [0, 1) per message.

    The provider's sampler has the last word on every span. Messages are roots to it: a sampler that keeps a tenth of all
    roots keeps a tenth of what ``message_ratio`` chose.

    Inner layers and the app see ``TRACE_ID`` and ``SPAN_CONTEXT`` in the scope.

    Raises:
        ValueError: the ratio is not within 0.0 and 1.0, or the time-out not above 0.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        tracer_provider: TracerProvider | None = None,
        message_ratio: float = 0.0,
        inherit: bool = True,
        public_endpoint: bool = False,
        message_timeout_seconds: float | None = 60.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(app)
        if not 0.0 <= message_ratio <= 1.0:
            raise ValueError(f"message_ratio is a share from 0.0 to 1.0, not {message_ratio!r}")
        if message_timeout_seconds is not None and not message_timeout_seconds > 0:
            raise ValueError(f"message_timeout_seconds must be above 0, or None for no limit, not {message_timeout_seconds!r}")
        self.message_ratio = message_ratio
        self.inherit = inherit
        self.public_endpoint = public_endpoint
        self.message_timeout_seconds = message_timeout_seconds
        self.chance = chance
        self._given = tracer_provider
        self._provider: TracerProvider | None = None
        self._tracer: Tracer | None = None

    async def open(self, link: Link) -> Guard | None:
        """Start the handshake's span; ``None`` when nobody has configured a provider, or for the process's check of itself."""
        tracer = self._current_tracer()
        if tracer is None or link.get(SELF_CHECK) is True:
            return None
        span = self._handshake_span(tracer, link.scope)
        context = span.get_span_context()
        trace_id = trace.format_trace_id(context.trace_id)
        link.set(**{TRACE_ID: trace_id, SPAN_CONTEXT: context})
        sampled = context.trace_flags.sampled
        if sampled:
            link.exemplar = trace_id
        if self.message_ratio > 0 and (sampled or not self.inherit):
            return MessageGuard(self, tracer, link, span)
        return HandshakeGuard(self, tracer, link, span)

    def _current_tracer(self) -> Tracer | None:
        """The tracer of the provider that is set now: an app may set it after it has built its middlewares."""
        provider = self._given or trace.get_tracer_provider()
        if provider is not self._provider:
            self._provider = provider
            silent = isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider))
            self._tracer = None if silent else provider.get_tracer("tidegate")
        return self._tracer

    def _handshake_span(self, tracer: Tracer, scope: Scope) -> Span:
        """A child of the span that is being recorded around this app, else of the client's, else a root."""
        parent, links = get_current(), ()  # type: tuple[Context, tuple[trace.Link, ...]]
        if not get_current_span().is_recording():  # what a server was started in is over: no parent of its connections
            parent = _remote_context(scope)
            if self.public_endpoint:
                remote = get_current_span(parent).get_span_context()
                parent, links = Context(), (trace.Link(remote),) if remote.is_valid else ()
        return tracer.start_span("websocket", parent, SpanKind.SERVER, _handshake_attributes(scope), links)


class HandshakeGuard(Guard):
    """Ends the handshake's span and makes the close span; has no part in messages."""

    __slots__ = ("_handshake", "_layer", "_link", "_place", "_span", "_tracer")

    def __init__(self, layer: TracingMiddleware, tracer: Tracer, link: Link, span: Span) -> None:
        self._layer = layer
        self._tracer = tracer
        self._link = link
        self._handshake: SpanContext = span.get_span_context()
        self._span: Span | None = span
        self._place = 0
        """Where a span was made current and may still be: the task's ``id``; 0 is nowhere."""
        self._enter(span)

    def accepting(self, event: Event) -> Event:
        """The handshake is over: from here on the connection has no span."""
        self._end_handshake(101 if self._link.scope.get("http_version", "1.1") == "1.1" else 200)
        return event

    def closed(self, close: Close) -> None:
        """A short span for the end of a connection, or the end of the span of a handshake that was refused."""
        link, channel = self._link, self._link.channel
        if not channel.accepted:
            self._end_handshake(link.status, close)
            return
        self._leave()
        if not self._handshake.trace_flags.sampled:
            return
        span = self._linked_span("websocket close", SpanKind.INTERNAL)
        span.set_attributes(
            {
                CLOSE_CODE: close.code, CLOSE_REASON: close.reason, CLOSE_INITIATOR: channel.initiator,
                RECEIVED_MESSAGES: channel.received_messages, RECEIVED_BYTES: channel.received_bytes,
                SENT_MESSAGES: channel.sent_messages, SENT_BYTES: channel.sent_bytes,
            }
        )  # fmt: skip
        _fail(span, close)
        span.end()

    def _end_handshake(self, status: int | None, refused: Close | None = None) -> None:
        span, self._span = self._span, None
        self._leave()
        if span is None:
            return
        self._link.exemplar = ""
        if span.is_recording():
            span.update_name(self._named("websocket"))
            span.set_attributes(self._where())
            if status is not None:
                span.set_attribute(STATUS, status)
            if refused is not None:
                span.set_attribute(CLOSE_REASON, refused.reason)
                _fail(span, refused, status)
        span.end()

    def _linked_span(self, name: str, kind: SpanKind) -> Span:
        """A root with a link to the handshake."""
        links = (trace.Link(self._handshake),)
        return self._tracer.start_span(self._named(name), Context(), kind, self._where(), links)

    def _named(self, name: str) -> str:
        route = self._link.route
        return name if route == "other" else f"{name} {route}"

    def _where(self) -> dict[str, str]:
        connection, route = self._link.get(CONNECTION_ID), self._link.route
        attributes = {} if route == "other" else {ROUTE: route}
        return attributes | {CONNECTION: connection} if isinstance(connection, str) else attributes

    def _enter(self, span: Span) -> None:
        """Make ``span`` current for the app, if the app will run where this hook does."""
        task = asyncio.current_task()
        frames = self._link.frames
        if task is None and (frames is None or frames.on_message is None):
            return  # called from a parser on behalf of a task: that task's context is out of reach
        covered = self._covered()
        if covered is None:
            covered = get_current()
        attach(set_value(_COVERED, (self._handshake, covered), trace.set_span_in_context(span, covered)))
        self._place = id(task)

    def _leave(self) -> None:
        """Put back what a span of ours covers in the current context; forget it once that was done where it was entered."""
        covered = self._covered()
        if covered is not None:
            attach(covered)
        if id(asyncio.current_task()) == self._place:
            self._place = 0

    def _covered(self) -> Context | None:
        """What lies under a span of this connection's in the current context; ``None`` where there is none."""
        match get_value(_COVERED):
            case (owner, Context() as covered) if owner is self._handshake:
                return covered
        return None


class MessageGuard(HandshakeGuard):
    """Adds a span to some of the messages."""

    __slots__ = ("_timer",)

    def __init__(self, layer: TracingMiddleware, tracer: Tracer, link: Link, span: Span) -> None:
        super().__init__(layer, tracer, link, span)
        self._timer: asyncio.TimerHandle | None = None

    def inbound(self, event: Event) -> Event:
        """``receive`` is about to return ``event`` to the app."""
        if self._span is not None or self._place:
            self._end_message("handled")
        layer = self._layer
        if layer.chance() < layer.message_ratio:
            self._begin_message(event)
        return event

    def waiting(self) -> None:
        """The app asks for the next message, so this one is handled."""
        if self._span is not None or self._place:
            self._end_message("handled")

    def dropped(self) -> None:
        """A layer further in has dropped the message."""
        if self._span is not None or self._place:
            self._end_message("dropped")

    def closed(self, close: Close) -> None:
        """The message that was being handled ends with the connection."""
        if self._link.channel.accepted:
            self._end_message("closed", close)
        super().closed(close)

    def _begin_message(self, event: Event) -> None:
        span = self._linked_span("websocket message", SpanKind.CONSUMER)
        if span.is_recording():
            span.set_attribute(MESSAGE_TYPE, "binary" if event.get("text") is None else "text")
            span.set_attribute(MESSAGE_BYTES, payload_bytes(event))
            self._link.exemplar = trace.format_trace_id(span.get_span_context().trace_id)
        self._span = span
        self._enter(span)
        timeout = self._layer.message_timeout_seconds
        if timeout is not None:
            self._timer = asyncio.get_running_loop().call_later(timeout, self._time_out, span)

    def _end_message(self, outcome: str, close: Close | None = None) -> None:
        self._leave()
        self._end_span(outcome, close)

    def _end_span(self, outcome: str, close: Close | None = None) -> None:
        span, self._span = self._span, None
        if span is None:
            return
        self._link.exemplar = ""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        span.set_attribute(MESSAGE_OUTCOME, outcome)
        if close is not None:
            _fail(span, close)
        span.end()

    def _time_out(self, span: Span) -> None:
        """The app still works on the message, or will never ask for another; either way the span has said what it can."""
        if span is self._span:
            self._end_span("timeout")


def _fail(span: Span, close: Close, status: int | None = None) -> None:
    """Mark what was our fault as an error; what was the client's is none (semantic conventions for HTTP servers)."""
    if close == INTERNAL_ERROR or (status or 0) >= 500:
        span.set_attribute(ERROR_TYPE, close.reason)
        span.set_status(trace.StatusCode.ERROR)


def _handshake_attributes(scope: Scope) -> dict[str, str | int]:
    client, server = scope.get("client"), scope.get("server")
    found: dict[str, str | int | None] = {
        METHOD: "GET",
        SCHEME: scope.get("scheme"),
        PROTOCOL: "http",
        PROTOCOL_VERSION: scope.get("http_version"),
        CLIENT_ADDRESS: client[0] if client else None,
        SERVER_ADDRESS: server[0] if server else None,
        SERVER_PORT: server[1] if server else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _remote_context(scope: Scope) -> Context:
    """The client's span as a parent, from one well-formed ``traceparent`` (W3C Trace Context §3.2); else an empty context."""
    parents = [value for name, value in scope["headers"] if name == b"traceparent"]
    if len(parents) != 1 or len(parents[0]) > _TRACEPARENT_BYTES:
        return Context()
    carrier = {"traceparent": parents[0].decode("latin-1")}
    state = b",".join(value for name, value in scope["headers"] if name == b"tracestate").decode("latin-1")
    if len(state) <= _TRACESTATE_BYTES:
        members = [member.strip(" \t") for member in state.split(",")]
        if all(_TRACESTATE_MEMBER.fullmatch(member) for member in members if member):
            carrier["tracestate"] = state
    return _PROPAGATOR.extract(carrier, Context())
