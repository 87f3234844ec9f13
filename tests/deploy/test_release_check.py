"""The changelog's form, and the check that stands between a tag and a release."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.version import __version__
from tests.deploy.tools import ROOT

CHANGES = """# Changelog

## [Unreleased]

## [1.2.3] - 2026-01-31

### Added

- A thing.

## [1.2.2] - 2025-12-31

- Older.
"""


def test_the_changelog_keeps_its_form() -> None:
    """Unreleased first, then versions, newest first, each with a date but the one that is being made; known headings only."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    versions = []
    for heading in headings[1:]:
        match = re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\]( - \d{4}-\d{2}-\d{2})?", heading)
        assert match, heading
        assert match[4] or heading == f"[{__version__}]"
        versions.append(tuple(int(number) for number in match.groups()[:3]))
    assert versions == sorted(set(versions), reverse=True)
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= kinds


@pytest.fixture
def releasable(tmp_path: Path) -> Path:
    """A repository that may be released as v1.2.3."""
    for name, text in {
        "gateway/version.py": '__version__ = "1.2.3"\n',
        "helm/tidegate/Chart.yaml": 'version: 1.2.3\nappVersion: "1.2.3"\n',
        "CHANGELOG.md": CHANGES,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def check(tag: str, root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / ".ci" / "check_release.py"), tag, str(root)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_a_release_check_prints_the_notes(releasable: Path) -> None:
    """The section of this version, and no other."""
    done = check("v1.2.3", releasable)
    assert (done.returncode, done.stdout, done.stderr) == (0, "### Added\n\n- A thing.\n", "")


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("gateway/version.py", "1.2.3", "1.2.4", "the tag is v1.2.3, gateway/version.py makes it v1.2.4"),
        ("helm/tidegate/Chart.yaml", 'appVersion: "1.2.3"', "appVersion: 1.2.2", "appVersion 1.2.2, not 1.2.3"),
        ("helm/tidegate/Chart.yaml", "version: 1.2.3\n", "", "version (none), not 1.2.3"),
        ("CHANGELOG.md", " - 2026-01-31", "", "gives 1.2.3 no date"),
        ("CHANGELOG.md", "[Unreleased]\n", "[Unreleased]\n\n- Forgotten.\n", "still has lines under Unreleased"),
        ("CHANGELOG.md", "## [1.2.3]", "## [1.2.1]", "does not begin with Unreleased and then 1.2.3"),
        ("CHANGELOG.md", "### Added\n\n- A thing.\n", "", "says nothing about 1.2.3"),
    ],
)
def test_a_release_check_says_what_is_in_the_way(releasable: Path, file: str, old: str, new: str, said: str) -> None:
    """In a sentence, with exit code 1 and no notes."""
    path = releasable / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    done = check("v1.2.3", releasable)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr


def test_a_release_check_wants_the_tag_in_its_form(releasable: Path) -> None:
    """`1.2.3` without the letter is refused."""
    assert check("1.2.3", releasable).returncode == 1
