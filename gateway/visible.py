"""``visible``: text from anywhere on one line, where it can steer neither a terminal nor a log. It imports nothing."""

from __future__ import annotations

__all__ = ["visible"]

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {
    code: f"\\u{code:04x}"  # line separators, and marks that turn the direction of what follows
    for code in (0x061C, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000))
}


def visible(text: str) -> str:
    """``text`` on one line, with every control character written out."""
    return text.translate(_CONTROLS)
