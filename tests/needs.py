"""What tests need of the machine: it is there, or else the test is skipped, visibly, on a laptop and fails where ``CI=true``."""

from __future__ import annotations

import itertools
import os
import random
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


_PORTS = range(15_000, 32_000)
"""Below those that the kernel gives to whoever asks for any: nobody gets one of them by chance while it is not in use yet."""
_start = random.randrange(len(_PORTS))
_next = itertools.count(_start)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, and that no other test is given while this process lives.

    What says so to the others is a UDP socket on it, whose descriptor stays open.
    """
    for _ in _PORTS:
        address = "127.0.0.1", _PORTS[next(_next) % len(_PORTS)]
        with socket.socket(type=socket.SOCK_DGRAM) as mark, socket.socket() as probe:
            try:
                mark.bind(address)
                probe.bind(address)
            except OSError:
                continue
            mark.detach()
            return address[1]
    raise AssertionError("no port is free")
