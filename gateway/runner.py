"""Runs the gateway: two listeners on one uvicorn, checks at start, and a drain before the end.

The end (SIGTERM or SIGINT), in this order:

1. ``/readyz`` answers 503 while the listeners still accept, for ``drain.delay_seconds``: load balancers notice. Then a worker
   leaves the port that it shares: the kernel gives its share of the newcomers to the others.
2. New handshakes are refused with 503 and ``Retry-After``; connections are closed with ``restarting``, evenly over
   ``drain.period_seconds``.
3. Whoever has not taken the close ``drain.abort_after_seconds`` later is cut off.
4. uvicorn shuts down, then the broker and the exporters.

uvicorn itself would close every socket with 1012 before anything else, so all of this happens in ``Server.shutdown``. A second
signal ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NamedTuple

import structlog
import uvicorn

from .app import Gateway, create_app
from .errors import BrokerUnavailable, StartupError
from .listening import address_of, bind_all, check_descriptors, greeting, tell_what_is_open
from .logs import writes_json
from .settings import Settings, SettingsError, check_exposure
from .wire import WireOptions, deflate_totals, http_protocol, wire_protocol

__all__ = ["GatewayServer", "Place", "cannot_start", "run", "serve"]

log = structlog.get_logger("tidegate.runner")

_TICK_SECONDS = 0.05


class Place(NamedTuple):
    """A worker's place among those of one supervisor (``workers``)."""

    number: int
    node: str
    lifeline: int
    """A descriptor that the supervisor holds the other end of: it ends when the supervisor does."""
    on_serving: Callable[[], None]


def serve(settings: Settings) -> int:
    """Run the gateway until a signal; returns the exit code: 0 after a clean drain, 1 when it could not start, 2 for settings."""
    try:
        check_exposure(settings)
        check_descriptors(settings.connection_limit.total)
        tell_what_is_open(settings)
        public, ops = bind_all(
            [(settings.host, settings.port, "TIDEGATE_PORT"), (settings.ops_host, settings.ops_port, "TIDEGATE_OPS_PORT")]
        )
        gateway = create_app(settings)
    except (SettingsError, StartupError) as error:
        return cannot_start(error)
    return run(gateway, public, ops)


def run(gateway: Gateway, public: socket.socket, ops: socket.socket, place: Place | None = None) -> int:
    """Serve on two bound sockets until a signal; returns the exit code: 0 after a clean drain, 1 when it could not start."""
    server = GatewayServer(gateway, ops, place)
    _calm_collector()
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[public])
    return 0 if server.started else 1


def cannot_start(error: SettingsError | StartupError) -> int:
    """Say so, as a sentence for people or as an event where events are for machines; returns the exit code."""
    if isinstance(error, SettingsError):
        print(f"These settings cannot work:\n\n{error}", file=sys.stderr)  # noqa: T201 - a table for people
        return 2
    if writes_json():
        log.error("cannot start", reason=str(error))
    else:
        print(f"tidegate: {error}", file=sys.stderr)  # noqa: T201 - for people
    return 1


def _calm_collector() -> None:
    """Collect garbage cycles less often: connections are many, long-lived and free of cycles.

    What start-up made is never looked at again, and ten thousand connections are not walked through for every few hundred
    that come (measured: 7 % of the cost of a handshake, and the pauses are rarer).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def wire_options(settings: Settings, gateway: Gateway) -> WireOptions:
    """The settings as bounds of the wire."""
    message, keepalive, compression = settings.message, settings.keepalive, settings.compression
    return WireOptions(
        max_message_bytes=message.max_bytes,
        inbound_messages=message.inbound_messages,
        inbound_bytes=max(message.max_bytes, 64 * 1024),
        outbound_bytes=16 * settings.outbox.max_bytes,
        ping_interval_seconds=keepalive.interval_seconds,
        ping_timeout_seconds=keepalive.timeout_seconds,
        idle_seconds=keepalive.idle_seconds,
        max_age_seconds=keepalive.max_age_seconds,
        abort_after_seconds=settings.drain.abort_after_seconds,
        close_timeout_seconds=min(2.0, settings.drain.abort_after_seconds),
        deflate=compression.deflate,
        deflate_level=min(9, compression.level),
        deflate_minimum_bytes=compression.minimum_bytes,
        pending_exempt=frozenset(settings.trusted_proxies),
        on_rtt=gateway.collector.on_ping_rtt,
        on_refused=gateway.collector.on_wire_refused,
    )


class GatewayServer(uvicorn.Server):
    """One uvicorn with a public and an ops listener, which drains before it shuts down.

    Args:
        gateway: what is served.
        ops: the bound socket of the ops listener; the public one is given to ``run``.
        place: among the workers of a supervisor, when there is one.

    A worker takes SIGTERM as often as it is sent, as service managers signal it beside its supervisor, who says with SIGQUIT that
    it is to end at once.
    """

    def __init__(self, gateway: Gateway, ops: socket.socket, place: Place | None = None) -> None:
        options = wire_options(gateway.settings, gateway)
        websocket = wire_protocol(options)
        gateway.collector.add_source(deflate_totals)
        super().__init__(_config(gateway.settings, gateway, ws=websocket, http=http_protocol(options, websocket)))
        self._gateway = gateway
        self._ops_socket = ops
        self._place = place
        # Its own class counts on its own: a flood of half-open handshakes on the public listener starves no probe.
        self._ops_config = _config(gateway.settings, gateway.ops, ws="none", http=http_protocol(options))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the ops listener first: who watches sees a gateway that is starting."""
        loop = asyncio.get_running_loop()
        if self._place is not None:
            loop.add_reader(self._place.lifeline, self._left_alone)
        self._ops_config.load()
        ops = await loop.create_server(lambda: self._protocol(self._ops_config), sock=self._ops_socket, backlog=128)
        try:
            await self._gateway.start()
        except BrokerUnavailable as error:
            hint = "start it, or name another with TIDEGATE_BROKER or --broker"
            cannot_start(StartupError(f"{str(error).removesuffix('.')}; {hint}"))
            ops.close()
            self.should_exit = True
            return
        await super().startup(sockets)
        self.servers.append(ops)
        self._say_hello(sockets or [])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, let uvicorn end what is left, then stop the gateway."""
        await self._drain(sockets or [])
        await super().shutdown(sockets)
        await self._gateway.stop()
        log.info("stopped")

    async def _drain(self, sockets: list[socket.socket]) -> None:
        drain, server = self._gateway.settings.drain, self._gateway.server
        self._gateway.health.draining()
        log.info(
            "draining", connections=len(server.registry), delay_seconds=drain.delay_seconds, period_seconds=drain.period_seconds
        )
        given = drain.delay_seconds + drain.period_seconds + drain.abort_after_seconds
        self._gateway.collector.drain_deadline = time.monotonic() + given
        await self._pause(drain.delay_seconds)
        if self._place is not None:
            await self._leave_the_port(sockets[0])
        server.admission.retry_after_seconds = max(1.0, drain.period_seconds / 2)
        closing = asyncio.ensure_future(server.drain(period_seconds=drain.period_seconds, on_progress=self._on_progress))
        await self._pause(drain.period_seconds + 1, until=closing.done)
        closing.cancel()
        await asyncio.wait((closing,))
        await self._pause(drain.abort_after_seconds, until=lambda: not self.server_state.tasks)
        left = self._abort_rest()
        log.info("drained", aborted=left, at_once=self.force_exit)

    async def _leave_the_port(self, public: socket.socket) -> None:
        """Close the public listener; who waits in its queue, and would be reset, is taken first, in the same turn of the loop."""
        queued: list[socket.socket] = []
        for _ in range(self.config.backlog):
            try:
                queued.append(public.accept()[0])
            except BlockingIOError:  # nobody is left in it
                break
            except OSError:  # this one has gone away, or there are no descriptors left: so many tries are soon over
                continue
        self.servers[0].close()
        loop = asyncio.get_running_loop()
        for connection in queued:
            try:
                connection.setblocking(False)
                await loop.connect_accepted_socket(lambda: self._protocol(self.config), connection)
            except OSError as error:  # the others have nothing to do with it, nor has the drain
                connection.close()
                log.warning("a client that waited at the shared port was lost", reason=str(error))
        log.info("left the shared port", queued=len(queued))

    async def _pause(self, seconds: float, until: Any = None) -> None:
        """Wait, unless a second signal comes or ``until()`` holds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not self.force_exit and loop.time() < deadline and not (until is not None and until()):
            await asyncio.sleep(min(_TICK_SECONDS, max(0.0, deadline - loop.time())))

    def _on_progress(self, left: int) -> None:
        self._gateway.collector.drain_left = left

    def _abort_rest(self) -> int:
        left = 0
        for protocol in list(self.server_state.connections):
            abort = getattr(protocol, "abort", None)
            if abort is not None:
                abort()
                left += 1
        return left

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second ends at once; a worker is told so with SIGQUIT."""
        if sig == signal.SIGQUIT or (self.should_exit and self._place is None):
            self.force_exit = True
        self.should_exit = True

    def _left_alone(self) -> None:
        """The supervisor is gone: nobody would restart this worker, and its port is to be free for the next supervisor."""
        assert self._place is not None, "only a worker has a lifeline"
        asyncio.get_running_loop().remove_reader(self._place.lifeline)
        log.warning("the supervisor is gone")
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a drain that a signal asked for is a success: the signal is not raised again."""
        signals = (signal.SIGINT, signal.SIGTERM) if self._place is None else (signal.SIGQUIT, signal.SIGTERM)
        before = {sig: signal.signal(sig, self.handle_exit) for sig in signals}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)

    def _protocol(self, config: uvicorn.Config) -> asyncio.Protocol:
        make: Any = config.http_protocol_class
        protocol: asyncio.Protocol = make(config=config, server_state=self.server_state, app_state={})
        return protocol

    def _say_hello(self, sockets: list[socket.socket]) -> None:
        public, ops = address_of(sockets[0]), address_of(self._ops_socket)
        log.info("serving", public=f"http://{public}", ops=f"http://{ops}", node=self._gateway.server.hub.node, pid=os.getpid())
        if self._place is None:
            print(greeting(public, (ops,), self._gateway.settings), flush=True)  # noqa: T201 - for people
        else:
            self._place.on_serving()


def _config(settings: Settings, app: Any, **options: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        **{
            "lifespan": "off",  # the runner starts and stops the gateway itself
            "log_config": None,
            "log_level": "debug" if settings.log_level == "debug" else "warning",  # what is worth telling, the runner tells
            "access_log": False,
            "ws_per_message_deflate": False,  # the wire has its own, without state
            "proxy_headers": bool(settings.trusted_proxies),
            "forwarded_allow_ips": list(settings.trusted_proxies),
            "server_header": False,
            "timeout_keep_alive": 5,
            "timeout_graceful_shutdown": 1,  # the drain has given everybody their time
            **options,
        },
    )
