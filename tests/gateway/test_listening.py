"""The sockets that the gateway listens with."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway import Settings
from gateway.errors import StartupError
from gateway.listening import bind, bind_all, greeting, tell_what_is_open


async def test_nothing_waits_for_nagle_whichever_event_loop_serves() -> None:
    """What follows a message in a write of its own, a ping or the next message, leaves at once."""
    accepted: asyncio.Queue[int] = asyncio.Queue()

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            sock = transport.get_extra_info("socket")
            accepted.put_nowait(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            transport.close()

    listener = bind("127.0.0.1", 0, "TIDEGATE_PORT")
    async with await asyncio.get_running_loop().create_server(Protocol, sock=listener):
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        assert await accepted.get() != 0
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


def test_all_ports_that_are_in_use_are_told_at_once() -> None:
    """Each by variable and option, and none that could be had is kept."""
    first, free, second = (bind("127.0.0.1", 0, "") for _ in range(3))
    ports = [one.getsockname()[1] for one in (first, free, second)]
    free.close()
    with first, second:
        first.listen()
        second.listen()
        with pytest.raises(StartupError) as error:
            bind_all([("127.0.0.1", port, "TIDEGATE_OPS_PORT") for port in ports])
    assert str(error.value).count("is in use by another process; choose another with TIDEGATE_OPS_PORT or --ops-port") == 2
    assert f"port {ports[0]} on" in str(error.value)
    assert f"port {ports[2]} on" in str(error.value)
    bind("127.0.0.1", ports[1], "").close()


@pytest.mark.parametrize(("mode", "token"), [("none", False), ("jwt", True)])
def test_the_greeting_says_how_to_join_publish_and_look(mode: str, token: bool) -> None:
    """Commands that work as they stand on the ports that were taken; a token where one is asked for."""
    settings = Settings(api_key="k", auth={"mode": mode, "secret": "s" * 32} if token else {"mode": mode})
    said = greeting("127.0.0.1:8001", ["127.0.0.1:9001"], settings)
    assert "tidegate listen lobby --url ws://127.0.0.1:8001" in said
    assert ("tidegate token --user" in said) is token
    assert "TIDEGATE_API_KEY=… tidegate publish lobby hello --ops-url http://127.0.0.1:9001" in said
    assert "http://127.0.0.1:9001/console" in said


def test_the_greeting_names_addresses_that_can_be_connected_to() -> None:
    """Who listens on all addresses is found on this machine's own."""
    said = greeting("0.0.0.0:8001", ["[::]:9001", "10.0.0.1:9002"], Settings())
    assert "ws://127.0.0.1:8001/ws/{room} with 2 workers, operations at http://[::1]:9001, http://10.0.0.1:9002." in said
    assert "0.0.0.0" not in said


@pytest.mark.parametrize(
    ("fields", "warnings"),
    [({"ops_host": "0.0.0.0"}, 1), ({"ops_host": "0.0.0.0", "api_key": "k" * 16}, 0), ({"ops_host": "127.0.0.1"}, 0)],
)
def test_an_ops_listener_that_others_reach_without_a_key_is_warned_about(fields: dict[str, Any], warnings: int) -> None:
    """Once, with what to set."""
    with capture_logs() as events:
        tell_what_is_open(Settings(**fields))
    assert [event["log_level"] for event in events] == ["warning"] * warnings
    assert all("TIDEGATE_API_KEY" in event["hint"] for event in events)
