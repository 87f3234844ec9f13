"""Run all 517 Autobahn cases, without and with permessage-deflate, and write ``docs/conformance.md`` (about 10 minutes).

    python -m tests.conformance.run [case pattern ...]

With patterns (``6.*``) only those cases run and nothing is written. Exit code 1 when a case has failed.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kosoku
import websockets

from .server import serving

REPORT = Path(__file__).parents[2] / "docs" / "conformance.md"
VERDICTS = ("OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED", "FAILED", "ERROR")
GROUPS = {
    "1": "Framing", "2": "Pings and pongs", "3": "Reserved bits", "4": "Opcodes", "5": "Fragmentation", "6": "UTF-8",
    "7": "Closing", "9": "Limits and performance", "10": "Auto-fragmentation", "12": "permessage-deflate, various payloads",
    "13": "permessage-deflate, various parameters",
}  # fmt: skip


async def results_of(*, deflate: bool, include: Sequence[str] | None = None, exclude: Sequence[str] | None = None) -> list[Any]:
    """Run cases against a server of our own; every case has a verdict, failed ones too."""
    async with serving(deflate=deflate) as port:
        try:
            return list(await kosoku.run_fuzzingclient(f"127.0.0.1:{port}", include, exclude))
        except kosoku.FailureError as failure:
            return list(failure.results)


def failures(results: Sequence[Any]) -> list[str]:
    """The cases that did not pass, with both verdicts."""
    return [
        f"{result.case_id}: {result.behavior.value} / {result.behavior_close.value}: {result.result}"
        for result in results
        if not result.passed
    ]


def table(results: Sequence[Any]) -> str:
    """Verdicts by group of cases, as a Markdown table."""
    lines = ["| group | cases | " + " | ".join(VERDICTS) + " |", "|---|" + "---:|" * (len(VERDICTS) + 1)]
    for group, name in GROUPS.items():
        verdicts = Counter(r.behavior.value for r in results if r.case_id.split(".")[0] == group)
        if not verdicts:
            continue
        counts = " | ".join(str(verdicts[verdict]) for verdict in VERDICTS)
        lines.append(f"| {group} {name} | {verdicts.total()} | {counts} |")
    total = Counter(r.behavior.value for r in results)
    lines.append(f"| **all** | **{len(results)}** | " + " | ".join(f"**{total[verdict]}**" for verdict in VERDICTS) + " |")
    return "\n".join(lines)


def report(plain: Sequence[Any], deflated: Sequence[Any]) -> str:
    """The page."""
    versions = f"kosoku (the suite's own case files), websockets {websockets.version.version}, Python {sys.version.split()[0]}"
    return f"""# Conformance

Every case of the Autobahn test suite against `gateway.wire.WireProtocol`.
Run with {versions}.
Written by `python -m tests.conformance.run`; the cases outside groups 12 and 13 are part of the test suite.

## permessage-deflate on: all {len(deflated)} cases

{table(deflated)}

## permessage-deflate off: the {len(plain)} cases that do without it

{table(plain)}

INFORMATIONAL cases (7.1.6, 7.13.1, 7.13.2) have no right or wrong answer. A case that is OK also closed the connection as the
case wants it.
"""


async def main(patterns: Sequence[str]) -> int:
    """Run what is asked for."""
    plain = await results_of(deflate=False, include=patterns or None, exclude=["12.*", "13.*"])
    deflated = await results_of(deflate=True, include=patterns or None)
    for line in (*failures(plain), *failures(deflated)):
        print(line)
    for results in (plain, deflated):
        print(Counter(result.behavior.value for result in results))
    if not patterns:
        REPORT.write_text(report(plain, deflated))
    return int(bool(failures(plain) or failures(deflated)))


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main(sys.argv[1:])))
