"""``Supervisor``: makes a link, has it served until it is lost, makes the next one after a pause. Nothing else ever connects.

1. Pauses grow exponentially to a bound, with full jitter: all nodes lose an engine at once and are not to come back at once.
2. An attempt tries every host of the engine, beginning with another one each time: one that is shut, frozen or leads elsewhere
   keeps nobody out, and what its link has told ends no other.
3. Serving always ends in ``detach`` and in closing the link; ``stop`` interrupts connecting and pausing, never an end.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from .link import Engine, EngineError, Events, Link, as_engine_error
from .options import EngineOptions

__all__ = ["Supervisor"]


class Supervisor:
    """One link after the other.

    Args:
        engine: makes them.
        events: what they tell.
        options: the times.
        attach: told of a new link.
        detach: told that it is lost; the link is closed afterwards.
        failed: told why no link could be made.
    """

    def __init__(
        self,
        engine: Engine,
        events: Events,
        options: EngineOptions,
        *,
        attach: Callable[[Link], None],
        detach: Callable[[], Awaitable[None]],
        failed: Callable[[str], None],
    ) -> None:
        self._engine = engine
        self._events = events
        self._options = options
        self._attach = attach
        self._detach = detach
        self._failed = failed
        self._lost: asyncio.Future[None] | None = None
        self._hopeless = False
        self._host = random.randrange(engine.hosts)  # noqa: S311 - no secret; nodes are to spread over the hosts
        self._closing = False
        self._is_idle = True  # connecting or pausing: it can be cancelled, there is nothing to clean up
        self._tried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def serving(self) -> bool:
        """True while there is a link, or is to be one, that is not lost."""
        return self._lost is not None and not self._lost.done()

    def start(self) -> None:
        """Begin to try."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="broker")

    def judged(self) -> None:
        """It is known of the link whether it can be used: whoever waits for the first attempts is to look."""
        self._tried.set()

    def lose(self) -> bool:
        """Give up the link that there is; False when there is none."""
        if self._lost is None or self._lost.done():
            return False
        self._lost.set_result(None)
        return True

    async def first_attempts(self, is_up: Callable[[], bool]) -> None:
        """Returns when the link can be used or there is no more point in waiting: one attempt is made whatever the time."""
        loop = asyncio.get_running_loop()
        deadline, tried = loop.time() + self._options.start_seconds, False
        while not (is_up() or self._hopeless or (tried and loop.time() >= deadline)):
            self._tried.clear()
            try:
                async with asyncio.timeout_at(deadline if tried else None):
                    await self._tried.wait()
            except TimeoutError:
                return
            tried = True

    async def stop(self) -> None:
        """End the link and try no more."""
        assert self._task is not None, "it was started"
        self._closing = True
        self.lose()
        if self._is_idle:
            self._task.cancel()
        await asyncio.wait((self._task,))

    async def _run(self) -> None:
        failures = 0
        loop = asyncio.get_running_loop()
        while not self._closing:
            try:
                self._is_idle = True
                link, lost = await self._connect()
                self._is_idle = False
                started_at = loop.time()
                await self._serve(link, lost)
                lasted_seconds = loop.time() - started_at
            except EngineError as error:
                lasted_seconds = 0.0
                self._hopeless = error.permanent
                self._failed(str(error))
            self._tried.set()
            failures = 0 if lasted_seconds >= self._options.retry_max_seconds else failures + 1
            self._is_idle = True
            if not self._closing:
                await asyncio.sleep(_pause_seconds(failures, self._options))

    async def _serve(self, link: Link, lost: asyncio.Future[None]) -> None:
        try:
            self._attach(link)
            await lost
        finally:
            try:
                await self._detach()
            finally:
                await link.close()

    async def _connect(self) -> tuple[Link, asyncio.Future[None]]:
        """A link and what tells that it is lost. Each host may take half of the time that is left, the last one all of it."""
        loop, hosts, errors = asyncio.get_running_loop(), self._engine.hosts, list[EngineError]()
        deadline = loop.time() + self._options.connect_seconds
        self._host += 1
        for turn in range(hosts):
            left_seconds = deadline - loop.time()
            try:
                return await self._connect_to((self._host + turn) % hosts, left_seconds if turn == hosts - 1 else left_seconds / 2)
            except EngineError as error:
                errors.append(error)
        raise EngineError("; ".join(dict.fromkeys(map(str, errors))), permanent=all(error.permanent for error in errors))

    async def _connect_to(self, host: int, seconds: float) -> tuple[Link, asyncio.Future[None]]:
        self._lost = lost = asyncio.get_running_loop().create_future()
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await self._engine.connect(self._events, host), lost
        except Exception as error:  # a fault in a client is no reason to stop trying
            if limit.expired():  # else a TimeoutError is the system's own
                raise EngineError(f"no connection within {float(f'{seconds:.2g}'):g} s") from None
            raise as_engine_error(error) from error


def _pause_seconds(failures: int, options: EngineOptions) -> float:
    most = min(options.retry_max_seconds, options.retry_seconds * 2.0 ** min(failures, 30))
    return random.uniform(0, most)  # noqa: S311 - no secret
