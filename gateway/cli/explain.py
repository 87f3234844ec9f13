"""``tidegate explain``: why a client did not get a message, in the gateway's own words (``GET /api/explain``)."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from .client_http import ClientError, request
from .options import EXIT_FAILED, EXIT_WRONG, ops_of, plainly, setting_options

__all__ = ["explain"]


@click.command(short_help="Say why a client did not get a message.")
@click.argument("connection", required=False)
@click.option("--user", help="All connections of a user, instead of one.")
@click.option("--room", help="A room; beside a connection or a user, only what was said in it.")
@click.option(
    "--message", metavar="ID", help="One message alone; `publish` answers with its id, which goes in place of a connection's, too."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as GET /api/explain has it.")
@click.option("--ops-url", metavar="URL", help="The ops listener; by default where the settings put it.")
@setting_options
def explain(
    connection: str | None,
    user: str | None,
    room: str | None,
    message: str | None,
    as_json: bool,
    ops_url: str | None,
    config: Path | None,
    assignments: dict[str, str],
) -> None:
    """Say what became of the last messages to a CONNECTION, a user or a room, from what the node remembers.

    In place of a connection's id that of a message is understood. Exit code 1: nothing is remembered of it.

    A connection's id is in the log, in `GET /api/rooms/ROOM` and in the console. What stands before its last dash is its
    node: ask that one (--ops-url). The key is TIDEGATE_API_KEY.

    \b
    Examples:
      tidegate explain 3f9c21ab-1
      tidegate explain --user ann --room chat:1
      tidegate explain 3f9c21ab-1 --message 3f9c21ab-17
      tidegate explain --message 3f9c21ab-17
    """
    named = {"connection": connection, "user": user, "room": room, "message": message}
    asked = {name: value for name, value in named.items() if value}
    if not asked:
        click.echo("tidegate: say what it is about: an id, --user, --room or --message", err=True)
        sys.exit(EXIT_WRONG)
    from ..visible import visible

    with plainly():
        url, key = ops_of(ops_url, config, assignments)
        answer = _answer(url, asked, key)
    # What a client may have named cannot steer the terminal.
    click.echo(json.dumps(answer) if as_json else "\n".join(map(visible, answer["answer"])))
    sys.exit(0 if answer["connections"] or answer["rooms"] else EXIT_FAILED)


def _answer(ops_url: str, asked: dict[str, str], key: str | None) -> dict[str, Any]:
    """What the API says. Raises ``ClientError``."""
    headers = {"accept": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    reply = request("GET", f"{ops_url.rstrip('/')}/api/explain?{urlencode(asked)}", headers=headers)
    if reply.status != 200:
        raise ClientError(f"no explanation: {reply.why()}")
    with contextlib.suppress(ValueError, TypeError, KeyError):
        answer = dict(json.loads(reply.body))
        if {"answer", "connections", "rooms"} <= answer.keys():
            return answer
    raise ClientError(f"{ops_url} answers, but explains nothing: is this the ops address of a Tidegate of this version?")
