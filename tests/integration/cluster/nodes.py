"""Nodes of a cluster as processes, and what they have counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import websockets

from tests.integration.gateway_process import GatewayProcess, running

__all__ = ["Figures", "Node", "eventually"]


class Figures(NamedTuple):
    """What a node has counted of messages that somebody may have missed."""

    gaps: float
    """Times that rooms of this node may have missed something."""
    unsent: float
    """Messages of this node's clients that the engine did not take or confirm."""


class Node:
    """One node.

    Args:
        name: for the test.
        broker: its broker's URL.
    """

    def __init__(self, name: str, broker: str) -> None:
        self.name = name
        self.gateway: GatewayProcess
        self._broker = broker
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Start it; returns when it serves."""
        gateway = running(BROKER=self._broker, DRAIN__PERIOD_SECONDS="1", LOG_LEVEL="warning", CONNECTION_LIMIT__TOTAL="1000")
        self.gateway = await self._stack.enter_async_context(gateway)

    async def close(self) -> None:
        """Kill it, if it is still there."""
        await self._stack.aclose()

    def connect(self, room: str, **options: Any) -> websockets.connect:
        return self.gateway.connect(room, **options)

    async def readiness(self) -> str:
        """Why it is not ready, as ``/readyz`` tells: ``broker`` when that is among the reasons; nothing when it is ready."""
        _, answer = await self.gateway.get("/readyz")
        failing = answer.get("failing", [])
        return "broker" if "broker" in failing else ", ".join(failing) or answer["status"].removeprefix("ready")

    async def figures(self) -> Figures:
        status, text = await self.gateway.get("/metrics")
        assert status == 200, f"node {self.name}: {status} {text} {self.gateway.log[-3:]}"
        values: dict[str, float] = {}
        for line in text.splitlines():
            if line.startswith("tidegate_broker_"):
                series, _, value = line.rpartition(" ")
                values[series.removeprefix("tidegate_broker_")] = float(value)
        return Figures(values["gaps_total"], values['errors_total{operation="publish"}'] + values["refused_total"])

    async def knows(self) -> set[str]:
        """The nodes that it hears of, by id."""
        _, answer = await self.gateway.get("/api/nodes")
        return {node["id"] for node in answer["nodes"]}

    async def id(self) -> str:
        _, answer = await self.gateway.get("/api/node")
        return str(answer["id"])


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float, what: str) -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"after {seconds:g} s: not {what}"
        await asyncio.sleep(0.2)
