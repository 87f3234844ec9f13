"""Bar charts in SVG, as text: readable in light and dark pages, the same bytes for the same results."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["bar_chart"]

WIDTH, BAR, GAP, LABEL, VALUE = 760, 20, 8, 190, 110
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#24292f}.t{font-weight:600;font-size:15px}.n{fill:#57606a}"
    ".b{fill:#8c959f}.o{fill:#0a7ea4}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.n{fill:#9198a1}.b{fill:#656c76}.o{fill:#39a9d6}}"
)


def bar_chart(title: str, unit: str, bars: Sequence[tuple[str, float, bool]]) -> str:
    """Horizontal bars ``(label, value, ours)``, in the order given; the longest fills the width."""
    largest = max((value for _, value, _ in bars), default=0.0) or 1.0
    room = WIDTH - LABEL - VALUE
    height = 44 + len(bars) * (BAR + GAP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<text class="t" x="0" y="18">{escape(title)}</text>',
        f'<text class="n" x="{WIDTH}" y="18" text-anchor="end">{escape(unit)}, less is better</text>',
    ]
    for number, (label, value, ours) in enumerate(bars):
        top = 36 + number * (BAR + GAP)
        length = max(1.0, room * value / largest)
        lines += [
            f'<text x="{LABEL - 8}" y="{top + 15}" text-anchor="end">{escape(label)}</text>',
            f'<rect class="{"o" if ours else "b"}" x="{LABEL}" y="{top}" width="{length:.1f}" height="{BAR}" rx="3"/>',
            f'<text class="n" x="{LABEL + length + 8:.1f}" y="{top + 15}">{_value(value)}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"


def _value(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
