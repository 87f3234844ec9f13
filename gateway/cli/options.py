"""What the commands share: the options that lead to settings, and errors as one message with an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ..settings import Settings
    from ..settings.sources import Loaded

__all__ = [
    "EXIT_FAILED", "EXIT_WRONG", "OPS_HOST", "OPS_PORT", "load", "ops_of", "ops_url_of", "ops_url_of_variables", "plainly",
    "reachable", "setting_options",
]  # fmt: skip

EXIT_FAILED = 1
EXIT_WRONG = 2
OPS_HOST, OPS_PORT = "127.0.0.1", "9000"
"""The defaults of the settings; a test compares."""
_C = TypeVar("_C", bound=Callable[..., Any])


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """Turn our own errors into one message and an exit code; what else is raised passes."""
    try:
        yield
    except Exception as error:
        code, text = _plain(error)
        if text is None:
            raise
        click.echo(text, err=True)
        sys.exit(code)


def _plain(error: Exception) -> tuple[int, str | None]:
    from .client_http import ClientError

    if isinstance(error, ClientError):  # judged first: a health check that fails should not load the server to say so
        return EXIT_FAILED, f"tidegate: {error}"
    from ..errors import StartupError
    from ..settings import SettingsError

    if isinstance(error, SettingsError):
        return EXIT_WRONG, f"These settings cannot work:\n\n{error}"
    return EXIT_FAILED, f"tidegate: {error}" if isinstance(error, StartupError) else None


def _assignment(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for name, equals, _ in pairs:
        if not equals or not name:
            raise click.BadParameter("this is NAME=VALUE, for example rate_limit.burst=200")
    return {name.strip().lower().replace("__", "."): value for name, _, value in pairs}


def setting_options(command: _C) -> _C:
    """What every command that reads settings takes."""
    for decorate in (
        click.option(
            "--set",
            "assignments",
            metavar="NAME=VALUE",
            multiple=True,
            callback=_assignment,
            help="Any setting, such as rate_limit.burst=200; may be repeated.",
        ),
        click.option("--config", metavar="FILE", type=click.Path(path_type=Path), help="TOML file; also TIDEGATE_CONFIG."),
    ):
        command = decorate(command)
    return command


def load(config: Path | None, assignments: dict[str, str], **options: Any) -> Loaded:
    """The settings that a command's options lead to.

    Raises:
        SettingsError: something is wrong with them.
    """
    from ..settings.sources import load_settings

    return load_settings({**assignments, **{name: value for name, value in options.items() if value is not None}}, config)


def reachable(host: str) -> str:
    """An address to connect to for one that is listened on."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared with, not bound to
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def ops_url_of_variables(config: Path | None, assignments: dict[str, str]) -> str | None:
    """Where the ops listener is when variables say it, as they beat a file; loading the settings costs more than the question.

    What no variable says is as it is by default when there is no file either. ``None``: the settings are to be asked.
    """
    if assignments:
        return None
    host, port = (os.environ.get(f"TIDEGATE_OPS_{name}", "") for name in ("HOST", "PORT"))
    if not _has_file(config):
        host, port = host or OPS_HOST, port or OPS_PORT
    return f"http://{reachable(host)}:{port}" if host and port.isascii() and port.isdigit() else None


def _has_file(config: Path | None) -> bool:
    return config is not None or bool(os.environ.get("TIDEGATE_CONFIG"))


def ops_of(ops_url: str | None, config: Path | None, assignments: dict[str, str]) -> tuple[str, str | None]:
    """The ops listener's address and the API's key, without loading the settings where variables and options say both.

    Raises:
        SettingsError: the settings were needed and are wrong.
    """
    url, key = ops_url or ops_url_of_variables(config, assignments), os.environ.get("TIDEGATE_API_KEY")
    is_plain = key is None or (key.isascii() and key.isprintable() and key == key.strip() != "")
    if url and not assignments and is_plain and (key is not None or not _has_file(config)):
        return url, key
    settings = load(config, assignments).settings
    return ops_url or ops_url_of(settings), settings.api_key.get_secret_value() if settings.api_key else None


def ops_url_of(settings: Settings) -> str:
    """Where the settings put the ops listener."""
    return f"http://{reachable(settings.ops_host)}:{settings.ops_port}"
