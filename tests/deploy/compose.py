"""``examples/compose.yaml`` as its tests read it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.tools import ROOT

__all__ = ["FILE", "GATEWAYS", "PROMETHEUS_PACKAGE", "RULES", "SERVICES", "environment", "mounts", "prometheus_files"]

FILE = ROOT / "examples" / "compose.yaml"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))["services"]
GATEWAYS = ["gateway-1", "gateway-2"]
RULES = {"alerts.yaml", "recording.yaml"}
PROMETHEUS_PACKAGE = "apt-get install prometheus"


def environment(service: str) -> dict[str, str]:
    """Its variables with the defaults of ``${NAME:-default}`` put in."""
    return {
        name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for name, value in SERVICES[service]["environment"].items()
    }  # fmt: skip


def mounts(service: str) -> dict[str, Path]:
    """Where in the container → which file or folder of the repository."""
    pairs = [volume.split(":")[:2] for volume in SERVICES[service]["volumes"] if volume.startswith(".")]
    return {inside: (FILE.parent / outside).resolve() for outside, inside in pairs}


def prometheus_files(to: Path) -> Path:
    """The container's /etc/prometheus as Compose would mount it; returns the configuration."""
    for inside, outside in mounts("prometheus").items():
        target = to / Path(inside).relative_to("/etc/prometheus")
        if outside.is_dir():
            shutil.copytree(outside, target)
        else:
            shutil.copy(outside, target)
    return to / "prometheus.yml"
