"""An event loop whose clock jumps: an hour's wait takes no time, and a hang is noticed instead of waited for."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest.mock import patch

from middleware import channel, link

__all__ = ["Hang", "VirtualLoop", "run_virtual"]

T = TypeVar("T")


class Hang(AssertionError):
    """Every task waits and no timer is set: nothing would ever happen again."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes only when everybody sleeps. ``on_hang`` may set something going again; else ``Hang`` is raised."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.on_hang: Callable[[], object] | None = None
        real = selectors.DefaultSelector()
        self._select, real.select = real.select, self._jump  # type: ignore[method-assign]
        super().__init__(real)

    def time(self) -> float:
        return self.now

    def pending_timers(self) -> int:
        """How many timers are set and not cancelled."""
        return sum(not handle.cancelled() for handle in self._scheduled)  # type: ignore[attr-defined]

    def _jump(self, timeout: float | None = None) -> Any:
        if timeout is None:
            if self.on_hang is None:
                raise Hang("every task waits for something that will never happen")
            on_hang, self.on_hang = self.on_hang, None
            self.call_soon(on_hang)
        elif timeout > 0:
            self.now += timeout
        return self._select(0)


def run_virtual(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Run ``main`` to its end on a new loop; the middlewares' own clocks follow it."""
    loop = VirtualLoop()
    clock = SimpleNamespace(monotonic=loop.time)
    with (
        asyncio.Runner(loop_factory=lambda: loop) as runner,
        patch.object(channel, "time", clock),
        patch.object(link, "time", clock),
    ):
        return runner.run(main(loop))
