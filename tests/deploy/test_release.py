"""Releases: one version, an sdist and a wheel that are the same program, and a gateway that runs from the wheel alone."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from collections.abc import AsyncIterator
from email.parser import Parser
from pathlib import Path
from typing import NamedTuple

import pytest
import websockets

from gateway.version import __version__
from tests.deploy.tools import ROOT, run
from tests.needs import need

UV = "pip install uv"
API_KEY = "key-of-the-release-test"


class Built(NamedTuple):
    """What ``make dist`` made."""

    wheel: Path
    sdist: Path
    tree: Path
    """The copy of the repository that it was made from."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """From a copy, as others change files here at the same time as well; with the target that developers use."""
    tree = tmp_path_factory.mktemp("tree") / "tidegate"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*_cache", ".git", ".venv", ".hypothesis", "__pycache__", "dist"))
    folder = tree.parent / "dist"
    uv = Path(need("uv", how=UV))
    run("make", "--silent", "dist", f"DIST={folder}", f"BIN={uv.parent}", cwd=tree)
    (wheel,), (sdist,) = list(folder.glob("*.whl")), list(folder.glob("*.tar.gz"))
    return Built(wheel, sdist, tree)


class Installed(NamedTuple):
    """A clean environment with the wheel and what it asks for."""

    folder: Path

    def program(self, name: str) -> Path:
        return self.folder / "bin" / name


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("clean") / "environment"
    uv = need("uv", how=UV)
    run(uv, "venv", "--quiet", "--python", sys.executable, folder)
    run(uv, "pip", "install", "--quiet", "--python", folder / "bin" / "python", built.wheel)
    return Installed(folder)


def test_what_is_built_carries_the_version(built: Built) -> None:
    """In the names and in the metadata."""
    assert built.wheel.name == f"tidegate-{__version__}-py3-none-any.whl"
    assert built.sdist.name == f"tidegate-{__version__}.tar.gz"
    with zipfile.ZipFile(built.wheel) as archive:
        metadata = Parser().parsestr(archive.read(f"tidegate-{__version__}.dist-info/METADATA").decode())
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("Provides-Extra") == ["nats", "redis"]


def test_the_version_is_written_in_one_place() -> None:
    """The chart, which cannot read it, has the same; nothing else of the source writes it down."""
    chart = (ROOT / "helm" / "tidegate" / "Chart.yaml").read_text(encoding="utf-8")
    assert re.findall(r"^(?:version|appVersion): \"?([^\"\s]+)\"?$", chart, re.MULTILINE) == [__version__, __version__]
    literal = re.compile(rf"[\"'=]{re.escape(__version__)}[\"']?$", re.MULTILINE)
    sources = [*ROOT.glob("gateway/**/*.py"), *ROOT.glob("middleware/**/*.py"), ROOT / "pyproject.toml", ROOT / "Dockerfile"]
    assert [path.name for path in sources if literal.search(path.read_text(encoding="utf-8"))] == ["version.py"]


def test_the_wheel_has_the_two_packages_and_nothing_else(built: Built) -> None:
    """Typed, with the metric catalogue and the licence; no tests, no path files, nothing at the top level beside them."""
    with zipfile.ZipFile(built.wheel) as archive:
        names = set(archive.namelist())
    info = f"tidegate-{__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"gateway", "middleware", info}
    assert {"gateway/py.typed", "middleware/py.typed", "gateway/telemetry/catalogue.py", f"{info}/licenses/LICENSE"} <= names
    packages = (built.tree / name for name in ("gateway", "middleware"))
    kept = {str(path.relative_to(built.tree)) for package in packages for path in package.rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == kept
    assert not [name for name in names if re.search(r"test|\.pth$|\.pyc$|\.so$", name)]


def test_the_sdist_has_what_is_needed_to_build_test_and_read(built: Built) -> None:
    """Everything that the repository has, and nothing that lies about in a working tree."""
    with tarfile.open(built.sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    needed = (
        "Makefile", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "SECURITY.md", "Dockerfile", ".ci/run", "PKG-INFO",
        "tests/deploy/test_release.py", "docs/operations.md", "helm/tidegate/Chart.yaml", "examples/compose.yaml",
        ".github/workflows/test.yml",
    )  # fmt: skip
    assert names.issuperset(needed)
    assert not [name for name in names if re.search(r"(^|/)(\.venv|__pycache__|node_modules|\.hypothesis|\.git)/|\.pyc$", name)]


def test_a_wheel_from_the_sdist_is_the_wheel_from_the_tree(built: Built, tmp_path: Path) -> None:
    """Bit for bit; so both can be published, and anybody can check them."""
    with tarfile.open(built.sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    uv = need("uv", how=UV)
    for name, source in {"again": tmp_path / f"tidegate-{__version__}", "tree": built.tree}.items():
        tools = ("--build-constraints", source / "requirements-build.txt", "--require-hashes")
        run(uv, "build", "--quiet", "--wheel", *tools, "--out-dir", tmp_path / name, source)
        assert _digest(tmp_path / name / built.wheel.name) == _digest(built.wheel)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_builds_a_release_is_pinned_and_hashed(built: Built, tmp_path: Path) -> None:
    """A build backend with another hash than the one that was written down builds nothing."""
    tree = shutil.copytree(built.tree, tmp_path / "tree")
    pins = tree / "requirements-build.txt"
    pins.write_text(re.sub(r"sha256:[0-9a-f]{64}", f"sha256:{64 * '0'}", pins.read_text(encoding="utf-8")), encoding="utf-8")
    uv = Path(need("uv", how=UV))
    with pytest.raises(AssertionError, match="Hash mismatch"):
        run("make", "--silent", "dist", f"DIST={tmp_path / 'dist'}", f"BIN={uv.parent}", cwd=tree)


def test_the_installed_command_says_its_version(installed: Installed, tmp_path: Path) -> None:
    """`tidegate --version`, the package and the metadata agree, in a folder where there is no repository."""
    assert run(installed.program("tidegate"), "--version", cwd=tmp_path).stdout.strip() == f"tidegate, version {__version__}"
    asked = "import gateway, importlib.metadata as m; print(gateway.__version__, m.version('tidegate'), gateway.__file__)"
    shown, named, file = run(installed.program("python"), "-c", asked, cwd=tmp_path).stdout.split()
    assert shown == named == __version__
    assert Path(file).is_relative_to(installed.folder)


def test_the_installed_middlewares_need_no_gateway(installed: Installed, tmp_path: Path) -> None:
    """Importing them loads neither the gateway nor a web framework."""
    code = "import sys, middleware; print({'gateway', 'starlette', 'uvicorn'} & sys.modules.keys() or 'none')"
    assert run(installed.program("python"), "-c", code, cwd=tmp_path).stdout.strip() == "none"


@contextlib.asynccontextmanager
async def serving(installed: Installed, folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str, str]]:
    """The installed `tidegate serve` on free ports: the process, its public and its ops address."""
    environment = {
        "PATH": "/usr/bin:/bin", "TIDEGATE_PORT": "0", "TIDEGATE_OPS_PORT": "0", "TIDEGATE_LOG_FORMAT": "json",
        "TIDEGATE_API_KEY": API_KEY, "TIDEGATE_DRAIN__DELAY_SECONDS": "0", "TIDEGATE_DRAIN__PERIOD_SECONDS": "0",
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        installed.program("tidegate"), "serve",
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        greeting = ""
        async with asyncio.timeout(60):
            while "/metrics" not in greeting:
                line = await process.stdout.readline()
                assert line, f"it ended with {await process.wait()}"
                greeting += line.decode()
        public, ops = re.findall(r"WebSockets at ws://([^/]+)/.* operations at http://(\S+?)\.\n", greeting)[0]
        yield process, public, ops
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # else its pipe is closed at the loop's end, with a warning


async def get(address: str, path: str) -> str:
    """The body of a 200, asked for with the API key."""

    def fetch() -> str:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        request = urllib.request.Request(f"http://{address}{path}", headers={"Authorization": f"Bearer {API_KEY}"})
        with opener.open(request, timeout=10) as response:
            body: bytes = response.read()
            return body.decode()

    return await asyncio.to_thread(fetch)


async def test_the_gateway_runs_from_the_wheel_alone(installed: Installed, tmp_path: Path) -> None:
    """Probes, an echo over a WebSocket, metrics, the description of the API, and a clean end with 1012 and exit code 0."""
    async with serving(installed, tmp_path) as (process, public, ops):
        for path in ("/healthz", "/readyz", "/startupz"):
            assert '"status"' in await get(ops, path)
        async with websockets.connect(f"ws://{public}/ws/lobby?echo=1", proxy=None) as client:
            await client.send("from the wheel")
            assert await asyncio.wait_for(client.recv(), 30) == "from the wheel"
            assert f'version="{__version__}"' in await get(ops, "/metrics")
            assert json.loads(await get(ops, "/api/openapi.json"))["info"]["version"] == __version__
            process.send_signal(signal.SIGTERM)
            with pytest.raises(websockets.ConnectionClosed) as ended:
                await asyncio.wait_for(client.recv(), 30)
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == 1012
        assert await asyncio.wait_for(process.wait(), 30) == 0
