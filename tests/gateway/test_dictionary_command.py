"""``tidegate dictionary train``: from files of messages to a dictionary, or to a sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.cli.dictionary import dictionary
from middleware.compression import load_dictionaries


def messages(count: int) -> list[bytes]:
    """Messages that are much alike."""
    return [json.dumps({"type": "moved", "piece": n % 32, "to": [n % 8, n % 7], "clock": n * 17}).encode() for n in range(count)]


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    """A thousand messages, one a line."""
    path = tmp_path / "messages.jsonl"
    path.write_bytes(b"\n".join(messages(1000)) + b"\n\n")
    return path


def train(*arguments: str | Path) -> Result:
    """Run the command."""
    return CliRunner().invoke(dictionary, ["train", *map(str, arguments)])


def test_train(tmp_path: Path, jsonl: Path) -> None:
    """A file with a message a line becomes a dictionary; id, size and ratio on held-out messages are printed."""
    output = tmp_path / "d.zdict"
    result = train(jsonl, "-o", output, "--size", "2KiB")
    assert result.exit_code == 0, result.output
    (made,) = load_dictionaries([output])
    assert len(made.data) <= 2048
    assert f"id       {made.id}\n" in result.output
    assert re.search(r"^size     [0-9.]+ (KiB|B)$", result.output, re.MULTILINE)
    assert "samples  800 trained on, 200 held out\n" in result.output
    with_it, without = map(float, re.findall(r"([0-9.]+) with(?:out)?\b", result.output))
    assert with_it > 1.5 * without


def test_whole_files(tmp_path: Path) -> None:
    """Other files are one message each, and ``--lines`` and ``--whole`` say otherwise."""
    files = []
    for number, message in enumerate(messages(100)):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_bytes(message)
    output = tmp_path / "d.zdict"
    assert "80 trained on, 20 held out" in train(*files, "-o", output, "--size", "1k").output
    one = tmp_path / "all.json"
    one.write_bytes(b"\n".join(messages(100)))
    assert "80 trained on, 20 held out" in train(one, "-o", output, "--size", "1024", "--lines").output
    assert "1 samples of 8 bytes or more are too few" in train(one, "-o", output, "--size", "1024").output


@pytest.mark.parametrize("size", ["", "big", "16 KiBi", "-1", "1.5k", "16GiB", "9" * 40])
def test_wrong_size(tmp_path: Path, jsonl: Path, size: str) -> None:
    """A size that is none is a usage error."""
    result = train(jsonl, "-o", tmp_path / "d", f"--size={size}")
    assert result.exit_code == 2
    assert "is not a size such as 16KiB" in result.output


def test_too_few_samples(tmp_path: Path) -> None:
    """Too few messages are a sentence and exit code 1, and nothing is written."""
    few = tmp_path / "few.jsonl"
    few.write_bytes(b"\n".join(messages(5)))
    result = train(few, "-o", tmp_path / "d.zdict")
    assert result.exit_code == 1
    assert result.output.startswith("Error: no dictionary was made: 4 samples of 8 bytes or more are too few")
    assert result.output.endswith("--size is 16.0 KiB, for which 1.6 MiB of messages are a good amount\n")
    assert not (tmp_path / "d.zdict").exists()


def test_files_at_fault(tmp_path: Path, jsonl: Path) -> None:
    """A file that is missing, or an output that cannot be written, is named."""
    assert train(tmp_path / "none.jsonl", "-o", tmp_path / "d").exit_code == 2
    result = train(jsonl, "-o", tmp_path / "no" / "where" / "d.zdict", "--size", "1k")
    assert result.exit_code == 1
    assert "d.zdict: No such file or directory" in result.output
    assert train("-o", tmp_path / "d").exit_code == 2
