"""Write the tables of ``docs/`` that are made from the code: ``python docs/tables.py`` (``make tables``)."""

from __future__ import annotations

from pathlib import Path

from gateway.settings.text import settings_table_markdown
from gateway.telemetry.catalogue import metrics_markdown

DOCS = Path(__file__).parent
BEGIN, END = "<!-- settings -->\n", "<!-- /settings -->"


def main() -> None:
    """Write them."""
    (DOCS / "metrics.md").write_text(metrics_markdown(), encoding="utf-8")
    page = DOCS / "configuration.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}{settings_table_markdown()}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
