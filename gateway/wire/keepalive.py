"""``Keepalive``: what happens on a connection because time passes: pings, idle and age limits, an unfinished message.

Every connection has at most one ping of its own and one of somebody else's (``ping``) under way. A client need answer only the
newest ping (RFC 6455 §5.5.3), so a pong answers those before it too. A pong that cannot arrive because *we* do not read the
socket is waited for; the client is not blamed for it. Nor for one that cannot leave before the frame it is sending: the message's
own deadline watches that.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from middleware.close import FORBIDDEN, IDLE, MAX_AGE, PING_TIMEOUT

from ..frame import server_frame
from .deadlines import NEVER
from .outbound import OPEN, Outbound, jittered

__all__ = ["Keepalive"]

_PING = 0x89
_PONG = 0x8A
_IDLE_CHECKS = 4
"""Idleness is looked at this often per ``idle_seconds``, so it is noticed that much late at most."""


class Keepalive(Outbound):
    """Pings with measured round trips, and the limits in time."""

    __slots__ = (
        "_control_due", "_idle_count", "_idle_since", "_ping_payload", "_ping_sent", "_pong_owed",
        "_probe", "_probe_sent", "_reading_paused", "last_rtt_seconds", "received_bytes", "received_messages",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.received_messages = self.received_bytes = 0
        self.last_rtt_seconds: float | None = None
        self._ping_payload: bytes | None = None
        self._ping_sent = 0.0
        self._probe: tuple[bytes, Callable[[], None]] | None = None
        self._probe_sent = 0.0
        self._pong_owed: bytes | None = None
        self._control_due = 0.0
        self._idle_count = 0
        self._idle_since = 0.0
        self._reading_paused = False

    def _start_clocks(self) -> None:
        """The connection is accepted."""
        options, deadlines, now = self.options, self._deadlines, self._loop.time()
        deadlines.handshake = NEVER
        if options.ping_interval_seconds is not None:
            deadlines.ping = now + jittered(options.ping_interval_seconds, 0.9)
        if options.max_age_seconds is not None:
            deadlines.age = now + jittered(options.max_age_seconds, 0.1)
        if options.idle_seconds is not None:
            self._idle_since = now
            deadlines.idle = now + options.idle_seconds / _IDLE_CHECKS
        self._arm()

    def _on_timer(self, now: float) -> None:
        deadlines = self._deadlines
        if deadlines.handshake <= now:
            deadlines.handshake = NEVER
            self._handshake_expired()
        if self._phase != OPEN:
            return
        if deadlines.pong <= now:
            self._pong_missing(now)
        if deadlines.message <= now:
            deadlines.message = NEVER
            self._message_missing(now)
        if deadlines.age <= now:
            self.close(MAX_AGE)
        if deadlines.idle <= now:
            self._check_idle(now)
        if deadlines.ping <= now:
            self._send_ping(now)

    def _handshake_expired(self) -> None:
        raise NotImplementedError

    def _is_behind(self) -> bool:
        """True while bytes of the client wait for us."""
        raise NotImplementedError

    def _is_within_frame(self) -> bool:
        """True while the client is sending a frame: a pong can only come behind it."""
        raise NotImplementedError

    def _message_missing(self, now: float) -> None:
        """The rest of a message did not come in time."""
        if self._is_behind():  # it may well be there
            assert self.options.message_timeout_seconds is not None, "it has just run out"
            self._deadlines.message = now + self.options.message_timeout_seconds
        else:
            self.close(FORBIDDEN)

    def _check_idle(self, now: float) -> None:
        idle_seconds = self.options.idle_seconds
        assert idle_seconds is not None, "the deadline is set only when there is a limit"
        count = self.received_messages + self.sent_messages
        if count != self._idle_count:
            self._idle_count, self._idle_since = count, now
        if now - self._idle_since >= idle_seconds:
            self.close(IDLE)
        else:
            self._deadlines.idle = min(now + idle_seconds / _IDLE_CHECKS, self._idle_since + idle_seconds)

    # Pings of ours

    def _send_ping(self, now: float) -> None:
        options, deadlines = self.options, self._deadlines
        if self._phase != OPEN or options.ping_interval_seconds is None:
            deadlines.ping = NEVER
            return
        deadlines.ping = now + options.ping_interval_seconds
        if self._write_paused:  # it would stand behind what is stuck; the write deadline watches meanwhile
            return
        self._ping_payload = random.randbytes(4)  # noqa: S311  # tells pongs apart
        self._ping_sent = time.perf_counter()
        self.transport.write(server_frame(_PING, self._ping_payload))
        if options.ping_timeout_seconds is not None:
            deadlines.ping, deadlines.pong = NEVER, now + options.ping_timeout_seconds

    def ping(self, payload: bytes, on_answer: Callable[[], None]) -> bool:
        """Send a ping behind all that was written (``Frames.ping``)."""
        if not self._open or self._probe is not None:
            return False
        self._probe, self._probe_sent = (payload, on_answer), time.perf_counter()
        self.transport.write(server_frame(_PING, payload))
        return True

    def _pong_received(self, payload: bytes) -> bool:
        """True when it answers a ping of ours; each is answered once."""
        probe = self._probe
        is_ping, is_probe = payload == self._ping_payload, probe is not None and payload == probe[0]
        if not is_ping and not is_probe:  # unsolicited (RFC 6455 §5.5.3), or seen before
            return False
        probe_was_first = self._probe_sent < self._ping_sent
        if self._ping_payload is not None and (is_ping or not probe_was_first):
            self._ping_answered(measured=is_ping)
        if probe is not None and (is_probe or probe_was_first):
            self._probe = None
            probe[1]()
        return True

    def _ping_answered(self, *, measured: bool) -> None:
        self._ping_payload = None
        rtt = time.perf_counter() - self._ping_sent
        if measured:
            self.last_rtt_seconds = rtt
        deadlines, interval = self._deadlines, self.options.ping_interval_seconds
        if deadlines.pong != NEVER and interval is not None:
            deadlines.pong, deadlines.ping = NEVER, self._loop.time() + max(interval - rtt, interval / 2)
            self._arm()
        if measured and self.options.on_rtt is not None:
            self.options.on_rtt(rtt)

    def _pong_missing(self, now: float) -> None:
        if self._reading_paused or (self._deadlines.message != NEVER and self._is_within_frame()):
            assert self.options.ping_timeout_seconds is not None, "it has just run out"
            self._deadlines.pong = now + self.options.ping_timeout_seconds
            if self._reading_paused and not self._write_paused and self._ping_payload is not None:
                self.transport.write(server_frame(_PING, self._ping_payload))  # what we do not read may be a reset: writing tells
        else:
            self._deadlines.pong = NEVER
            self.close(PING_TIMEOUT)

    # Pings of theirs

    def _is_control_flood(self) -> bool:
        """Count a control frame against its rate (GCRA: the time at which the bucket is full again)."""
        per_frame, now = 1 / self.options.control_frames_per_second, time.monotonic()
        self._control_due = max(self._control_due, now) + per_frame
        return self._control_due - now > per_frame * self.options.control_frames_burst

    def _answer_ping(self, payload: bytes) -> None:
        """Pong now, or once for the newest ping when the client has read what there is (RFC 6455 §5.5.3)."""
        if self._write_paused:
            self._pong_owed = payload
        else:
            self.transport.write(server_frame(_PONG, payload))

    def resume_writing(self) -> None:
        """The transport's buffer is below its low-water mark."""
        payload, self._pong_owed = self._pong_owed, None
        if payload is not None and self._phase == OPEN:
            self.transport.write(server_frame(_PONG, payload))
        super().resume_writing()
