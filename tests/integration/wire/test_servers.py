"""The wire in uvicorn as people run it: TLS, the command line, a stack of layers, frameworks, the client's library."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest
import uvloop
import websockets
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI, WebSocket, WebSocketException
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse

from middleware.close import AT_CAPACITY, RATE_LIMITED
from middleware.layer import Guard, Layer, Refuse

from .servers import echo, serving

ROOT = Path(__file__).parents[3]


def certificate(folder: Path) -> tuple[str, str]:
    """A key and a certificate for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return str(folder / "key.pem"), str(folder / "cert.pem")


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_tls(loop_factory: Any, tmp_path: Path) -> None:
    """Echo, frames written ready-made, both ways to close, shutdown: as without TLS."""
    key, cert = certificate(tmp_path)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["scheme"] == "wss"
        await receive()
        await send({"type": "websocket.accept"})
        scope["extensions"]["tidegate.frames"].write(b"\x81\x05ready", 1, 5)
        while (event := await receive())["type"] == "websocket.receive":
            if event["text"] == "close":
                await send({"type": "websocket.close", "code": 4000, "reason": "asked"})
            else:
                await send({**event, "type": "websocket.send"})

    async def run() -> None:
        context = ssl.create_default_context(cafile=cert)
        async with serving(app, uvicorn_options={"ssl_keyfile": key, "ssl_certfile": cert}) as served:
            url = f"wss://127.0.0.1:{served.port}/"
            async with websockets.connect(url, ssl=context) as client:
                assert await client.recv() == "ready"
                for message in ("hello", "x" * 300_000):
                    await client.send(message)
                    assert await client.recv() == message
            assert client.close_code == 1000
            async with websockets.connect(url, ssl=context) as client:
                assert await client.recv() == "ready"
                await client.send("close")
                with pytest.raises(websockets.ConnectionClosed):
                    await client.recv()
                assert (client.close_code, client.close_reason) == (4000, "asked")
            last = await websockets.connect(url, ssl=context)
        await last.wait_closed()
        assert last.close_code == 1012

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(run())


async def test_the_command_line() -> None:
    """``uvicorn --ws gateway.wire:WireProtocol`` with any app; SIGTERM ends it with 1012 and exit code 0."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "uvicorn", "--ws", "gateway.wire:WireProtocol", "--http", "gateway.wire:GuardedHttpProtocol",
        "--port", "0", "tests.integration.wire.servers:echo", "--interface", "asgi3", "--lifespan", "off",
        stderr=PIPE, cwd=ROOT,
    )  # fmt: skip
    assert process.stderr is not None
    log = ""
    while "running on http" not in log:
        log += (await asyncio.wait_for(process.stderr.readline(), 20)).decode()
    port = int(log.rpartition("127.0.0.1:")[2].split()[0])
    async with websockets.connect(f"ws://127.0.0.1:{port}/") as client:
        await client.send("hi")
        assert await client.recv() == "hi"
        process.terminate()
        with pytest.raises(websockets.ConnectionClosed):
            await client.recv()
        assert client.close_code == 1012
    _, rest = await asyncio.wait_for(process.communicate(), 20)
    assert "Traceback" not in log + rest.decode()


class Counting(Layer):
    """A layer that counts, and closes on "enough"."""

    def __init__(self, app: Any) -> None:
        super().__init__(app)
        self.guards: list[Any] = []

    async def open(self, link: Any) -> Guard:
        guard = CountingGuard(link)
        self.guards.append(guard)
        return guard


class CountingGuard(Guard):
    __slots__ = ("closing", "link", "log")

    def __init__(self, link: Any) -> None:
        self.link, self.log, self.closing = link, [], None

    def inbound(self, event: Any) -> Any:
        self.log.append(f"in {event['text']}")
        if event["text"] == "enough":
            self.link.close(RATE_LIMITED)
        return event

    def outbound(self, event: Any) -> Any:
        self.log.append(f"out {event['text']}")
        return event

    def closed(self, close: Any) -> None:
        self.closing = close


async def test_a_stack_of_layers_runs_on_the_frames_extension() -> None:
    """The driver takes the protocol itself as its channel; a layer's close reaches the client with its reason."""
    inner = Counting(echo)
    outer = Counting(inner)
    async with serving(outer) as served:
        async with websockets.connect(served.url) as client:
            await client.send("a")
            assert await client.recv() == "a"
            await client.send("enough")
            with pytest.raises(websockets.ConnectionClosed):
                await client.recv()
            assert (client.close_code, client.close_reason) == (1008, "rate-limited")
    for layer in (outer, inner):
        (guard,) = layer.guards
        assert guard.log[:2] == ["in a", "out a"]
        assert guard.closing == RATE_LIMITED
        assert guard.link.frames is not None


class Full(Layer):
    """A layer that refuses."""

    async def open(self, link: Any) -> Guard:
        raise Refuse(503, AT_CAPACITY, detail="no room", retry_after=7)


async def test_a_layer_refuses_with_a_status() -> None:
    """The handshake is answered with the layer's status, header and reason, and the outer guard is told."""
    outer = Counting(Full(echo))
    async with serving(outer) as served:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(served.url)
    answer = refused.value.response
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert b"at-capacity" in bytes(answer.body or b"")
    assert outer.guards[0].closing == AT_CAPACITY


async def test_fastapi() -> None:
    """Subprotocols, headers, a dependency's refusal, a denial, an early exit of a route, HTTP beside it."""
    app = FastAPI()

    @app.get("/")
    async def index() -> str:
        return "home"

    @app.websocket("/ws")
    async def chat(websocket: WebSocket, token: str = "") -> None:
        if token == "bad":
            raise WebSocketException(1008, "no")
        if token == "deny":
            await websocket.send_denial_response(PlainTextResponse("not today", status_code=418))
            return
        await websocket.accept("chat", headers=[(b"x-here", b"yes")])
        assert isinstance(websocket, HTTPConnection)
        async for text in websocket.iter_text():
            await websocket.send_json({"text": text})

    async with serving(app) as served:
        async with websockets.connect(served.url, subprotocols=["chat", "other"]) as client:  # type: ignore[list-item]
            assert client.subprotocol == "chat"
            assert client.response is not None
            assert client.response.headers["x-here"] == "yes"
            await client.send("hi")
            assert await client.recv() == '{"text":"hi"}'
        for token, status in (("bad", 403), ("deny", 418)):
            with pytest.raises(websockets.InvalidStatus) as refused:
                await websockets.connect(f"{served.url}?token={token}")
            assert refused.value.response.status_code == status
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).endswith(b'"home"')
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("stock_http", [False, True])
async def test_messages_of_every_size_and_both_kinds(stock_http: bool) -> None:
    """Against an independent implementation, in fragments, compressed and not."""
    for deflate in (False, True):
        async with serving(deflate=deflate, max_message_bytes=2**24, stock_http=stock_http) as served:
            async with websockets.connect(served.url, max_size=None, compression="deflate" if deflate else None) as client:
                for size in (0, 1, 125, 126, 65_535, 65_536, 1_000_000):
                    for message in ("ü" * size, bytes(size)):
                        await client.send(message)
                        assert await client.recv() == message
                await client.send(["fragments ", "of ", "text"])
                assert await client.recv() == "fragments of text"
                await client.send([b"and", b" of ", b"bytes"])
                assert await client.recv() == b"and of bytes"
                await (await client.ping())
