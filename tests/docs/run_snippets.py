"""Runs the Python fences of Markdown files as a reader would: one file after the other, its fences in order, as written.

    python -m tests.docs.run_snippets REPORT FILE…

Writes a JSON object to REPORT: for every file how many fences ran, the ``app`` objects that they left and what those answered to a
handshake, or the traceback of what failed.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import traceback
from pathlib import Path
from typing import Any

from tests.middleware.asgi_helpers import disconnect, run, text, websocket_scope

FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def fences(document: str) -> list[tuple[int, str]]:
    """Line number and code of every Python fence."""
    return [(document.count("\n", 0, match.start()) + 1, match[1]) for match in FENCE.finditer(document)]


def run_file(path: Path) -> dict[str, Any]:
    """Run the fences of one file in one namespace."""
    namespace: dict[str, Any] = {"__name__": path.stem}
    answers: list[str] = []
    count = 0
    for line, code in fences(path.read_text()):
        before = namespace.get("app")
        try:
            exec(compile("\n" * line + code, str(path), "exec"), namespace)
            if namespace.get("app") is not before:
                answers.append(asyncio.run(handshake(namespace["app"])))
        except Exception:
            return {"failed": traceback.format_exc()}
        count += 1
    return {"fences": count, "answers": answers}


async def handshake(app: Any) -> str:
    """What ``app`` makes of a plain client of ``/ws`` that says hello: what comes back, or the refusal's status."""
    server = await run(app, websocket_scope(), text("hello"), disconnect())
    return f"refused {server.status}" if server.status else f"said {server.payloads} {server.close or ''}".rstrip()


if __name__ == "__main__":
    report, *names = sys.argv[1:]
    Path(report).write_text(json.dumps({name: run_file(Path(name)) for name in names}))
