"""What the Dockerfile and the requirements say, read without building anything."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from gateway.settings import Settings

from .docker import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = ("redis", "nats")
WANTED = {
    "requirements.txt": [
        *PROJECT["project"]["dependencies"],
        *(line for extra in EXTRAS for line in PROJECT["project"]["optional-dependencies"][extra]),
    ],
    "requirements-build.txt": PROJECT["build-system"]["requires"],
}
BROUGHT_BY_EXTRAS = {"cryptography", "hiredis"}
"""What ``PyJWT[crypto]`` and ``redis[hiredis]`` stand for."""


def entries(name: str) -> list[str]:
    """The logical lines of a requirements file."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def pins(name: str) -> dict[str, Requirement]:
    """What a requirements file pins for the Python that runs this, by name."""
    found = (Requirement(line.split(" --hash")[0]) for line in entries(name))
    return {canonicalize_name(one.name): one for one in found if one.marker is None or one.marker.evaluate()}


def instructions(word: str) -> list[str]:
    """The arguments of every such instruction."""
    return re.findall(rf"^{word}\s+(.+)$", DOCKERFILE.replace("\\\n", " "), re.MULTILINE)


def test_hadolint_finds_nothing() -> None:
    """Not even a remark."""
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_no_frontend_is_fetched_to_read_it() -> None:
    """A ``# syntax=`` line would pull an image before anything else."""
    assert "syntax=" not in DOCKERFILE.splitlines()[0]


def test_both_stages_have_the_same_base() -> None:
    """The virtual environment of one finds its interpreter in the other; the base's Python is one that the project supports."""
    assert instructions("FROM") == ["${BASE_IMAGE} AS build", "${BASE_IMAGE}"]
    [base] = [value for value in instructions("ARG") if value.startswith("BASE_IMAGE=")]
    version = re.search(r"python:(3\.\d+)-slim", base)
    assert version is not None
    assert version.group(1) in SpecifierSet(PROJECT["project"]["requires-python"])


def test_the_exposed_ports_are_those_of_the_settings() -> None:
    """EXPOSE names the two defaults."""
    settings = Settings()
    assert instructions("EXPOSE") == [f"{settings.port} {settings.ops_port}"]
    assert f" TIDEGATE_OPS_PORT={settings.ops_port}" in instructions("ENV")[-1]


def test_the_context_is_an_allow_list() -> None:
    """What is not named stays out, and what the Dockerfile copies is named."""
    lines = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    allowed = {line[1:].rstrip("/") for line in lines if line[0] == "!"}
    sources = {name for line in instructions("COPY") if "--from" not in line for name in line.split()[:-1]}
    assert sources - {"requirements.txt", "requirements-build.txt"} <= allowed
    assert "requirements*.txt" in allowed


@pytest.mark.parametrize("name", sorted(WANTED))
def test_every_requirement_is_pinned_and_hashed(name: str) -> None:
    """One version each, checked against SHA-256, without an address, an index or an option."""
    lines = entries(name)
    assert lines
    for line in lines:
        assert re.match(r"[a-z0-9.-]+==[\w.!+]+ ", line), line
        hashes = re.findall(r"--(\S+?)=(\S+)", line)
        assert hashes, line
        assert all(option == "hash" and re.fullmatch(r"sha256:[0-9a-f]{64}", value) for option, value in hashes), line
        assert "://" not in line


@pytest.mark.parametrize("name", sorted(WANTED))
def test_the_pins_satisfy_pyproject(name: str) -> None:
    """`make requirements` was run after the last change; the image has every extra of a broker."""
    pinned = pins(name)
    for line in WANTED[name]:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        [specifier] = pinned[canonicalize_name(wanted.name)].specifier
        assert specifier.version in wanted.specifier, f"{line}: {specifier.version} is pinned; run `make requirements`"


def test_what_extras_of_dependencies_stand_for_is_pinned_too() -> None:
    """A hashed installation takes nothing that is not in the file."""
    assert pins("requirements.txt").keys() >= BROUGHT_BY_EXTRAS
