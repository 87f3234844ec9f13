"""What reading the figures costs: milliseconds of CPU for a scrape of the whole gateway, and for a snapshot of the console.

    python benchmarks/reading.py [--connections 10000] [--rounds 25]

The gateway is whole, as ``tidegate serve`` makes it; its connections are in this process, idle, each in a room of its own. A
scrape is one turn of the event loop, a snapshot takes several (``longest`` is the longest of them). CPU time of the process;
the fastest of many rounds counts.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import platform
import sys
import time
import types
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import msgspec
from prometheus_client.exposition import generate_latest as text
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

from gateway.app import Gateway, create_app
from gateway.console.figures import Snapshot
from gateway.settings import Settings
from middleware.asgi import Event, Scope

AT_ONCE = 500
"""Connections that come in before the first of them is waited for."""


def scope(number: int) -> Scope:
    path = f"/ws/room-{number}"
    return {
        "type": "websocket", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "scheme": "ws",
        "server": ("127.0.0.1", 8000), "client": (f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", 50000),
        "root_path": "", "path": path, "raw_path": path.encode(), "query_string": b"", "subprotocols": [], "state": {},
        "extensions": {"websocket.http.response": {}}, "headers": [(b"host", b"127.0.0.1:8000")],
    }  # fmt: skip


async def hold(gateway: Gateway, connections: int) -> list[asyncio.Task[None]]:
    """Open connections that say nothing."""
    never = asyncio.get_running_loop().create_future()

    async def client(number: int) -> None:
        events = iter(({"type": "websocket.connect"},))

        async def receive() -> Event:
            for event in events:
                return event
            await never
            raise AssertionError("never")

        async def send(event: Event) -> None:
            if event["type"] != "websocket.accept":
                raise RuntimeError(f"the connection is not held open: {event}")

        await gateway(scope(number), receive, send)

    tasks: list[asyncio.Task[None]] = []
    while len(tasks) < connections:
        tasks += [asyncio.create_task(client(number)) for number in range(len(tasks), min(connections, len(tasks) + AT_ONCE))]
        while len(gateway.server.registry.connections) < len(tasks):
            for task in tasks[-AT_ONCE:]:
                if task.done():
                    task.result()
            await asyncio.sleep(0)
    return tasks


@types.coroutine
def timed(taking: Coroutine[Any, Any, Snapshot], turns: list[float]) -> Generator[Any, None, Snapshot]:
    """``taking``, and the CPU seconds of each of its turns of the loop."""
    while True:
        began = time.process_time()
        try:
            step = taking.send(None)
        except StopIteration as done:
            snapshot: Snapshot = done.value
            return snapshot
        finally:
            turns.append(time.process_time() - began)
        yield step


async def snapshot(gateway: Gateway) -> tuple[float, float]:
    """CPU seconds of one snapshot, and of its longest turn of the loop."""
    turns: list[float] = []
    taken = await timed(gateway.feed._source.take(), turns)  # type: ignore[arg-type]  # it is a coroutine
    began = time.process_time()
    msgspec.json.encode(taken)
    turns[-1] += time.process_time() - began
    return sum(turns), max(turns)


def scraped(gateway: Gateway, encode: Callable[[Any], bytes]) -> tuple[float, int]:
    """CPU seconds and bytes of one scrape."""
    began = time.process_time()
    size = len(encode(gateway.metrics_registry))
    return time.process_time() - began, size


async def measure(connections: int, rounds: int) -> None:
    print(f"\nPython {platform.python_version()}, {platform.machine()}; CPU ms")
    print(f"{'connections':>11}{'text':>8}{'OpenMetrics':>13}{'bytes':>8}{'snapshot':>10}{'longest':>9}")
    for count in (0, connections):
        gateway = create_app(Settings(auth={"mode": "none"}, connection_limit={"total": None}))  # type: ignore[arg-type]
        await gateway.start()
        tasks = await hold(gateway, count)
        scrapes = {encode: [scraped(gateway, encode) for _ in range(rounds)] for encode in (text, openmetrics)}
        snapshots = [await snapshot(gateway) for _ in range(rounds)]
        figures = [min(scrapes[text])[0], min(scrapes[openmetrics])[0], *map(min, zip(*snapshots, strict=True))]
        classic, open_metrics, whole, longest = (seconds * 1e3 for seconds in figures)
        size = scrapes[openmetrics][-1][1]
        print(f"{count:>11}{classic:>8.1f}{open_metrics:>13.1f}{size:>8}{whole:>10.1f}{longest:>9.1f}")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await gateway.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)  # the access log's lines are not what is measured
    asyncio.run(measure(options.connections, options.rounds))


if __name__ == "__main__":
    main()
