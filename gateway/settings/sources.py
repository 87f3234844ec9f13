"""Loading: command line over environment over file over default; where each value came from; what is wrong, in words.

1. ``load_settings`` either returns settings that can work or raises ``SettingsError`` with every problem found.
2. What was given is shown in an error only masked when it may be a secret.
3. A wrong key in the file is an error, since the file is ours alone; an unknown variable is only warned about, unless its name is
   nearly that of a setting.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from .environment import CONFIG_VARIABLE, KnownEnvironment, env_name, field_paths, nearest, unknown_variables
from .models import Problem, Settings, SettingsError
from .text import fix_text, mask

__all__ = ["Loaded", "load_settings"]

LONGEST_FILE_BYTES = 1 << 20
LONGEST_SHOWN = 40
SERVE_OPTIONS = ("host", "port", "ops_host", "ops_port", "workers", "broker", "log_level", "log_format")
"""Settings that ``tidegate serve`` has an option of its own for."""

_NO_SETTING = "there is no such setting"


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings and how they came to be."""

    settings: Settings
    origins: Mapping[str, str]
    """Dotted name → ``command line``, ``environment``, ``file <path>`` or ``default``."""
    warnings: tuple[str, ...]


def load_settings(arguments: Mapping[str, Any] | None = None, config: str | Path | None = None) -> Loaded:
    """Gather all settings.

    Args:
        arguments: what the command line says, by dotted name; ``None`` values count as not given.
        config: the TOML file; by default the one that ``TIDEGATE_CONFIG`` names, if any.

    Raises:
        SettingsError: something is wrong; its text is one table.
    """
    path = config or os.environ.get(CONFIG_VARIABLE) or None
    layers = {
        "command line": _nested({name: value for name, value in (arguments or {}).items() if value is not None}),
        "environment": KnownEnvironment(Settings)(),
        f"file {path}": _read(Path(path)) if path else {},
    }
    origins = dict.fromkeys(field_paths(Settings), "default")
    merged: dict[str, Any] = {}
    for origin, layer in reversed(layers.items()):
        origins |= dict.fromkeys(_flat(layer), origin)
        merged = _merge(merged, layer)
    unknown = unknown_variables(Settings)
    problems = [Problem(name, "", _NO_SETTING, f"did you mean {meant}?") for name, meant in unknown.misspelt.items()]
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        wrong = [problem for detail in error.errors() for problem in _problems(detail, origins)]
        raise SettingsError([*wrong, *problems]) from None
    if problems:
        raise SettingsError(problems)
    return Loaded(settings, {name: origins[name] for name in field_paths(Settings)}, tuple(unknown.warnings))


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(LONGEST_FILE_BYTES + 1)
        if len(data) > LONGEST_FILE_BYTES:
            raise ValueError("it is larger than 1 MiB")
        return tomllib.loads(data.decode())
    except OSError as error:
        reason, fix = error.strerror or "it cannot be read", f"the path of a TOML file in --config or {CONFIG_VARIABLE}"
    except ValueError as error:  # not UTF-8, not TOML, too large
        reason, fix = str(error), "TOML, see docs/configuration.md"
    raise SettingsError([Problem("configuration file", str(path), reason, fix)])


def _nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in dotted.items():
        *groups, last = name.split(".")
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[last] = value
    return tree


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        merged[name] = _merge(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return merged


def _problems(detail: ErrorDetails, origins: Mapping[str, str]) -> list[Problem]:
    """One pydantic error as rows of the table."""
    if detail["type"] == "cross_checks":
        paths = {env_name(path): path for path in field_paths(Settings)}
        return [problem._replace(name=_name(paths[problem.name], origins)) for problem in detail["ctx"]["problems"]]
    location = [str(part) for part in detail["loc"]]
    known = list(field_paths(Settings))
    path = next((name for end in range(len(location), 0, -1) if (name := ".".join(location[:end])) in known), None)
    if path is None:
        return [_misplaced(".".join(location), detail, origins, known)]
    given = detail["input"] if len(location) == 1 + path.count(".") else f"item {int(location[-1]) + 1}"
    wrong = str(detail.get("ctx", {}).get("error") or detail["msg"]).replace("Input should be", "it should be")
    wrong = wrong.replace("a valid integer, unable to parse string as an integer", "a whole number")
    return [Problem(_name(path, origins), _shown(mask(path, given)), wrong, fix_text(path))]


def _misplaced(path: str, detail: ErrorDetails, origins: Mapping[str, str], known: list[str]) -> Problem:
    """A key that is no setting, or a value where a group belongs."""
    if any(name.startswith(f"{path}.") for name in known):
        example = next(name for name in known if name.startswith(f"{path}."))
        return Problem(_name(path, origins), "a single value", "this is a group of settings", f"for example {env_name(example)}")
    groups = {name.rpartition(".")[0] for name in known if "." in name}
    guess = nearest(path, [*known, *sorted(groups)])
    given = "a group of settings" if isinstance(detail.get("input"), Mapping) else ""  # a value may be a secret under a wrong name
    return Problem(_name(path, origins), given, _NO_SETTING, f"did you mean {guess}?" if guess else "remove it")


def _name(path: str, origins: Mapping[str, str]) -> str:
    origin = origins.get(path) or next((found for name, found in origins.items() if name.startswith(f"{path}.")), "")
    if origin.startswith("file"):
        return f"{path} in {origin.removeprefix('file ')}"
    if origin == "command line":
        return "--" + path.replace("_", "-") if path in SERVE_OPTIONS else f"--set {path}"
    return env_name(path)


def _shown(text: str) -> str:
    text = text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"
