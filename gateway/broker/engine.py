"""``EngineBroker``: a broker over an engine that many nodes share. What an engine is, is in ``link``.

1. *Usable* is one thing: connected, every room confirmed or refused, a probe back on every path and none late. While the broker is
   not usable, ``post``, ``publish``, ``subscribe`` and ``check`` raise ``BrokerUnavailable`` at once, and say why.
2. Nothing is sent twice. What was taken and not confirmed when a link is lost is counted as lost; whoever waits for it is told.
3. After a loss every wanted room is subscribed again, and then told as a gap: what was missed was missed before that. A room that
   the engine refuses now is told to ``on_refused`` besides, and asked for again over every further link. Other nodes are told which
   rooms our own lost publications were for (``Losses``), and tell it as a gap of theirs.
4. ``unsubscribe`` returns at once; ``close`` waits for the engine no longer than ``EngineOptions.close_seconds``.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Set

from ..envelope import Envelope
from ..errors import BrokerUnavailable, InvalidEnvelope, TooBigForBroker
from .base import Deliver, Position
from .link import Engine, Events, Link
from .listener import Listener
from .losses import GAPS_ROOM, Losses
from .options import EngineOptions
from .prober import Prober
from .probes import Probes, Progress
from .publisher import Publisher
from .reports import OPERATIONS, BrokerStatistics, Reports
from .supervisor import Supervisor

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
        name = secrets.token_hex(6)
        self._losses = Losses(name)
        self._publisher = Publisher(
            options, clock, failed=self._not_published, lose=self._lose, lost=self._publications_lost, published=self._published
        )
        self._probes = Probes(name, options, missed=self._missed, clock=clock)
        self._prober = Prober(
            self._probes, clock,
            publish=self._publish_own, live=self._live, failed=self._not_back, lose=self._lose, misled=self._misled,
        )  # fmt: skip
        self._listener = Listener(
            options,
            heard_all=self._prober.heard_all, failed=self._not_subscribed, lose=self._lose,
            refused=lambda rooms: self.on_refused(rooms),
        )  # fmt: skip
        self._supervisor: Supervisor | None = None
        self._max_message_bytes: int | None = None
        self._up = self._was_up = False
        self._why = "it is not started"
        self._reconnects = self._gaps = 0
        self._errors = Counter(dict.fromkeys(OPERATIONS, 0))
        self._publish_seconds = 0.0
        self._log_after = 0.0

    # -- Broker

    async def start(self, deliver: Deliver) -> None:
        if self._supervisor is not None:
            raise RuntimeError("the broker is started already")
        self._deliver = deliver
        self._was_up, self._why = False, "it is being connected"
        events = Events(self._received, self._lose, self._misled, self._missed)
        self._supervisor = Supervisor(
            self.engine, events, self._options, attach=self._attach, detach=self._detach, failed=self._not_connected
        )  # fmt: skip
        self._supervisor.start()
        try:
            await self._supervisor.first_attempts(lambda: self._up)
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
        supervisor = self._supervisor
        if supervisor is None:
            return
        if self._up:
            await self._publisher.sent(self._options.close_seconds)
        self._deliver, self._up, self._why = None, False, "it is closed"
        await supervisor.stop()
        self._supervisor = None
        self._listener.clear()
        self._why = "it is closed"

    def statistics(self) -> BrokerStatistics:
        interest, queue, own = self._listener.interest, self._publisher.queue, self._own_rooms
        return BrokerStatistics(
            up=self._usable(),
            rooms=len(interest.wanted - own),
            rooms_confirmed=len(interest.confirmed - own),
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
        why = self._why or self._prober.why
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

    def _not_connected(self, detail: str) -> None:
        self._why = detail
        self._failed("connect", f"{self._title}: {detail}")

    def _not_published(self, detail: str, count: int) -> None:
        self._failed("publish", detail, count)

    def _not_subscribed(self, detail: str) -> None:
        self._failed("subscribe", detail)

    def _not_back(self, detail: str) -> None:
        self._failed("probe", f"{self._title}: {detail}")
        if self._supervisor is not None:
            self._supervisor.judged()

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
                self._prober.came_back(envelope)
                return
            if envelope.room == GAPS_ROOM:
                if concerned := self._losses.heard(envelope, self._rooms):
                    self._tell_gap(concerned)
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
        if self._up:  # else all rooms are told when it can be used
            self._tell_gap(self._rooms)

    @property
    def _own_rooms(self) -> Set[str]:
        return self._probes.rooms | {GAPS_ROOM}

    @property
    def _rooms(self) -> Set[str]:
        """Those that somebody above wants."""
        return self._listener.interest.wanted - self._own_rooms

    def _tell_gap(self, rooms: Set[str]) -> None:
        self._gaps += 1
        try:
            self.on_gap(rooms)
        except Exception:  # we have come back all the same
            logger.exception("broker: on_gap failed")

    def _publications_lost(self, rooms: list[str]) -> None:
        self._losses.add(set(rooms) - self._own_rooms)

    def _tell_others(self) -> None:
        """Say in which rooms what we had under way may have been lost."""
        notice = self._losses.notice()
        if notice is not None:
            told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            told.add_done_callback(lambda told: self._losses.said(confirmed=not told.cancelled() and told.exception() is None))
            self._publisher.take(GAPS_ROOM, notice.encode(), told, always=True)

    def _publish_own(self, envelope: Envelope) -> None:
        self._publisher.take(envelope.room, envelope.encode(), always=True)

    # -- the link's life

    def _attach(self, link: Link) -> None:
        self._max_message_bytes = link.max_message_bytes
        self._publisher.attach(link)
        self._listener.attach(link, (*self._probes.reset(link.probe_rooms(self._probes.stem)), GAPS_ROOM))
        self._prober.attach(link)
        self._why = ""

    async def _detach(self) -> None:
        self._up = False
        self._prober.detach()
        await self._listener.detach(self._probes.rooms, self._unavailable())
        await self._publisher.detach()
        self._probes.reset(())

    def _live(self) -> None:
        """Every room is confirmed, and on every path a probe has come back."""
        if self._supervisor is None or not self._supervisor.serving:
            return
        self._up, self._why = True, ""
        self._supervisor.judged()
        if self._was_up:
            self._reconnects += 1
            logger.warning("broker: %s can be used again", self._title)
            self._tell_gap(self._rooms)
        self._tell_others()
        self._was_up = True

    def _misled(self, reason: str) -> None:
        """What was confirmed over this link may have reached nobody, although who missed it has been told of gaps before that.

        Over a link that was never proven nothing was taken from anybody.
        """
        if self._probes.progress is Progress.PROVEN:
            self._losses.add_all()
        self._lose(reason)

    def _lose(self, reason: str) -> None:
        """The link is of no use: from this moment nothing is taken; the supervisor does the rest."""
        if self._supervisor is None or not self._supervisor.lose():
            return
        self._why = reason or "the connection was lost"
        if self._up:
            self._up = False
            logger.warning("broker: %s cannot be used: %s", self._title, self._why)
