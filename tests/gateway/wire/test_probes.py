"""``Frames.ping``: a ping behind what was written, and what answers it, beside the keepalive's own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from middleware.close import NORMAL

from .clients import PING, PONG, TEXT, App, Peer, close_of, frame, turns

PROBE = b"12345678"


class Probed(Peer):
    """A connection with a keepalive and a note of answered probes; time is what ``at`` says."""

    def __init__(self, **options: Any) -> None:
        self.answers: list[bytes] = []
        self.rtts: list[float] = []
        super().__init__(App(), **{"ping_interval_seconds": 20.0, "on_rtt": self.rtts.append, **options})

    def probe(self, payload: bytes = PROBE) -> bool:
        return self.wire.ping(payload, lambda: self.answers.append(payload))

    def keepalive(self) -> bytes:
        """Send a keepalive ping; returns its payload."""
        self.wire._send_ping(asyncio.get_running_loop().time())
        first, payload = self.frames()[-1]
        assert first == 0x80 | PING
        return payload

    def at(self, seconds: float) -> None:
        """So much time has passed."""
        self.wire.on_timer(asyncio.get_running_loop().time() + seconds)


async def probed(**options: Any) -> Probed:
    peer = Probed(**options)
    await peer.open()
    return peer


async def test_the_ping_stands_right_behind_what_was_written() -> None:
    """Nothing comes between a message and the ping that follows it."""
    peer = await probed()
    peer.wire.write(b"\x81\x03one")
    assert peer.probe()
    peer.wire.write(b"\x81\x03two")
    assert peer.frames() == [(0x81, b"one"), (0x80 | PING, PROBE), (0x81, b"two")]


async def test_a_pong_answers_the_probe_once() -> None:
    """The same pong again is unsolicited (RFC 6455 §5.5.3), and so is any other."""
    peer = await probed()
    peer.probe()
    peer.send(frame(PONG, b"other") + frame(PONG, PROBE) + frame(PONG, PROBE))
    assert peer.answers == [PROBE]


async def test_one_probe_at_a_time_and_none_before_or_after() -> None:
    """A second one is not sent, nor one on a connection whose end is decided; the first answer makes room."""
    peer = await probed()
    assert [peer.probe(), peer.probe(b"second")] == [True, False]
    assert peer.frames() == [(0x80 | PING, PROBE)]
    peer.send(frame(PONG, PROBE))
    assert peer.probe(b"third")
    peer.wire.close(NORMAL)
    peer.send(frame(PONG, b"third"))
    assert not peer.probe(b"fourth")
    assert [payload for first, payload in peer.frames() if first == 0x80 | PING] == [b"third"]
    assert not Probed().probe()


async def test_a_pong_for_a_later_keepalive_ping_answers_the_probe() -> None:
    """A client need answer only the newest ping (RFC 6455 §5.5.3): it has read what came before."""
    peer = await probed()
    peer.probe()
    peer.send(frame(PONG, peer.keepalive()))
    assert (peer.answers, len(peer.rtts)) == ([PROBE], 1)


async def test_a_pong_for_an_earlier_keepalive_ping_does_not_answer_the_probe() -> None:
    """The message may still be unread."""
    peer = await probed()
    keepalive = peer.keepalive()
    peer.probe()
    peer.send(frame(PONG, keepalive))
    assert (peer.answers, len(peer.rtts)) == ([], 1)
    peer.send(frame(PONG, PROBE))
    assert peer.answers == [PROBE]


async def test_a_pong_for_a_later_probe_answers_the_keepalive_ping() -> None:
    """The client lives; how long the round trip was is not known, so none is measured."""
    peer = await probed()
    peer.keepalive()
    peer.probe()
    peer.send(frame(PONG, PROBE))
    assert (peer.answers, peer.rtts) == ([PROBE], [])
    peer.at(21)
    assert peer.wire.ending is None


async def test_a_pong_for_an_earlier_probe_does_not_answer_the_keepalive_ping() -> None:
    """It is still waited for, and missed."""
    peer = await probed()
    peer.probe()
    peer.keepalive()
    peer.send(frame(PONG, PROBE))
    assert peer.answers == [PROBE]
    peer.at(21)
    assert close_of(peer.frames()[-1][1]) == (1011, "ping-timeout")


async def test_a_probe_that_is_never_answered_ends_nothing() -> None:
    """Only the keepalive judges whether a client lives; without one nobody does."""
    peer = await probed(ping_interval_seconds=None)
    peer.probe()
    peer.at(3600)
    assert peer.wire.ending is None
    assert peer.answers == []


async def test_answers_that_were_asked_for_are_no_flood() -> None:
    """However many probes there are, their pongs are not charged; those that nobody asked for are."""
    peer = await probed(control_frames_burst=5, control_frames_per_second=0.001)
    for number in range(50):
        payload = b"%d" % number
        peer.probe(payload)
        peer.send(frame(PONG, payload))
        peer.send(frame(PONG, peer.keepalive()))
    assert len(peer.answers) == len(peer.rtts) == 50
    assert peer.wire.ending is None
    peer.send(frame(PONG, b"never sent") * 5)
    assert peer.wire.ending is None
    peer.send(frame(PONG, b"49"))
    assert close_of(peer.frames()[-1][1]) == (1008, "rate-limited")


async def test_an_answer_behind_messages_that_are_held_back_counts() -> None:
    """The client has read the message; that we do not read its own is not its fault."""
    peer = await probed()
    peer.wire.hold(60)
    peer.probe()
    peer.send(frame(TEXT, b"x" * 300) * 20 + frame(PONG, PROBE)[:5])
    peer.send(frame(PONG, PROBE)[5:])
    assert peer.answers == [PROBE]
    peer.lose()


async def test_looking_for_answers_begins_anew_after_a_time_without_questions() -> None:
    """What came meanwhile is part of what is looked through, wherever it was cut; each answer is noticed, and charged to nobody."""
    peer = await probed(control_frames_burst=1, control_frames_per_second=0.001)
    peer.wire.hold(60)
    cut = frame(TEXT, b"cut" * 50)
    for number in range(20):
        payload = b"%d" % number
        peer.probe(payload)
        peer.send(frame(PONG, payload) + cut[:number])
        peer.send(cut[number:] + frame(TEXT, b"more"))
    assert len(peer.answers) == 20
    peer.wire._hold_over()
    await turns()
    assert peer.wire.ending is None
    assert len(peer.app.messages) == 40
    peer.lose()


async def test_a_lost_connection_answers_nothing() -> None:
    """What was asked is forgotten with it, and it can be let go of."""
    peer = await probed()
    peer.probe()
    peer.lose()
    assert (peer.answers, peer.probe(b"again")) == ([], False)


@pytest.mark.parametrize("stuck", [0, 1 << 20])
async def test_a_client_that_does_not_read_has_one_ping_waiting(stuck: int) -> None:
    """Behind a full buffer stands one probe at most; it grows no further."""
    peer = await probed()
    peer.transport.stuck = stuck
    if stuck:
        peer.wire.pause_writing()
    assert [peer.probe(b"%d" % number) for number in range(20)] == [True] + [False] * 19
    assert peer.frames() == [(0x80 | PING, b"0")]
