"""The chart of a release names the image of that release; the one of the repository names what only its builder has."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.version import __version__

from ..test_workflows import commands
from ..tools import ROOT
from .helm import HELMS, case, helm, rendered
from .objects import pod_specs

IMAGE = "registry.example.org/somebody/tidegate"


def package(version: str, folder: Path, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the release's script, with this Helm."""
    command = [sys.executable, ROOT / ".ci" / "package_chart.py", IMAGE, folder, root]
    environment = {"PATH": str(helm(version).parent), "HOME": str(folder)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("version", HELMS)
def test_every_pod_of_the_package_runs_the_published_image(version: str, tmp_path: Path) -> None:
    """The gateway and its test; nothing else differs from the chart in the repository, which is left as it is."""
    done = package(version, tmp_path)
    assert done.returncode == 0, done.stderr
    made = rendered(chart=tmp_path / f"tidegate-{__version__}.tgz", version=version)
    found = [container.pop("image") for _, spec in pod_specs(made) for container in spec["containers"]]
    assert found == [f"{IMAGE}:{__version__}"] * 2
    assert len(made) == len(case("default"))


def test_values_without_the_line_are_not_released(tmp_path: Path) -> None:
    """Whoever moves the line hears of it before anything is published."""
    shutil.copytree(ROOT / "helm", tmp_path / "helm")
    values = tmp_path / "helm" / "tidegate" / "values.yaml"
    values.write_text(values.read_text(encoding="utf-8").replace("repository: tidegate", "repository: gateway"), encoding="utf-8")
    done = package(next(iter(HELMS)), tmp_path, tmp_path)
    assert done.returncode == 1
    assert "has 0 lines with the repository of the image, not one" in done.stderr


def test_the_release_packs_the_chart_for_the_image_that_it_pushes() -> None:
    """The same name in both jobs."""
    name = '"ghcr.io/${GITHUB_REPOSITORY,,}"'
    release = list(commands("release"))
    assert f"python .ci/package_chart.py {name} dist" in release
    assert any(f"name={name}" in command and 'image="$name:${TAG#v}"' in command for command in release)
