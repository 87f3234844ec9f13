"""Puts the peers into a cache outside the repository. What cannot be installed is reported, and measured without."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

from .drivers.base import PEERS

__all__ = ["cache_folder", "install"]


def cache_folder() -> Path:
    """``~/.cache/tidegate/bench``, or below ``$XDG_CACHE_HOME``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidegate" / "bench"


def install(cache: Path, *, quick: bool, say: Callable[[str], None] = print) -> dict[str, str]:
    """Install what is missing; returns, by step, why one did not work. ``quick`` builds nothing."""
    steps: dict[str, Callable[[Path], None]] = {"python": _python, "brokers": _brokers, "node": _node}
    if not quick:
        steps |= {"centrifuge": _centrifuge, "centrifugo": _centrifugo}
    failed = {}
    for name, step in steps.items():
        folder = cache / ("go" if name.startswith("centrifug") else name)
        done = folder / f".installed-{name}"
        wanted = _wanted(name)
        if done.exists() and done.read_text() == wanted:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        say(f"installing {name} peers …")
        try:
            step(folder)
        except (OSError, subprocess.CalledProcessError) as error:
            failed[name] = _reason(error)
            say(f"  not possible: {failed[name]}")
        else:
            done.write_text(wanted)
    return failed


def _wanted(name: str) -> str:
    """What the step depends on: when it changes, the step is done again."""
    files = {"python": "requirements.txt", "brokers": "brokers.txt", "node": "package.json", "centrifuge": "centrifuge/main.go"}
    return (PEERS / files[name]).read_text() if name in files else name


def _run(*command: str, folder: Path, **environment: str) -> None:
    subprocess.run(command, cwd=folder, env={**os.environ, **environment}, check=True, capture_output=True, text=True, timeout=900)


def _python(folder: Path) -> None:
    _environment(folder, "requirements.txt")


def _brokers(folder: Path) -> None:
    _environment(folder, "brokers.txt")


def _environment(folder: Path, requirements: str) -> None:
    venv.create(folder, with_pip=True, clear=True)
    _run(
        str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
        "-r", str(PEERS / requirements), folder=folder,
    )  # fmt: skip


def _node(folder: Path) -> None:
    shutil.copy(PEERS / "package.json", folder)
    _run(_tool("npm"), "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", folder=folder)


def _centrifuge(folder: Path) -> None:
    source = folder / "centrifuge"
    source.mkdir(exist_ok=True)
    shutil.copy(PEERS / "centrifuge" / "main.go", source)
    if not (source / "go.mod").exists():
        _run(_tool("go"), "mod", "init", "centrifuge-peer", folder=source)
    _run("go", "get", "github.com/centrifugal/centrifuge@latest", folder=source)
    _run("go", "build", "-o", str(folder / "centrifuge-peer"), ".", folder=source)


def _centrifugo(folder: Path) -> None:
    _run(_tool("go"), "install", "github.com/centrifugal/centrifugo/v6@latest", folder=folder, GOBIN=str(folder))


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise OSError(f"{name} is not installed")
    return found


def _reason(error: OSError | subprocess.CalledProcessError) -> str:
    """The last thing the tool said, without the hosts of package indexes."""
    if isinstance(error, subprocess.CalledProcessError):
        lines = [line.strip() for line in str(error.stderr or error.stdout).splitlines() if line.strip()]
        return lines[-1].removeprefix("server response: ")[:200] if lines else f"exit code {error.returncode}"
    return str(error)


if __name__ == "__main__":
    sys.exit(1 if install(cache_folder(), quick=False) else 0)
