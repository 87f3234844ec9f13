"""A Node client, with zstd from npm, reads and writes the compressed mode.

Needs ``node``, ``npm`` and, the first time, the npm registry: without them skipped on a laptop, failed where ``CI=true``.
"""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..downloads import npm_packages
from .zstd_server import EVENTS, serve, trained

SOURCES = Path(__file__).parent / "node"


@pytest.fixture(scope="session")
def client_script() -> Iterator[Path]:
    """The client beside its installed packages."""
    folder = npm_packages(SOURCES / "package.json")
    with tempfile.TemporaryDirectory(dir=folder) as own:  # Node looks for the packages one folder up
        yield Path(shutil.copy(SOURCES / "zstd_client.mjs", own))


async def talk(script: Path, offer: list[str], send: list[Any]) -> Any:
    """Run the Node client against the server; returns what it printed."""
    async with serve() as address:
        job = {"url": f"ws://{address}/ws", "offer": offer, "dictionaries": f"http://{address}/dictionaries", "send": send}
        node = await asyncio.create_subprocess_exec(
            "node", str(script), json.dumps(job), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            out, err = await asyncio.wait_for(node.communicate(), 30)
        finally:
            if node.returncode is None:
                node.kill()
                await node.wait()
    assert node.returncode == 0, err.decode()
    return json.loads(out)


BINARY = {"base64": base64.b64encode(bytes(range(256)) * 8).decode()}
SEND = [*EVENTS[500:], "", "short", "日本語 " * 100, BINARY, {"base64": ""}]
RAW_BYTES = sum(len(item.encode()) if isinstance(item, str) else len(base64.b64decode(item["base64"])) for item in SEND)


@pytest.mark.parametrize(
    ("offer", "agreed", "ratio"),
    [
        ([f"chat+zstd.{trained().id}", "chat+zstd", "chat"], f"chat+zstd.{trained().id}", 2.5),
        (["chat+zstd", "chat"], "chat+zstd", 1.1),
        (["chat+zstd.0000000000000000", "chat+zstd", "chat"], "chat+zstd", 1.1),
        ([f"zstd.{trained().id}"], f"zstd.{trained().id}", 2.5),
        (["zstd"], "zstd", 1.1),
        (["chat"], "chat", 1.0),
        ([], "", 1.0),
    ],
    ids=["dictionary", "no dictionary", "unknown dictionary", "dictionary alone", "zstd alone", "plain", "nothing"],
)
async def test_node_client(client_script: Path, offer: list[str], agreed: str, ratio: float) -> None:
    """Text, binary and empty messages come back the same, in the mode agreed on, and as small as that mode makes them."""
    heard = await talk(client_script, offer, SEND)
    assert heard["protocol"] == agreed
    assert heard["received"] == SEND
    assert RAW_BYTES / heard["wireBytes"] >= ratio
