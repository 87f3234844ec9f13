"""Settings for people: what a field takes, the table of the docs, and effective values with secrets masked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from .environment import env_name, field_paths
from .groups import DefaultText, Fix, Takes
from .models import Settings

__all__ = ["MASK", "default_text", "field_of", "fix_text", "mask", "settings_table_markdown", "type_text", "value_of"]

MASK = "********"
LARGEST_SAID = 100_000

_T = TypeVar("_T")

_UNITS = {
    "_bytes_per_second": "bytes per second",
    "_per_second": "per second",
    "_seconds": "seconds",
    "_bytes": "bytes",
    "_ms": "milliseconds",
}
_WORDS: dict[type, str] = {int: "whole number", float: "number", str: "text", bool: "true / false", SecretStr: "secret text"}


def field_of(path: str) -> FieldInfo:
    """The field of a dotted name.

    Raises:
        KeyError: there is no such setting.
    """
    model: Any = Settings
    *groups, name = path.split(".")
    for group in groups:
        model = model.model_fields[group].annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise KeyError(path)
    fields: dict[str, FieldInfo] = model.model_fields
    return fields[name]


def value_of(settings: Settings, path: str) -> Any:
    """The value of a dotted name."""
    value: Any = settings
    for name in path.split("."):
        value = getattr(value, name)
    return value


def mask(path: str, value: Any) -> str:
    """A value as it may be shown: ``off`` for ``None``, no secret, no password in an address."""
    if value is None:
        return "off" if "off" in type_text(path) else "not set"
    if isinstance(value, SecretStr) or _kind(field_of(path).annotation)[0] is SecretStr:
        return MASK
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    if "://" in text or not field_of(path).repr:
        return re.sub(r"^([a-z+]+://)?.*@", rf"\1{MASK}@", text)
    return text


def type_text(path: str) -> str:
    """What a setting takes, with its unit and bounds: ``whole number from 1 to 10000000, or off``."""
    field = field_of(path)
    kind, extra, optional = _kind(field.annotation)
    extra = [*field.metadata, *extra]
    if takes := _first(Takes, extra):
        return takes.text
    if get_origin(kind) is Literal:
        return " / ".join(get_args(kind))
    name = "_" + path.rpartition(".")[2]
    unit = next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), "")
    words = unit if unit and not unit.startswith("per") else f"{_WORDS[kind]} {unit}".strip()
    return words + _range(extra) + (", or off" if optional and kind in {int, float} else "")


def default_text(path: str) -> str:
    """The default as the docs write it; empty for an empty list."""
    field = field_of(path)
    computed = _first(DefaultText, field.metadata)
    return computed.text if computed else mask(path, field.get_default(call_default_factory=True))


def fix_text(path: str) -> str:
    """What to give instead of a value that is wrong."""
    fix = _first(Fix, field_of(path).metadata)
    return fix.text if fix else f"{type_text(path)} (default: {default_text(path) or 'none'})"


def settings_table_markdown() -> str:
    """The tables of ``docs/configuration.md``: one per group, a row per setting."""
    sections: dict[str, list[str]] = {}
    for path in field_paths(Settings):
        sections.setdefault(path.rpartition(".")[0], []).append(_row(path))
    head = "| variable | default | takes | meaning |\n|---|---|---|---|\n"
    return "\n\n".join(f"### {_title(group)}\n\n{head}" + "\n".join(rows) for group, rows in sections.items()) + "\n"


def _title(group: str) -> str:
    if not group:
        return "Listeners, broker, logs"
    doc = (Settings.model_fields[group].annotation or Settings).__doc__ or ""
    return f"`[{group}]` {doc.strip().rstrip('.')}"


def _row(path: str) -> str:
    default = default_text(path)
    default = (default or "empty") if default in {"", "not set"} or " " in default else f"`{default}`"
    cells = (f"`{env_name(path)}`", default, type_text(path), field_of(path).description or "")
    return "| " + " | ".join(cell.replace("|", "\\|").replace("``", "`") for cell in cells) + " |"


def _kind(annotation: Any) -> tuple[Any, list[Any], bool]:
    """The bare type, the bounds found on the way to it, and whether ``None`` is allowed."""
    if get_origin(annotation) is Annotated:
        inner, *extra = get_args(annotation)
        kind, bounds, optional = _kind(inner)
        return kind, [*bounds, *_flat(extra)], optional
    arguments = get_args(annotation)
    if type(None) in arguments:
        kind, bounds, _ = _kind(next(argument for argument in arguments if argument is not type(None)))
        return kind, bounds, True
    return annotation, [], False


def _flat(extra: list[Any]) -> Iterator[Any]:
    for item in extra:
        if isinstance(item, FieldInfo):
            yield from item.metadata
        else:
            yield item


def _range(bounds: list[Any]) -> str:
    """The bounds in words; an upper bound that only keeps nonsense out is left unsaid."""
    above, least, most = _first(Gt, bounds), _first(Ge, bounds), _first(Le, bounds)
    text = f" above {above.gt}" if above else f" from {least.ge}" if least else ""
    if most and float(str(most.le)) <= LARGEST_SAID:
        text += f"{', up' if above else ''} to {most.le}"
    return text


def _first(kind: type[_T], items: list[Any]) -> _T | None:
    return next((item for item in items if isinstance(item, kind)), None)
