"""Packs the chart of a release, whose values name the image of that release.

    python3 .ci/package_chart.py IMAGE DESTINATION [ROOT]

IMAGE is a name without a tag; the tag is the chart's own version. In the repository the values name an image that only its builder
has; in the package they name what anybody can pull, and the package is rendered once to see that every pod does. Needs Python and
``helm``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = re.compile(r"^  repository: tidegate$", re.MULTILINE)
IMAGE = re.compile(r'^ *(?:- )?image: "?([^"\s]+)"?$', re.MULTILINE)


def helm(*arguments: str | Path) -> str:
    """What Helm prints; when it fails, so do we, with its words."""
    program = shutil.which("helm")
    if program is None:
        raise SystemExit("there is no helm on the PATH")
    return subprocess.run([program, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603  our own words


def name_image(values: Path, image: str) -> None:
    """Put ``image`` in the place of the repository's own; exactly one line is replaced."""
    text, replaced = REPOSITORY.subn(f"  repository: {image}", values.read_text(encoding="utf-8"))
    if replaced != 1:
        raise SystemExit(f"{values} has {replaced} lines with the repository of the image, not one")
    values.write_text(text, encoding="utf-8")


def main(image: str, destination: Path, root: Path) -> None:
    """Pack, and look at what was packed."""
    with tempfile.TemporaryDirectory() as folder:
        chart = Path(shutil.copytree(root / "helm" / "tidegate", Path(folder, "tidegate")))
        name_image(chart / "values.yaml", image)
        helm("package", chart, "--destination", folder)
        (package,) = Path(folder).glob("tidegate-*.tgz")
        version = package.stem.removeprefix("tidegate-")
        rendered = set(IMAGE.findall(helm("template", "release", package)))
        if rendered != {f"{image}:{version}"}:
            raise SystemExit(f"the package's pods run {sorted(rendered)}, not {image}:{version}")
        destination.mkdir(parents=True, exist_ok=True)
        shutil.copy(package, destination)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        raise SystemExit(f"usage: {sys.argv[0]} IMAGE DESTINATION [ROOT]")
    main(sys.argv[1], Path(sys.argv[2]), Path(*sys.argv[3:]))
