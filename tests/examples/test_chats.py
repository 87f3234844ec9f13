"""The examples run as they are, as processes under uvicorn with the wire and without it, and clients talk through them."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import websockets
from websockets.exceptions import ConnectionClosed

EXAMPLES = Path(__file__).parents[2] / "examples"


@asynccontextmanager
async def running(module: str, *options: str) -> AsyncIterator[str]:
    """The example under uvicorn; yields ``host:port``. Its log must hold no traceback."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        port = listener.getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "uvicorn", f"{module}:app", "--app-dir", str(EXAMPLES), "--fd", str(listener.fileno()),
            "--timeout-graceful-shutdown", "2", *options,
            pass_fds=[listener.fileno()], stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        log = b""
        try:
            assert process.stderr is not None
            async with asyncio.timeout(30):
                while b"running on" not in log:
                    line = await process.stderr.readline()
                    assert line, log.decode()
                    log += line
            yield f"127.0.0.1:{port}"
        finally:
            if process.returncode is None:
                process.terminate()
            _, rest = await process.communicate()
    if options:
        assert b"Traceback" not in log + rest, (log + rest).decode()


WIRE = ("--ws", "gateway.wire:WireProtocol")


async def hear(client: Any) -> Any:
    async with asyncio.timeout(5):
        return await client.recv()


@pytest.mark.parametrize("options", [WIRE, ()], ids=["wire", "uvicorn's own"])
async def test_the_fastapi_chat_routes_messages(options: tuple[str, ...]) -> None:
    """Welcome, who is here, saying something to all, and answers to nonsense."""
    async with running("chat_fastapi", *options) as host:
        url = f"ws://{host}/rooms/lobby?name="
        async with websockets.connect(url + "ann", proxy=None) as ann, websockets.connect(url + "bob", proxy=None) as bob:
            assert [json.loads(await hear(client))["type"] for client in (ann, bob)] == ["welcome", "welcome"]
            await ann.send('{"type": "who"}')
            assert json.loads(await hear(ann)) == {"type": "members", "names": ["ann", "bob"]}
            await bob.send('{"type": "say", "text": "hi"}')
            for client in (ann, bob):
                assert json.loads(await hear(client)) == {"type": "said", "by": "bob", "text": "hi"}
            for nonsense, reason in (
                ("[1]", "a message has a type"),
                ('{"type": "fly"}', "a message has a type"),
                ("{", "bad-payload"),
            ):
                await ann.send(nonsense)
                assert reason in await hear(ann)
        async with websockets.connect(url + "eve", proxy=None) as eve:
            await hear(eve)
            await eve.send('{"type": "who"}')
            assert json.loads(await hear(eve))["names"] == ["eve"]


@pytest.mark.parametrize("options", [WIRE, ()], ids=["wire", "uvicorn's own"])
async def test_the_starlette_chat_tells_who_comes_and_goes(options: tuple[str, ...]) -> None:
    """Joins, messages and leaves are heard by the others; binary is refused with its reason."""
    async with running("chat_starlette", *options) as host:
        url = f"ws://{host}/rooms/lobby"
        async with websockets.connect(url, proxy=None) as ann:
            async with websockets.connect(url, proxy=None) as bob:
                assert (await hear(ann)).endswith("has joined")
                await bob.send("hi")
                assert (await hear(ann)).endswith(": hi")
                assert (await hear(bob)).endswith(": hi")
            assert (await hear(ann)).endswith("has left")
            await ann.send(b"binary")
            with pytest.raises(ConnectionClosed) as closed:
                await hear(ann)
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1003, "unsupported-data")
