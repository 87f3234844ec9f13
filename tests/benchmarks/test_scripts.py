"""The scripts that measure parts of Tidegate run, as their first lines say; what they find is not judged here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("script", "options", "finds"),
    [
        ("layers", ("--messages", "20", "--connections", "10", "--rounds", "1"), ("metrics ", "whole chain (8)")),
        (
            "observers",
            ("--publications", "10", "--rounds", "1"),
            ("metrics ", "confirmations ", "explanations ", "traces, not sampled"),
        ),
        ("reading", ("--connections", "20", "--rounds", "1"), ("          0 ", "         20 ")),
    ],
)
def test_a_script_of_the_documentation_measures(script: str, options: tuple[str, ...], finds: tuple[str, ...]) -> None:
    """Tiny; it ends with a table that has every row."""
    command = [sys.executable, f"benchmarks/{script}.py", *options]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    for row in finds:
        assert any(line.startswith(row) for line in ran.stdout.splitlines())
