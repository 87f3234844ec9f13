"""Text from anywhere, on one line, where it can steer neither a terminal nor a log."""

from __future__ import annotations

import unicodedata

import pytest

from gateway.visible import visible

BIDI = [char for char in map(chr, range(0x110000)) if unicodedata.bidirectional(char) in ("LRE", "RLE", "LRO", "RLO", "PDF")]
ISOLATES = [char for char in map(chr, range(0x110000)) if unicodedata.bidirectional(char) in ("LRI", "RLI", "FSI", "PDI")]
MARKS = ["\u061c", "\u200e", "\u200f"]


@pytest.mark.parametrize("char", [*BIDI, *ISOLATES, *MARKS], ids=lambda char: f"U+{ord(char):04X}")
def test_what_turns_the_direction_of_text_is_written_out(char: str) -> None:
    """Every mark, embedding, override and isolate of the bidirectional algorithm (UAX #9, section 2)."""
    assert visible(f"a{char}b") == f"a\\u{ord(char):04x}b"


@pytest.mark.parametrize("char", [*map(chr, range(0x20)), "\x7f", *map(chr, range(0x80, 0xA0)), "\u2028", "\u2029", "\ud800"])
def test_controls_line_breaks_and_what_cannot_be_encoded_are_written_out(char: str) -> None:
    """One line, printable, whatever comes."""
    assert visible(char).isascii()
    assert visible(char).isprintable()


def test_what_people_write_is_left_alone() -> None:
    """Also what is written from the right, and what is joined to one sign."""
    for text in ("lobby", "שלום", "مرحبا", "価格", "e\u0301", "👩\u200d💻"):
        assert visible(text) == text
