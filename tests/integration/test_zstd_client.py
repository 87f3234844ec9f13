"""``examples/zstd_client.py`` does what its docstring says, against a real server."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from .zstd_server import EVENTS, serve, trained

EXAMPLE = Path(__file__).parents[2] / "examples" / "zstd_client.py"


async def run_example(*options: str) -> list[str]:
    """The lines that the example prints when it sends two events to an app that echoes."""
    async with serve() as address:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(EXAMPLE), f"ws://{address}/ws", *EVENTS[500:502], "--count", "2",
            "--dictionaries", f"http://{address}/dictionaries", *options,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            out, err = await asyncio.wait_for(process.communicate(), 30)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0, err.decode()
    return out.decode().splitlines()


@pytest.mark.parametrize(
    ("options", "agreed", "largest"),
    [
        (["--dictionary", trained().id], f"zstd.{trained().id}", 0.5),
        (["--name", "chat", "--dictionary", trained().id], f"chat+zstd.{trained().id}", 0.5),
        (["--name", "chat"], "chat+zstd", 1.1),
        (["--name", "other"], "nothing", 1.0),
    ],
    ids=["dictionary", "name and dictionary", "name", "a name that the app does not accept"],
)
async def test_zstd_client(options: list[str], agreed: str, largest: float) -> None:
    """It agrees on the best the server has, and what it prints is what it sent."""
    first, *heard = await run_example(*options)
    assert first == f"agreed on {agreed}"
    for line, event in zip(heard, EVENTS[500:502], strict=True):
        size, _, message = line.partition(" bytes on the wire: ")
        assert message == repr(event)
        assert int(size) <= largest * len(event.encode()) + 1
