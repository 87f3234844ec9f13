"""The command ``tidegate``.

Exit codes: 0 it worked, 1 it did not, 2 the command line or a setting is wrong. What a command answers goes to standard
output, everything else to standard error. Each command imports what it needs when it runs, so that ``healthcheck`` loads no
server.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..version import __version__
from .options import EXIT_WRONG, load, plainly, setting_options

if TYPE_CHECKING:
    from ..settings import Settings

__all__ = ["main"]

_OTHERS = {
    "dictionary": "gateway.cli.dictionary",
    "explain": "gateway.cli.explain",
    "healthcheck": "gateway.cli.client_commands",
    "listen": "gateway.cli.client_commands",
    "publish": "gateway.cli.client_commands",
    "top": "gateway.cli.top",
}
"""Commands that live in files of their own."""


class _Commands(click.Group):
    """The commands here, and those of ``_OTHERS``, imported when asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(
            [*super().list_commands(ctx), *(name for name, module in _OTHERS.items() if importlib.util.find_spec(module))]
        )

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _OTHERS and importlib.util.find_spec(_OTHERS[cmd_name]):
            command = getattr(importlib.import_module(_OTHERS[cmd_name]), cmd_name)
            assert isinstance(command, click.Command), f"{_OTHERS[cmd_name]}.{cmd_name} is a click command"
            return command
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="tidegate")
def main() -> None:
    """A WebSocket gateway: rooms, a publish API, health, metrics.

    \b
    Try it in three terminals:
      TIDEGATE_API_KEY=local-trial tidegate serve
      tidegate listen lobby
      TIDEGATE_API_KEY=local-trial tidegate publish lobby "hello"

    Every setting is an environment variable (TIDEGATE_PORT), a line in a TOML file (--config) or --set NAME=VALUE;
    `tidegate config --schema` lists them all.
    """


@main.command(short_help="Run the gateway.")
@click.option("--host", metavar="ADDRESS", help="Address of the public listener.  [default: 127.0.0.1]")
@click.option("--port", metavar="NUMBER", help="Port of the public listener.  [default: 8000]")
@click.option("--ops-host", metavar="ADDRESS", help="Address of the ops listener: health, metrics, API.  [default: 127.0.0.1]")
@click.option("--ops-port", metavar="NUMBER", help="Port of the ops listener.  [default: 9000]")
@click.option("--workers", metavar="NUMBER", help="Processes that share the public port, each with an ops port.  [default: 1]")
@click.option("--broker", metavar="URL", help="What carries messages between nodes.  [default: memory://]")
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error.  [default: info]")
@click.option("--log-format", metavar="FORMAT", help="json, console or auto.  [default: auto]")
@setting_options
def serve(config: Path | None, assignments: dict[str, str], **options: str | None) -> None:
    """Run the gateway until SIGTERM or Ctrl-C.

    \b
    Examples:
      tidegate serve
      tidegate serve --port 8080 --set rate_limit.messages_per_second=off
      TIDEGATE_API_KEY=$(openssl rand -hex 24) tidegate serve --config gateway.toml
      TIDEGATE_AUTH__MODE=none tidegate serve --host 0.0.0.0       (anybody may connect)
      tidegate serve --workers 4 --broker redis://127.0.0.1:6379
    """
    with plainly():
        loaded = load(config, assignments, **options)
        from ..logs import configure_logging

        configure_logging(loaded.settings.log_level, loaded.settings.log_format)
        _warn(loaded.warnings)
        sys.exit(_run(loaded.settings))


def _run(settings: Settings) -> int:
    if settings.workers > 1:
        from ..workers import supervise

        return supervise(settings)
    from ..runner import serve as run

    return run(settings)


def _warn(warnings: tuple[str, ...]) -> None:
    import structlog

    for warning in warnings:
        structlog.get_logger("tidegate.settings").warning(warning)


@main.command("config", short_help="Show every setting and its origin.")
@click.option("--schema", is_flag=True, help="Print the table of all settings (Markdown), as in docs/configuration.md.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@setting_options
def show_config(schema: bool, as_json: bool, config: Path | None, assignments: dict[str, str]) -> None:
    """Show every effective setting and where it came from; secrets are masked.

    \b
    Examples:
      tidegate config
      tidegate config --config gateway.toml --json
      tidegate config --schema
    """
    from ..settings.text import mask, settings_table_markdown, value_of

    if schema:
        click.echo(settings_table_markdown(), nl=False)
        return
    with plainly():
        loaded = load(config, assignments)
    rows = [(path, mask(path, value_of(loaded.settings, path)), origin) for path, origin in loaded.origins.items()]
    if as_json:
        click.echo(json.dumps({path: {"value": value, "from": origin} for path, value, origin in rows}, indent=2))
    else:
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        for path, value, origin in rows:
            click.echo(f"{path.ljust(widths[0])}  {(value or 'empty').ljust(widths[1])}  {origin}")
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)


class _Duration(click.ParamType[int]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).strip().lower()
        unit = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}.get(text[-1:], 0)
        number = text[:-1] if unit else text
        if not (number.isascii() and number.isdigit() and len(number) <= 9 and int(number) > 0):
            self.fail(f"{value!r} is not a duration such as 90, 15m, 1h or 7d", param, ctx)
        return int(number) * (unit or 1)


@main.command(short_help="Mint a token for local trials.")
@click.option("--user", required=True, help="Who the token is for (`sub`).")
@click.option(
    "--room",
    "rooms",
    multiple=True,
    help="A room, or a pattern such as `chat:*`, the user may join; may be repeated. Without it: all.",
)
@click.option(
    "--expires", type=_Duration(), default="1h", show_default=True, help="How long it is good for: seconds, or 15m, 1h, 7d."
)
@setting_options
def token(user: str, rooms: tuple[str, ...], expires: int, config: Path | None, assignments: dict[str, str]) -> None:
    """Mint a token for local trials, signed with TIDEGATE_AUTH__SECRET.

    \b
    Examples:
      export TIDEGATE_AUTH__MODE=jwt TIDEGATE_AUTH__SECRET=$(openssl rand -hex 32)
      tidegate token --user ann
      tidegate listen chat:1 --token "$(tidegate token --user ann --room 'chat:*' --expires 5m)"
    """
    import jwt

    with plainly():  # whoever mints means them to be asked for
        auth = load(config, {**assignments, "auth.mode": "jwt"}).settings.auth
    if auth.secret is None:
        click.echo(
            "tidegate: there is no secret to sign with; set TIDEGATE_AUTH__SECRET "
            "(tokens for a public key or a JWKS address come from their issuer)",
            err=True,
        )
        sys.exit(EXIT_WRONG)
    now = int(time.time())
    claims: dict[str, Any] = {"sub": user, "iat": now, "exp": now + expires}
    claims |= {"rooms": list(rooms)} if rooms else {}
    claims |= {name: value for name, value in (("aud", auth.audience), ("iss", auth.issuer)) if value}
    click.echo(jwt.encode(claims, auth.secret.get_secret_value(), algorithm="HS256"))
