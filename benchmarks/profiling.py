"""Where the time of a Python server goes: py-spy looks at it from outside, on the load generator's core."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

__all__ = ["profile", "self_shares"]

SAMPLES_PER_SECOND = 250
TOP = 14


async def profile(pid: int, work: Coroutine[Any, Any, Any], seconds: float, *, by_file: bool = False) -> list[tuple[str, float]]:
    """Run ``work`` while py-spy samples ``pid``; the places with the largest shares of its time. Empty without py-spy."""
    spy = _py_spy()
    if spy is None:
        await work
        return []
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "profile.txt"
        options = ("--format", "raw", "--rate", str(SAMPLES_PER_SECOND), "--duration", str(max(1, round(seconds))), "--nonblocking")
        process = await asyncio.create_subprocess_exec(
            spy, "record", *options, "--pid", str(pid), "--output", str(output),
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        await work
        await asyncio.wait_for(process.wait(), 30)
        return self_shares(output.read_text(), by_file=by_file) if output.exists() else []


def self_shares(raw: str, *, by_file: bool = False) -> list[tuple[str, float]]:
    """The places that were on top of the stack, and in how many of the samples. ``raw``: ``outer;inner;place count`` lines."""
    found: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        if stack and count.isdigit():
            place = _short(stack.split(";")[-1])
            found[place.partition(" ")[0] if by_file else place] += int(count)
    total = sum(found.values())
    return [(place, count / total) for place, count in found.most_common(TOP)]


def _short(place: str) -> str:
    """``function (file:line)`` as ``file function``: lines would split one function into many."""
    name, _, where = place.partition(" (")
    return f"{where.rpartition(':')[0] or where.rstrip(')')} {name}".strip()


def _py_spy() -> str | None:
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")
