"""The relay: what becomes of a client's message when its room has gathered too much."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import BrokerUnavailable
from gateway.hub import Hub
from gateway.message import Message
from gateway.relay import RoomRelay
from gateway.room import PENDING_BYTES
from gateway.validation import Validation
from middleware.asgi import Event
from tests.gateway.connections import BufferingFrames, frame_connection


def large(number: int) -> Event:
    """A message that is more than a room gathers in one turn."""
    return {"type": "websocket.receive", "bytes": number.to_bytes(PENDING_BYTES + 1, "little")}


async def crowd(members: int = 60) -> tuple[Hub, list[BufferingFrames]]:
    """A room of so many clients that one large message takes several turns."""
    hub = Hub()
    await hub.start()
    made = []
    for _ in range(members):
        connection, frames = frame_connection()
        connection.scope["path_params"] = {"room": "r"}
        frames.reads = True
        await hub.hold(("r",))
        hub.enter(connection, ("r",))
        made.append(frames)
    return hub, made


async def test_who_floods_a_room_is_not_read_until_the_room_has_caught_up() -> None:
    """One message of each speaker waits, in the order of their coming; the room gathers no more than its bound and one message."""
    hub, made = await crowd()
    relay = RoomRelay(hub.post, Validation(), hub.registry.behind)
    speakers = [(connection.frames, relay.bind(connection)) for connection in list(hub.registry.connections.values())[:3]]
    room, said, most = hub.registry.rooms["r"], 0, 0
    while said < 30 or room.has_pending:
        for frames, on_message in speakers:
            assert isinstance(frames, BufferingFrames)
            while not frames.paused and said < 30:
                on_message(large(said))
                said += 1
                most = max(most, room._pending_bytes)
        await asyncio.sleep(0)
        most = max(most, room._pending_bytes)
    assert most <= 2 * (PENDING_BYTES + 1)
    assert not any(frames.paused for frames in made)
    assert {frames.sent_messages for frames in made[3:]} == {30}
    blob = b"".join(made[-1].written)
    assert [int.from_bytes(blob[at + 10 : at + 14], "little") for at in range(0, len(blob), PENDING_BYTES + 11)] == [*range(30)]
    totals = hub.registry.ledger.totals["other"]
    assert (totals.accepted, totals.unaccounted()) == (30, 0)


@pytest.mark.parametrize("error", [RuntimeError("a mistake"), BrokerUnavailable("it is away")])
async def test_a_message_that_fails_after_its_wait_costs_nobody_else_theirs(error: Exception) -> None:
    """A mistake is that client's end, as it is in the parser; what the broker does not take ends nobody."""
    hub, made = await crowd()
    failing = False

    def post(room: str, message: Message, exclude: str) -> None:
        if failing and message.payload == b"bad":
            raise error
        hub.post(room, message, exclude)

    relay = RoomRelay(post, Validation(), hub.registry.behind)
    (first, say), (second, say_too), (third, say_last) = [
        (connection, relay.bind(connection)) for connection in list(hub.registry.connections.values())[:3]
    ]
    say(large(1))
    say(large(2))
    say(large(3))
    say_too({"type": "websocket.receive", "bytes": b"bad"})
    say_last({"type": "websocket.receive", "bytes": b"good"})
    assert [frames.paused for frames in made[:4]] == [True, True, True, False]
    failing = True
    while hub.registry.rooms["r"].has_pending:
        await asyncio.sleep(0)
    assert not any(frames.paused for frames in made)
    assert (second.ending is None) == isinstance(error, BrokerUnavailable)
    assert first.ending is third.ending is None
    assert made[-1].written[-1].endswith(b"\x82\x04good")
