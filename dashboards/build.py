"""Writes the dashboards and the recording rules: ``python -m dashboards.build [--out FOLDER] [--runbooks ADDRESS]``.

Without options it renews what the repository keeps: the JSON files and ``rules/recording.yaml`` here, and the copies of everything
that the Helm chart installs. With ``--runbooks`` every link to ``dashboards/runbooks/…`` becomes one to that address, in the
alerts' annotations too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .panels.board import Board, render
from .panels.broker import BROKER
from .panels.capacity import CAPACITY
from .panels.delivery import DELIVERY
from .panels.kit import RUNBOOKS
from .panels.overview import OVERVIEW
from .slo import recording_rules

__all__ = ["BOARDS", "outputs"]

HERE = Path(__file__).parent
CHART = HERE.parent / "helm" / "tidegate"
BOARDS: dict[str, Board] = {"overview": OVERVIEW, "capacity": CAPACITY, "delivery": DELIVERY, "broker": BROKER}


def outputs(runbooks: str = RUNBOOKS) -> dict[str, str]:
    """Every file that is installed somewhere, by its name under a folder, and its text."""
    files = {f"{name}.json": render(board) for name, board in BOARDS.items()}
    files["rules/recording.yaml"] = recording_rules()
    files["rules/alerts.yaml"] = (HERE / "rules" / "alerts.yaml").read_text(encoding="utf-8")
    return {name: text.replace(RUNBOOKS, runbooks.rstrip("/")) for name, text in files.items()}


def places() -> dict[Path, str]:
    """Where the repository keeps each file, and its text; the chart has copies because it is installed alone."""
    files = outputs()
    kept = {HERE / name: text for name, text in files.items()}
    if CHART.is_dir():
        kept |= {CHART / (name if "/" in name else f"dashboards/{name}"): text for name, text in files.items()}
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dashboards.build", description="Write the dashboards and rules.")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="write everything here instead of renewing the repository's files"
    )
    parser.add_argument("--runbooks", default=RUNBOOKS, metavar="ADDRESS", help="where your runbooks are (with --out)")
    options = parser.parse_args()
    if options.out is None and options.runbooks != RUNBOOKS:
        parser.error("--runbooks needs --out: the repository keeps its own links")
    files = places() if options.out is None else {options.out / name: text for name, text in outputs(options.runbooks).items()}
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
