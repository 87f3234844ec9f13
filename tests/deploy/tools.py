"""Programs that the tests of what is shipped run: found, or else skipped visibly on a laptop and failed in CI."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest

__all__ = ["ROOT", "run", "tool"]

ROOT = Path(__file__).parents[2]


def tool(name: str, how: str) -> str:
    """The path of a program, of the running environment first; ``how`` is what installs it."""
    found = shutil.which(name, path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"no {name}: {how}")
        pytest.skip(f"no {name}: {how}")
    return found


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
