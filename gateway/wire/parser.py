"""Frames that the fast path does not take: cut out of the stream one by one and judged by ``websockets``.

``FrameParser`` finds where a frame ends and feeds ``websockets.server.ServerProtocol`` no further than that, so that its
owner can stop between any two frames. All rules of RFC 6455 on what a frame may look like are that library's. Added
here: UTF-8 is checked as the bytes come (§8.1), fragments are charged and joined as they come, and a length with its most
significant bit set is an error (§5.2). No I/O and no clock.

A parser that is ``idle`` holds no state of its connection; ``ParserPool`` hands such parsers round, so that a connection
pays for one only while a frame or message is unfinished.
"""

from __future__ import annotations

import codecs
import io
import logging

from websockets.exceptions import PayloadTooBig
from websockets.extensions import Extension
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.speedups import apply_mask

from middleware.close import BAD_PAYLOAD, INTERNAL_ERROR, MESSAGE_TOO_BIG, PROTOCOL_ERROR, Close

from .control import ControlFinder

__all__ = ["FrameParser", "ParserPool"]

_LOGGER = logging.getLogger("tidegate.wire.frames")
_LOGGER.setLevel(logging.ERROR)  # the library notes every connection at INFO and every frame at DEBUG
_UTF8 = codecs.getincrementaldecoder("utf-8")
_ENDINGS = {1002: PROTOCOL_ERROR, 1007: BAD_PAYLOAD, 1009: MESSAGE_TOO_BIG}


class FrameParser:
    """Parses one frame after the other; after each ``feed`` look at ``failure``, ``control`` and ``message``."""

    __slots__ = (
        "_binary", "_charge", "_closed", "_connection", "_decoder", "_head", "_left", "_mask", "_plain_text", "_seen",
        "_size", "_text", "control", "failure", "message", "message_bytes",
    )  # fmt: skip

    def __init__(self, *, max_message_bytes: int | None, fragment_charge_bytes: int) -> None:
        self._connection = ServerProtocol(state=OPEN, max_size=max_message_bytes, logger=_LOGGER)
        self._charge = fragment_charge_bytes
        self._closed = False
        self._head = b""
        self._left = 0
        self._mask = b""
        self._seen = self._size = 0
        self._plain_text = False
        self._decoder: codecs.IncrementalDecoder | None = None
        self._text: io.StringIO | None = None
        self._binary: bytearray | None = None
        self.failure: tuple[Close, str] | None = None
        """Why the connection must end, and the detail for a log."""
        self.control: Frame | None = None
        self.message: str | bytes | None = None
        self.message_bytes = 0

    @property
    def idle(self) -> bool:
        """At a frame boundary, outside of any message, and without complaint."""
        return not self.within_frame and not self.in_message and self.failure is None and not self._closed

    @property
    def within_frame(self) -> bool:
        """Between a frame's first byte and its last."""
        return bool(self._head or self._left)

    @property
    def in_message(self) -> bool:
        """Inside a fragmented message."""
        return self._connection.current_size is not None

    def finder(self) -> ControlFinder:
        """What finds the control frames behind the frame that this parser is in."""
        return ControlFinder(self._left, self._head)

    def use(self, extensions: list[Extension]) -> None:
        """Decode with these extensions from now on; only while idle."""
        self._connection.extensions = extensions

    def feed(self, data: bytes, at: int) -> int:
        """Take the bytes from ``at`` on, to the end of at most one frame; return where it stopped."""
        self.control = self.message = None
        return self._feed_payload(data, at) if self._left else self._feed_head(data, at)

    def _feed_head(self, data: bytes, at: int) -> int:
        while self.failure is None:
            wanted = _head_size(self._head) - len(self._head)
            if wanted == 0:
                break
            chunk = data[at : at + wanted]
            if not chunk:
                return at
            at += len(chunk)
            self._head += chunk
            if self._head[1:2] in (b"\x7f", b"\xff") and self._head[2:3] >= b"\x80":
                self._fail(PROTOCOL_ERROR, "the length has its most significant bit set")
            else:
                self._step(chunk)
        else:
            return at
        head = self._head
        self._head = b""
        self._left = _payload_size(head)
        self._mask = head[-4:]
        self._seen = 0
        if self._left:
            opcode, compressed = head[0] & 0x0F, head[0] & 0x40
            self._plain_text = not compressed and (opcode == 1 or (opcode == 0 and self._text is not None and not self._inflating))
            return self._feed_payload(data, at)
        return at

    @property
    def _inflating(self) -> bool:
        extensions = self._connection.extensions
        return bool(extensions) and bool(getattr(extensions[0], "decode_cont_data", False))

    def _feed_payload(self, data: bytes, at: int) -> int:
        chunk = data[at : at + self._left]
        if not chunk:
            return at
        self._left -= len(chunk)
        if self._left and self._plain_text:
            # Not the whole frame yet: judge what is there, so that impossible bytes end it now (RFC 6455 §8.1).
            turn = self._seen & 3
            self._decode(apply_mask(chunk, self._mask[turn:] + self._mask[:turn]), final=False)
            self._seen += len(chunk)
        if self.failure is None:
            self._step(chunk)
        return at + len(chunk)

    def _step(self, chunk: bytes) -> None:
        connection = self._connection
        connection.receive_data(chunk)
        connection.writes.clear()  # its owner answers
        if connection.parser_exc is not None:
            self._fail_as_judged(connection.parser_exc)
            return
        for event in connection.events_received():
            assert isinstance(event, Frame), "an open connection receives frames"
            self._take(event)

    def _fail_as_judged(self, error: Exception) -> None:
        sent, received = self._connection.close_sent, self._connection.close_rcvd
        if received is not None and self.in_message:  # giving up a message by closing is no error
            payload = b"" if received.code == 1005 else received.serialize()
            self._take(Frame(Opcode.CLOSE, payload))
            return
        code = 1009 if isinstance(error, PayloadTooBig) else int(sent.code) if sent is not None else 1011
        close = _ENDINGS.get(code, INTERNAL_ERROR)
        self._fail(close, str(error))

    def _fail(self, close: Close, detail: str) -> None:
        if self.failure is None:
            self.failure = (close, detail)

    def _take(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode >= 8:
            self.control = frame
            self._closed = opcode is Opcode.CLOSE
            return
        if opcode is Opcode.TEXT and self._text is None:
            self._decoder, self._text = _UTF8("strict"), io.StringIO()
        elif opcode is Opcode.BINARY:
            self._binary = bytearray()
        payload = bytes(frame.data)
        if self._text is not None:
            self._decode(payload[self._seen :], final=frame.fin)
        else:
            assert self._binary is not None, "the library refuses a continuation of nothing"
            self._binary += payload
        self._seen = 0
        self._size += len(payload)
        if frame.fin:
            self._finish_message()
        elif self._connection.current_size is not None:
            self._connection.current_size += max(0, self._charge - len(payload))

    def _decode(self, payload: bytes, *, final: bool) -> None:
        if self._decoder is None:  # the first bytes of a text message whose first frame is not complete
            self._decoder, self._text = _UTF8("strict"), io.StringIO()
        assert self._text is not None, "made together with the decoder"
        try:
            self._text.write(self._decoder.decode(payload, final))
        except UnicodeDecodeError as error:
            self._fail(BAD_PAYLOAD, f"{error.reason} at position {error.start}")

    def _finish_message(self) -> None:
        self.message_bytes, self._size = self._size, 0
        if self._text is not None:
            self.message = self._text.getvalue()
        else:
            assert self._binary is not None, "a message is text or binary"
            self.message = bytes(self._binary)
        self._decoder = self._text = self._binary = None


def _head_size(head: bytes) -> int:
    """Size of a masked frame's header as far as ``head`` tells: two bytes, the longer lengths, the mask (RFC 6455 §5.2)."""
    if len(head) < 2:
        return 2
    return {126: 8, 127: 14}.get(head[1] & 0x7F, 6)


def _payload_size(head: bytes) -> int:
    """The payload's size, from a whole header."""
    size = head[1] & 0x7F
    return size if size < 126 else int.from_bytes(head[2:-4], "big")


class ParserPool:
    """Idle parsers, at most ``spare`` of them; they are interchangeable."""

    __slots__ = ("_charge", "_max_bytes", "_spare", "_spares")

    def __init__(self, *, max_message_bytes: int | None, fragment_charge_bytes: int, spare: int = 64) -> None:
        self._max_bytes = max_message_bytes
        self._charge = fragment_charge_bytes
        self._spare = spare
        self._spares: list[FrameParser] = []

    def take(self, extensions: list[Extension]) -> FrameParser:
        """A parser that decodes with ``extensions``."""
        if self._spares:
            parser = self._spares.pop()
        else:
            parser = FrameParser(max_message_bytes=self._max_bytes, fragment_charge_bytes=self._charge)
        parser.use(extensions)
        return parser

    def give_back(self, parser: FrameParser) -> None:
        """Take back a parser that is idle; its owner must not use it any more."""
        assert parser.idle, "a parser in use knows things about its connection"
        if len(self._spares) < self._spare:
            parser.control = parser.message = None
            parser.use([])
            self._spares.append(parser)
