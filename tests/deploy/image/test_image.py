"""What is in the image: little, complete, and nothing that its user could change."""

from __future__ import annotations

import re
import tomllib

import pytest

from gateway.version import __version__

from .container import CONFINED, MEASURED, in_the_image, serving
from .docker import ROOT, Docker

pytestmark = [pytest.mark.image, pytest.mark.timeout(900)]

SLIM_MEGABYTES = 130
"""python:3.11-slim-bookworm, unpacked (rounded up), for where there is no registry to get it from and measure it."""


def test_the_labels_say_what_it_is(image: Docker) -> None:
    """The OCI annotations, the version from its one place."""
    labels = image.inspect("image", "tidegate")["Config"]["Labels"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    said = {name.removeprefix("org.opencontainers.image."): value for name, value in labels.items()}
    assert said["title"] == project["name"]
    assert said["licenses"] == project["license"]
    assert said["version"] == __version__
    assert said["description"]
    assert said["vendor"]
    assert said["revision"]
    assert said["base.name"] in (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_it_runs_as_nobody_and_without_a_shell(image: Docker) -> None:
    """A numeric user that is not root; entry point, command and health check in exec form; both ports."""
    config = image.inspect("image", "tidegate")["Config"]
    user, group = map(int, config["User"].split(":"))
    assert user > 0
    assert group > 0
    assert config["Entrypoint"] == ["tidegate"]
    assert config["Cmd"] == ["serve"]
    assert config["Healthcheck"]["Test"] == ["CMD", "tidegate", "healthcheck"]
    assert set(config["ExposedPorts"]) == {"8000/tcp", "9000/tcp"}


def test_it_adds_little_to_its_base(image: Docker) -> None:
    """Less than what is left of 200 MB on the upstream slim image; where that is the base, the whole is less than 200 MB."""
    whole = _megabytes(image, "tidegate")
    added = whole - _megabytes(image, _base(image))
    MEASURED.append(f"the image adds {added:.1f} MB to its base, which makes {whole:.1f} MB")
    assert 10 < added < 200 - SLIM_MEGABYTES
    if not image.own:
        assert whole < 200


def _megabytes(docker: Docker, name: str) -> float:
    """The unpacked layers; what ``inspect`` calls the size depends on how the daemon stores images."""
    layers = docker.run("history", "--human=false", "--format", "{{.Size}}", name).split()
    return sum(map(int, layers)) / 1_000_000


def _base(docker: Docker) -> str:
    name: str = docker.inspect("image", "tidegate")["Config"]["Labels"]["org.opencontainers.image.base.name"]
    return name


def test_nothing_in_it_is_there_to_build_or_to_be_written(image: Docker) -> None:
    """No pip, one copy of the bytecode, no file that the user may change."""
    found = in_the_image(image, _LOOK_AROUND)
    assert found == {"tools": [], "second bytecode": [], "writable": [], "user": [10001, 10001]}


_LOOK_AROUND = """
import importlib.util, json, os, pathlib, sys
files = list(pathlib.Path("/opt/tidegate").rglob("*"))
print(json.dumps({
    "tools": [name for name in ("pip", "setuptools", "wheel", "hatchling") if importlib.util.find_spec(name)],
    "second bytecode": [str(path) for path in files if path.name == "__pycache__"],
    "writable": [str(path) for path in files if not path.is_symlink() and path.stat().st_mode & 0o022 or path.stat().st_uid],
    "user": [os.getuid(), os.getgid()],
}))
"""


def test_every_dependency_is_there(image: Docker) -> None:
    """Whatever an installed distribution requires is installed in a version it accepts, the brokers' clients too."""
    found = in_the_image(image, _RESOLVE)
    assert found["wrong"] == []
    assert {"redis", "hiredis", "nats-py", "tidegate"} <= set(found["have"])


_RESOLVE = """
import importlib.metadata, json
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
import nats, redis.asyncio, gateway.runner
have = {canonicalize_name(one.name): one for one in importlib.metadata.distributions()}
wrong = []
for one in have.values():
    for line in one.requires or ():
        need = Requirement(line)
        if need.marker and not need.marker.evaluate({"extra": ""}):
            continue
        got = have.get(canonicalize_name(need.name))
        if got is None or not need.specifier.contains(got.version, prereleases=True):
            wrong.append(f"{one.name}: {line}")
print(json.dumps({"wrong": wrong, "have": sorted(have)}))
"""


def test_it_refuses_to_let_anybody_in_until_told_so(image: Docker) -> None:
    """Without TIDEGATE_AUTH__MODE: exit code 2, and a sentence that says what to set."""
    refused = image.ask("run", "--rm", *CONFINED, "tidegate")
    assert refused.returncode == 2
    assert "TIDEGATE_AUTH__MODE=jwt" in refused.stderr


def test_the_other_commands_are_there_too(image: Docker) -> None:
    """The entry point is the command; `serve` is only its default."""
    assert image.run("run", "--rm", *CONFINED, "tidegate", "--version") == f"tidegate, version {__version__}"


async def test_starting_compiles_next_to_nothing(image: Docker) -> None:
    """The bytecode is in the image, of the standard library too: for serving, a client, a scrape and the health check."""
    async with serving(image, "--env", "PYTHONVERBOSE=1") as container:
        async with container.connect("lobby", "?echo=1") as client:
            await client.send("hello")
            assert await client.recv() == "hello"
        assert (await container.get("/metrics"))[0] == 200
        code, checked = container.execute("tidegate", "healthcheck")
        assert code == 0
        await container.stop(20)
        loaded = re.findall(r"^# code object from (\S+)$", container.logs() + checked, re.MULTILINE)
    compiled = [module for module in loaded if not module.startswith("'/opt/tidegate/bytecode/")]
    assert len(loaded) - len(compiled) > 400
    assert [module for module in compiled if "/gateway/" in module or "/middleware/" in module] == []
    assert len(compiled) <= 10, f"what is imported late belongs into the Dockerfile's list: {compiled}"
