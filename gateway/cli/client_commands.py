"""``tidegate healthcheck``, ``publish`` and ``listen``: the commands that talk to a running gateway."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
from pathlib import Path

import click

from .options import EXIT_FAILED, load, ops_of, ops_url_of, ops_url_of_variables, plainly, reachable, setting_options

__all__ = ["healthcheck", "listen", "publish"]


@click.command(short_help="Ask the gateway's health.")
@click.option("--ops-url", metavar="URL", help="The ops listener; by default where the settings put it.")
@click.option("--ready", is_flag=True, help="Ask /readyz: may new clients come? (default: /healthz, is the process alive?)")
@click.option("--timeout", "timeout_seconds", type=click.FloatRange(0.1, 60), default=3.0, show_default=True, help="Seconds.")
@setting_options
def healthcheck(ops_url: str | None, ready: bool, timeout_seconds: float, config: Path | None, assignments: dict[str, str]) -> None:
    """Ask the gateway's health; exit 0 when it is well. Made for containers.

    \b
    Examples:
      HEALTHCHECK CMD ["tidegate", "healthcheck"]     (quick where TIDEGATE_OPS_HOST and _PORT are set: reads no other settings)
      tidegate healthcheck --ready && echo "open for business"
    """
    from .client_http import healthy

    with plainly():
        reply = healthy(
            ops_url or ops_url_of_variables(config, assignments) or ops_url_of(load(config, assignments).settings),
            "/readyz" if ready else "/healthz",
            timeout_seconds=timeout_seconds,
        )
    click.echo(reply.body.decode(errors="replace").strip() or str(reply.status))
    sys.exit(0 if reply.status == 200 else EXIT_FAILED)


@click.command(short_help="Publish a message to a room.")
@click.argument("room")
@click.argument("text", default="-")
@click.option("--ops-url", metavar="URL", help="The ops listener; by default where the settings put it.")
@click.option(
    "--type", "content_type", metavar="TYPE", help="Content type.  [default: text/plain, or octets when the input is not UTF-8]"
)
@click.option("--idempotency-key", metavar="KEY", help="Publish at most once however often this is repeated.")
@setting_options
def publish(
    room: str,
    text: str,
    ops_url: str | None,
    content_type: str | None,
    idempotency_key: str | None,
    config: Path | None,
    assignments: dict[str, str],
) -> None:
    """Publish TEXT, or what standard input holds (-), to ROOM through the API. The key is TIDEGATE_API_KEY.

    \b
    Examples:
      tidegate publish lobby "hello"
      printf 'low tide' | tidegate publish lobby
      tidegate publish chat:1 '{"n": 1}' --type application/json
      tidegate publish pictures - < tide.png
    """
    from .client_http import publish as post

    if text == "-" and sys.stdin.isatty():
        click.echo("tidegate: reading from standard input; Ctrl-D ends it", err=True)
    payload = sys.stdin.buffer.read() if text == "-" else text.encode("utf-8", "surrogateescape")
    with plainly():
        url, key = ops_of(ops_url, config, assignments)
        answer = post(
            url,
            room,
            payload,
            content_type=content_type or _content_type(payload),
            api_key=key,
            idempotency_key=idempotency_key,
        )
    click.echo(json.dumps(answer))


def _content_type(payload: bytes) -> str:
    try:
        payload.decode()
    except ValueError:
        return "application/octet-stream"
    return "text/plain; charset=utf-8"


@click.command(short_help="Print the messages of a room.")
@click.argument("room")
@click.option("--url", metavar="URL", help="The public listener (ws:// or wss://); by default where the settings put it.")
@click.option("--token", "jwt_token", metavar="JWT", help="Token, where the gateway asks for one (`tidegate token`).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per message.")
@click.option("--count", type=click.IntRange(min=1), help="Stop after so many messages.")
@setting_options
def listen(
    room: str,
    url: str | None,
    jwt_token: str | None,
    as_json: bool,
    count: int | None,
    config: Path | None,
    assignments: dict[str, str],
) -> None:
    """Join ROOM and print its messages; comes back after an interruption.

    \b
    Examples:
      tidegate listen lobby
      tidegate listen lobby --json --count 10 > received.jsonl
      tidegate listen chat:1 --url wss://gateway.example.org --token "$TOKEN"
    """
    with plainly():
        if url is None:
            settings = load(config, assignments).settings
            url = f"ws://{reachable(settings.host)}:{settings.port}"
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_print_messages(url, room, jwt_token, as_json=as_json, count=count))


async def _print_messages(url: str, room: str, jwt_token: str | None, *, as_json: bool, count: int | None) -> None:
    from .client import listen as messages
    from .client import room_url

    show = _as_json if as_json else _as_line
    seen = 0
    stream = messages(room_url(url, room), token=jwt_token, say=lambda text: click.echo(f"tidegate: {text}", err=True))
    async with contextlib.aclosing(stream):
        async for message in stream:
            click.echo(show(message))
            seen += 1
            if seen == count:
                return


def _as_json(message: str | bytes) -> str:
    if isinstance(message, str):
        return json.dumps({"text": message})
    return json.dumps({"base64": base64.b64encode(message).decode()})


def _as_line(message: str | bytes) -> str:
    """One line, in which a message from another member cannot steer the terminal."""
    from ..visible import visible

    if isinstance(message, str):
        return visible(message)
    return f"[binary, {len(message):,} bytes] {message[:32].hex(' ')}" + (" …" if len(message) > 32 else "")
