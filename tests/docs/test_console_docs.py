"""``docs/console.md``: what it shows of ``tidegate top`` is what this version shows."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.cli.top_view import render
from gateway.version import __version__
from tests.gateway.test_top import snapshot

TEXT = (Path(__file__).parents[2] / "docs" / "console.md").read_text(encoding="utf-8")
FIGURE = re.compile(r"(?<![\w-])(?:[≤>] )?(?:-|\d[\d,.]*)(?: (?:B|[KMG]iB|s|ms|µs|%))?(?![\w:])")


def shape(lines: list[str]) -> tuple[str, list[str]]:
    """The summary, and the headings of the tables below it, without figures and widths."""
    blank = lines.index("")
    summary = " ".join(FIGURE.sub("#", " ".join(lines[1:blank])).split())
    headings = [line for line in lines[blank:] if re.search(r"\b(p50|total|msg/s)\b", line)]
    return summary, re.findall(r"[a-z]\S*", " ".join(headings).replace("rooms", "room").replace("users", "user"))


def test_the_sample_of_top_has_the_shape_of_what_it_shows() -> None:
    """Made anew with: python -m tests.integration.console_pictures."""
    found = re.search(r"```console\n\$ tidegate top --once\n(.*?)\n```", TEXT, re.DOTALL)
    assert found is not None
    sample = found[1].splitlines()
    rendered = [line.rstrip() for line, _ in render(snapshot(), width=max(map(len, sample)))]
    assert shape(sample) == shape(rendered)
    assert re.match(rf" tidegate \w+  {re.escape(__version__)}  ready  up .*  broker memory$", sample[0])
