"""The write side: bounded, ordered, never waiting, one policy per peer. Both outlets keep the same promises."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.errors import ConnectionClosed
from gateway.message import Batch, Message
from gateway.outlet import OutletOptions
from middleware.asgi import Event
from middleware.close import FORBIDDEN, NORMAL
from tests.gateway.connections import connection, frame_connection
from tests.middleware.asgi_helpers import Server


class StuckServer(Server):
    """An ASGI server whose peer does not read: ``send`` waits until ``release``."""

    def __init__(self) -> None:
        super().__init__(stay=True)
        self.state = "open"
        self.reading = asyncio.Event()

    async def send(self, event: Event) -> None:
        await self.reading.wait()
        await super().send(event)


def batch(*texts: str) -> Batch:
    return Batch([Message(payload) for payload in texts])


def options(policy: Any, **more: Any) -> OutletOptions:
    return OutletOptions(max_bytes=10, policy=policy, **more)


async def _settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_frames_are_written_at_once_and_in_order() -> None:
    """With the extension a write is one call of the server, with all frames of the batch."""
    made, frames = frame_connection()
    assert made.write(batch("a", "b")) == 0
    assert frames.written == [b"\x81\x01a\x81\x01b"]
    assert (made.outlet.sent_messages, made.outlet.sent_bytes) == (2, 2)


async def test_a_message_that_comes_again_is_not_taken_for_the_one_that_waits() -> None:
    """Policy ``latest``: only what was taken beyond the bound gives way, though the same object was once taken so."""
    server = StuckServer()
    made = connection(server, outlet=options("latest"))
    same = Message("same")
    made.write(batch("x" * 11))
    made.write(Batch([same]))
    server.reading.set()
    await _settle()
    server.reading.clear()
    made.write(batch("y" * 10))
    made.write(Batch([same]))
    made.write(batch("newest"))
    server.reading.set()
    await _settle()
    assert [event["text"][:6] for event in server.sent] == ["xxxxxx", "same", "yyyyyy", "same", "newest"]
    assert made.outlet.replaced_messages == 0


async def test_without_the_extension_messages_are_sent_as_events_in_order() -> None:
    """Text stays text and bytes stay bytes; the close comes behind them; the writer task is gone afterwards."""
    server = Server(stay=True)
    server.state = "open"
    made = connection(server)
    made.write(Batch([Message("a"), Message(b"b")]))
    made.close(FORBIDDEN)
    await made.outlet.flushed()
    assert server.payloads == ["a", b"b"]
    assert server.close == (1008, "forbidden")
    assert len(asyncio.all_tasks()) == 1
    made.lost()


async def test_flushing_ends_when_the_connection_is_lost_before_the_writer_began() -> None:
    """Whoever waits for the last message of a connection that is gone does not wait, or spin, for ever."""
    made = connection(StuckServer())
    made.write(batch("a"))
    made.outlet.lost()
    await asyncio.wait_for(made.outlet.flushed(), 1)


async def test_a_slow_peer_is_closed_by_default() -> None:
    """Past the bound the connection ends as slow-consumer and what comes is not taken."""
    made, frames = frame_connection(outlet=options("close"))
    assert made.write(batch("0123456789")) == 0  # one batch always fits
    assert made.write(batch("x", "y")) == 2
    assert made.ending is not None
    assert (made.ending.reason, made.messages_dropped) == ("slow-consumer", 2)
    assert len(frames.written) == 1


async def test_policy_drop_leaves_out_what_does_not_fit_and_keeps_the_connection() -> None:
    """Once the peer has read, messages go through again."""
    made, frames = frame_connection(outlet=options("drop"))
    made.write(batch("0123456789"))
    assert made.write(batch("lost")) == 1
    frames.drain()
    assert made.write(batch("new")) == 0
    assert frames.written[-1] == b"\x81\x03new"
    assert made.ending is None


async def test_policy_latest_keeps_the_newest_message_for_when_the_peer_reads() -> None:
    """Every message that a newer one replaces is counted as lost exactly once."""
    made, frames = frame_connection(outlet=options("latest"))
    made.write(batch("0123456789"))
    assert made.write(batch("1", "2")) == 1  # 2 is kept
    assert made.write(batch("3")) == 0
    assert made.messages_dropped == 2  # 2 is replaced
    frames.drain()
    assert frames.written == [b"\x81\x0a0123456789", b"\x81\x013"]
    assert made.messages_dropped == 2


async def test_the_newest_message_leaves_before_the_close() -> None:
    """What was taken is not overtaken by the end."""
    made, frames = frame_connection(outlet=options("latest"))
    made.write(batch("0123456789"))
    made.write(batch("last"))
    made.close(NORMAL)
    assert frames.written[-1] == b"\x81\x04last"
    assert made.outlet.buffered_bytes() == frames.buffered


@pytest.mark.parametrize("max_bytes", [64, 100_000, 1 << 20, 1 << 24])
async def test_whatever_the_bound_a_peer_that_reads_again_is_written_to_again(max_bytes: int) -> None:
    """A transport only tells that it has drained when it was above its mark, so the mark lies below every bound."""
    made, frames = frame_connection(outlet=OutletOptions(max_bytes=max_bytes, policy="latest"))
    made.write(Batch([Message(b"x" * (max_bytes + 1))]))
    made.write(batch("newest"))
    sending = asyncio.create_task(made.send("more"))
    await _settle()
    frames.drain()
    await asyncio.wait_for(sending, 1)
    assert frames.written[-1] == b"\x81\x04more"


@pytest.mark.parametrize(
    "wrong",
    [{"max_bytes": 0}, {"max_messages": -1}, {"abort_after_seconds": 0}, {"policy": "oldest"}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_wrong_options_are_refused_at_construction(wrong: dict[str, Any]) -> None:
    """A sentence says what is wrong."""
    with pytest.raises(ValueError, match="must be"):
        OutletOptions(**wrong)


@pytest.mark.parametrize(
    ("policy", "delivered", "lost"),
    [("drop", ["0123456789", "first", "after"], 2), ("latest", ["0123456789", "first", "third", "after"], 1)],
)
async def test_the_queue_without_the_extension_follows_the_same_policies(policy: Any, delivered: list[str], lost: int) -> None:
    """A stuck ``send`` makes the queue grow to its bound and no further."""
    server = StuckServer()
    made = connection(server, outlet=options(policy))
    made.write(batch("0123456789"))
    await _settle()  # the writer is stuck in send now
    made.write(batch("first"))
    assert made.write(batch("second")) <= 1
    assert made.write(batch("third")) <= 1  # never more than what the call brought: totals of deliveries do not go back
    assert made.messages_dropped == lost
    assert made.outlet.buffered_bytes() <= 10 + 5 + 5
    server.reading.set()
    await _settle()
    made.write(batch("after"))
    await _settle()
    assert server.payloads == delivered
    made.lost()


async def test_a_peer_that_never_reads_is_given_up_after_the_deadline() -> None:
    """The reader of a stuck connection is released with ConnectionClosed although the server says nothing."""
    server = StuckServer()
    server._script.clear()
    made = connection(server, outlet=options("close", abort_after_seconds=0.01))
    reading = asyncio.create_task(made.receive())
    await _settle()
    made.write(batch("0123456789"))
    await _settle()
    made.write(batch("too much"))
    made.write(batch("far too much"))
    with pytest.raises(ConnectionClosed, match="slow-consumer"):
        await asyncio.wait_for(reading, 2)
    made.lost()


async def test_layers_see_why_a_peer_was_given_up() -> None:
    """The close is handed to whoever stands around the server even though the peer takes nothing any more."""
    seen: list[Event] = []

    class Watched(StuckServer):
        async def send(self, event: Event) -> None:
            seen.append(event)
            await super().send(event)

    made = connection(Watched(), outlet=options("close", abort_after_seconds=0.01))
    made.write(batch("0123456789"))
    await _settle()
    made.write(batch("too much"))
    made.write(batch("far too much"))
    await asyncio.wait_for(made.outlet.flushed(), 2)
    assert [event["type"] for event in seen] == ["websocket.send", "websocket.close"]
    assert (seen[1]["code"], seen[1]["reason"]) == (1013, "slow-consumer")
    made.lost()


async def test_the_number_of_queued_messages_is_bounded_too() -> None:
    """Empty messages weigh nothing and still cannot be queued without end."""
    made = connection(StuckServer(), outlet=OutletOptions(max_messages=5, policy="drop"))
    lost = sum(made.write(batch("")) for _ in range(20))
    assert lost == 20 - 6
    made.lost()


async def test_send_waits_for_a_slow_client_and_goes_on_when_it_reads() -> None:
    """``await connection.send`` is backpressure for the handler, up to half the bound."""
    made, frames = frame_connection(outlet=OutletOptions(max_bytes=10))
    sending = asyncio.create_task(made.send("0123456"))
    await _settle()
    assert not sending.done()
    frames.drain()
    await asyncio.wait_for(sending, 1)


@pytest.mark.parametrize("framed", [True, False])
async def test_whoever_gives_up_waiting_is_forgotten(framed: bool) -> None:
    """A handler that sends with a timeout, again and again, to a client that does not read."""
    policy = OutletOptions(max_bytes=10, policy="drop")
    made = frame_connection(outlet=policy)[0] if framed else connection(StuckServer(), outlet=policy)
    for _ in range(20):
        sending = asyncio.create_task(made.send("0123456789"))
        await _settle()
        assert not sending.done()
        sending.cancel()
        await asyncio.wait([sending])
    assert not made.outlet._waiters  # type: ignore[attr-defined]
    made.lost()


async def test_whoever_waits_to_send_is_told_when_the_connection_ends() -> None:
    """No sender hangs on a connection that is gone, under either kind of server."""
    framed, frames = frame_connection(outlet=OutletOptions(max_bytes=10))
    plain = connection(StuckServer(), outlet=options("close"))
    sending = [asyncio.create_task(made.send("0123456")) for made in (framed, plain)]
    await _settle()
    frames.finish(NORMAL, "client")
    plain.close(NORMAL)
    for task in sending:
        with pytest.raises(ConnectionClosed, match="1000 normal"):
            await asyncio.wait_for(task, 1)
    plain.lost()


async def test_a_failing_send_ends_the_connection_quietly() -> None:
    """A client that is gone makes the server's send raise; that is an ending, not an error."""
    server = Server(stay=True)
    server.state = "closed"  # every send is illegal now
    made = connection(server)
    made.write(batch("x"))
    await _settle()
    assert made.ending is not None
    assert made.ending.reason == "abnormal"
    assert made.write(batch("y")) == 1
    made.lost()
