"""``WireProtocol`` on a transport that goes nowhere: order, bounds and endings, bit by bit."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from gateway.wire import WireOptions
from middleware.asgi import Disconnected
from middleware.close import AT_CAPACITY, FORBIDDEN, NORMAL, PING_TIMEOUT, PROTOCOL_ERROR, RATE_LIMITED, SLOW_CONSUMER

from .clients import BINARY, CLOSE, CONT, PING, PONG, TEXT, App, Peer, close_of, frame, turns

ALPHABET = "aé€😀"


async def opened(app: Any = None, **options: Any) -> tuple[Peer, Any]:
    app = app or App()
    peer = Peer(app, **options)
    await peer.open()
    return peer, app


def over(peer: Peer) -> None:
    """A hold's time is over now: what its timer does is done, however long it was to be."""
    hold = peer.wire._hold_timer
    if hold is not None:
        hold.cancel()
        peer.wire._hold_over()


async def silent(scope: Any, receive: Any, send: Any) -> None:
    """An app that accepts and does nothing more."""
    await receive()
    await send({"type": "websocket.accept"})
    await asyncio.sleep(3600)


# Messages


async def test_an_echo_comes_back_as_what_it_was() -> None:
    """Text stays text and bytes stay bytes, also when empty."""
    peer, app = await opened(App(echo=True))
    peer.send(frame(TEXT, "ü".encode()) + frame(BINARY, b"\x00") + frame(TEXT, b"") + frame(BINARY, b""))
    await turns(20)
    assert peer.frames() == [(0x81, "ü".encode()), (0x82, b"\x00"), (0x81, b""), (0x82, b"")]
    assert app.messages == ["ü", b"\x00", "", b""]


async def test_frames_behind_the_upgrade_are_the_first_messages() -> None:
    """A client may send before it has read the response."""
    app = App()
    peer = Peer(app)
    await peer.open(behind=frame(TEXT, b"one") + frame(TEXT, b"two")[:4])
    peer.send(frame(TEXT, b"two")[4:])
    await turns()
    assert app.messages == ["one", "two"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_how_the_bytes_are_cut_makes_no_difference(data: st.DataObject) -> None:
    """Any messages, fragmented anyhow, with control frames between, in chunks of any size: the same events."""
    messages = data.draw(st.lists(st.one_of(st.text(ALPHABET, max_size=200), st.binary(max_size=300)), max_size=6))
    stream = b""
    for message in messages:
        payload = message.encode() if isinstance(message, str) else message
        cuts = sorted(data.draw(st.lists(st.integers(0, len(payload)), max_size=3)))
        edges = [0, *cuts, len(payload)]
        for index, (start, stop) in enumerate(itertools.pairwise(edges)):
            opcode = CONT if index else (TEXT if isinstance(message, str) else BINARY)
            stream += frame(opcode, payload[start:stop], fin=index == len(edges) - 2)
            if data.draw(st.booleans()):
                stream += frame(PONG, b"unasked")
    size = data.draw(st.integers(1, max(1, len(stream))))

    async def run() -> list[str | bytes]:
        peer, app = await opened()
        for at in range(0, len(stream), size):
            peer.send(stream[at : at + size])
        await turns(len(messages) + 5)
        assert peer.wire._parser is None, "at rest a connection has no parser"
        messages_seen: list[str | bytes] = app.messages
        peer.lose()
        await turns()
        return messages_seen

    assert asyncio.run(run()) == messages


async def test_counters_count_payloads_on_the_wire() -> None:
    """Messages and bytes, in and out, text as UTF-8."""
    peer, _ = await opened(App(echo=True))
    peer.send(frame(TEXT, "€".encode()) + frame(BINARY, bytes(70_000)))
    await turns(10)
    wire = peer.wire
    assert (wire.received_messages, wire.received_bytes, wire.sent_messages, wire.sent_bytes) == (2, 70_003, 2, 70_003)


# Handing over


async def test_on_message_takes_messages_without_a_task() -> None:
    """The handler is called while the bytes are parsed; ``receive`` is left with the disconnect."""
    peer, app = await opened()
    seen: list[Any] = []
    peer.wire.on_message = seen.append
    peer.send(frame(TEXT, b"a") + frame(BINARY, b"b"))
    assert seen == [{"type": "websocket.receive", "text": "a"}, {"type": "websocket.receive", "bytes": b"b"}]
    peer.send(frame(CLOSE, b"\x03\xe8"))
    await turns()
    assert app.events == [{"type": "websocket.disconnect", "code": 1000, "reason": ""}]


async def test_a_new_handler_gets_what_waited_first() -> None:
    """Order is kept when a handler is set while messages wait for ``receive``."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        scope["extensions"]["tidegate.frames"].on_message = lambda event: seen.append(event["text"])
        assert (await receive())["type"] == "websocket.disconnect"

    peer = Peer(app)
    await peer.open(behind=frame(TEXT, b"1") + frame(TEXT, b"2"))
    peer.send(frame(TEXT, b"3"))
    await turns()
    assert seen == ["1", "2", "3"]


class Recorder:
    """Hooks that note what passes, and may drop or hold."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log
        self.drop = False

    def accepting(self, event: Any) -> Any:
        self.log.append(f"{self.name}.accepting")
        return event

    def inbound(self, event: Any) -> Any:
        self.log.append(f"{self.name}.in")
        return None if self.drop else event

    def outbound(self, event: Any) -> Any:
        self.log.append(f"{self.name}.out")
        return None if self.drop else event

    def waiting(self) -> None:
        self.log.append(f"{self.name}.waiting")


@pytest.mark.parametrize("synchronous", [False, True])
async def test_hooks_installed_later_are_further_inside(synchronous: bool) -> None:
    """In: outer, inner. Out: inner, outer. ``waiting`` once the message was handled."""
    log: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        wire = scope["extensions"]["tidegate.frames"]
        wire.install(Recorder("outer", log))
        wire.install(Recorder("inner", log))
        await receive()
        await send({"type": "websocket.accept"})
        if synchronous:
            wire.on_message = lambda event: log.append("handled")
        while (await receive())["type"] != "websocket.disconnect":
            log.append("handled")
            await send({"type": "websocket.send", "text": "x"})

    peer = Peer(app)
    await peer.open()
    peer.send(frame(TEXT, b"m"))
    await turns()
    out = [] if synchronous else ["inner.out", "outer.out"]
    assert log == [
        "inner.accepting", "outer.accepting", "outer.in", "inner.in", "handled", *out, "inner.waiting", "outer.waiting",
    ]  # fmt: skip


async def test_hold_stops_messages_that_are_already_parsed() -> None:
    """What waits in the inbox waits on; what is in the same read is not even parsed; then all come in order."""
    peer, app = await opened()
    peer.send(frame(TEXT, b"1") + frame(TEXT, b"2"))
    peer.wire.hold(3600)
    peer.send(frame(TEXT, b"3"))
    await turns()
    assert app.messages == []
    over(peer)
    await turns()
    assert app.messages == ["1", "2", "3"]


async def test_hold_within_a_handler_stops_the_frames_of_the_same_read() -> None:
    """The synchronous path is held between two frames of one chunk of bytes."""
    peer, _ = await opened()
    seen: list[str] = []

    def handler(event: Any) -> None:
        seen.append(event["text"])
        peer.wire.hold(3600)

    peer.wire.on_message = handler
    peer.send(frame(TEXT, b"1") + frame(TEXT, b"2"))
    assert seen == ["1"]
    over(peer)
    assert seen == ["1", "2"]


async def test_a_hold_does_not_outlive_the_connection() -> None:
    """When the server ends a held connection the app is told at once."""
    peer, app = await opened()
    peer.wire.hold(60)
    peer.wire.close(FORBIDDEN)
    await turns()
    assert app.disconnect == (1008, "forbidden")


async def test_receive_tells_the_disconnect_for_ever() -> None:
    """An app that asks again after the end does not hang."""
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        told.extend([await receive(), await receive()])

    peer = Peer(app)
    await peer.open()
    peer.lose()
    await turns()
    assert told == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}] * 2


# Bounds


async def test_the_inbox_is_bounded_in_messages_and_pauses_reading() -> None:
    """An app that does not receive gets 64 messages queued; the rest stays bytes, and past 64 KiB the socket is left alone."""
    release = asyncio.Event()
    got: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await release.wait()
        while (event := await receive())["type"] == "websocket.receive":
            got.append(event["text"])

    peer = Peer(app)
    await peer.open()
    peer.send(frame(TEXT, b"x") * 43_000)
    assert len(peer.wire._inbox) == 64
    assert not peer.transport.reading
    release.set()
    while len(got) < 43_000:
        await asyncio.sleep(0)
        assert len(peer.wire._inbox) <= 64
    await turns()  # the last of them may have ended a turn of the parser
    assert peer.transport.reading


async def test_the_inbox_is_bounded_in_bytes() -> None:
    """Four messages of 300 KB do not wait behind a bound of 1 MiB."""
    peer, _ = await opened(silent)
    peer.send(frame(BINARY, bytes(300_000)) * 8)
    assert len(peer.wire._inbox) == 4


async def test_one_read_is_parsed_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """43,000 frames in one read do not keep the loop: after 10 ms others get their turn."""
    clock = iter(range(10**9))
    monkeypatch.setattr("gateway.wire.inbound.time", SimpleNamespace(monotonic=lambda: next(clock) * 0.004))
    peer, _ = await opened(turn_seconds=WireOptions().turn_seconds)
    seen: list[Any] = []
    peer.wire.on_message = seen.append
    peer.send(frame(TEXT, b"x") * 1000)
    first = len(seen)
    assert first == 3
    others = 0
    while len(seen) < 1000:
        await asyncio.sleep(0)
        others += 1
    assert others >= 1000 // 4


async def test_the_first_message_of_a_read_may_use_up_the_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few bytes can be much work: the clock is looked at behind each message, also behind those that a new handler finds."""
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("gateway.wire.inbound.time", clock)
    monkeypatch.setattr("gateway.wire.delivery.time", clock)
    peer, _ = await opened(silent, turn_seconds=WireOptions().turn_seconds)
    seen: list[int] = []

    def slow(event: Any) -> None:
        seen.append(0)
        now[0] += 0.02

    peer.send(frame(TEXT, b"x") * 3)
    peer.wire.on_message = slow
    peer.send(frame(TEXT, b"x") * 3 + frame(TEXT, b"x", fin=False) + frame(CONT, b"y") + frame(TEXT, b"z"))
    for count in range(1, 9):
        await asyncio.sleep(0)
        assert len(seen) == count


async def test_a_pause_stops_messages_until_it_is_lifted() -> None:
    """Whatever else holds them back meanwhile; those that a new handler has to catch up with wait, too."""
    peer, _ = await opened(silent)
    seen: list[Any] = []

    def pausing(event: Any) -> None:
        seen.append(event["text"])
        peer.wire.pause()

    peer.send(frame(TEXT, b"1") + frame(TEXT, b"2"))
    peer.wire.on_message = pausing
    peer.send(frame(TEXT, b"3") + frame(TEXT, b"4") + frame(CLOSE, b"\x03\xe8"))
    for count in range(1, 5):
        await turns()
        assert seen == list("1234")[:count]
        assert peer.wire.ending is None
        peer.wire.hold(60)
        peer.wire.resume()
        await turns()
        assert len(seen) == count
        over(peer)
    await turns()
    assert peer.ended == [(NORMAL, "client")]


async def test_control_frames_are_turn_by_turn_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The careful path has the same budget."""
    clock = iter(range(10**9))
    monkeypatch.setattr("gateway.wire.inbound.time", SimpleNamespace(monotonic=lambda: next(clock) * 0.004))
    peer, _ = await opened(control_frames_burst=10_000, max_message_bytes=10**9, turn_seconds=WireOptions().turn_seconds)
    peer.send(frame(BINARY, b"", fin=False) + frame(CONT, b"", fin=False) * 1000)
    assert peer.wire._backlog
    while peer.wire._backlog:
        await asyncio.sleep(0)
    assert peer.wire.ending is None


async def test_a_ping_flood_ends_with_1008() -> None:
    """A hundred at once and ten a second are answered; then it is a flood."""
    peer, app = await opened()
    peer.send(frame(PING, b"p") * 5000)
    while not peer.ended:
        await asyncio.sleep(0)
    frames = peer.frames()
    assert 100 <= len(frames[:-1]) < 200
    assert set(frames[:-1]) == {(0x8A, b"p")}
    assert close_of(frames[-1][1]) == (1008, "rate-limited")
    await turns()
    assert peer.ended == [(RATE_LIMITED, "server")]
    assert app.disconnect == (1008, "rate-limited")


async def test_above_the_high_water_mark_only_the_newest_ping_is_answered_later() -> None:
    """No pong queues up for a client that does not read (RFC 6455 §5.5.3)."""
    peer, _ = await opened()
    peer.wire.pause_writing()
    for number in range(50):
        peer.send(frame(PING, b"%d" % number))
    assert peer.frames() == []
    peer.wire.resume_writing()
    assert peer.frames() == [(0x8A, b"49")]


async def test_a_pong_is_noticed_while_messages_are_held_back() -> None:
    """The round trip is measured although what the client sent before the pong is not parsed."""
    rtts: list[float] = []
    peer, _ = await opened(ping_interval_seconds=20.0, on_rtt=rtts.append)
    peer.wire.hold(60)
    peer.wire._send_ping(asyncio.get_running_loop().time())
    ((first, payload),) = peer.frames()
    assert first == 0x89
    peer.send(frame(TEXT, b"x" * 300) * 20 + frame(PONG, payload)[:5])
    peer.send(frame(PONG, payload)[5:])
    assert len(rtts) == 1
    assert peer.wire.last_rtt_seconds == rtts[0]


async def test_an_unread_socket_is_not_blamed_on_the_client() -> None:
    """While we do not read, a missing pong ends nothing; afterwards it does."""
    peer, _ = await opened(ping_interval_seconds=20.0)
    now = asyncio.get_running_loop().time()
    peer.wire.hold(60)
    peer.wire._send_ping(now)
    peer.send(frame(TEXT, bytes(40_000)) * 2)
    assert not peer.transport.reading
    peer.wire.on_timer(now + 21)
    assert peer.wire.ending is None
    peer.wire._hold_over()
    await turns()
    peer.wire.on_timer(now + 42)
    assert peer.wire.ending is not None
    assert peer.wire.ending.reason == "ping-timeout"


async def test_who_is_sending_a_frame_cannot_send_a_pong() -> None:
    """A slow upload is bounded by the message's deadline, not by the ping's; between two fragments a pong can be sent."""
    peer, _ = await opened(ping_interval_seconds=20.0)
    now = asyncio.get_running_loop().time()
    data = frame(BINARY, bytes(1000))
    peer.wire._send_ping(now)
    peer.send(data[:500])
    peer.wire.on_timer(now + 21)
    assert peer.wire.ending is None
    peer.send(data[500:])
    peer.wire.on_timer(now + 42)
    assert peer.wire.ending is PING_TIMEOUT

    peer, _ = await opened(ping_interval_seconds=20.0)
    peer.wire._send_ping(now)
    peer.send(frame(BINARY, bytes(1000), fin=False))
    peer.wire.on_timer(now + 21)
    assert peer.wire.ending is PING_TIMEOUT


async def test_fragments_are_charged() -> None:
    """A message of one-byte fragments is too big long before its bytes are (1009)."""
    peer, _ = await opened(max_message_bytes=4096)
    peer.send(frame(TEXT, b"x", fin=False) + frame(CONT, b"x", fin=False) * 40)
    assert [close_of(payload)[0] for _, payload in peer.frames()] == [1009]


async def test_empty_fragments_are_charged() -> None:
    """Empty fragments are not free either."""
    peer, _ = await opened(max_message_bytes=4096)
    peer.send(frame(BINARY, b"", fin=False) + frame(CONT, b"", fin=False) * 40)
    assert [close_of(payload)[0] for _, payload in peer.frames()] == [1009]


async def test_large_fragments_are_not_charged_extra() -> None:
    """A message as large as the limit may come in fragments."""
    peer, app = await opened(max_message_bytes=4096)
    peer.send(frame(BINARY, bytes(2048), fin=False) + frame(CONT, bytes(2048)))
    await turns()
    assert app.messages == [bytes(4096)]


@pytest.mark.parametrize(
    ("declared", "code"), [(1025, 1009), (17 * 2**20, 1009), (2**62, 1009), (2**63, 1002), (2**64 - 1, 1002)]
)  # fmt: skip
async def test_a_declared_length_is_judged_before_the_payload(declared: int, code: int) -> None:
    """Only the header was sent."""
    peer, _ = await opened(max_message_bytes=1024)
    size = bytes([0xFE]) + declared.to_bytes(2, "big") if declared < 65536 else bytes([0xFF]) + declared.to_bytes(8, "big")
    peer.send(b"\x82" + size + b"mask")
    assert [close_of(payload)[0] for _, payload in peer.frames()] == [code]


async def test_an_unfinished_message_has_a_deadline() -> None:
    """Bytes that drip do not extend it (1008)."""
    peer, app = await opened(message_timeout_seconds=10.0)
    now = asyncio.get_running_loop().time()
    peer.send(frame(TEXT, b"abc")[:7])
    peer.send(frame(TEXT, b"abc")[7:8])
    peer.wire.on_timer(now + 9)
    assert peer.wire.ending is None
    peer.wire.on_timer(now + 11)
    await turns()
    assert app.disconnect == (1008, "forbidden")


async def test_the_next_message_has_a_deadline_of_its_own() -> None:
    """A finished message leaves no deadline behind."""
    peer, _ = await opened(message_timeout_seconds=10.0)
    now = asyncio.get_running_loop().time()
    peer.send(frame(TEXT, b"abc")[:7])
    peer.send(frame(TEXT, b"abc")[7:])
    peer.wire.on_timer(now + 11)
    assert peer.wire.ending is None


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 9])
async def test_impossible_utf8_ends_at_once(cut: int) -> None:
    """1007 within an unfinished frame, without waiting for FIN or the rest of the frame."""
    peer, _ = await opened()
    data = frame(TEXT, b"ab\xf8" + bytes(50))
    for at in range(0, 9, cut):
        peer.send(data[at : min(at + cut, 9)])
    assert [close_of(payload)[0] for _, payload in peer.frames()] == [1007]


async def test_a_character_may_be_split_between_fragments() -> None:
    """Only impossible bytes are an error, not unfinished ones; an unfinished one at the end is."""
    peer, app = await opened()
    euro = "€".encode()
    peer.send(frame(TEXT, euro[:1], fin=False) + frame(CONT, euro[1:]))
    await turns()
    assert app.messages == ["€"]
    peer.send(frame(TEXT, euro[:1], fin=False) + frame(CONT, euro[1:2]))
    await turns()
    assert [close_of(payload)[0] for _, payload in peer.frames()] == [1007]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"x", mask=None), 1002),
        (frame(TEXT, b"x", rsv=0x40), 1002),
        (frame(TEXT, b"x", rsv=0x10), 1002),
        (frame(3, b"x"), 1002),
        (frame(11, b"x"), 1002),
        (frame(CONT, b"x"), 1002),
        (frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002),
        (frame(PING, bytes(126)), 1002),
        (frame(PING, b"", fin=False), 1002),
        (frame(CLOSE, b"\x03"), 1002),
        (frame(CLOSE, b"\x03\xed"), 1002),
        (frame(CLOSE, b"\x03\xe8\xff"), 1007),
        (frame(TEXT, b"\xff"), 1007),
    ],
)
async def test_what_breaks_the_rules_gets_the_right_code(data: bytes, code: int, caplog: pytest.LogCaptureFixture) -> None:
    """A close frame, then FIN, nothing in the log."""
    peer, app = await opened()
    peer.send(data)
    await turns()
    frames = peer.frames()
    assert [first for first, _ in frames] == [0x88]
    assert close_of(frames[0][1])[0] == code
    assert peer.transport.eof
    assert app.disconnect is not None
    assert app.disconnect[0] == code
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


async def test_what_was_right_before_the_mistake_is_answered_first() -> None:
    """Messages in front of an illegal frame reach the app, and its answers the client, before the close frame."""
    peer, _ = await opened(App(echo=True))
    peer.send(frame(TEXT, b"good") + frame(TEXT, b"bad", rsv=0x20))
    await turns(10)
    frames = peer.frames()
    assert frames[0] == (0x81, b"good")
    assert close_of(frames[1][1])[0] == 1002
    assert peer.ended == [(PROTOCOL_ERROR, "server")]


async def test_an_app_that_never_asks_again_does_not_delay_that_for_ever() -> None:
    """The close frame leaves after ``close_timeout_seconds``."""
    peer, _ = await opened(silent)
    peer.send(frame(TEXT, b"good") + frame(TEXT, b"bad", rsv=0x20))
    assert peer.frames() == []
    peer.wire.on_timer(asyncio.get_running_loop().time() + 3)
    assert [close_of(payload)[0] for _, payload in peer.frames()] == [1002]


# Writing


async def test_write_and_send_keep_their_order() -> None:
    """Ready-made frames and ASGI events leave as they were called."""
    peer, app = await opened()
    peer.wire.write(b"\x81\x011", 1, 1)
    await app.send({"type": "websocket.send", "text": "2"})
    peer.wire.write(b"\x81\x013\x81\x014", 2, 2)
    assert [payload for _, payload in peer.frames()] == [b"1", b"2", b"3", b"4"]
    assert (peer.wire.sent_messages, peer.wire.sent_bytes) == (4, 4)


async def test_too_much_unsent_ends_the_connection() -> None:
    """Past ``outbound_bytes`` a further write drops a client that does not read: aborted, counted as slow-consumer."""
    peer, app = await opened(outbound_bytes=1000)
    peer.wire.pause_writing()
    peer.transport.stuck = 1001
    peer.wire.write(b"\x81\x01x")
    await turns()
    assert peer.transport.aborted
    assert peer.ended == [(SLOW_CONSUMER, "server")]
    assert app.disconnect == (1013, "slow-consumer")


async def test_a_full_buffer_has_a_deadline() -> None:
    """Above the high-water mark for ``write_timeout_seconds``: aborted."""
    peer, _ = await opened(write_timeout_seconds=20.0)
    now = asyncio.get_running_loop().time()
    peer.wire.pause_writing()
    peer.wire.on_timer(now + 19)
    assert not peer.transport.aborted
    peer.wire.on_timer(now + 21)
    assert peer.transport.aborted
    assert peer.ended == [(SLOW_CONSUMER, "server")]


async def test_who_reads_slowly_is_not_who_does_not_read() -> None:
    """A buffer that stays full is no end as long as enough of it is read in time; the outbox's policy is for the rest."""
    peer, _ = await opened(write_timeout_seconds=20.0)
    now = asyncio.get_running_loop().time()
    peer.transport.stuck = 100_000
    peer.wire.pause_writing()
    peer.wire.write(b"x" * 20_002, 1, 20_000)  # as much as was read meanwhile: the buffer is as full as before
    peer.wire.on_timer(now + 21)
    assert not peer.transport.aborted
    peer.wire.write(b"x" * 102, 1, 100)
    peer.wire.on_timer(now + 60)
    assert peer.transport.aborted
    assert peer.ended == [(SLOW_CONSUMER, "server")]


async def test_who_reads_tiny_messages_slowly_reads_too() -> None:
    """Most of such a message is its frame's header, which has to be read as well."""
    peer, _ = await opened(write_timeout_seconds=20.0)
    now = asyncio.get_running_loop().time()
    peer.transport.stuck = 100_000
    peer.wire.pause_writing()
    peer.wire.write(b"\x82\x00" * 10_000, 10_000, 0)  # as many as were read meanwhile: the buffer is as full as before
    peer.wire.on_timer(now + 21)
    assert not peer.transport.aborted
    peer.wire.on_timer(now + 60)
    assert peer.transport.aborted


async def test_a_drained_buffer_has_no_deadline_left() -> None:
    """Who reads again is forgiven, and ``on_drained`` is called."""
    peer, _ = await opened(write_timeout_seconds=20.0)
    drained: list[bool] = []
    peer.wire.on_drained = lambda: drained.append(True)
    now = asyncio.get_running_loop().time()
    peer.wire.pause_writing()
    peer.wire.resume_writing()
    peer.wire.on_timer(now + 60)
    assert not peer.transport.aborted
    assert drained == [True]


async def test_send_waits_while_the_client_does_not_read_and_fails_when_it_has_gone() -> None:
    """``send`` is where an app feels a slow client; nobody waits for a lost one."""
    peer, app = await opened()
    peer.wire.pause_writing()
    sending = asyncio.ensure_future(app.send({"type": "websocket.send", "text": "x"}))
    await turns()
    assert not sending.done()
    peer.lose()
    with pytest.raises(Disconnected):
        await sending


async def test_nothing_is_written_once_the_end_is_decided() -> None:
    """``write`` drops, ``send`` raises an ``OSError``."""
    peer, app = await opened()
    peer.wire.finish(NORMAL, "server")
    peer.wire.write(b"\x81\x01x")
    assert peer.frames() == []
    with pytest.raises(OSError, match="has ended"):
        await app.send({"type": "websocket.send", "text": "x"})


# The end


async def test_the_client_closes() -> None:
    """Its close frame is answered with the same, then FIN; the app hears code and reason."""
    peer, app = await opened()
    peer.send(frame(CLOSE, b"\x0f\xa1bye"))
    await turns()
    assert peer.frames() == [(0x88, b"\x0f\xa1bye")]
    assert peer.transport.eof
    assert app.disconnect == (4001, "bye")
    assert [(close.code, by) for close, by in peer.ended] == [(4001, "client")] or peer.ended[0][1] == "client"


async def test_messages_before_the_clients_close_are_still_delivered() -> None:
    """They arrived while the connection was open."""
    peer, app = await opened()
    peer.send(frame(TEXT, b"last words") + frame(CLOSE, b""))
    await turns()
    assert app.messages == ["last words"]
    assert app.disconnect == (1005, "")


async def test_the_app_closes() -> None:
    """Close frame, then the client's, then FIN; data in between is thrown away."""
    peer, app = await opened()
    await app.send({"type": "websocket.close", "code": 4400, "reason": "enough"})
    assert peer.frames() == [(0x88, b"\x11\x30enough")]
    assert not peer.transport.eof
    peer.send(frame(TEXT, b"late") + frame(CLOSE, b"\x11\x30")[:3])
    assert not peer.transport.eof
    peer.send(frame(CLOSE, b"\x11\x30")[3:])
    assert peer.transport.eof
    await turns()
    assert app.messages == []
    assert app.disconnect == (4400, "enough")


async def test_a_close_in_the_middle_of_a_frame_is_found_behind_it() -> None:
    """The close reply is found behind the rest of what was being sent."""
    peer, app = await opened()
    data = frame(TEXT, b"0123456789" * 3)
    peer.send(data[:12])
    await app.send({"type": "websocket.close"})
    peer.send(data[12:] + frame(CLOSE, b"\x03\xe8"))
    assert peer.transport.eof


async def test_a_client_that_does_not_answer_the_close_gets_fin_then_abort() -> None:
    """``close_timeout_seconds``, then ``abort_after_seconds``, both from the close frame."""
    peer, app = await opened()
    now = asyncio.get_running_loop().time()
    await app.send({"type": "websocket.close"})
    peer.wire.on_timer(now + 1.9)
    assert not peer.transport.eof
    peer.wire.on_timer(now + 2.1)
    assert peer.transport.eof
    assert not peer.transport.aborted
    peer.wire.on_timer(now + 5.1)
    assert peer.transport.aborted


async def test_a_client_that_is_not_through_with_what_came_before_the_close_gets_its_time() -> None:
    """The FIN goes behind what is unsent: a full buffer of the kernel does not tell who reads slowly from who does not read."""
    peer, app = await opened()
    now = asyncio.get_running_loop().time()
    peer.transport.stuck = 500_000
    await app.send({"type": "websocket.close"})
    peer.wire.on_timer(now + 2.1)
    assert peer.transport.eof
    assert not peer.transport.aborted
    peer.wire.on_timer(now + 5.1)
    assert peer.transport.aborted


async def test_a_flood_behind_our_close_is_not_searched_for_an_answer() -> None:
    """It is thrown away; the end is the one of a client that does not answer."""
    peer, app = await opened()
    await app.send({"type": "websocket.close"})
    peer.send(frame(PONG) * 100_000 + frame(CLOSE, b"\x03\xe8"))
    assert not peer.transport.eof
    peer.wire.on_timer(peer.wire._deadlines.close)
    assert peer.transport.eof
    assert not peer.transport.aborted


async def test_an_end_without_close_frame_is_1006() -> None:
    """EOF and a lost socket alike."""
    peer, app = await opened()
    assert not peer.wire.eof_received()
    peer.lose()
    await turns()
    assert app.disconnect == (1006, "")
    assert [(close.reason, by) for close, by in peer.ended] == [("abnormal", "client")]


async def test_eof_behind_messages_that_wait_loses_none() -> None:
    """A client may send and hang up while its messages are held back."""
    peer, app = await opened()
    peer.wire.hold(3600)
    peer.send(frame(TEXT, b"1") + frame(TEXT, b"2"))
    assert peer.wire.eof_received(), "the socket stays until they are parsed"
    over(peer)
    await turns()
    assert app.messages == ["1", "2"]
    assert app.disconnect == (1006, "")
    assert peer.transport.closed


async def test_shutdown_says_1012() -> None:
    """uvicorn's shutdown: a close frame, not just a cut."""
    peer, app = await opened()
    peer.wire.shutdown()
    await turns()
    assert close_of(peer.frames()[0][1]) == (1012, "restarting")
    assert app.disconnect == (1012, "restarting")


@pytest.mark.parametrize(
    ("error", "code", "logged"),
    [(None, 1000, False), (Disconnected("gone"), 1000, False), (RuntimeError("oops"), 1011, True)],
)
async def test_how_the_app_ends_is_how_the_connection_ends(
    error: Exception | None, code: int, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Returning is 1000, failing 1011 and one traceback; a send that came too late is nobody's failure."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        if error is not None:
            raise error

    peer = Peer(app)
    await peer.open()
    assert close_of(peer.frames()[0][1])[0] == code
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == logged


async def test_an_error_that_carries_its_close_ends_quietly(caplog: pytest.LogCaptureFixture) -> None:
    """Code and reason are the error's own."""

    class Closed(Exception):
        close = RATE_LIMITED

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        raise Closed

    peer = Peer(app)
    await peer.open()
    assert close_of(peer.frames()[0][1]) == (1008, "rate-limited")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_failing_handler_ends_its_own_connection(caplog: pytest.LogCaptureFixture) -> None:
    """1011 and one traceback; nothing escapes into the event loop."""
    peer, app = await opened()

    def handler(event: Any) -> None:
        raise ZeroDivisionError

    peer.wire.on_message = handler
    peer.send(frame(TEXT, b"1") + frame(TEXT, b"2"))
    await turns()
    assert close_of(peer.frames()[0][1])[0] == 1011
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
    assert app.disconnect == (1011, "internal-error")


@pytest.mark.parametrize("way", ["client", "app", "outlet", "lost", "fail", "abort", "slow", "shutdown"])
async def test_every_end_is_counted_once(way: str) -> None:
    """Whatever comes afterwards: one ``on_ended``, one ``on_finished``, and nothing is left behind."""
    peer, app = await opened()
    finished: list[Any] = []
    peer.wire.on_finished = lambda close, by: finished.append((close, by))
    match way:
        case "client":
            peer.send(frame(CLOSE, b"\x03\xe8"))
        case "app":
            await app.send({"type": "websocket.close"})
        case "outlet":
            peer.wire.close(FORBIDDEN)
        case "fail":
            peer.send(b"\xff\xff")
        case "abort":
            peer.wire.abort()
        case "slow":
            peer.wire._drop_slow_consumer()
        case "shutdown":
            peer.wire.shutdown()
    peer.wire.close(NORMAL)
    peer.wire.eof_received()
    peer.lose()
    await turns()
    assert len(peer.ended) == 1
    assert finished == peer.ended
    assert not peer.state.connections
    assert not peer.state.tasks
    assert peer.wire.wheel_tick is None
    assert len(peer.wire.admission) == 0


async def test_what_a_hook_closes_on_is_not_handed_over() -> None:
    """A guard that ends the connection over a message keeps it from the app."""
    peer, app = await opened()

    class Closing(Recorder):
        def inbound(self, event: Any) -> Any:
            peer.wire.close(FORBIDDEN)
            return event

    peer.wire.install(Closing("closing", []))
    peer.send(frame(TEXT, b"bad word"))
    await turns()
    assert app.messages == []
    assert app.disconnect == (1008, "forbidden")


async def test_starlettes_disconnect_may_escape_from_a_route(caplog: pytest.LogCaptureFixture) -> None:
    """No traceback for an app that lets ``WebSocketDisconnect`` through."""

    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_text()

    peer = Peer(Starlette(routes=[WebSocketRoute("/ws/room", endpoint)]))
    await peer.open()
    peer.send(frame(CLOSE, b"\x03\xe9"))
    await turns()
    assert peer.transport.eof
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_cancelling_the_app_closes_with_1001(caplog: pytest.LogCaptureFixture) -> None:
    """uvicorn cancels what is late at shutdown; the cancellation goes through."""
    peer, _ = await opened()
    (task,) = peer.state.tasks
    task.cancel()
    await turns()
    assert task.cancelled()
    assert close_of(peer.frames()[0][1]) == (1001, "going-away")


@pytest.mark.parametrize("first", ["app", "socket"])
async def test_nothing_waits_for_the_garbage_collector(first: str) -> None:
    """When socket and app are through, the connection is freed by its last reference."""
    app = App()
    peer = Peer(app)
    await peer.open()
    peer.wire.install(_hooks_that_know(peer.wire))
    peer.send(frame(TEXT, b"x") + frame(BINARY, b"", fin=False) + frame(PING))
    await turns()
    if first == "app":
        await app.send({"type": "websocket.close"})
        await turns()
        peer.lose()
    else:
        peer.lose()
    await turns()
    gc.disable()
    try:
        wire = weakref.ref(peer.wire)
        app.scope = app.send = None
        del peer.wire
        assert wire() is None
    finally:
        gc.enable()


def _hooks_that_know(wire: Any) -> Any:
    """Guards hold their link, and links their channel."""
    hooks = Recorder("hooks", [])
    hooks.channel = wire  # type: ignore[attr-defined]
    return hooks


@pytest.mark.parametrize(
    ("events", "error"),
    [
        ([{"type": "websocket.send", "text": "early"}], "before"),
        ([{"type": "websocket.accept"}, {"type": "websocket.accept"}], "answered"),
        ([{"type": "websocket.accept"}, {"type": "websocket.http.response.start", "status": 400}], "answered"),
        ([{"type": "websocket.http.response.start", "status": 101}], "status"),
        ([{"type": "websocket.http.response.body", "body": b""}], "before"),
        ([{"type": "websocket.http.response.start", "status": 400}, {"type": "websocket.close"}], "within"),
        ([{"type": "http.response.start"}], "not an event"),
    ],
)
async def test_an_app_that_breaks_the_order_is_told(events: list[Any], error: str) -> None:
    """``RuntimeError`` with a sentence, raised from ``send``."""
    raised: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for event in events[:-1]:
            await send(event)
        try:
            await send(events[-1])
        except RuntimeError as failure:
            raised.append(str(failure))

    await Peer(app).open()
    assert len(raised) == 1
    assert error in raised[0]


async def test_carries_only_its_own_channel() -> None:
    """A wrapper around ``receive`` or ``send`` takes the fused way away."""
    peer, _ = await opened()
    wire = peer.wire

    async def receive() -> Any: ...

    assert wire.carries(wire.receive, wire.send)
    assert not wire.carries(receive, wire.send)


async def test_a_close_before_accept_refuses_with_its_status() -> None:
    """``Channel.close`` while the app makes up its mind: at-capacity is 503, and the app cannot accept any more."""
    failed: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        scope["extensions"]["tidegate.frames"].close(AT_CAPACITY)
        try:
            await send({"type": "websocket.accept"})
        except OSError as error:
            failed.append(error)

    peer = Peer(app)
    head = await peer.open()
    assert head.startswith(b"HTTP/1.1 503 ")
    assert len(failed) == 1
    assert peer.ended == []


async def test_an_aborted_connection_is_left_alone() -> None:
    """Neither a hold that runs out nor an app that receives touches its socket again."""
    peer, _ = await opened()
    peer.send(frame(TEXT, b"1"))
    peer.wire.hold(3600)
    peer.send(frame(TEXT, bytes(70_000)))
    assert not peer.transport.reading
    peer.wire.abort()
    over(peer)
    await turns()
    assert not peer.transport.reading
    assert peer.frames() == []


ANYTHING = st.one_of(
    st.binary(max_size=40),
    st.builds(
        frame,
        st.sampled_from([CONT, TEXT, BINARY, CLOSE, PING, PONG, 3, 11]),
        st.binary(max_size=130),
        fin=st.booleans(),
        rsv=st.sampled_from([0, 0, 0, 0x40, 0x20]),
    ),
)
DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"


@settings(max_examples=150, deadline=None)
@given(st.lists(ANYTHING, max_size=12), st.integers(1, 200), st.booleans(), st.booleans())
def test_whatever_a_client_sends_ends_in_order(pieces: list[bytes], size: int, deflate: bool, synchronous: bool) -> None:
    """Any bytes, cut anywhere: no error is logged, whole frames come back, the app is told one end, and it is counted once."""
    stream = b"".join(pieces)

    async def run() -> None:
        peer = Peer(App(echo=True), deflate=deflate, max_message_bytes=200)
        await peer.open(DEFLATE)
        app = peer.app
        if synchronous:
            peer.wire.on_message = lambda event: peer.wire.write(b"\x82\x00", 1, 0)
        for at in range(0, len(stream), size):
            peer.send(stream[at : at + size])
            await turns(1)
        await turns(20)
        frames = peer.frames()
        closes = [first for first, _ in frames if first == 0x88]
        assert len(closes) <= 1
        assert not closes or frames[-1][0] == 0x88, "nothing follows a close frame"
        assert bool(closes) == peer.transport.eof
        peer.lose()
        await turns()
        assert app.disconnect is not None
        assert len(peer.ended) == 1
        assert not peer.state.tasks

    with _no_errors():
        asyncio.run(run())


@contextmanager
def _no_errors() -> Iterator[None]:
    """Fail when anything is logged at ERROR within."""
    records: list[logging.LogRecord] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler = Handler(logging.ERROR)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
    assert records == []
