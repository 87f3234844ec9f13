"""The server as an ASGI app and as methods for routes, under servers with and without the frames extension."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway.connection import Connection
from gateway.errors import ConnectionClosed, InvalidRoomName, JoinRefused
from gateway.registry import EVERYONE
from gateway.server import RAW_SUBPROTOCOL, WebSocketServer
from middleware.asgi import CONNECTION_ID, FRAMES_EXTENSION, ASGIApp, Event
from middleware.close import FORBIDDEN, NORMAL, RESTARTING
from tests.gateway.broker.brokers import MoodyBroker
from tests.middleware.asgi_helpers import Server, binary, disconnect, run, text, websocket_scope
from tests.middleware.fake_frames import FakeFrames
from tests.middleware.virtual_time import VirtualLoop, run_virtual


class Client:
    """A connection to an app in this process that stays until told to leave."""

    def __init__(self, app: ASGIApp, room: str = "r", *, framed: bool | type[FakeFrames] = False, **scope: Any) -> None:
        self.server = Server(stay=True)
        kind = FakeFrames if framed is True else framed
        self.frames = kind(self.server) if kind else None
        made = websocket_scope(f"/ws/{room}", path_params={"room": room}, **scope)
        receive, send = self.server.receive, self.server.send
        if self.frames is not None:
            made = {**made, "extensions": {**made["extensions"], FRAMES_EXTENSION: self.frames}}
            receive, send = self.frames.receive, self.frames.send
        self.task = asyncio.ensure_future(app(made, receive, send))

    @property
    def heard(self) -> bytes:
        """What was written as frames, or the payloads sent as events, joined."""
        if self.frames is not None:
            return b"".join(frame[2:] for frame in self.frames.written)
        return b"".join(payload.encode() if isinstance(payload, str) else payload for payload in self.server.payloads)

    def say(self, *events: Event) -> None:
        self.server.feed(*events)

    async def leave(self, code: int = 1000) -> None:
        self.say(disconnect(code))
        await asyncio.wait_for(self.task, 5)


async def turn(count: int = 12) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


both = pytest.mark.parametrize("framed", [True, False], ids=["frames", "asgi"])


# -- as an app


@both
async def test_messages_go_to_the_others_and_with_echo_to_the_sender_too(framed: bool) -> None:
    """The relay looks at nothing: text and binary, the empty message too."""
    server = WebSocketServer()
    alice, bob = Client(server, framed=framed), Client(server, framed=framed)
    carol, other = Client(server, framed=framed, query_string=b"x=1&echo=1"), Client(server, "elsewhere", framed=framed)
    await turn()
    alice.say(text("1"), text(""), binary(b"2"))
    await turn()
    carol.say(text("3"))
    await turn()
    assert [client.heard for client in (alice, bob, carol, other)] == [b"3", b"123", b"123", b""]
    for client in (alice, bob, carol, other):
        await client.leave()
    assert server.registry.statistics() == (0, 0, 0, 0)
    assert server.registry.ledger.totals["other"].unaccounted() == 0
    await server.stop()


@pytest.mark.parametrize(("room", "status"), [("~user/1", 400), ("x" * 256, 400), ("a\nb", 400), ("..", 400), ("ok", None)])
async def test_a_bad_room_is_refused_with_a_sentence(room: str, status: int | None) -> None:
    """The problem document names the rule; nothing is registered."""
    server = WebSocketServer()
    client = await run(server, websocket_scope(path_params={"room": room}))
    assert client.status == status
    if status:
        assert "room name" in json.loads(client.body)["detail"]
    assert len(server.registry) == 0
    await server.stop()


async def test_only_our_own_subprotocol_is_ever_selected() -> None:
    """A client's own names are not echoed."""
    server = WebSocketServer()
    for offered, chosen in ((["evil", RAW_SUBPROTOCOL], RAW_SUBPROTOCOL), (["evil"], None), ([], None)):
        client = await run(server, websocket_scope(path_params={"room": "r"}, subprotocols=offered))
        assert client.of("accept")[0]["subprotocol"] == chosen
    await server.stop()


async def test_a_user_whose_token_names_rooms_joins_only_those() -> None:
    """403 at the handshake, JoinRefused from code."""

    class User:
        id = "u1"

        def may_join(self, room: str) -> bool:
            return room.startswith("chat:")

    server = WebSocketServer()
    refused = await run(server, websocket_scope(path_params={"room": "secret"}, user=User()))
    assert refused.status == 403
    client = Client(server, "chat:1", user=User())
    await turn()
    (connection,) = server.registry.by_user("u1")
    assert connection.rooms == {"chat:1", EVERYONE, "~user/u1"}
    await server.join(connection, "chat:2")
    with pytest.raises(JoinRefused):
        await server.join(connection, "secret")
    with pytest.raises(InvalidRoomName):
        await server.join(connection, "~user/other")
    server.leave(connection, "chat:2")
    await client.leave()
    await server.stop()


async def test_while_the_broker_is_away_handshakes_get_503_and_a_time_to_come_back(caplog: pytest.LogCaptureFixture) -> None:
    """Existing members stay; what they say is counted as refused and logged."""
    broker = MoodyBroker()
    server = WebSocketServer(broker=broker)
    member = Client(server)
    await turn()
    broker.down = True
    refused = await run(server, websocket_scope(path_params={"room": "new"}))
    assert (refused.status, refused.response_headers[b"retry-after"]) == (503, b"3")
    assert json.loads(refused.body)["reason"] == "unavailable"  # there would be room: not at-capacity
    member.say(text("lost"))
    await turn()
    assert server.hub.statistics().refused_by_broker == 1
    assert "broker does not take them" in caplog.text
    assert not member.task.done()
    broker.down = False
    await member.leave()
    await server.stop()


async def test_who_is_on_its_way_in_when_the_drain_begins_is_closed_too() -> None:
    """Nobody slips in behind the drain to be cut off without a word."""
    broker = MoodyBroker()
    server = WebSocketServer(broker=broker)
    await server.start()
    broker.gate = asyncio.Event()
    client = Client(server)
    await turn()
    assert await server.drain() == 0
    broker.gate.set()
    await asyncio.wait_for(client.task, 5)
    assert client.server.close == (1012, "restarting")
    assert len(server.registry) == 0
    await server.stop()


async def test_draining_refuses_newcomers_and_closes_everybody_with_restarting() -> None:
    """The close tells clients to come back; the refusal says when."""
    server = WebSocketServer()
    clients = [Client(server) for _ in range(5)]
    await turn()
    progress: list[int] = []
    assert await server.drain(period_seconds=0.02, on_progress=progress.append) == 5
    await asyncio.gather(*(client.task for client in clients))
    assert {client.server.close for client in clients} == {(1012, "restarting")}
    assert progress[-1] == 0
    assert progress == sorted(progress, reverse=True)
    refused = await run(server, websocket_scope(path_params={"room": "r"}))
    assert (refused.status, json.loads(refused.body)["reason"]) == (503, "restarting")
    await server.stop()


def test_a_drain_ends_when_the_last_client_has_gone() -> None:
    """However long its period: nobody is waited for who left by themselves."""

    async def main(loop: VirtualLoop) -> None:
        server = WebSocketServer()
        clients = [Client(server) for _ in range(3)]
        await turn()
        progress: list[int] = []
        draining = asyncio.ensure_future(server.drain(period_seconds=3600, on_progress=progress.append))
        await turn()
        began = loop.time()
        assert progress == [2]  # one was closed at once
        for client in clients:
            if not client.task.done():
                await client.leave()
        assert await draining == 3
        assert (loop.time() - began, progress[-1]) == (0, 0)
        await server.stop()

    run_virtual(main)


@both
async def test_an_invalid_message_ends_a_relayed_connection_with_its_slug(framed: bool) -> None:
    """Other members lose nothing."""
    server = WebSocketServer(allow="text", max_message_bytes=3)
    bad, big, good = (Client(server, framed=framed) for _ in range(3))
    await turn()
    bad.say(binary(b"x"))
    big.say(text("four"))
    await turn()
    assert (bad.server.close, big.server.close) == ((1003, "unsupported-data"), (1009, "message-too-big"))
    await asyncio.gather(bad.task, big.task)
    assert not good.task.done()
    await good.leave()
    await server.stop()


@both
async def test_a_handler_of_ones_own_gets_a_connection(framed: bool) -> None:
    """``async for`` ends by itself when the client leaves; returning closes normally."""
    heard: list[Any] = []

    async def handler(connection: Connection) -> None:
        async for message in connection:
            heard.append(message)
            await connection.send({"got": message})
            if message == {"n": 2}:
                return

    server = WebSocketServer(handler=handler, json=True)
    client = Client(server, framed=framed)
    await turn()
    client.say(text('{"n": 1}'), text('{"n": 2}'))
    await asyncio.wait_for(client.task, 5)
    assert heard == [{"n": 1}, {"n": 2}]
    assert client.heard == b'{"got":{"n":1}}{"got":{"n":2}}'
    assert client.server.close == (1000, "normal")
    assert len(server.registry) == 0
    await server.stop()


@both
async def test_a_handler_that_raises_leaves_no_trace_of_the_connection(framed: bool) -> None:
    """The error goes to the ASGI server; the registry is clean."""

    async def handler(connection: Connection) -> None:
        await connection.receive()
        raise LookupError("a bug")

    server = WebSocketServer(handler=handler)
    client = Client(server, framed=framed)
    await turn()
    client.say(text("x"))
    with pytest.raises(LookupError):
        await asyncio.wait_for(client.task, 5)
    assert len(server.registry) == 0
    assert client.server.close == (1011, "internal-error")
    await server.stop()


@both
async def test_a_handler_that_is_cancelled_sends_the_client_elsewhere(framed: bool) -> None:
    """The process is going away, which is no normal end; the cancellation goes on."""

    async def handler(connection: Connection) -> None:
        await connection.receive()

    server = WebSocketServer(handler=handler)
    client = Client(server, framed=framed)
    await turn()
    client.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await client.task
    assert client.server.close == (1001, "going-away")
    assert len(server.registry) == 0
    await server.stop()


@both
async def test_an_error_that_is_an_ending_ends_the_connection_with_it(framed: bool) -> None:
    """A handler that lets a refused join through sends the client away as forbidden; nobody gets a traceback."""

    async def handler(connection: Connection) -> None:
        await connection.receive()
        raise JoinRefused("not there")

    server = WebSocketServer(handler=handler)
    client = Client(server, framed=framed)
    await turn()
    client.say(text("x"))
    await asyncio.wait_for(client.task, 5)
    assert client.server.close == (1008, "forbidden")
    await server.stop()


@both
async def test_a_route_that_fails_within_its_block_does_not_close_normally(framed: bool) -> None:
    """The client learns that it was not its fault, and the error goes on."""
    server = WebSocketServer()

    async def endpoint(websocket: WebSocket) -> None:
        async with server.connect(websocket, "r"):
            raise LookupError("a bug")

    client = Client(routes(server, endpoint), framed=framed)
    with pytest.raises(LookupError):
        await asyncio.wait_for(client.task, 5)
    assert client.server.close == (1011, "internal-error")
    await server.stop()


@pytest.mark.parametrize("moment", ["connect", "accept", "subscribe", "handler"])
async def test_a_client_that_goes_or_is_cancelled_at_any_moment_leaves_nothing(moment: str) -> None:
    """Before connect, in accept, while subscribing, or in the handler: no member, no hold, no task."""
    broker = MoodyBroker()
    server = WebSocketServer(broker=broker, linger_seconds=0.0)
    await server.start()
    scope = websocket_scope(path_params={"room": "r"})
    asgi = Server(disconnect()) if moment == "connect" else Server(stay=True)
    if moment == "connect":
        asgi._script.popleft()
    send: Callable[[Event], Awaitable[None]] = asgi.send
    if moment == "accept":

        async def send(event: Event) -> None:
            raise OSError("gone")

    if moment == "subscribe":
        broker.gate = asyncio.Event()
    task = asyncio.ensure_future(server(scope, asgi.receive, send))
    await turn()
    if moment in ("subscribe", "handler"):
        task.cancel()
    await asyncio.wait([task], timeout=5)
    assert task.done()
    task.cancelled() or task.exception()
    broker.gate = None
    await turn()
    assert server.registry.statistics() == (0, 0, 0, 0)
    assert {name: one.holders for name, one in server.hub.subscriptions._rooms.items() if one.holders} == {
        f"~node/{server.hub.node}": 1,
        EVERYONE: 1,
    }
    await server.stop()


class HastyFrames(FakeFrames):
    """A client whose close frame comes right behind its handshake: the wire reads it as soon as it has accepted."""

    async def send(self, event: Event) -> None:
        await super().send(event)
        if event["type"] == "websocket.accept":
            self.finish(NORMAL, "client")
            self.server.feed(disconnect(1000))


async def test_a_client_that_leaves_with_its_handshake_leaves_nothing() -> None:
    """No ghost in a room, no hold, no traceback; in the app and in a route."""
    server = WebSocketServer()

    async def endpoint(websocket: WebSocket) -> None:
        await server.accept_connection(websocket)
        with pytest.raises(ConnectionClosed):
            await server.handle_connection(websocket, "r")

    for app in (server, routes(server, endpoint)):
        client = Client(app, framed=HastyFrames)
        await asyncio.wait_for(client.task, 5)
        assert server.registry.statistics() == (0, 0, 0, 0)
        assert not server.registry.rooms
        assert not server.hub.subscriptions._rooms["r"].holders
    await server.stop()


async def test_a_connection_id_that_is_taken_leaves_no_hold() -> None:
    """The second one fails; the first goes on."""
    server = WebSocketServer()
    first, second = (Client(server, **{CONNECTION_ID: "same"}) for _ in range(2))
    await turn()
    with pytest.raises(ValueError, match="taken"):
        await second.task
    assert second.server.close == (1011, "internal-error")
    assert server.hub.subscriptions._rooms["r"].holders == 1
    await first.leave()
    await server.stop()


# -- in routes


def routes(server: WebSocketServer, endpoint: Callable[[WebSocket], Awaitable[None]]) -> ASGIApp:
    return Starlette(routes=[WebSocketRoute("/ws/{room}", endpoint)])


@both
async def test_the_original_interface_runs_as_written(framed: bool) -> None:
    """Accept, register, receive, send; the route ends by ConnectionClosed and nothing is left."""
    server = WebSocketServer(rate_limit_config={"enabled": True, "requests_per_minute": 60})
    ids: list[str] = []

    async def endpoint(websocket: WebSocket) -> None:
        await server.accept_connection(websocket)
        connection_id = await server.handle_connection(websocket, websocket.path_params["room"], metadata={"k": 1})
        ids.append(connection_id)
        while True:
            message = await server.receive_message(websocket)
            if message:
                await server.send_message(websocket, message.upper())

    client = Client(routes(server, endpoint), framed=framed)
    await turn(30)
    client.say(text("a"), text("b"))
    await turn(30)
    assert client.heard == b"AB"
    connection = server.registry.get(ids[0])
    assert connection is not None
    assert (connection.metadata, (connection.frames is not None)) == ({"k": 1}, framed)
    assert await server.send_to(ids[0], "direct")
    client.say(disconnect(1001))
    with pytest.raises(WebSocketDisconnect) as caught:
        await asyncio.wait_for(client.task, 5)
    assert isinstance(caught.value, ConnectionClosed)
    assert len(server.registry) == 0
    await server.stop()


async def test_too_many_messages_are_answered_and_not_handed_over() -> None:
    """receive_message returns None and the client gets an error message."""
    server = WebSocketServer(rate_limit_config={"enabled": True, "requests_per_minute": 2})
    got: list[Any] = []

    async def endpoint(websocket: WebSocket) -> None:
        async with server.connect(websocket, "r"):
            while True:
                got.append(await server.receive_message(websocket))

    client = Client(routes(server, endpoint))
    await turn(30)
    client.say(text("1"), text("2"), text("3"))
    await turn(40)
    assert got == ["1", "2", None]
    assert json.loads(client.heard)["error"]["reason"] == "rate-limited"
    await client.leave()
    await server.stop()


async def test_invalid_messages_are_answered_and_not_handed_over() -> None:
    """The connection goes on."""
    server = WebSocketServer(json=True)
    got: list[Any] = []

    async def endpoint(websocket: WebSocket) -> None:
        async with server.connect(websocket, "r"):
            while True:
                got.append(await server.receive_message(websocket))

    client = Client(routes(server, endpoint))
    await turn(30)
    client.say(text("{oops"), text("{}"))
    await turn(40)
    assert got == [None, {}]
    assert json.loads(client.heard)["error"]["reason"] == "bad-payload"
    await client.leave()
    await server.stop()


async def test_a_room_the_client_may_not_have_closes_it_and_tells_the_route() -> None:
    """A hostile room id from the path is no traceback in the route."""
    server = WebSocketServer()
    caught: list[BaseException] = []

    async def endpoint(websocket: WebSocket) -> None:
        await server.accept_connection(websocket)
        try:
            await server.handle_connection(websocket, "~user/admin")
        except WebSocketDisconnect as error:
            caught.append(error)

    client = Client(routes(server, endpoint))
    await asyncio.wait_for(client.task, 5)
    assert client.server.close == (1008, "forbidden")
    assert isinstance(caught[0], ConnectionClosed)
    assert len(server.registry) == 0
    await server.stop()


@both
async def test_who_connects_in_a_route_hears_everything_from_its_acceptance_on(framed: bool) -> None:
    """However long joining takes, the client is told that it is in when it is: no message falls in between."""
    broker = MoodyBroker()
    server = WebSocketServer(broker=broker)
    await server.start()
    broker.gate = asyncio.Event()

    async def endpoint(websocket: WebSocket) -> None:
        async with server.connect(websocket, "r") as connection:
            async for _ in connection:
                pass

    client = Client(routes(server, endpoint), framed=framed)
    await turn(30)
    assert not client.server.accepted
    broker.gate.set()
    while not client.server.accepted:
        await asyncio.sleep(0)
    await turn(1)  # what `accept` itself takes under such a server
    await server.broadcast("r", "first")
    await turn()
    assert client.heard == b"first"
    await client.leave()
    await server.stop()


@pytest.mark.parametrize(("room", "status"), [("~user/admin", 400), ("secret", 403), ("new", 503)])
async def test_who_may_not_connect_in_a_route_is_refused_with_a_status(room: str, status: int) -> None:
    """As by the app: no acceptance that is taken back, nothing held, and the route is told."""

    class User:
        id = "u1"

        def may_join(self, room: str) -> bool:
            return room != "secret"

    broker = MoodyBroker()
    server = WebSocketServer(broker=broker)
    await server.start()
    broker.down = True
    caught: list[ConnectionClosed] = []

    async def endpoint(websocket: WebSocket) -> None:
        try:
            async with server.connect(websocket, room):
                pytest.fail("it is in")
        except ConnectionClosed as error:
            caught.append(error)

    client = Client(routes(server, endpoint), user=User())
    await asyncio.wait_for(client.task, 5)
    assert (client.server.status, client.server.accepted) == (status, False)
    assert json.loads(client.server.body)["reason"] == caught[0].close.reason
    assert len(server.registry) == 0
    broker.down = False
    await server.stop()


async def test_connect_is_not_for_who_is_accepted_already() -> None:
    """The error names the method that is."""
    server = WebSocketServer()

    async def endpoint(websocket: WebSocket) -> None:
        await server.accept_connection(websocket)
        with pytest.raises(RuntimeError, match="handle_connection"):
            async with server.connect(websocket, "r"):
                pytest.fail("it is in twice")

    client = Client(routes(server, endpoint))
    await asyncio.wait_for(client.task, 5)
    assert not server.registry.rooms
    await server.stop()


async def test_a_client_that_goes_while_it_is_accepted_in_a_route_holds_nothing() -> None:
    """The rooms that were held for it are let go of."""
    server = WebSocketServer()

    class Gone(Server):
        async def send(self, event: Event) -> None:
            raise OSError("gone")

    async def endpoint(websocket: WebSocket) -> None:
        async with server.connect(websocket, "r"):
            pytest.fail("it is in")

    gone = Gone()
    with pytest.raises((OSError, WebSocketDisconnect)):
        await routes(server, endpoint)(websocket_scope("/ws/r"), gone.receive, gone.send)
    assert not server.hub.subscriptions._rooms["r"].holders
    await server.stop()


async def test_a_route_that_forgets_everything_still_leaves_nothing() -> None:
    """The end of the route's task unregisters, whatever the route did."""
    server = WebSocketServer()

    async def endpoint(websocket: WebSocket) -> None:
        await server.accept_connection(websocket)
        await server.handle_connection(websocket, "r")

    client = Client(routes(server, endpoint))
    await asyncio.wait_for(client.task, 5)
    await turn()
    assert len(server.registry) == 0
    assert not server._sessions
    await server.stop()


async def test_who_is_not_accepted_cannot_be_registered() -> None:
    """The error names what to call first; the room and its members never hear of it."""
    server = WebSocketServer()

    async def endpoint(websocket: WebSocket) -> None:
        with pytest.raises(RuntimeError, match="accept_connection"):
            await server.handle_connection(websocket, "r")
        await websocket.close()

    client = Client(routes(server, endpoint))
    await asyncio.wait_for(client.task, 5)
    assert not server.registry.rooms
    await server.stop()


@both
async def test_a_route_that_is_done_keeps_no_websocket_alive(framed: bool) -> None:
    """What the server remembers of a connection goes with it."""
    server = WebSocketServer()
    seen: list[weakref.ref[WebSocket]] = []

    async def endpoint(websocket: WebSocket) -> None:
        seen.append(weakref.ref(websocket))
        async with server.connect(websocket, "r") as connection:
            async for _ in connection:
                pass

    client = Client(routes(server, endpoint), framed=framed)
    await turn(30)
    await client.leave()
    del client
    await turn()
    gc.collect()
    assert seen[0]() is None
    await server.stop()


async def test_methods_for_routes_need_a_registered_websocket() -> None:
    """Forgetting handle_connection is said in a sentence."""
    server = WebSocketServer()
    errors: list[str] = []

    async def endpoint(websocket: WebSocket) -> None:
        await server.accept_connection(websocket)
        try:
            await server.receive_message(websocket)
        except KeyError as error:
            errors.append(str(error))

    await asyncio.wait_for(Client(routes(server, endpoint)).task, 5)
    assert "handle_connection" in errors[0]


# -- reaching connections


async def test_every_address_works() -> None:
    """Room, user, one connection, everyone; and closing by id and by user."""

    class User:
        id = "u1"

    server = WebSocketServer()
    clients = [Client(server, user=User()), Client(server, user=User()), Client(server)]
    await turn()
    first, second = sorted(server.registry.by_user("u1"), key=lambda connection: int(connection.id.split("-")[1]))
    assert (await server.broadcast("r", "room", exclude=first)).recipients_local == 2
    await turn()
    assert (await server.send_to_user("u1", "user")).recipients_local == 2
    await turn()
    assert (await server.broadcast_all("all")).recipients_local == 3
    assert await server.send_to(second.id, b"me")
    await turn()
    assert [client.heard for client in clients] == [b"userall", b"roomuserallme", b"roomall"]
    assert await server.close_connection(first.id, FORBIDDEN)
    assert await server.close_user("u1", RESTARTING) == 1
    await asyncio.gather(clients[0].task, clients[1].task)
    assert [client.server.close for client in clients] == [(1008, "forbidden"), (1012, "restarting"), None]
    with pytest.raises(InvalidRoomName):
        await server.broadcast("~all", "x")
    await clients[2].leave()
    await server.stop()


async def test_a_server_serves_websockets_only() -> None:
    """Mounting it on HTTP is the caller's mistake."""
    with pytest.raises(ValueError, match="'http'"):
        await WebSocketServer()({"type": "http"}, Server().receive, Server().send)
