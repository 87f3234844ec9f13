"""What a run was made on."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from .processes import Cores

__all__ = ["describe"]


def describe(cores: Cores) -> dict[str, str]:
    """The machine in words; nothing that names it."""
    pinned = (
        "nothing is pinned" if cores.server is None else f"servers on core {cores.server}, load generator on core {cores.client}"
    )
    return {
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0)) if cores.server is None else os.cpu_count()} cores",
        "kind": "virtual machine" if "hypervisor" in _first("/proc/cpuinfo", r"flags\s*: (.*)") else "bare metal",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{_distribution()}, {platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "cores": pinned,
    }


def load_average() -> float:
    """Of the last minute: how busy the machine is with other things."""
    return os.getloadavg()[0]


def _processor() -> str:
    return _first("/proc/cpuinfo", r"model name\s*: (.*)") or platform.machine()


def _distribution() -> str:
    return _first("/etc/os-release", r'PRETTY_NAME="(.*)"') or "Linux"


def _first(path: str, pattern: str) -> str:
    found = re.search(pattern, Path(path).read_text()) if Path(path).exists() else None
    return found[1] if found else ""
