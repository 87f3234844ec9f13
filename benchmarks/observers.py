"""What watching costs: nanoseconds per publication for metrics, confirmations, explanations and traces, by the size of the room.

    python benchmarks/observers.py [--publications 2000] [--rounds 25]

Each set of observers is told of the same fan-outs, to 1, 10 and 1,000 members, with one message each; the hooks are called as a
room calls them, once per fan-out. CPU time of the process; rounds are interleaved and the fastest one counts. What the room itself
does is not in it, and what the layers cost per inbound message is in ``layers.py``: ``metrics`` there and here are the whole price.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gateway.envelope import Envelope
from gateway.explain import Records
from gateway.fan_out import FanOut
from gateway.hub import Hub
from gateway.message import Message
from gateway.observer import Observers
from gateway.telemetry import DeliveryTraces, GatewayCollector
from middleware.asgi import Scope

MEMBERS = (1, 10, 1000)


class Member:
    """Stands for a connection that cannot confirm just now."""

    id = "n-1"
    user = None

    def __init__(self) -> None:
        self.scope: Scope = {"type": "websocket", "client": ("127.0.0.1", 50000)}

    def confirm(self, on_confirmed: Callable[[], None]) -> bool:
        return False


def metrics(hub: Hub) -> GatewayCollector:
    return GatewayCollector(hub)


def confirmations(hub: Hub) -> None:
    hub.observers.add(GatewayCollector(Hub(node="other"), confirms_per_second=5).confirms)


def explanations(hub: Hub) -> None:
    hub.observers.add(Records())


def traces(hub: Hub) -> None:
    from opentelemetry.sdk.trace import TracerProvider

    confirms = GatewayCollector(Hub(node="other")).confirms
    traced = DeliveryTraces(TracerProvider(), node="n", ledger=hub.registry.ledger, confirms=confirms, ratio=1e-9)
    hub.observers.add(traced)


SETS: dict[str, tuple[Callable[[Hub], Any], ...]] = {
    "nobody": (),
    "metrics": (metrics,),
    "confirmations": (confirmations,),
    "explanations": (explanations,),
    "traces, not sampled": (traces,),
    "by default (the first three)": (metrics, confirmations, explanations),
}


def tell(observers: Observers, fan_outs: list[FanOut]) -> float:
    """Seconds of CPU per fan-out."""
    published, reached, fanned_out = observers.published, observers.reached, observers.fanned_out
    began = time.process_time()
    for fan_out in fan_outs:
        for told in published:
            told(fan_out.envelopes[0])
        for told_part in reached:
            told_part(fan_out.recipients, fan_out)
        for told_end in fanned_out:
            told_end(fan_out)
    return (time.process_time() - began) / len(fan_outs)


def fan_outs_to(hub: Hub, members: int, count: int) -> list[FanOut]:
    recipients: Any = (Member(),) * members
    made = []
    for number in range(count):
        envelope = Envelope("chat:1", Message("x" * 64), id=f"n-{number}", node="n")
        made.append(FanOut.of("chat:1", (envelope,), hub.registry.ledger.of_room("chat:1"), recipients, {}, {}))
        made[-1].next_part()
        made[-1].finished = made[-1].started + 20e-6
    return made


async def measure(publications: int, rounds: int) -> None:
    hubs: dict[str, Hub] = {}
    for name, parts in SETS.items():
        hubs[name] = hub = Hub(node="n")
        for part in parts:
            part(hub)
    best = {(name, members): float("inf") for name in SETS for members in MEMBERS}
    for _ in range(rounds):
        for members in MEMBERS:
            for name, hub in hubs.items():
                best[name, members] = min(best[name, members], tell(hub.observers, fan_outs_to(hub, members, publications)))
    print(f"\nPython {platform.python_version()}, {platform.machine()}; {publications} of 64 bytes; CPU ns per publication")
    print(f"{'observers':<30}" + "".join(f"{f'{members} members':>15}" for members in MEMBERS))
    for name in SETS:
        if name != "nobody":
            prices = [(best[name, members] - best["nobody", members]) * 1e9 for members in MEMBERS]
            print(f"{name:<30}" + "".join(f"{price:>15.0f}" for price in prices))
    print("target: metrics here and in layers.py <= 1500 ns together; the same for every size of room")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--publications", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args()
    asyncio.run(measure(options.publications, options.rounds))


if __name__ == "__main__":
    main()
