"""A connection's states, reading and ending."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.connection import Connection, State
from gateway.errors import ConnectionClosed, IllegalTransition
from gateway.outlet import OutletOptions
from gateway.registry import ConnectionRegistry
from gateway.validation import Validation
from middleware.asgi import Event
from middleware.close import FORBIDDEN, NORMAL, RESTARTING
from tests.gateway.connections import BufferingFrames, connection, envelope, frame_connection
from tests.middleware.asgi_helpers import Server, binary, disconnect, text, websocket_scope


def open_server(*script: object) -> Server:
    server = Server(*script, stay=not script)  # type: ignore[arg-type]
    server._script.popleft()  # the handshake is over
    server.state = "open"
    return server


def unopened() -> Connection:
    server = open_server()
    return Connection(
        "n-1", websocket_scope(), server.receive, server.send, frames=None, reader=Validation(), outlet_options=OutletOptions()
    )


async def test_a_connection_opens_once() -> None:
    """Opening again, or after the end, is the caller's mistake and changes nothing."""
    made = unopened()
    made.opened()
    with pytest.raises(IllegalTransition, match="cannot 'open' while open"):
        made.opened()
    assert made.state is State.OPEN
    made.lost()
    with pytest.raises(IllegalTransition):
        made.opened()
    assert made.state is State.CLOSED


@given(st.lists(st.sampled_from(["open", "end", "lost"]), max_size=6))
def test_any_sequence_of_events_keeps_the_table(events: list[str]) -> None:
    """The ending is set exactly when the state leaves connecting or open, once, and on_ended is called once with it."""

    async def play() -> None:
        made, told = unopened(), []
        made.on_ended = lambda ended: told.append(ended.ending)
        for number, event in enumerate(events):
            try:
                if event == "open":
                    made.opened()
                elif event == "end":
                    made.ended(FORBIDDEN if number % 2 else RESTARTING, "server")
                else:
                    made.lost()
            except IllegalTransition:
                assert event == "open"
            assert (made.ending is None) == (made.state in (State.CONNECTING, State.OPEN))
        assert told == ([] if made.ending is None else [made.ending])
        made.lost()

    asyncio.run(play())


async def test_messages_come_in_order_until_the_client_leaves() -> None:
    """Iterating yields the messages and then simply stops."""
    made = connection(open_server(text("a"), binary(b"b"), text(""), disconnect(1001, "going-away")))
    assert [message async for message in made] == ["a", b"b", ""]
    assert made.ending is not None
    assert (made.ending.reason, made.initiator) == ("going-away", "client")
    assert (made.received_messages, made.received_bytes) == (3, 2)
    made.lost()


async def test_what_the_client_said_before_it_left_is_still_read() -> None:
    """The wire may know of the end while messages wait: they are not lost, but nothing can be sent any more."""
    frames = BufferingFrames()
    frames.server._script.clear()
    made, _ = frame_connection(frames)
    frames.server.feed(text("a"), text("b"), disconnect(1000, "normal"))
    frames.finish(NORMAL, "client")
    assert await made.receive() == "a"
    with pytest.raises(ConnectionClosed):
        await made.send("late")
    assert [message async for message in made] == ["b"]


async def test_what_the_client_says_behind_our_close_is_nobodys() -> None:
    """The end that the server decided is where reading ends."""
    frames = BufferingFrames()
    frames.server._script.clear()
    made, _ = frame_connection(frames)
    made.close(FORBIDDEN)
    frames.server.feed(text("a"), disconnect(1008, "forbidden"))
    with pytest.raises(ConnectionClosed, match="forbidden"):
        await made.receive()


async def test_reading_once_more_after_the_end_does_not_ask_the_server() -> None:
    """Servers and frameworks hang or fail there; the caller gets the same ending again."""
    server = open_server(disconnect(1000))
    made = connection(server)
    for _ in range(2):
        with pytest.raises(ConnectionClosed, match="normal"):
            await made.receive()
        made._receive = None  # type: ignore[assignment]
    made.lost()


async def test_reading_after_the_end_raises_the_close() -> None:
    """ConnectionClosed carries the ending and is a WebSocketDisconnect."""
    from starlette.websockets import WebSocketDisconnect

    made = connection(open_server(disconnect(4401, "unauthorized")))
    with pytest.raises(WebSocketDisconnect) as caught:
        await made.receive()
    assert isinstance(caught.value, ConnectionClosed)
    assert (caught.value.code, caught.value.reason, caught.value.close.retry) == (4401, "unauthorized", False)
    made.lost()


async def test_a_message_against_the_rules_ends_the_connection_with_its_slug() -> None:
    """The client gets a close frame with the reason, the handler gets ConnectionClosed."""
    server = open_server(text("x"))
    made = connection(server, reader=Validation(allow="binary"))
    with pytest.raises(ConnectionClosed, match="unsupported-data"):
        await made.receive()
    await made.outlet.flushed()
    assert made.ending is not None
    assert made.ending.code == 1003
    made.lost()


@pytest.mark.parametrize("framed", [True, False])
async def test_the_first_reason_wins(framed: bool) -> None:
    """Closing twice keeps the first ending, under both kinds of server."""
    made = frame_connection()[0] if framed else connection(open_server())
    made.close(FORBIDDEN)
    made.close(NORMAL)
    assert made.ending is FORBIDDEN
    made.lost()
    assert made.ending is FORBIDDEN


async def test_sending_on_an_ended_connection_raises() -> None:
    """The caller is told why it is over."""
    made, _ = frame_connection()
    made.close(RESTARTING)
    with pytest.raises(ConnectionClosed, match="1012 restarting"):
        await made.send("late")


async def test_a_cancelled_reader_is_cancelled() -> None:
    """Only the connection's own interruption is turned into ConnectionClosed; a real cancellation goes through."""
    made = connection(open_server())
    reading = asyncio.create_task(made.receive())
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    made.lost()


class OneAtATime(Server):
    """An ASGI server that sends nothing while a ``receive`` is pending, as granian does with a close."""

    def __init__(self) -> None:
        super().__init__(stay=True)
        self._script.clear()
        self.state = "open"
        self.idle = asyncio.Event()

    async def receive(self) -> Event:
        self.idle.clear()
        try:
            return await super().receive()
        finally:
            self.idle.set()

    async def send(self, event: Event) -> None:
        await self.idle.wait()
        await super().send(event)


async def test_a_close_gets_out_while_the_handler_waits_for_a_message() -> None:
    """Whoever reads is told only when the close has left; the interruption is no cancellation, and happens once."""
    server = OneAtATime()
    made = connection(server)
    reading = asyncio.create_task(made.receive())
    await asyncio.sleep(0.01)
    made.close(RESTARTING)
    made.close(NORMAL)
    with pytest.raises(ConnectionClosed, match="1012 restarting"):
        await asyncio.wait_for(reading, 2)
    assert server.close == (1012, "restarting")
    assert reading.cancelling() == 0
    with pytest.raises(ConnectionClosed, match="1012 restarting"):
        await made.receive()
    made.lost()


@pytest.mark.parametrize("framed", [True, False])
async def test_what_was_sent_to_a_room_goes_out_before_a_member_is_closed(framed: bool) -> None:
    """A close does not overtake a message of the same turn of the loop that still waits to be fanned out."""
    server = open_server()
    made, frames = frame_connection() if framed else (connection(server), None)
    registry = ConnectionRegistry()
    made.on_ended = registry.remove
    registry.add(made)
    registry.join(made, "room").publish(envelope("last words"))
    made.close(FORBIDDEN)
    await made.outlet.flushed()
    assert (frames.written if frames else server.payloads) == ([b"\x81\x0alast words"] if frames else ["last words"])
    assert made.ending is FORBIDDEN
    made.lost()


async def test_a_reader_that_survived_a_cancellation_is_told_of_the_end() -> None:
    """Our interruption is told from an older cancellation that the handler has swallowed."""
    server = open_server()
    made = connection(server)

    async def handler() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass
        with pytest.raises(ConnectionClosed) as caught:
            await made.receive()
        return caught.value.close.reason

    task = asyncio.create_task(handler())
    await asyncio.sleep(0)
    task.cancel()
    for _ in range(3):
        await asyncio.sleep(0)
    made.close(FORBIDDEN)
    assert await asyncio.wait_for(task, 1) == "forbidden"
    made.lost()


async def test_metadata_is_read_only() -> None:
    """What the application keeps with a connection does not change under others."""
    made, _ = frame_connection(metadata={"plan": "free"})
    with pytest.raises(TypeError):
        made.metadata["plan"] = "gold"  # type: ignore[index]
    assert made.metadata == {"plan": "free"}


@pytest.mark.parametrize("framed", [True, False])
@pytest.mark.parametrize("user", [None, "7"])
async def test_statistics_tell_what_crossed(framed: bool, user: str | None) -> None:
    """The snapshot has the same fields under both kinds of server."""
    made = frame_connection(user=user)[0] if framed else connection(open_server(), user=user)
    made.rooms = {"b", "a", "~user/7"}
    await made.send("hello")
    await made.outlet.flushed()
    statistics = made.statistics()
    assert (statistics.user, statistics.state, statistics.rooms) == (user, "open", ("a", "b"))
    assert (statistics.sent_messages, statistics.sent_bytes, statistics.dropped_messages) == (1, 5, 0)
    made.lost()
