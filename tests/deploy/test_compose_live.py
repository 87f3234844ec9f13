"""``examples/compose.yaml`` run without containers: its gateways on a real Redis, its Prometheus watching them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.settings import Settings
from tests.deploy.compose import GATEWAYS, PROMETHEUS_PACKAGE, RULES, SERVICES, environment, prometheus_files
from tests.deploy.tools import run
from tests.integration.gateway_process import API_KEY, hear, running
from tests.needs import free_port, need
from tests.servers import Redis


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """With the arguments of Compose, but where it may listen and write."""
    program, *options = SERVICES["redis"]["command"]
    server = Redis(tmp_path, binary=program, options=tuple(options))
    server.start()
    yield server
    server.stop()


async def test_what_is_said_at_one_gateway_is_heard_at_the_other(redis: Redis) -> None:
    """Two processes with the variables of Compose, but the addresses: sockets and the API speak across."""
    settings: list[dict[str, Any]] = [
        {name.removeprefix("TIDEGATE_"): value for name, value in environment(gateway).items()}
        | {"BROKER": f"{redis.url}/0", "API_KEY": API_KEY}
        for gateway in GATEWAYS
    ]
    async with running(**settings[0]) as first, running(**settings[1]) as second:
        assert [(await gateway.get("/readyz"))[0] for gateway in (first, second)] == [200, 200]
        async with first.connect("chat:1", origin="null") as ann, second.connect("chat:1") as ben:
            await ann.send("over here")
            assert await hear(ben) == ["over here"]
            assert (await first.publish("/api/rooms/chat:1/messages", "from the API"))[0] < 300
            assert await hear(ann) == await hear(ben) == ["from the API"]


@contextlib.asynccontextmanager
async def prometheus(config: Path, data: Path) -> AsyncIterator[str]:
    """A real Prometheus, started as Compose would, with its own port and folders; yields its address."""
    address = f"127.0.0.1:{free_port()}"
    places = {"/etc/prometheus/prometheus.yml": str(config), "/prometheus": str(data)}
    arguments = []
    for argument in SERVICES["prometheus"]["command"]:
        flag, _, value = argument.partition("=")
        arguments.append(f"{flag}={places.get(value, value)}")
    process = await asyncio.create_subprocess_exec(
        need("prometheus", how=PROMETHEUS_PACKAGE), *arguments, f"--web.listen-address={address}", "--log.level=error"
    )
    try:
        yield address
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # else it is closed at the loop's end, with a warning


async def asked(address: str, path: str) -> Any:
    """What Prometheus answers, or None while it does not."""

    def fetch() -> Any:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://{address}{path}", timeout=5) as response:
                return json.load(response)
        except (urllib.error.URLError, ConnectionError):
            return None

    return await asyncio.to_thread(fetch)


async def test_a_real_prometheus_scrapes_real_gateways_with_it(tmp_path: Path) -> None:
    """Started with the arguments and the files of Compose: both targets come up, the rules are loaded, exemplars are kept."""
    config = prometheus_files(tmp_path)
    async with running() as first, running() as second:
        text = config.read_text(encoding="utf-8").replace("scrape_interval: 5s", "scrape_interval: 1s")
        for name, gateway in zip(GATEWAYS, (first, second), strict=True):
            text = text.replace(f"{name}:{Settings().ops_port}", gateway.ops)
        config.write_text(text, encoding="utf-8")
        async with prometheus(config, tmp_path / "data") as address, asyncio.timeout(60):
            while True:
                found = await asked(address, "/api/v1/query?query=tidegate_build_info")
                if found and len(found["data"]["result"]) == 2:
                    break
                await asyncio.sleep(0.1)
            up = await asked(address, '/api/v1/query?query=up{job="tidegate"}')
            assert [result["value"][1] for result in up["data"]["result"]] == ["1", "1"]
            groups = (await asked(address, "/api/v1/rules"))["data"]["groups"]
            assert {Path(group["file"]).name for group in groups} == RULES
            flags = (await asked(address, "/api/v1/status/flags"))["data"]
            assert "exemplar-storage" in flags["enable-feature"]
            ready = SERVICES["prometheus"]["healthcheck"]["test"][-1].replace("127.0.0.1:9090", address)
            run(need("wget", how="apt-get install wget"), "-q", "-O", "/dev/null", ready, env={"no_proxy": "*"})
