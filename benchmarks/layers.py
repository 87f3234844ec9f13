"""What each middleware costs: nanoseconds per inbound message, microseconds and bytes of memory per connection.

    python benchmarks/layers.py [--messages 20000] [--connections 2000] [--rounds 7]

Each stack serves a scripted connection of a server that is always ready, and so does the app without any layer; the difference
is the stack's price. CPU time of the process; rounds are interleaved and the fastest one counts, which keeps a busy machine out of
the figures. ``hooks`` are the guards alone, as a server with the frames extension calls them; ``asgi`` adds the wrapped
``receive`` of any other server. The whole chain is in the order of the gateway. Handshakes are not sampled by the tracer,
messages are never too fast.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import logging
import platform
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from middleware.asgi import ASGIApp, Event, Scope
from middleware.layer import Guard, GuardHooks, Layer, Link

SECRET = "s" * 64
TARGET_NANOSECONDS = 3000
TARGET_METRICS_NANOSECONDS = 1500
TARGET_BYTES = 2560
MESSAGE: Event = {"type": "websocket.receive", "text": "x" * 64}


def tracing_options() -> dict[str, Any]:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    return {"tracer_provider": TracerProvider(sampler=ALWAYS_OFF), "message_ratio": 0.01}


def sampled_options() -> dict[str, Any]:
    from opentelemetry.sdk.trace import TracerProvider

    return {"tracer_provider": TracerProvider(), "message_ratio": 1e-9}


def metrics_options() -> dict[str, Any]:
    from prometheus_client import CollectorRegistry

    return {"registry": CollectorRegistry()}


def rate_options() -> dict[str, Any]:
    return {"messages_per_second": 1e7, "burst": 1e7, "bytes_per_second": 1e10, "byte_burst_bytes": 1e10}


LAYERS: tuple[tuple[str, str, Callable[[], dict[str, Any]]], ...] = (
    ("tracing", "TracingMiddleware", tracing_options),
    ("metrics", "MetricsMiddleware", metrics_options),
    ("access_log", "AccessLogMiddleware", dict),
    ("origin", "OriginMiddleware", dict),
    ("connection_limit", "ConnectionLimitMiddleware", lambda: {"total": 1_000_000, "per_client": 1_000_000}),
    ("auth", "AuthMiddleware", lambda: {"secret": SECRET}),
    ("rate_limit", "RateLimitMiddleware", rate_options),
    ("compression", "CompressionMiddleware", dict),
)
"""Module, class, options: outermost first."""

Stack = Callable[[ASGIApp], ASGIApp]


def stacks() -> dict[str, Stack]:
    """Every layer alone, and all of them; layers that cannot be imported are named and left out."""
    made: dict[str, Stack] = {"driver alone": Layer}
    factories: list[Stack] = []
    for module, name, options in LAYERS:
        try:
            layer = getattr(importlib.import_module(f"middleware.{module}"), name)
        except (ImportError, AttributeError) as error:
            print(f"left out: {name} ({error})")
            continue
        factories.append(lambda app, layer=layer, options=options: layer(app, **options()))
        made[module] = factories[-1]
        if module == "tracing":
            made["tracing, no provider"] = lambda app, layer=layer: layer(app, message_ratio=1.0)
            made["tracing, sampled handshake"] = lambda app, layer=layer: layer(app, **sampled_options())

    def chain(app: ASGIApp) -> ASGIApp:
        for factory in reversed(factories):
            app = factory(app)
        return app

    made[f"whole chain ({len(factories)})"] = chain
    return made


def scope() -> Scope:
    import jwt

    token = jwt.encode({"sub": "ada", "exp": int(time.time()) + 36_000}, SECRET)
    return {
        "type": "websocket", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "scheme": "ws",
        "server": ("127.0.0.1", 8000), "client": ("127.0.0.1", 50000), "root_path": "", "path": "/ws/lobby",
        "raw_path": b"/ws/lobby", "query_string": b"", "subprotocols": [], "state": {},
        "extensions": {"websocket.http.response": {}}, "path_template": "/ws/{room}",
        "headers": [(b"host", b"127.0.0.1:8000"), (b"authorization", b"Bearer " + token.encode())],
    }  # fmt: skip


async def handle(scope: Scope, receive: Any, send: Any) -> None:
    """An app that does nothing with what it gets."""
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] == "websocket.receive":
        pass


async def swallow(event: Event) -> None:
    if event["type"] not in ("websocket.accept", "websocket.close"):
        raise RuntimeError(f"the handshake was not accepted: {event}")


async def per_message(app: ASGIApp, messages: int) -> float:
    """Seconds per message from the first to the last."""
    left = messages
    started = 0.0

    async def receive() -> Event:
        nonlocal left, started
        if left == messages:
            left -= 1
            return {"type": "websocket.connect"}
        if not started:
            started = time.process_time()
        left -= 1
        return MESSAGE if left >= 0 else {"type": "websocket.disconnect", "code": 1000}

    await app(scope(), receive, swallow)
    return (time.process_time() - started) / (messages - 1)


async def per_connection(app: ASGIApp, connections: int) -> float:
    """Seconds for one connection that is accepted and left at once."""
    template = scope()

    def client() -> Any:
        events = iter(({"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}))

        async def receive() -> Event:
            return next(events)

        return receive

    started = time.process_time()
    for _ in range(connections):
        await app(template, client(), swallow)
    return (time.process_time() - started) / connections


async def per_hooks(app: ASGIApp, messages: int) -> float:
    """Seconds per message in ``inbound`` and ``waiting`` alone, as called by a server with the frames extension."""
    hooks: GuardHooks | None = None
    seconds = 0.0

    async def endpoint(scope: Scope, receive: Any, send: Any) -> None:
        nonlocal seconds
        await receive()
        await send({"type": "websocket.accept"})
        if hooks is not None:
            started = time.process_time()
            for _ in range(messages):
                hooks.inbound(MESSAGE)
                hooks.waiting()
            seconds = (time.process_time() - started) / messages

    async def receive() -> Event:
        return {"type": "websocket.connect"}

    if isinstance(app, Layer):
        app._endpoint = endpoint
        guards: list[Guard] = []
        for layer in app._layers:
            original = layer.open

            async def opened(link: Link, original: Any = original) -> Guard | None:
                nonlocal hooks
                guard: Guard | None = await original(link)
                if guard is not None:
                    guards.append(guard)
                hooks = GuardHooks(guards)
                return guard

            layer.open = opened  # type: ignore[method-assign]  # to get hold of the guards
        await app(scope(), receive, swallow)
    return seconds


async def memory(app: ASGIApp, connections: int) -> float:
    """Bytes per connection that is open and idle."""
    template = scope()
    never = asyncio.get_running_loop().create_future()

    def client(number: int) -> Any:
        state = iter(({"type": "websocket.connect"},))

        async def receive() -> Event:
            for event in state:
                return event
            await never
            raise AssertionError("never")

        return app({**template, "client": (f"10.0.{number >> 8 & 255}.{number & 255}", number & 0xFFFF)}, receive, swallow)

    async def hold(count: int) -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(client(number)) for number in range(count)]
        for _ in range(8):
            await asyncio.sleep(0)
        return tasks

    warm = await hold(10)
    gc.collect()
    tracemalloc.start()
    tasks = await hold(connections)
    gc.collect()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    failed = [task.exception() for task in tasks if task.done()]
    for task in warm + tasks:
        task.cancel()
    await asyncio.gather(*warm, *tasks, return_exceptions=True)
    if failed:
        raise RuntimeError(f"{len(failed)} connections were not held open: {failed[0]!r}")
    return used / connections


async def measure(messages: int, connections: int, rounds: int) -> None:
    named: dict[str, Stack] = {"no layer": lambda app: app, **stacks()}
    asgi = dict.fromkeys(named, float("inf"))
    hooks = dict.fromkeys(named, float("inf"))
    opened = dict.fromkeys(named, float("inf"))
    for _ in range(rounds):
        for name, stack in named.items():
            opened[name] = min(opened[name], await per_connection(stack(handle), 200))
            asgi[name] = min(asgi[name], await per_message(stack(handle), messages))
            hooks[name] = min(hooks[name], await per_hooks(stack(handle), messages))
    held = {name: await memory(stack(handle), connections) for name, stack in named.items()}
    bare, bare_bytes, bare_open = asgi["no layer"], held["no layer"], opened["no layer"]
    empty = hooks["driver alone"]
    print(f"\nPython {platform.python_version()}, {platform.machine()}; {messages} messages of 64 bytes, {connections} connections")
    print(f"{'stack':<30}{'hooks ns':>10}{'asgi ns':>10}{'connection us':>15}{'connection bytes':>18}")
    for name in named:
        if name != "no layer":
            alone = (hooks[name] - (0 if "driver" in name else empty)) * 1e9
            more = (asgi[name] - bare) * 1e9, (opened[name] - bare_open) * 1e6, held[name] - bare_bytes
            print(f"{name:<30}{alone:>10.0f}{more[0]:>10.0f}{more[1]:>15.1f}{more[2]:>18.0f}")
    print(f"{'(no layer at all)':<30}{'':>10}{bare * 1e9:>10.0f}{bare_open * 1e6:>15.1f}{bare_bytes:>18.0f}")
    print(f"targets: metrics <= {TARGET_METRICS_NANOSECONDS} ns, chain <= {TARGET_NANOSECONDS} ns and {TARGET_BYTES} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)  # the access log's lines are not what is measured
    asyncio.run(measure(options.messages, options.connections, options.rounds))


if __name__ == "__main__":
    main()
