"""``Inbound``: the bytes in from one connection, up to messages that are handed over one by one.

Whole, plain, masked frames are taken apart at once; everything else goes through ``parser.FrameParser``, one frame at a time.

1. While ``_blocked`` is not 0 nothing is parsed; what comes waits in ``_backlog``;
   past ``backlog_bytes`` the socket is not read.
2. ``_backlog`` is empty while ``_blocked`` is 0: a part of a frame waits in the parser.
3. Between two messages the owner may ``hold``, end the connection or turn its handler off: the rest waits or is dropped.
4. One turn of the event loop parses for ``turn_seconds`` at most, and the frame in which they run out.
"""

from __future__ import annotations

import asyncio
import time
from typing import ClassVar

from websockets.frames import Frame, Opcode
from websockets.speedups import apply_mask

from middleware.close import ABNORMAL, BAD_PAYLOAD, RATE_LIMITED, Close

from ..frame import BINARY, TEXT
from .control import ControlFinder, whole_control
from .deadlines import NEVER
from .deflate import inflating
from .delivery import CLOSED, Delivery
from .outbound import CLOSING, LOST, OPEN, logger
from .parser import FrameParser, ParserPool

__all__ = ["MAX_THROWN_AWAY_BYTES", "Inbound"]

MAX_THROWN_AWAY_BYTES = 4 * 1024 * 1024
"""What a client may still send while its connection ends, so that the end can be a FIN; beyond it is a reset."""
_UNLIMITED = 1 << 62


class Inbound(Delivery):
    """The read side; see the module."""

    pool: ClassVar[ParserPool] = ParserPool(max_message_bytes=None, fragment_charge_bytes=0)

    __slots__ = (
        "_backlog", "_eof", "_finder", "_inflate_bits", "_parser", "_pongs_seen", "_thrown_away", "_turn_ends",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._backlog = b""
        self._eof = False
        self._finder: ControlFinder | None = None
        self._pongs_seen = 0
        """Pongs that were noticed in what had to wait, and will be parsed."""
        self._parser: FrameParser | None = None
        self._inflate_bits = 0
        self._thrown_away = 0
        self._turn_ends = 0.0
        """When it is somebody else's turn; 0 before the first frame of a read that has more than one."""

    # Bytes

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._blocked:
            self._keep(data)
        else:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        self._turn_ends, at, end = 0.0, 0, len(data)
        try:
            if self._parser is None:
                at = self._take_plain_frames(data, 0, end)
            if at < end:  # most reads are one plain frame, and done with
                self._parse_rest(data, at, end)
        except Exception as error:  # noqa: BLE001  # a handler or a hook failed: this connection's end, nobody else's
            self._handler_failed(error)

    def _parse_rest(self, data: bytes, at: int, end: int) -> None:
        """What begins with something else than a plain frame, or has to wait."""
        while at < end and not self._blocked:
            at = self._take_frame(data, at)
            if self._parser is None and at < end and not self._blocked:
                at = self._take_plain_frames(data, at, end)
        if at < end:
            self._keep(data[at:])
        if self._parser is not None and self._deadlines.message == NEVER and self._phase == OPEN:
            self._expect_rest()

    def _take_plain_frames(self, data: bytes, at: int, end: int) -> int:
        """The fast path: whole, masked, unfragmented, uncompressed data frames (RFC 6455 §5.2)."""
        limit = self.options.max_message_bytes or _UNLIMITED
        while end - at >= 6:
            first_byte = data[at]
            if first_byte != TEXT and first_byte != BINARY:
                break
            size = data[at + 1] - 128
            start = at + 6
            if size > 125:
                if size == 127 or end - at < 8:
                    break
                size = data[at + 2] << 8 | data[at + 3]
                start = at + 8
            stop = start + size
            if size < 0 or stop > end or size > limit:
                break
            at = stop
            if at != end and not self._turn_ends:
                self._turn_ends = time.monotonic() + self.options.turn_seconds
            payload = apply_mask(data[start:stop], data[start - 4 : start])
            message: str | bytes = payload
            if first_byte == TEXT:
                try:
                    message = payload.decode()
                except UnicodeDecodeError as error:
                    self._fail(BAD_PAYLOAD, str(error))
                    break
            self._deliver(message, size)
            if at == end or self._blocked or self._is_turn_over():
                break
        return at

    def _take_frame(self, data: bytes, at: int) -> int:
        """The careful path: one frame, or what there is of it."""
        if not self._turn_ends:
            self._turn_ends = time.monotonic() + self.options.turn_seconds
        whole = whole_control(data, at) if self._parser is None else None
        if whole is None:
            at = self._take_judged_frame(data, at)
        else:
            frame, at = whole
            self._take_control(frame)
        if at < len(data) and not self._blocked:
            self._is_turn_over()
        return at

    def _take_judged_frame(self, data: bytes, at: int) -> int:
        parser = self._parser
        if parser is None:
            parser = self._parser = self.pool.take(inflating(self._inflate_bits) if self._inflate_bits else [])
        at = parser.feed(data, at)
        if parser.failure is not None:
            self._fail(*parser.failure)
            return at
        control, message, size = parser.control, parser.message, parser.message_bytes
        if parser.idle:
            self._deadlines.message = NEVER
            self._parser = None
            self.pool.give_back(parser)
        if control is not None:
            self._take_control(control)
        elif message is not None:
            self._deliver(message, size)
        return at

    def _take_control(self, frame: Frame) -> None:
        payload = bytes(frame.data)
        if frame.opcode is Opcode.CLOSE:
            self._closed_by_client(payload)
        elif frame.opcode is Opcode.PONG and self._is_awaited(payload):
            return  # we asked for it: however often we do, that is no flood
        elif self._is_control_flood():
            self._fail(RATE_LIMITED, "too many control frames")
        elif frame.opcode is Opcode.PING:
            self._answer_ping(payload)

    def _is_awaited(self, payload: bytes) -> bool:
        """True for a pong that answers a ping of ours, or was seen to do so while it had to wait."""
        if self._pong_received(payload):
            return True
        seen = self._pongs_seen > 0
        self._pongs_seen -= seen
        return seen

    def _expect_rest(self) -> None:
        if self.options.message_timeout_seconds is not None:
            self._deadlines.message = self._loop.time() + self.options.message_timeout_seconds
            self._arm()

    def _is_turn_over(self) -> bool:
        """After every frame with more behind it, for handling one may take milliseconds, however small it is."""
        if time.monotonic() < self._turn_ends:
            return False
        self._give_turn()
        return True

    # Backpressure

    def _keep(self, data: bytes) -> None:
        """Bytes that cannot be parsed now."""
        if self._blocked & CLOSED:
            self._throw_away(data)
            return
        self._backlog += data
        if self._deadlines.pong != NEVER or self._probe is not None:
            self._look_for_pong(data)
        else:
            self._finder = None  # it has to see every byte: the next look begins anew
        if len(self._backlog) >= self.options.backlog_bytes and not self._reading_paused and not self._eof:
            self._reading_paused = True
            self.transport.pause_reading()

    def _throw_away(self, data: bytes) -> None:
        self._thrown_away += len(data)
        if self._phase == CLOSING and self._finder is not None:
            self._look_for_close_reply(data)
        if self._thrown_away > MAX_THROWN_AWAY_BYTES:
            self.abort()

    def _look_for_pong(self, data: bytes) -> None:
        if self._finder is None:
            self._finder = ControlFinder() if self._parser is None else self._parser.finder()
            data = self._backlog
        for payload in self._finder.feed(data, Opcode.PONG):
            if self._pong_received(payload):
                self._pongs_seen += 1

    def _look_for_close_reply(self, data: bytes) -> None:
        assert self._finder is not None, "made when our close frame left"
        if self._finder.feed(data, Opcode.CLOSE):
            self._half_close()

    def _unblock(self, why: int) -> None:
        """One reason less; when it was the last, go on."""
        self._blocked &= ~why
        if self._blocked:
            return
        data, self._backlog, self._finder = self._backlog, b"", None
        if data:
            self._parse(data)
        if not self._blocked:
            self._read_on()
            if self._eof:
                self._end_of_input()

    def _read_on(self) -> None:
        if self._reading_paused and self._phase != LOST:
            self._reading_paused = False
            if not self.transport.is_closing():  # uvloop's transports raise then
                self.transport.resume_reading()

    # The end

    def _fail(self, close: Close, detail: str) -> None:
        """The client has broken a rule: say so, and read nothing more of it (RFC 6455 §7.1.7)."""
        logger.debug("connection %#x is failed: %s", id(self), detail)
        if self._phase == OPEN:
            self.finish(close, "server")
            self._write_close(close.code, close.reason)
            self._tell_disconnected(close.code, close.reason)
            self._half_close()

    def _closed_by_client(self, payload: bytes) -> None:
        code = int.from_bytes(payload[:2], "big") if payload else 1005
        reason = payload[2:].decode()
        self.finish(Close.received(code, reason), "client")
        if self._phase == OPEN:  # the answer says the same (RFC 6455 §5.5.1)
            self._write_close(code, reason)
        self._tell_disconnected(code, reason)
        self._half_close()

    def _is_behind(self) -> bool:
        return bool(self._blocked)

    def _is_within_frame(self) -> bool:
        return self._parser is not None and self._parser.within_frame

    def _start_close(self, code: int, reason: str) -> None:
        super()._start_close(code, reason)
        self._finder = ControlFinder() if self._parser is None else self._parser.finder()
        backlog = self._backlog
        self._stop_parsing()
        if backlog:
            self._look_for_close_reply(backlog)
        self._read_on()

    def _half_close(self) -> None:
        self._stop_parsing()
        self._finder = None
        self._read_on()  # what still comes is thrown away, so that the end is a FIN and not a RST
        super()._half_close()

    def abort(self) -> None:
        """Drop the socket and everything buffered, now."""
        self._stop_parsing()
        super().abort()

    def _stop_parsing(self) -> None:
        self._blocked |= CLOSED
        self._backlog, self._parser = b"", None

    def eof_received(self) -> bool:
        """The client's FIN. True: keep the socket until what waits is parsed."""
        if self._backlog and self._phase == OPEN and self.transport.can_write_eof():
            self._eof = True
            return True
        self._lost_client()
        return False

    def _end_of_input(self) -> None:
        self._lost_client()
        self.transport.close()

    def _lost_client(self) -> None:
        """No close frame came, and none will."""
        if self._phase < CLOSING:
            self.finish(ABNORMAL, "client")
        self._tell_disconnected(1006, "")
