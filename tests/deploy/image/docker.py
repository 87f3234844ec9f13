"""A Docker daemon of the tests' own, which needs no registry, no bridge and no packet filter, and its client.

Everything that the daemon keeps is in one folder, which stays: a second run finds the base image and the layers of the first.
With ``DOCKER_HOST`` set, that daemon is used instead, with the base image that the Dockerfile names.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "Docker", "borrowed_daemon", "missing_tools", "own_daemon"]

ROOT = Path(__file__).parents[3]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidegate" / "image-test"
_RECIPE = """\
set -eu
mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates \\
  --customize-hook='find "$1/usr/lib/python3" "$1"/usr/lib/python3.* -name __pycache__ -prune -exec rm -rf {} +' \\
  bookworm - | "$CLIENT" import - "$RAW" >&2
"$CLIENT" build --quiet --tag "$BASE" "$HOST_FILES" >&2
"""
"""Stands in for the upstream slim image where there is no registry: Debian's Python, and like there no bytecode. On top comes how
this machine reaches its package index."""
_HOST_FILES = {"pip.conf": Path("/etc/pip.conf"), "ca-certificates.crt": Path("/etc/ssl/certs/ca-certificates.crt")}


def missing_tools() -> list[str]:
    """What this machine lacks, in words; empty when the tests can run."""
    if os.environ.get("DOCKER_HOST"):
        return [] if shutil.which("docker") else ["the docker client"]
    tools = [name for name in ("dockerd", "docker", "mmdebstrap", "setpriv") if shutil.which(name) is None]
    return tools + (["root, to start dockerd"] if os.geteuid() else [])


class Docker:
    """A client of one daemon, which is the tests' ``own`` or else has the upstream base. ``build`` is BuildKit's."""

    def __init__(self, host: str, *, own: bool) -> None:
        self.own = own
        # Of several clients Debian's: a newer one wants BuildKit as a plugin that may not be there.
        self.client = next(path for path in ("/usr/bin/docker", shutil.which("docker")) if path and Path(path).exists())
        self.environment = {**os.environ, "DOCKER_HOST": host, "DOCKER_BUILDKIT": "1"}

    def run(self, *arguments: str, timeout_seconds: float = 60) -> str:
        """Standard output of a command that must work."""
        done = self.ask(*arguments, timeout_seconds=timeout_seconds)
        assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
        return done.stdout.strip()

    def ask(self, *arguments: str, timeout_seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """What became of a command, whatever it was."""
        command = [self.client, *arguments]
        return subprocess.run(
            command,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def inspect(self, kind: str, name: str) -> dict[str, Any]:
        """What the daemon knows of an ``image`` or a ``container``."""
        found: dict[str, Any] = json.loads(self.run(kind, "inspect", name))[0]
        return found


def borrowed_daemon(host: str) -> Docker:
    """A daemon that runs already, with the base image from where it gets its images."""
    docker = Docker(host, own=False)
    if docker.ask("image", "inspect", _name_in_the_dockerfile()).returncode:
        docker.run("pull", "--quiet", _name_in_the_dockerfile(), timeout_seconds=600)
    return docker


@contextmanager
def own_daemon() -> Iterator[Docker]:
    """Start a daemon, give it the base image, stop it. One at a time works in the folder that is kept."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock, tempfile.TemporaryDirectory(prefix="tidegate-docker-") as folder:
        _lock(lock.fileno())
        docker = Docker(f"unix://{folder}/socket", own=True)
        process = _start(Path(folder), lock.fileno())
        try:
            _wait_until_it_answers(docker, process, Path(folder, "log"))
            for leftover in docker.run("ps", "--all", "--quiet").split():
                docker.run("rm", "--force", leftover)
            _base_image(docker, Path(folder))
            yield docker
            docker.ask("builder", "prune", "--force", "--keep-storage", "2GB")
            docker.ask("image", "prune", "--force")
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            process.wait()
            subprocess.run(["umount", "--quiet", f"{folder}/exec/netns/default"], check=False)  # dockerd leaves it


def _lock(descriptor: int) -> None:
    """The daemon inherits the lock, so that it holds as long as the daemon lives, whatever becomes of the tests."""
    deadline = time.monotonic() + 15
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            assert time.monotonic() < deadline, f"another run of the image test uses {CACHE}"
            time.sleep(0.2)


def _start(folder: Path, lock: int) -> subprocess.Popen[bytes]:
    command = [
        "setpriv", "--pdeathsig", "TERM", "dockerd",
        "--host", f"unix://{folder}/socket", "--pidfile", f"{folder}/pid",
        "--data-root", f"{CACHE}/docker", "--exec-root", f"{folder}/exec",
        "--iptables=false", "--ip6tables=false", "--bridge=none", "--default-ulimit", "nofile=16384:16384",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, pass_fds=(lock,))


def _wait_until_it_answers(docker: Docker, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while docker.ask("version").returncode:
        gone = process.poll() is not None or time.monotonic() > deadline
        assert not gone, f"dockerd does not start:\n{log.read_text(errors='replace')[-3000:]}"
        time.sleep(0.1)


def _base_image(docker: Docker, folder: Path) -> None:
    """Make the base image, unless the folder that is kept has it, under the name that the Dockerfile uses."""
    files = {name: path.read_bytes() for name, path in _HOST_FILES.items() if path.exists()}
    context = folder / "base"
    context.mkdir()
    dockerfile = "FROM tidegate-test-base:raw\nCOPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt\n"
    for name, content in files.items():
        (context / name).write_bytes(content)
    if "pip.conf" in files:
        dockerfile += "COPY pip.conf /etc/pip.conf\n"
    (context / "Dockerfile").write_text(dockerfile)
    made_from = hashlib.sha256(b"\0".join([_RECIPE.encode(), *files.values()])).hexdigest()[:16]
    base = f"tidegate-test-base:{made_from}"
    if docker.ask("image", "inspect", base).returncode:
        environment = {"CLIENT": docker.client, "RAW": "tidegate-test-base:raw", "BASE": base, "HOST_FILES": str(context)}
        subprocess.run(["sh", "-c", _RECIPE], env={**docker.environment, **environment}, check=True, timeout=600)
    docker.run("tag", base, _name_in_the_dockerfile())


def _name_in_the_dockerfile() -> str:
    found = re.search(r"^ARG BASE_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None, "the Dockerfile names its base"
    return found.group(1)
