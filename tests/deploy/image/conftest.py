"""One daemon and one image for all tests that are marked ``image``."""

from __future__ import annotations

import os
import statistics
import subprocess
from collections.abc import Iterator

import pytest

from tests.needs import missing

from .container import MEASURED, STARTS
from .docker import ROOT, Docker, borrowed_daemon, missing_tools, own_daemon


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    """A daemon with the base image; where none can be had the tests are skipped, in CI they fail."""
    tools = missing_tools()
    if tools:
        missing(f"the image test needs {', '.join(tools)} (Debian: apt-get install docker.io mmdebstrap)")
    if host := os.environ.get("DOCKER_HOST"):
        yield borrowed_daemon(host)
        return
    with own_daemon() as daemon:
        yield daemon


@pytest.fixture(scope="session")
def image(docker: Docker) -> Docker:
    """The daemon, with the image built as anybody builds it."""
    command = ["make", "image", f"DOCKER={docker.client}", "ARGS=--network host --progress plain"]
    built = subprocess.run(command, cwd=ROOT, env=docker.environment, capture_output=True, text=True, timeout=900, check=False)
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-6000:]
    return docker


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if STARTS:
        fastest, median, longest = min(STARTS), statistics.median(STARTS), max(STARTS)
        MEASURED.append(
            f"{len(STARTS)} starts, until ready: fastest {fastest:.2f} s, median {median:.2f} s, longest {longest:.2f} s"
        )
    for line in MEASURED:
        terminalreporter.write_line(line)
