"""How the tests of what is shipped run programs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = ["ROOT", "run"]

ROOT = Path(__file__).parents[2]


def run(
    *command: str | Path, cwd: Path = ROOT, timeout_seconds: float = 100, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, without its seeing this process's ``TIDEGATE_*``; what it said is in the failure's message."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    scripts = Path(sys.executable).parent
    clean["PATH"] = f"{scripts}{os.pathsep}{clean.get('PATH', '')}"
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**clean, **(env or {})},
        capture_output=True, text=True, timeout=timeout_seconds, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}:\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    return done
