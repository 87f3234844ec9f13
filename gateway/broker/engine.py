"""``EngineBroker``: a broker over an engine that many nodes share. What an engine is, is in ``link``.

1. *Usable* is one thing: connected, every room confirmed, no probe late. While the broker is not usable, ``post``, ``publish``,
   ``subscribe`` and ``check`` raise ``BrokerUnavailable`` at once, and say why.
2. One supervisor makes the link, serves it until it is lost, and makes the next one after a pause (exponential, full jitter).
   Nothing else ever connects.
3. Nothing is sent twice. What was taken and not confirmed when a link is lost is counted as lost; whoever waits for it is told.
4. After a loss every wanted room is subscribed again, and then told as a gap: what was missed was missed before that.
5. ``unsubscribe`` returns at once; ``close`` waits for the engine no longer than ``EngineOptions.close_seconds``.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable

from ..envelope import Envelope
from ..errors import BrokerUnavailable, InvalidEnvelope, TooBigForBroker
from .base import Deliver, Position
from .link import Engine, EngineError, Events, Link
from .listener import Listener
from .options import EngineOptions
from .probes import Probes
from .publisher import Publisher
from .reports import OPERATIONS, BrokerStatistics, Reports

__all__ = ["EngineBroker"]

LOG_EVERY_SECONDS = 10.0

logger = logging.getLogger("tidegate.broker")


class EngineBroker(Reports):
    """A broker over ``engine``.

    Args:
        engine: what makes links.
        options: times and bounds.
        clock: seconds that never go back.
    """

    local = False

    def __init__(
        self, engine: Engine, options: EngineOptions | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self.engine = engine
        self._options = options = options or EngineOptions()
        self._clock = clock
        self._deliver: Deliver | None = None
        self._publisher = Publisher(options, clock, failed=self._not_published, lose=self._lose, published=self._published)
        self._listener = Listener(options, live=self._live, failed=self._not_subscribed)
        self._probes = Probes(secrets.token_hex(6), options, missed=self._missed, clock=clock)
        self._supervisor: asyncio.Task[None] | None = None
        self._lost: asyncio.Future[str] | None = None  # of the link that there is
        self._closing = False
        self._is_idle = True  # the supervisor can be cancelled: it has nothing to clean up
        self._max_message_bytes: int | None = None
        self._tried = asyncio.Event()  # an attempt to come up has ended, well or not
        self._up = self._was_up = False
        self._why = "it is not started"
        self._hopeless = False
        self._reconnects = self._gaps = 0
        self._errors = Counter(dict.fromkeys(OPERATIONS, 0))
        self._publish_seconds = 0.0
        self._log_after = 0.0

    # -- Broker

    async def start(self, deliver: Deliver) -> None:
        if self._supervisor is not None:
            raise RuntimeError("the broker is started already")
        self._deliver = deliver
        self._closing, self._was_up, self._hopeless, self._why = False, False, False, "it is being connected"
        self._supervisor = asyncio.get_running_loop().create_task(self._supervise(), name="broker")
        try:
            await self._first_attempts()
        except BaseException:
            await self.close()
            raise
        if not self._up:
            error = self._unavailable()
            await self.close()
            raise error

    def post(self, envelope: Envelope) -> None:
        self._publisher.take(envelope.room, self._encoded(envelope))

    async def publish(self, envelope: Envelope) -> Position | None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._publisher.take(envelope.room, self._encoded(envelope), waiter)
        try:
            async with asyncio.timeout(self._options.publish_seconds):
                await waiter
        except TimeoutError:
            raise BrokerUnavailable(
                f"{self._title} has not confirmed a message within {self._options.publish_seconds:g} s; it may still arrive"
            ) from None
        return None

    async def subscribe(self, room: str) -> None:
        """One caller per room: ``Subscriptions`` counts those who need it. Else as the interface says."""
        self._check()
        await self._listener.subscribe(room)

    async def unsubscribe(self, room: str) -> None:
        self._listener.unsubscribe(room)

    async def check(self) -> None:
        self._check()

    async def close(self) -> None:
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None:
            return
        if self._up:
            await self._publisher.sent(self._options.close_seconds)
        self._deliver = None
        self._closing, self._up = True, False
        self._lose("it is closed")
        if self._is_idle:
            supervisor.cancel()
        await asyncio.wait((supervisor,))
        self._listener = Listener(self._options, live=self._live, failed=self._not_subscribed)
        self._why = "it is closed"

    def statistics(self) -> BrokerStatistics:
        interest, queue, probes = self._listener.interest, self._publisher.queue, self._probes.rooms
        return BrokerStatistics(
            up=self._usable(),
            rooms=len(interest.wanted - probes),
            rooms_confirmed=len(interest.confirmed - probes),
            reconnects=self._reconnects,
            gaps=self._gaps,
            errors=dict(self._errors),
            queue_messages=queue.messages,
            queue_bytes=queue.bytes,
            publish_seconds=self._publish_seconds,
        )

    # -- whether it can be used

    @property
    def _title(self) -> str:
        return f"{self.engine.name} at {self.engine.where}"

    def _usable(self) -> bool:
        return self._up and not self._probes.late

    def _unavailable(self) -> BrokerUnavailable:
        why = self._why or "what is published does not come back"
        return BrokerUnavailable(f"{self._title} cannot be used: {why}", retry_after=self._options.retry_max_seconds)

    def _check(self) -> None:
        if not self._up or self._probes.late:
            raise self._unavailable()

    def _failed(self, operation: str, detail: str, count: int = 1) -> None:
        """Count it, and log it unless something was logged just now."""
        self._errors[operation] += count
        now = self._clock()
        if now >= self._log_after:
            self._log_after = now + LOG_EVERY_SECONDS
            logger.warning("broker: %s failed (%d): %s", operation, count, detail)

    def _not_published(self, detail: str, count: int) -> None:
        self._failed("publish", detail, count)

    def _not_subscribed(self, detail: str) -> None:
        self._failed("subscribe", detail)
        self._lose(detail)

    # -- messages

    def _encoded(self, envelope: Envelope) -> bytes:
        self._check()
        data, limit = envelope.encode(), self._max_message_bytes
        if limit is not None and len(data) > limit:
            raise TooBigForBroker(
                f"{self._title} takes at most {limit} bytes at a time, and this message needs {len(data)} with what travels "
                "beside it: lower TIDEGATE_MESSAGE__MAX_BYTES or raise the engine's limit"
            )
        return data

    def _published(self, seconds: float) -> None:
        self._publish_seconds = seconds
        self.on_publish_seconds(seconds)

    def _received(self, data: bytes) -> None:
        try:
            envelope = Envelope.decode(data)
            if envelope.room in self._probes.rooms:
                self._probes.came_back(envelope)
                return
        except InvalidEnvelope as error:
            self._failed("receive", str(error))
            return
        if envelope.room in self._listener.interest.wanted and self._deliver is not None:
            self.on_lag_seconds(max(0.0, time.time() - envelope.published_at))
            try:
                self._deliver(envelope)
            except Exception:  # the next message has nothing to do with it
                self._errors["receive"] += 1
                logger.exception("broker: a message could not be delivered")

    def _missed(self, reason: str) -> None:
        """Something was lost on its way to us, and the link goes on."""
        self._failed("receive", reason)
        self._tell_gap()

    def _tell_gap(self) -> None:
        self._gaps += 1
        try:
            self.on_gap(self._listener.interest.wanted - self._probes.rooms)
        except Exception:  # we have come back all the same
            logger.exception("broker: on_gap failed")

    # -- the link's life

    async def _first_attempts(self) -> None:
        """Returns when the broker is up or there is no more point in waiting: one attempt is made whatever the time."""
        loop = asyncio.get_running_loop()
        deadline, tried = loop.time() + self._options.start_seconds, False
        while not (self._up or self._hopeless or (tried and loop.time() >= deadline)):
            self._tried.clear()
            try:
                async with asyncio.timeout_at(deadline if tried else None):
                    await self._tried.wait()
            except TimeoutError:
                return
            tried = True

    async def _supervise(self) -> None:
        failures = 0
        while not self._closing:
            self._lost = asyncio.get_running_loop().create_future()
            lasted_seconds = 0.0
            try:
                self._is_idle = True
                link = await self._connect()
                self._is_idle = False
                started_at = self._clock()
                self._why = await self._serve(link, self._lost)
                lasted_seconds = self._clock() - started_at
            except EngineError as error:
                self._why = str(error)
                self._hopeless = error.permanent
                self._failed("connect", f"{self._title}: {error}")
            self._tried.set()
            failures = 0 if lasted_seconds >= self._options.retry_max_seconds else failures + 1
            self._is_idle = True
            if not self._closing:
                await asyncio.sleep(_pause_seconds(failures, self._options))

    async def _connect(self) -> Link:
        try:
            async with asyncio.timeout(self._options.connect_seconds):
                return await self.engine.connect(Events(self._received, self._lose, self._missed))
        except TimeoutError:
            raise EngineError(f"no connection within {self._options.connect_seconds:g} s") from None
        except OSError as error:
            raise EngineError(str(error)) from error
        except EngineError:
            raise
        except Exception as error:  # a fault in a client is no reason to stop trying; its text may hold anything
            logger.exception("broker: connecting to %s failed", self._title)
            raise EngineError(f"the client failed: {type(error).__name__}") from error

    async def _serve(self, link: Link, lost: asyncio.Future[str]) -> str:
        """Stay until the link is lost; returns why."""
        self._max_message_bytes = link.max_message_bytes
        rooms = self._probes.reset(link.probe_rooms(self._probes.stem))
        self._publisher.attach(link)
        self._listener.attach(link, rooms)
        probing = asyncio.get_running_loop().create_task(self._keep_probing(link), name="broker probes")
        try:
            return await lost
        finally:
            self._up = False
            probing.cancel()
            await self._listener.detach(rooms, self._unavailable())
            await self._publisher.detach()
            self._probes.reset(())
            await link.close()

    def _live(self) -> None:
        """Every room is confirmed."""
        if self._up or self._lost is None or self._lost.done():
            return
        self._up, self._why = True, ""
        self._tried.set()
        if self._was_up:
            self._reconnects += 1
            logger.warning("broker: %s can be used again", self._title)
            self._tell_gap()
        self._was_up = True

    def _lose(self, reason: str) -> None:
        """The link is of no use: from this moment nothing is taken; the supervisor does the rest."""
        if self._lost is None or self._lost.done():
            return
        self._why = reason or "the connection was lost"
        self._lost.set_result(self._why)
        if self._up:
            self._up = False
            logger.warning("broker: %s cannot be used: %s", self._title, self._why)

    async def _keep_probing(self, link: Link) -> None:
        probes = self._probes
        while True:
            now = self._clock()
            if self._up and (due := probes.due(now)):
                link.verify()
                for envelope in due:
                    self._publisher.take(envelope.room, envelope.encode(), always=True)
            if probes.judge(now):
                self._failed("probe", f"{self._title}: {probes.overdue or 'what is published does not come back'}")
            if probes.overdue:
                self._lose(probes.overdue)
            await asyncio.sleep(probes.tick_seconds)


def _pause_seconds(failures: int, options: EngineOptions) -> float:
    """Anything up to a bound that doubles: all nodes lose the engine at once, and are not to come back at once."""
    most = min(options.retry_max_seconds, options.retry_seconds * 2.0 ** min(failures, 30))
    return random.uniform(0, most)  # noqa: S311 - no secret
