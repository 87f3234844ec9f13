"""The strict schemas of Kubernetes versions, and the published ones of custom resources.

``kubernetes_validate`` carries the former and would read a megabyte of definitions for every object; here a validator is made once.
"""

from __future__ import annotations

import functools
import json
import subprocess
from importlib.resources import files
from pathlib import Path

import jsonschema
from referencing import Registry, Resource

from ...downloads import npm_packages
from .helm import Document

__all__ = ["CUSTOM", "KUBERNETES", "custom_problems", "problem"]

KUBERNETES = ("1.27", "1.30", "1.33", "1.37")
CUSTOM = ("gateway.networking.k8s.io/", "keda.sh/", "monitoring.coreos.com/")
NODE = Path(__file__).parent / "node"


@functools.cache
def problem(text: str, kubernetes: str) -> str | None:
    """The first thing that a version of Kubernetes has against an object, given as JSON: most are the same in many cases."""
    document = json.loads(text)
    group = document["apiVersion"].split("/")
    name = "-".join([document["kind"].lower(), group[0].partition(".")[0], *group[1:]])
    error = jsonschema.exceptions.best_match(_validator(name, kubernetes).iter_errors(document))
    return None if error is None else f"{error.json_path}: {error.message}"


@functools.cache
def _validator(name: str, kubernetes: str) -> jsonschema.protocols.Validator:
    schema = _schema(name, kubernetes)
    registry: Registry = schema @ (_schema("_definitions", kubernetes) @ Registry())
    return jsonschema.Draft202012Validator(schema.contents, registry=registry)


@functools.cache
def _schema(name: str, kubernetes: str) -> Resource:
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{kubernetes}.0-local-strict"
    return Resource.from_contents(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))


def custom_problems(found: list[Document], folder: Path) -> dict[int, list[str]]:
    """What the published schemas and interfaces have against custom resources, by index; ``folder`` is for the run."""
    packages = npm_packages(NODE / "package.json")
    (folder / "node_modules").symlink_to(packages / "node_modules")
    (folder / "check.mjs").write_text((NODE / "check.mjs").read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "documents.json").write_text(json.dumps(found), encoding="utf-8")
    command = ["node", "check.mjs", "documents.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    return {int(index): told for index, told in json.loads(done.stdout).items()}
