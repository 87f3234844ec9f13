"""The figures of ``docs/scaling.md``: what a node and an engine need for a message, as measured."""

from __future__ import annotations

import re

from ..results import Results
from .tables import number, table

__all__ = ["figures", "with_figures"]

NOT_MEASURED = "Not measured yet: `python -m benchmarks --only brokers`, on a machine that does nothing else."
ENGINES = {"Redis": "tidegate-redis", "Redis Cluster": "tidegate-cluster", "NATS": "tidegate-nats"}
CASES = {"full": "brokers-full", "5,000 a second": "brokers-5000"}
_BLOCK = re.compile(r"(<!-- figures.*?-->\n).*?(<!-- /figures -->)", re.DOTALL)


def figures(results: Results) -> str:
    """The table, or a line that says that there is none yet."""
    rows = []
    for engine, peer in ENGINES.items():
        for name, case in CASES.items():
            row = results.row(case, peer)
            if row is not None and row.samples:
                parts = [f"{number(row.figure(part))} µs" for part in ("first_us", "second_us", "engine_us")]
                latency = f"{number(row.figure('p50_ms'))} / {number(row.figure('p99_ms'))} ms" if case != "brokers-full" else "–"
                rows.append([f"{engine}, {name}", *parts, f"{row.figure('per_second') or 0:,.0f}", latency])
    heads = ["each message", "publishing node (*P*)", "hearing node (*H*)", "engine", "messages/s", "p50 / p99"]
    return table(heads, rows) if rows else NOT_MEASURED


def with_figures(page: str, results: Results) -> str:
    """``page`` with the figures between its two comments."""
    return _BLOCK.sub(lambda found: f"{found[1]}{figures(results)}\n{found[2]}", page)
