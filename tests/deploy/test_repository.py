"""The repository's own habits: what a newcomer and an auditor rely on."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from gateway.version import __version__

ROOT = Path(__file__).parents[2]
SKIPPED = {
    ".git",
    ".venv",
    ".hypothesis",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".import_linter_cache",
    "node_modules",
    "__pycache__",
}


def texts() -> list[tuple[Path, str]]:
    """Every text file of the repository with its content."""
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in SKIPPED]
        for name in names:
            path = Path(folder, name)
            try:
                found.append((path.relative_to(ROOT), path.read_text(encoding="utf-8")))
            except (UnicodeDecodeError, FileNotFoundError):
                continue
    return found


def test_no_file_names_a_package_index_host() -> None:
    """Where packages come from is for whoever installs to say."""
    hosts = re.compile(
        r"|".join(re.escape(".".join(parts)) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("registry", "npmjs")))
    )
    assert [str(path) for path, text in texts() if hosts.search(text)] == []


@pytest.mark.parametrize(
    "target",
    [
        "serve",
        "test",
        "lint",
        "format",
        "bench",
        "conformance",
        "dashboards",
        "dist",
        "image",
        "image-test",
        "requirements",
        "help",
        "clean",
    ],
)
def test_make_help_explains_every_target(target: str) -> None:
    """``make help`` lists it with a sentence."""
    listed = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30).stdout
    assert re.search(rf"^  make {target} +\S", listed, re.MULTILINE)


def test_continuous_integration_runs_the_linters_and_the_test_command() -> None:
    """``.ci/run`` is executable, stops at errors, and calls what developers call."""
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = script.read_text(encoding="utf-8").splitlines()
    assert "set -euo pipefail" in lines
    assert "make lint" in lines
    assert any(line.startswith("make test ") for line in lines)
    assert any(line.startswith("make image-test ") for line in lines)


def test_the_changelog_has_this_version() -> None:
    """Unreleased comes first, and the version of the package has its section."""
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert __version__ in headings


def test_the_licence_is_the_one_that_is_declared() -> None:
    """The whole text of the Apache License 2.0."""
    assert tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text
    assert all(f"\n   {number}. " in text for number in range(1, 10))
    assert "END OF TERMS AND CONDITIONS" in text


@pytest.mark.parametrize("package", ["gateway", "middleware"])
def test_the_packages_are_typed(package: str) -> None:
    """Type checkers of users see our annotations."""
    assert (ROOT / package / "py.typed").is_file()


def test_hooks_before_a_commit_are_local() -> None:
    """No hook is fetched from anywhere."""
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"- repo: (\S+)", text) == ["local"]
