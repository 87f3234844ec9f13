"""``tidegate top``: the figures of a running gateway in the terminal, every second. ``top_view`` says what they look like.

On a terminal it draws over itself and leaves everything as it was; into a file or a pipe it writes plain text, one snapshot after
the other. An interruption is waited out; a wrong key is not.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import click

from .client_http import ClientError, events, request
from .options import ops_of, plainly, setting_options
from .top_view import BOLD, DIM, REVERSE, Styled, render

__all__ = ["top"]

_STREAM, _ONCE = "/api/stats/stream", "/api/stats"
_AGAIN_SECONDS = 1.0
_STYLES = {BOLD: "\x1b[1m", DIM: "\x1b[2m", REVERSE: "\x1b[7m", "red": "\x1b[1;31m"}
_OTHER_SCREEN, _BACK = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


@click.command(short_help="Show the figures of a running gateway.")
@click.option("--ops-url", metavar="URL", help="The ops listener; by default where the settings put it.")
@click.option("--api-key", metavar="KEY", help="The API's key; better left to TIDEGATE_API_KEY, which no process list shows.")
@click.option(
    "--once", is_flag=True, help="Print the figures once (over one second; of a quiet one, latencies since the start) and end."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per snapshot, as GET /api/stats has it.")
@setting_options
def top(
    ops_url: str | None, api_key: str | None, once: bool, as_json: bool, config: Path | None, assignments: dict[str, str]
) -> None:
    """Show connections, rates, latencies, rooms and the ledger of a running gateway, every second, until Ctrl-C.

    \b
    Examples:
      tidegate top
      tidegate top --ops-url http://127.0.0.1:9000
      tidegate top --once --json | jq .connections.now
    """
    with plainly(), contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        url, key = ops_of(ops_url, config, assignments)
        source = _Source(url.rstrip("/"), api_key or key)
        screen: _Screen
        if as_json:
            screen = _Json()
        else:
            screen = _Terminal() if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not once else _Plain()
        with screen:
            if once:
                screen.show(source.once() if as_json else _not_only_now(source.once()))
            else:
                _watch(source, screen)


class _Source:
    """The figures of one gateway.

    Args:
        ops_url: of the gateway, without a slash at the end.
        key: of its API.
    """

    def __init__(self, ops_url: str, key: str | None) -> None:
        self.url = ops_url
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    def once(self) -> dict[str, Any]:
        """One snapshot. Raises ``ClientError``."""
        reply = request("GET", self.url + _ONCE, headers=self._headers)
        if reply.status != 200:
            raise ClientError(f"no figures: {reply.why()}")
        return self.decoded(reply.body)

    def stream(self) -> Iterator[dict[str, Any]]:
        """Snapshots, until the gateway ends it. Raises ``ClientError``."""
        for data in events(self.url + _STREAM, headers=self._headers):
            yield self.decoded(data)

    def decoded(self, data: bytes) -> dict[str, Any]:
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            snapshot: dict[str, Any] = json.loads(data)
            render(_not_only_now(snapshot), width=80)  # whatever is not a snapshot shows here
            return snapshot
        raise ClientError(f"{self.url} answers, but not with figures: is this the ops address of a Tidegate of this version?")


def _not_only_now(snapshot: dict[str, Any]) -> dict[str, Any]:
    """Of a second in which nothing happened nobody learns how fast it goes: then the latencies are those since the start."""
    is_quiet = not any(one["count"] for one in snapshot["latency"])
    return {**snapshot, "latency": snapshot["latency_total"]} if is_quiet else snapshot


def _watch(source: _Source, screen: _Screen, sleep: Callable[[float], None] = time.sleep) -> None:
    """Show what comes; once something came, an interruption is waited out."""
    shown = None
    while True:
        try:
            for shown in source.stream():
                screen.show(shown)
            why = "the gateway ended the stream"
        except ClientError as error:
            if shown is None or error.final:
                raise
            why = str(error)
        if shown is not None:
            screen.lost(shown, why)
        sleep(_AGAIN_SECONDS)


class _Screen(Protocol):
    """Where snapshots are shown."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *error: object) -> None: ...

    def show(self, snapshot: dict[str, Any]) -> None: ...

    def lost(self, snapshot: dict[str, Any], why: str) -> None: ...


class _Json:
    """A line of JSON each."""

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...

    def show(self, snapshot: dict[str, Any]) -> None:
        click.echo(json.dumps(snapshot))

    def lost(self, snapshot: dict[str, Any], why: str) -> None:
        click.echo(f"tidegate: {why}; trying again", err=True)


class _Plain(_Json):
    """Plain text, one snapshot after the other."""

    def show(self, snapshot: dict[str, Any]) -> None:
        width = shutil.get_terminal_size((100, 24)).columns
        click.echo("\n".join(line.rstrip() for line, _ in render(snapshot, width=width)) + "\n")


class _Terminal:
    """Draws on the other screen of a terminal, over what it drew before."""

    def __enter__(self) -> None:
        _write(_OTHER_SCREEN)

    def __exit__(self, *error: object) -> None:
        _write(_BACK)

    def show(self, snapshot: dict[str, Any]) -> None:
        self._draw(snapshot, time.strftime("%H:%M:%S "))

    def lost(self, snapshot: dict[str, Any], why: str) -> None:
        self._draw(snapshot, "lost, trying again ")

    def _draw(self, snapshot: dict[str, Any], note: str) -> None:
        size = shutil.get_terminal_size((100, 30))
        lines = render(snapshot, width=size.columns, height=size.lines - 1, note=note)
        _write("\x1b[H" + "".join(f"{_styled(line)}\x1b[K\r\n" for line in lines) + "\x1b[J")


def _styled(line: Styled) -> str:
    text, look = line
    if not look or (os.environ.get("NO_COLOR") and look == "red"):
        return text
    return f"{_STYLES[look]}{text}\x1b[0m"


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
