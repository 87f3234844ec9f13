"""``AsgiChannel`` alone: what it makes of a server's ``receive`` and ``send``."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from middleware.asgi import Disconnected, Event
from middleware.channel import AsgiChannel
from middleware.close import ABNORMAL, FORBIDDEN, GOING_AWAY, NORMAL, RATE_LIMITED, RESTARTING

from .asgi_helpers import Server, disconnect, text
from .virtual_time import VirtualLoop, run_virtual

ACCEPT: Event = {"type": "websocket.accept"}


def message(payload: str) -> Event:
    """A message of the app."""
    return {"type": "websocket.send", "text": payload}


async def opened(*script: Event, stay: bool = False) -> tuple[AsgiChannel, Server]:
    """A channel whose handshake is done, and its server."""
    server = Server(*script, stay=stay)
    channel = AsgiChannel(server.receive, server.send)
    await channel.receive()
    await channel.send(ACCEPT)
    return channel, server


class Hooks:
    """Hooks that note their calls and do what ``act`` says with an event."""

    def __init__(self, act: Any = lambda event: event) -> None:
        self.act = act
        self.notes: list[str] = []

    def accepting(self, event: Event) -> Event:
        self.notes.append("accepting")
        return event

    def inbound(self, event: Event) -> Event | None:
        self.notes.append("inbound")
        return self.act(event)  # type: ignore[no-any-return]

    def outbound(self, event: Event) -> Event | None:
        self.notes.append("outbound")
        return self.act(event)  # type: ignore[no-any-return]

    def waiting(self) -> None:
        self.notes.append("waiting")


def closing(channel: AsgiChannel) -> Any:
    """An action for ``Hooks``: close, and let the event pass."""

    def act(event: Event) -> Event:
        channel.close(RATE_LIMITED)
        return event

    return act


async def test_the_first_ending_wins() -> None:
    """A later one changes neither the reason nor who it was."""
    channel, _ = await opened()
    channel.finish(RESTARTING, "server")
    channel.finish(NORMAL, "client")
    channel.close(RATE_LIMITED)
    assert (channel.ending, channel.initiator) == (RESTARTING, "server")


async def test_a_clients_leaving_is_an_ending() -> None:
    """With the client's own words, mapped onto the known ones."""
    channel, _ = await opened(disconnect(1001, "tab closed"))
    assert (await channel.receive())["code"] == 1001
    assert (channel.ending, channel.initiator) == (GOING_AWAY, "client")


async def test_sending_after_the_end_raises_disconnected() -> None:
    """``Disconnected`` is an ``OSError``, as the ASGI specification asks for."""
    channel, server = await opened(disconnect())
    await channel.receive()
    with pytest.raises(OSError, match="normal") as caught:
        await channel.send(message("late"))
    assert isinstance(caught.value, Disconnected)
    assert server.payloads == []


async def test_a_server_that_finds_the_client_gone_ends_the_connection() -> None:
    """Its ``OSError`` from ``send`` reaches the app, and the end is known without any further ``receive``."""
    channel, server = await opened(disconnect())
    await server.receive()
    with pytest.raises(OSError, match="left"):
        await channel.send(message("x"))
    assert (channel.ending, channel.initiator) == (ABNORMAL, "client")


async def test_close_sends_one_frame_and_an_apps_own_close_none_behind_it() -> None:
    """Two parties may decide to close in the same turn of the loop."""
    channel, server = await opened(stay=True)
    channel.close(RATE_LIMITED)
    await channel.send({"type": "websocket.close", "code": 1000})
    await channel.settle(wait=True)
    assert [event["code"] for event in server.of("close")] == [1008]
    assert server.violations == []


async def test_close_goes_behind_what_is_being_written() -> None:
    """A message whose ``send`` has begun is not overtaken."""
    channel, server = await opened(stay=True)
    sending = asyncio.ensure_future(channel.send(message("first")))
    await asyncio.sleep(0)
    channel.close(RATE_LIMITED)
    await sending
    await channel.settle(wait=True)
    assert [event["type"] for event in server.sent[1:]] == ["websocket.send", "websocket.close"]


async def test_a_hook_that_closes_stops_the_message_it_looked_at() -> None:
    """Each way: nothing is handed over or sent behind the decision to close."""
    channel, server = await opened(text("x"))
    hooks = Hooks(closing(channel))
    channel.install(hooks)
    assert (await channel.receive())["type"] == "websocket.disconnect"
    assert hooks.notes == ["inbound", "waiting"]
    await channel.settle(wait=True)
    assert server.close == (1008, "rate-limited")

    channel, server = await opened(stay=True)
    channel.install(Hooks(closing(channel)))
    with pytest.raises(Disconnected):
        await channel.send(message("x"))
    await channel.settle(wait=True)
    assert (server.payloads, channel.sent_messages) == ([], 0)


async def test_close_before_the_handshake_was_asked_for_waits_for_it() -> None:
    """Some servers cannot be answered before ``websocket.connect`` was taken; then the refusal is the first answer."""
    server = Server(stay=True)
    channel = AsgiChannel(server.receive, server.send)
    channel.close(RESTARTING)
    assert server.sent == []
    assert (await channel.receive())["type"] == "websocket.connect"
    await channel.settle(wait=True)
    assert server.close == (1012, "restarting")
    with pytest.raises(Disconnected):
        await channel.send(ACCEPT)
    assert server.violations == []


async def test_close_reaches_an_app_that_accepts_without_asking() -> None:
    """An app that never takes ``websocket.connect`` is refused where it accepts."""
    server = Server(stay=True)
    channel = AsgiChannel(server.receive, server.send)
    channel.close(RESTARTING)
    with pytest.raises(Disconnected):
        await channel.send(ACCEPT)
    await channel.settle(wait=True)
    assert server.close == (1012, "restarting")


async def test_an_apps_refusal_that_has_begun_is_not_cut() -> None:
    """Between the two events of a denial a close changes nothing."""
    server = Server(stay=True)
    channel = AsgiChannel(server.receive, server.send)
    await channel.receive()
    await channel.send({"type": "websocket.http.response.start", "status": 403, "headers": []})
    channel.close(RESTARTING)
    await channel.send({"type": "websocket.http.response.body", "body": b"no"})
    assert (channel.ending, server.status, server.body, server.close) == (FORBIDDEN, 403, b"no", None)


async def test_an_apps_close_before_accept_is_a_refusal_whatever_it_says() -> None:
    """A server answers it with 403; code 1000 there does not make it a good end."""
    server = Server()
    channel = AsgiChannel(server.receive, server.send)
    await channel.receive()
    await channel.send({"type": "websocket.close", "code": 1000})
    assert channel.ending is FORBIDDEN


async def test_a_close_that_cannot_be_sent_harms_nobody() -> None:
    """The server's complaint about a client that was faster stays inside."""

    async def receive() -> Event:
        return {"type": "websocket.connect"}

    async def send(event: Event) -> None:
        if event["type"] == "websocket.close":
            raise RuntimeError("already closed")

    channel = AsgiChannel(receive, send)
    await channel.receive()
    await channel.send(ACCEPT)
    channel.close(RATE_LIMITED)
    await channel.settle(wait=True)


async def test_settle_without_waiting_leaves_no_task() -> None:
    """A close stuck behind a peer that never reads does not outlive a cancelled connection."""

    async def receive() -> Event:
        return {"type": "websocket.connect"}

    async def send(event: Event) -> None:
        if event["type"] == "websocket.close":
            await asyncio.Event().wait()

    before = asyncio.all_tasks()
    channel = AsgiChannel(receive, send)
    await channel.receive()
    await channel.send(ACCEPT)
    channel.close(RATE_LIMITED)
    await asyncio.sleep(0)
    await channel.settle(wait=False)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_waiting_comes_once_per_message_that_the_app_had() -> None:
    """Dropped messages are none; a ``receive`` that is cancelled and called again does not count twice."""
    channel, server = await opened(text("drop"), text("keep"), stay=True)
    hooks = Hooks(lambda event: None if event["text"] == "drop" else event)
    channel.install(hooks)
    assert (await channel.receive())["text"] == "keep"
    for _ in range(2):
        waiting = asyncio.ensure_future(channel.receive())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert hooks.notes == ["inbound", "inbound", "waiting"]
    server.feed(disconnect())
    await channel.receive()


def test_a_hold_that_begins_while_a_message_is_awaited_holds_that_message() -> None:
    """It is kept, and also a ``receive`` that gives up meanwhile does not lose it."""

    async def main(loop: VirtualLoop) -> tuple[list[str], float]:
        channel, server = await opened(stay=True)

        async def impatient() -> Event:
            async with asyncio.timeout(30):
                return await channel.receive()

        first = asyncio.ensure_future(impatient())
        await asyncio.sleep(0)
        channel.hold(100)
        server.feed(text("kept"), text("next"))
        with pytest.raises(TimeoutError):
            await first
        got = [(await channel.receive())["text"], (await channel.receive())["text"]]
        return got, loop.time() - 1000.0

    got, seconds = run_virtual(main)
    assert got == ["kept", "next"]
    assert 100 <= seconds < 101


def test_the_longest_hold_counts() -> None:
    """A shorter one that comes later does not cut it."""

    async def main(loop: VirtualLoop) -> float:
        channel, _ = await opened(text("x"))
        channel.hold(50)
        channel.hold(5)
        await channel.receive()
        return loop.time() - 1000.0

    assert 50 <= run_virtual(main) < 51


async def test_messages_behind_our_close_are_nobodys() -> None:
    """They are neither counted nor handed over; the disconnect is."""
    channel, _ = await opened(text("1"), text("2"))
    channel.close(RATE_LIMITED)
    assert (await channel.receive())["type"] == "websocket.disconnect"
    assert channel.received_messages == 0


class OneAtATime:
    """A server like granian: its close waits while its ``receive`` is pending, and no client ever answers."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.sent: list[str] = []

    async def receive(self) -> Event:
        async with self.lock:
            if not self.sent:
                return {"type": "websocket.connect"}
            await asyncio.Event().wait()
            raise AssertionError("nothing comes")

    async def send(self, event: Event) -> None:
        if event["type"] == "websocket.close":
            async with self.lock:
                self.sent.append("close")
        else:
            self.sent.append(event["type"])


async def test_a_close_cuts_a_pending_receive_short() -> None:
    """The app hears of the end from us, at once; the close leaves although server and peer would wait for each other."""
    server = OneAtATime()
    channel = AsgiChannel(server.receive, server.send)
    await channel.receive()
    await channel.send(ACCEPT)
    reading = asyncio.ensure_future(channel.receive())
    await asyncio.sleep(0)
    channel.close(RATE_LIMITED)
    assert await reading == {"type": "websocket.disconnect", "code": 1008, "reason": "rate-limited"}
    assert reading.cancelling() == 0
    await channel.settle(wait=True)
    assert server.sent == ["websocket.accept", "close"]


async def test_a_cancellation_beside_our_cut_is_not_taken_for_ours() -> None:
    """Cancelled by somebody else in the same turn, the reader ends as cancelled."""
    server = OneAtATime()
    channel = AsgiChannel(server.receive, server.send)
    await channel.receive()
    await channel.send(ACCEPT)
    reading = asyncio.ensure_future(channel.receive())
    await asyncio.sleep(0)
    channel.close(RATE_LIMITED)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await channel.settle(wait=True)


async def test_an_apps_refusal_of_what_was_to_be_refused_is_the_only_answer() -> None:
    """A close decided before the handshake was asked for is not sent behind the app's own."""
    server = Server(stay=True)
    channel = AsgiChannel(server.receive, server.send)
    channel.close(RESTARTING)
    await channel.send({"type": "websocket.close", "code": 1000})
    await channel.receive()
    await channel.settle(wait=True)
    assert (len(server.of("close")), server.violations, channel.ending) == (1, [], RESTARTING)


async def test_after_the_end_hooks_are_left_alone() -> None:
    """No guard sees a message of the app that nobody will get."""
    channel, _ = await opened(stay=True)
    hooks = Hooks()
    channel.install(hooks)
    channel.finish(NORMAL, "server")
    with pytest.raises(Disconnected):
        await channel.send(message("late"))
    assert hooks.notes == []


async def test_a_cut_that_somebody_swallows_leaves_no_mark() -> None:
    """A foreign ``receive`` that answers a cancellation with an event does not leave the app's task half cancelled."""
    server = Server(stay=True)
    channel = AsgiChannel(server.receive, server.send)
    await channel.receive()
    await channel.send(ACCEPT)

    async def swallowing() -> Event:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return text("too late")
        raise AssertionError("nothing comes")

    channel._receive = swallowing
    reading = asyncio.ensure_future(channel.receive())
    await asyncio.sleep(0)
    channel.close(RATE_LIMITED)
    assert (await reading)["type"] == "websocket.disconnect"
    assert reading.cancelling() == 0
    await channel.settle(wait=True)
