"""What tests need of the machine: it is there, or else the test is skipped, visibly, on a laptop and fails where ``CI=true``."""

from __future__ import annotations

import os
import shutil
import socket
import sysconfig
from typing import NoReturn

import pytest

__all__ = ["free_port", "missing", "need"]


def missing(reason: str) -> NoReturn:
    """Skip the test, or fail it where everything has to be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def need(*programs: str, how: str = "a package of .ci/packages") -> str:
    """The path of the first of ``programs`` that there is, in the running environment or else anywhere; ``how`` one gets it."""
    path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ.get('PATH', '')}"
    for program in programs:
        if found := shutil.which(program, path=path):
            return found
    missing(f"no {programs[0]}: {how}")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
