"""Whether this commit may be released under a tag; prints the release notes.

    python3 .ci/check_release.py v1.2.3 [ROOT]

The tag is ``v`` and the version of ``gateway/version.py``; the chart has the same; the changelog has a section for it, with a
date, right under an empty ``Unreleased``. What is wrong is said in one line each, and the exit code is 1. Needs only Python.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

VERSION = re.compile(r'^__version__ = "([^"]+)"$', re.MULTILINE)
HEADING = re.compile(r"^## \[([^\]]+)\](?: - (\d{4}-\d{2}-\d{2}))?$", re.MULTILINE)


def version_of(root: Path) -> str:
    """The version, from its one place."""
    found = VERSION.search((root / "gateway" / "version.py").read_text(encoding="utf-8"))
    if found is None:
        raise SystemExit("gateway/version.py has no line __version__ = …")
    return found[1]


def sections(text: str) -> dict[str, tuple[str | None, str]]:
    """Version → its date and its lines, in the order of the changelog."""
    found = list(HEADING.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    return {match[1]: (match[2], text[match.end() : end].strip()) for match, end in zip(found, ends, strict=True)}


def problems(tag: str, root: Path) -> Iterator[str]:
    """What is in the way of releasing ``root`` as ``tag``, a sentence each."""
    version = version_of(root)
    if tag != f"v{version}":
        yield f"the tag is {tag}, gateway/version.py makes it v{version}"
    chart = (root / "helm" / "tidegate" / "Chart.yaml").read_text(encoding="utf-8")
    for key in ("version", "appVersion"):
        found = re.search(rf'^{key}: "?([^"\s]+)"?$', chart, re.MULTILINE)
        if found is None or found[1] != version:
            yield f"helm/tidegate/Chart.yaml has {key} {found[1] if found else '(none)'}, not {version}"
    changes = sections((root / "CHANGELOG.md").read_text(encoding="utf-8"))
    if list(changes)[:2] != ["Unreleased", version]:
        yield f"CHANGELOG.md does not begin with Unreleased and then {version}"
        return
    if changes["Unreleased"][1]:
        yield f"CHANGELOG.md still has lines under Unreleased; they belong under {version}"
    date, notes = changes[version]
    if date is None:
        yield f"CHANGELOG.md gives {version} no date: ## [{version}] - YYYY-MM-DD"
    if not notes:
        yield f"CHANGELOG.md says nothing about {version}"


def main(tag: str, root: Path) -> int:
    """Print what is wrong, or the release notes."""
    wrong = list(problems(tag, root))
    for sentence in wrong:
        sys.stderr.write(f"{sentence}\n")
    if not wrong:
        _, notes = sections((root / "CHANGELOG.md").read_text(encoding="utf-8"))[version_of(root)]
        sys.stdout.write(f"{notes}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(f"usage: {sys.argv[0]} TAG [ROOT]")
    raise SystemExit(main(sys.argv[1], Path(*sys.argv[2:])))
