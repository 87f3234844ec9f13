"""Secrets that clients show and control characters that they smuggle: what of it is found in logs, metrics, spans and answers."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
import pytest
import pytest_asyncio

from tests.integration.gateway_process import GatewayProcess, running
from tests.integration.raw_client import RawClient, frame

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = "0123456789abcdef0123456789abcdef"


class Collector:
    """Takes what the exporter sends and keeps it as bytes."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.bodies.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.stop()


def token(name: str, **claims: object) -> str:
    return jwt.encode({"sub": name, "exp": time.time() + 60, **claims}, SECRET, "HS256")


async def test_a_token_is_nowhere_but_with_the_client(collector: Collector) -> None:
    """Good, bad or misplaced, in query, path, header, cookie, subprotocol or message: in no log, metric, span or answer."""
    settings = {
        "AUTH__MODE": "jwt", "AUTH__SECRET": SECRET, "AUTH__QUERY_TOKEN": "true", "LOG_LEVEL": "debug",
        "TELEMETRY__OTLP_ENDPOINT": collector.endpoint, "TELEMETRY__MESSAGE_RATIO": "1",
    }  # fmt: skip
    good = [token(f"user-{number}") for number in range(6)]
    bad = [jwt.encode({"sub": f"bad-{number}", "exp": 4e9}, "another secret of thirty-two bytes", "HS256") for number in range(5)]
    opaque = "opaque-0123456789abcdef0123456789abcdef"
    answers: list[bytes] = []

    async def try_it(gateway: GatewayProcess, path: str, *headers: str) -> int:
        async with RawClient(gateway.public) as client:
            status = await client.shake_hands(path, *headers)
            if status == 101:
                await client.send(frame(b"hello") + frame(good[5].encode()) + frame(b"\x03\xe8" + good[5].encode()[:100], opcode=8))
            answer = await client.receive_all()
            answers.append(answer.partition(b"\r\n\r\n")[0] if status == 101 else answer)  # its own words come back to it
            return status

    async with running(**settings) as gateway:
        assert await try_it(gateway, f"/ws/r?token={good[0]}&echo=1") == 101
        assert await try_it(gateway, "/ws/r", f"Authorization: Bearer {good[1]}", f"Cookie: session={opaque}; t={good[2]}") == 101
        assert await try_it(gateway, f"/ws/{good[3]}", f"Authorization: Bearer {good[4]}") in (101, 400)
        assert await try_it(gateway, f"/ws/r?token={bad[0]}") == 401
        assert await try_it(gateway, "/ws/r", f"Authorization: Bearer {bad[1]}", f"Referer: http://x/?token={bad[2]}") == 401
        assert await try_it(gateway, "/ws/r", f"Sec-WebSocket-Protocol: bearer.{bad[3]}, tidegate.raw") in (400, 401)
        assert await try_it(gateway, f"/ws/r?access_token={opaque}&api_key={opaque}") == 401
        assert await try_it(gateway, f"/elsewhere?token={bad[4]}", f"User-Agent: Bearer {bad[4]}") == 401
        for path in (
            f"/api/rooms?token={bad[0]}",
            f"/api/nothing/{bad[1]}",
            f"/metrics?token={good[0]}",
            f"/healthz?token={good[1]}",
        ):
            for public in (False, True):
                status, body = await gateway.get(path, public=public)
                answers.append(json.dumps(body).encode())
        _, metrics = await gateway.get("/metrics", Accept="application/openmetrics-text")
        answers.append(metrics.encode())
        assert await gateway.stop() == 0
        assert collector.bodies, "spans were exported"
        assert len(gateway.events("websocket.closed")) == 3
        places = {"log": b"".join(gateway.log_lines), "spans": b"".join(collector.bodies), "answers": b"".join(answers)}
        for secret in (*good, *bad, opaque, SECRET):
            for where, text in places.items():
                assert secret.encode() not in text, f"{secret[:12]}… in {where}"
                assert secret.encode()[-24:] not in text, f"the end of {secret[:12]}… in {where}"


SMUGGLED = "%0d%0a%1b[2Jforged%00%7f%c2%85%e2%80%a8%e2%80%ae"


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["json", "console"])
async def logging_gateway(request: pytest.FixtureRequest) -> AsyncIterator[GatewayProcess]:
    async with running(LOG_FORMAT=request.param, LOG_LEVEL="debug") as gateway:
        yield gateway


async def test_no_client_can_forge_a_line_or_reach_the_terminal(logging_gateway: GatewayProcess) -> None:
    """Line breaks, escapes and direction marks in every part of a request stay inside one event, written out."""
    gateway = logging_gateway
    requests: list[tuple[str, list[str]]] = [
        (f"/ws/{SMUGGLED}", []),
        (f"/{SMUGGLED}", []),
        (f"/ws/r?x={SMUGGLED}", []),
        ("/ws/r", ["User-Agent: a\x1b[31mred\x07", "Referer: \x9b31m"]),
        ("/ws/r", ["User-Agent: a\x9b31m\x85\xad"]),
        ("/ws/r", ["Origin: http://\x9b31m.example"]),
        ("/ws/r", ["Sec-WebSocket-Protocol: a\x9bb"]),
        ("/ws/r", ["traceparent: 00-\x9b" + "1" * 31 + "-2222222222222222-01"]),
        ("/ws/r", ["X-Request-ID: \x9b31m", "X-Forwarded-For: \x9b31m, 1.2.3.4"]),
    ]
    connected = 0
    for path, headers in requests:
        async with RawClient(gateway.public) as client:
            if await client.shake_hands(path, *headers) == 101:
                connected += 1
                await client.send(frame(b"\x1b[2J\n") + frame(b"\x03\xe8" + b"bye\x1b[2J\r\nforged \xe2\x80\xae", opcode=8))
            else:
                client.finish()
            await client.receive_all()
    for path in (f"/api/rooms/{SMUGGLED}", f"/{SMUGGLED}"):
        await gateway.request("GET", path, headers={"Idempotency-Key": "a\x9bb"})
    async with asyncio.timeout(5):
        while sum(b"websocket.closed" in line for line in gateway.log_lines) < connected:
            await asyncio.sleep(0.02)
    assert connected >= 3
    for line in gateway.log_lines:
        text = line.decode()
        assert text.endswith("\n")
        assert text[:-1].isprintable(), text
        assert not line.startswith(b"forged"), text
