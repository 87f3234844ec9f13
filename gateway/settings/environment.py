"""The environment as a source of settings: which variables are ours, and which only look like it.

A variable that is no setting is no error by itself, because orchestrators put their own next to ours; one whose name nearly is a
setting's is misspelt, and the default would be taken in silence. ``unknown_variables`` tells them apart.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from pydantic import BaseModel
from pydantic_settings import BaseSettings, EnvSettingsSource

__all__ = [
    "CONFIG_VARIABLE",
    "ENV_PREFIX",
    "KnownEnvironment",
    "Unknown",
    "env_name",
    "field_paths",
    "nearest",
    "unknown_variables",
]

ENV_PREFIX = "TIDEGATE_"
CONFIG_VARIABLE = "TIDEGATE_CONFIG"
"""Names the configuration file; not a setting itself."""

_LIKE_A_SETTING = 0.6
"""How alike two names are (``difflib``) when one may be meant by the other."""
_MISSPELT = 0.75
"""How alike they are when it surely is: two letters of four in the wrong order."""
_SERVICE_LINK = re.compile(r"TIDEGATE_(\w+_)?(SERVICE_(HOST|PORT)|PORT_\d+_(TCP|UDP))")
"""What Kubernetes sets in every pod of a namespace that has a Service named ``tidegate``, or ``tidegate-ops``."""


def env_name(path: str) -> str:
    """The environment variable of a dotted setting: ``rate_limit.burst`` → ``TIDEGATE_RATE_LIMIT__BURST``."""
    return ENV_PREFIX + path.replace(".", "__").upper()


def field_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted name of every setting in ``model``, in the order of the models."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from field_paths(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def is_service_link(name: str, value: str) -> bool:
    """True for a variable that Kubernetes made out of a Service named ``tidegate…``, such as ``TIDEGATE_PORT=tcp://10.0.0.7:80``."""
    return bool(_SERVICE_LINK.match(name.upper())) or (name.upper().endswith("_PORT") and value.startswith(("tcp://", "udp://")))


class KnownEnvironment(EnvSettingsSource):
    """``TIDEGATE_*`` variables that are settings; all others are left out."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        known = {env_name(path).lower() for path in field_paths(self.settings_cls)}
        groups = {env_name(name).lower() for name in self.settings_cls.model_fields}
        return {
            name: value
            for name, value in super()._load_env_vars().items()
            if name.lower() in known | groups and not is_service_link(name, value or "")
        }


def nearest(name: str, known: Iterable[str], alike: float = _LIKE_A_SETTING) -> str | None:
    """The known name that ``name`` was probably meant to be; the more ``alike`` (up to 1), the more surely."""
    by_rest = {text.removeprefix(ENV_PREFIX): text for text in known}  # the prefix they share would make all of them near
    close = difflib.get_close_matches(name.removeprefix(ENV_PREFIX), list(by_rest), n=1, cutoff=alike)
    return by_rest[close[0]] if close else None


class Unknown(NamedTuple):
    """The ``TIDEGATE_*`` variables that are no settings."""

    misspelt: dict[str, str]
    """Name → the setting that was meant."""
    warnings: list[str]
    """One sentence for each of the others."""


def unknown_variables(settings_class: type[BaseSettings], environment: Mapping[str, str] | None = None) -> Unknown:
    """Those of the environment."""
    variables = os.environ if environment is None else environment
    ours = {name for name, value in variables.items() if value and name.upper().startswith(ENV_PREFIX)}
    links = {name for name in ours if is_service_link(name, variables[name])}
    known = [*map(env_name, field_paths(settings_class)), CONFIG_VARIABLE]
    accepted = {*known, *map(env_name, settings_class.model_fields)}
    unknown = Unknown({}, [])
    for name in sorted(name for name in ours - links if name.upper() not in accepted):
        if meant := nearest(name.upper(), known, _MISSPELT):
            unknown.misspelt[name] = meant
        else:
            guess = nearest(name.upper(), known)
            unknown.warnings.append(f"{name} is not a setting and was ignored" + (f"; did you mean {guess}?" if guess else ""))
    if links:
        unknown.warnings.append(
            "variables that Kubernetes made from a Service named tidegate were ignored; enableServiceLinks: false keeps them out"
        )
    return unknown
