"""``tidegate dictionary train``: make a zstd dictionary out of typical messages, and say what it is worth.

What it is worth is measured on messages that it was not trained on: every fifth is held out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .top_view import bytes_text

if TYPE_CHECKING:
    from middleware.compression import Dictionary

__all__ = ["dictionary"]

LINE_SUFFIXES = (".jsonl", ".ndjson")
"""Files of these kinds hold a message a line."""
HELD_OUT = 5

_UNITS = {"": 1, "b": 1, "k": 1024, "kib": 1024, "m": 1024**2, "mib": 1024**2, "kb": 1000, "mb": 1000**2}
_SIZE = re.compile(r"([0-9]{1,9})\s*([a-z]{0,3})", re.ASCII)


class _Size(click.ParamType[int]):
    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = _SIZE.fullmatch(str(value).strip().lower())
        if found is None or found[2] not in _UNITS:
            self.fail(f"{value!r} is not a size such as 16KiB, 32k or 16384", param, ctx)
        return int(found[1]) * _UNITS[found[2]]


@click.group(short_help="Train a zstd dictionary.")
def dictionary() -> None:
    """Dictionaries make short messages small: both sides know beforehand what they have in common."""


@dictionary.command(short_help="Make a dictionary out of sample messages.")
@click.argument("files", nargs=-1, required=True, metavar="FILES...", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The dictionary's file; overwritten."
)
@click.option("--size", "size_bytes", type=_Size(), default="16KiB", show_default=True, help="Largest size of the dictionary.")
@click.option("--level", type=click.IntRange(1, 22), default=3, show_default=True, help="zstd level that the ratio is measured at.")
@click.option("--lines/--whole", default=None, help="One message a line, or one a file.  [default: lines in *.jsonl and *.ndjson]")
def train(files: tuple[Path, ...], output: Path, size_bytes: int, level: int, lines: bool | None) -> None:
    """Make a dictionary out of sample messages and print its id, size and the ratio on messages held out.

    Pieces of the samples end up in the dictionary, and every client may read it: give it no secrets.

    \b
    Examples:
      tidegate dictionary train messages.jsonl -o d.zdict
      tidegate dictionary train samples/*.json -o d.zdict --size 32KiB
      TIDEGATE_COMPRESSION__DICTIONARIES=d.zdict tidegate serve
    """
    from middleware.compression import train_dictionary

    try:
        samples = [sample for file in files for sample in _messages(file, lines)]
        training = [sample for number, sample in enumerate(samples, start=1) if number % HELD_OUT]
        made = train_dictionary(training, size_bytes)
        output.write_bytes(made.data)
    except ValueError as error:
        enough = f"--size is {bytes_text(size_bytes)}, for which {bytes_text(100 * size_bytes)} of messages are a good amount"
        raise click.ClickException(f"no dictionary was made: {error}; {enough}") from None
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from None
    _describe(made, len(training), samples[HELD_OUT - 1 :: HELD_OUT], level)


def _messages(file: Path, lines: bool | None) -> Iterator[bytes]:
    """The messages in ``file``; empty lines are none."""
    content = file.read_bytes()
    if lines if lines is not None else file.suffix.lower() in LINE_SUFFIXES:
        yield from filter(None, content.splitlines())
    elif content:
        yield content


def _describe(made: Dictionary, trained_on: int, held_out: list[bytes], level: int) -> None:
    from middleware.compression import compression_ratio

    ratios = [compression_ratio(held_out, known, level=level) for known in (made, None)]
    click.echo(f"id       {made.id}")
    click.echo(f"size     {bytes_text(len(made.data))}")
    click.echo(f"samples  {trained_on} trained on, {len(held_out)} held out")
    click.echo(f"ratio    {ratios[0]:.2f} with it, {ratios[1]:.2f} without (held-out messages, level {level})")
    click.echo(f"offer    zstd.{made.id}, or NAME+zstd.{made.id} beside the subprotocol NAME")
