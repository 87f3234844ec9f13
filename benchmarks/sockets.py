"""The load generator's side of a connection, and groups of them that hear the same messages.

picows parses the frames (Cython), so that a delivery costs the load generator well under a microsecond of Python.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Any

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from .drivers.base import Conversation, Driver

__all__ = ["Group", "Member", "connect"]

SLOW_RECEIVE_BYTES = 8192


class Group:
    """Connections that hear the same messages; the first one publishes, with at most ``window`` messages in flight.

    A message is out of flight when as many deliveries have come as the group has listeners; how long that took is its latency.
    """

    __slots__ = (
        "_frames",
        "_next",
        "_sent",
        "_text",
        "_window",
        "latencies",
        "listeners",
        "mark",
        "members",
        "received",
        "running",
    )

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.listeners = 0
        """Members that read."""
        self.received = self.mark = 0
        self.latencies: list[int] = []
        """Nanoseconds."""
        self.running = False
        self._frames: Sequence[bytes] = ()
        self._next = self._window = 0
        self._text = WSMsgType.TEXT
        self._sent: deque[int] = deque()

    def start(self, text: bool, frames: Sequence[bytes], *, window: int) -> None:
        """Begin to publish ``frames``, over and over."""
        self._frames, self._window, self._next = frames, window, 0
        self._text = WSMsgType.TEXT if text else WSMsgType.BINARY
        self._sent.clear()
        self.latencies = []
        self.running = True
        self.mark = self.received + self.listeners
        for _ in range(window):
            self._publish()

    def _publish(self) -> None:
        frame = self._frames[self._next % len(self._frames)]
        self._next += 1
        self._sent.append(perf_counter_ns())
        transport = self.members[0].transport
        assert transport is not None, "it publishes once it is connected"
        transport.send(self._text, frame)

    def advance(self) -> None:
        """Called when ``mark`` is reached: the oldest message has arrived everywhere."""
        while self.received >= self.mark and self._sent:
            self.latencies.append(perf_counter_ns() - self._sent.popleft())
            self.mark += self.listeners
            if self.running:
                self._publish()

    @property
    def idle(self) -> bool:
        """Nothing is in flight."""
        return not self._sent


class Member(WSListener):
    """One connection: first the driver's conversation, then deliveries are counted."""

    def __init__(self, driver: Driver, conversation: Conversation, group: Group) -> None:
        super().__init__()
        self._driver = driver
        self.transport: WSTransport | None = None
        self.joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost = False
        self.bytes_received = 0
        self._conversation: Conversation | None = conversation
        self._deliveries = driver.deliveries
        self._group = group

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        self._converse(None)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if self._conversation is not None:
            self._converse(frame.get_payload_as_bytes())
            return
        group = self._group
        self.bytes_received += frame.payload_size
        if self._deliveries is None:
            group.received += 1
        else:
            group.received += self._count(frame.get_payload_as_bytes(), self._deliveries)
        if group.received >= group.mark:
            group.advance()

    def _count(self, payload: bytes, deliveries: Callable[[bytes], int]) -> int:
        answer = self._driver.answer(payload)
        if answer is not None and self.transport is not None:
            self.transport.send(WSMsgType.TEXT, answer)
        return deliveries(payload)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.lost = True
        if not self.joined.done():
            self.joined.set_exception(ConnectionError("the server closed the connection"))

    def _converse(self, received: bytes | None) -> None:
        assert self._conversation is not None, "there is something to talk about"
        assert self.transport is not None, "connected"
        try:
            for message in self._conversation.send(received):  # type: ignore[arg-type]  # the first is None
                self.transport.send(WSMsgType.TEXT, message)
        except StopIteration:
            self._conversation = None
            if not self.joined.done():
                self.joined.set_result(None)
        except Exception as error:
            if not self.joined.done():
                self.joined.set_exception(error)


async def connect(
    driver: Driver, port: int, room: str, group: Group, *,
    echo: bool = False, slow: bool = False, compressed: str = "", member: type[Member] | None = None,
) -> Member:  # fmt: skip
    """Open a connection, put it into ``room`` and ``group``. Raises ``OSError`` or picows' ``WSError`` when it is refused."""

    def listener() -> Member:
        return kind(driver, driver.join(room, echo=echo), group)

    kind = member or Member
    options: dict[str, Any] = {"socket_factory": _slow_socket} if slow else {}
    _, made = await ws_connect(
        listener,
        driver.url(port, room, echo=echo),
        extra_headers=driver.headers(compressed),
        websocket_handshake_timeout=30,
        max_frame_size=1 << 26,
        read_buffer_init_size=4096,
        **options,
    )
    assert isinstance(made, Member), "made just above"
    async with asyncio.timeout(30):
        await made.joined
    if slow:
        assert made.transport is not None, "connected"
        made.transport.underlying_transport.pause_reading()
    else:
        group.listeners += 1
    group.members.append(made)
    return made


def _slow_socket(_: Any) -> socket.socket:
    """A socket whose kernel buffer is small, so that it is soon full."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_RECEIVE_BYTES)
    made.setblocking(False)
    return made
