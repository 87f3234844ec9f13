"""Every Python fence of the middleware pages runs as written, and the apps they build answer a handshake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from middleware import Guard

from .run_snippets import fences

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs/middleware.md", *sorted((ROOT / "docs/layers").glob("*.md"))]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All pages in one process of their own: they may set what is global to a process, as a reader's program would."""
    folder = tmp_path_factory.mktemp("reader")
    command = [sys.executable, "-m", "tests.docs.run_snippets", "report.json", *map(str, PAGES)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_fence_runs_as_written(page: Path, results: dict[str, Any]) -> None:
    """In order, one page in one namespace; each page has at least one."""
    result = results[str(page)]
    assert "failed" not in result, result["failed"]
    assert result["fences"] == len(fences(page.read_text())) > 0
    assert result["answers"], "no fence of the page builds an app"


def test_the_apps_of_the_middleware_page_do_what_it_says(results: dict[str, Any]) -> None:
    """Four ways to compose, the ten lines, and a refusal."""
    assert results[str(PAGES[0])]["answers"] == [
        "said ['hello']", "said ['HELLO']", "said ['hello']", "said ['hello']", "refused 503",
    ]  # fmt: skip


def test_an_observer_of_ones_own_is_told() -> None:
    """The fence of the architecture page, and a drop."""
    from types import SimpleNamespace

    names: dict[str, Any] = {}
    (_, code), *_ = fences((ROOT / "docs/architecture.md").read_text())
    exec(compile(code, "architecture.md", "exec"), names)
    connection, envelope = SimpleNamespace(user="ann", id="n-1"), SimpleNamespace(id="n-2")
    for hook in names["app"].server.hub.observers.dropped:
        if getattr(hook, "__self__", None) is names["drops"]:
            hook(connection, [envelope], "slow-consumer")
    assert names["drops"].seen == [("ann", "n-1", "slow-consumer", ["n-2"])]


def test_every_layer_has_its_page_and_the_page_a_link() -> None:
    """A layer that nobody finds is not there."""
    overview = PAGES[0].read_text()
    layers = sorted(path.stem for path in (ROOT / "middleware").glob("*.py") if "Middleware(Layer)" in path.read_text())
    assert sorted(page.stem for page in PAGES[1:]) == layers
    assert [name for name in layers if f"(layers/{name}.md)" not in overview] == []


def test_every_hook_is_in_the_table() -> None:
    """The table of hooks is that of the class."""
    overview = PAGES[0].read_text()
    hooks = [name for name, value in vars(Guard).items() if callable(value) and not name.startswith("_")]
    assert [name for name in hooks if f"| `{name}(" not in overview] == []
