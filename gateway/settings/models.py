"""Every setting of the gateway: one frozen model per concern, with its default, its bounds and what it means.

``Settings()`` takes arguments and the environment (``TIDEGATE_PORT``, nested with two underscores:
``TIDEGATE_RATE_LIMIT__BURST``); ``sources.load_settings`` adds the file and the command line and turns what is
wrong into one readable ``SettingsError``. The text under a field is its line in ``docs/configuration.md``.

1. A name carries its unit (``_seconds``, ``_bytes``, ``_ms``). ``None``, written ``off`` outside Python, switches a bound off.
2. An empty variable counts as not set. Lists are comma-separated in the environment, real lists in the file.
3. A secret is a ``SecretStr``; the broker's URL may hold one and is kept out of ``repr``.
4. What no single field can judge is in ``cross_checks``: pure, and complete in one go.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from ..errors import TidegateError
from .environment import ENV_PREFIX, KnownEnvironment, env_name
from .groups import (
    LONGEST_DRAIN_SECONDS,
    AuthSettings,
    CompressionSettings,
    ConnectionLimitSettings,
    DrainSettings,
    Fix,
    Host,
    KeepaliveSettings,
    Lower,
    MessageSettings,
    OutboxSettings,
    Port,
    RateLimitSettings,
    Takes,
    TelemetrySettings,
    Texts,
)
from .table import columns_of_terminal, table

__all__ = [
    "AuthSettings",
    "CompressionSettings",
    "ConnectionLimitSettings",
    "DrainSettings",
    "KeepaliveSettings",
    "MessageSettings",
    "OutboxSettings",
    "Problem",
    "RateLimitSettings",
    "Settings",
    "SettingsError",
    "TelemetrySettings",
    "check_exposure",
    "cross_checks",
    "env_name",
    "is_loopback",
]

BROKER_SCHEMES = ("memory", "redis", "rediss", "redis+cluster", "rediss+cluster", "nats", "tls")
MOST_WORKERS = 64
LARGEST_PORT = 65_535
SHORTEST_EXPOSED_API_KEY = 16


class Problem(NamedTuple):
    """One wrong setting: its name as the user writes it, what was given (masked when secret), what is wrong, how to fix it."""

    name: str
    given: str
    problem: str
    fix: str


class SettingsError(TidegateError, ValueError):
    """The settings are wrong; ``problems`` says in which ways. The text is one table for people, or blocks in a narrow terminal."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        head = Problem("setting", "given", "what is wrong", "how to fix it")
        super().__init__(table(head, self.problems, columns_of_terminal()))


def is_loopback(host: str) -> bool:
    """True when only this machine can reach a listener on ``host``. Names other than ``localhost`` are not trusted to be."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Settings(BaseSettings):
    """All settings."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        enable_decoding=False,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    host: Host = "127.0.0.1"
    """Address of the public listener."""
    port: Port = 8000
    """Port of the public listener; 0 takes a free one."""
    ops_host: Host = "127.0.0.1"
    """Address of the ops listener: health, metrics, API."""
    ops_port: Port = 9000
    """Port of the ops listener; 0 takes a free one."""
    workers: Annotated[int, Field(ge=1, le=MOST_WORKERS)] = 1
    """Processes that share the public port, each a node with its own ops port (``ops_port`` and those after it) and limits."""
    broker: Annotated[str, Takes("URL"), Fix("memory:// for one node, or an engine such as redis://127.0.0.1:6379")] = Field(
        default="memory://", repr=False
    )
    """Carries messages: ``memory://`` (one node), ``redis://``, ``redis+cluster://``, ``nats://``; more in docs/scaling.md."""
    api_key: Annotated[SecretStr | None, Fix("a text; `openssl rand -hex 24` makes a good one")] = None
    """Key of the HTTP API, sent as ``Authorization: Bearer``; without one the API answers 403."""
    allowed_origins: Texts = ()
    """Origins whose pages may connect, beside the gateway's own: ``https://example.org``, ``https://*.example.org``, or ``*``."""
    trusted_proxies: Texts = ()
    """Addresses or networks of proxies whose ``X-Forwarded-For`` counts; ``*`` trusts every peer."""
    namespaces: Texts = ()
    """Room name prefixes (before the first ``:``) that metrics tell apart; all others are ``other``."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Lower] = "info"
    """The least important events that are logged."""
    log_format: Annotated[Literal["auto", "json", "console"], Lower] = "auto"
    """How events are written; ``auto`` is ``console`` at a terminal, else ``json``."""

    connection_limit: ConnectionLimitSettings = Field(default_factory=ConnectionLimitSettings)
    rate_limit: RateLimitSettings = Field(default_factory=RateLimitSettings)
    message: MessageSettings = Field(default_factory=MessageSettings)
    outbox: OutboxSettings = Field(default_factory=OutboxSettings)
    compression: CompressionSettings = Field(default_factory=CompressionSettings)
    keepalive: KeepaliveSettings = Field(default_factory=KeepaliveSettings)
    auth: AuthSettings = Field(default_factory=AuthSettings)
    drain: DrainSettings = Field(default_factory=DrainSettings)
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, of which only known names count (``load_settings`` warns of the others)."""
        return init_settings, KnownEnvironment(settings_cls)

    @field_validator("broker")
    @classmethod
    def _broker_is_a_url(cls, value: str) -> str:
        url = "memory://" if value == "memory" else value
        scheme, found, rest = url.partition("://")
        if not found or scheme not in BROKER_SCHEMES:
            raise ValueError("this is not the URL of a broker: it starts with " + ", ".join(f"{s}://" for s in BROKER_SCHEMES))
        hosts = re.split("[/?#]", rest, maxsplit=1)[0].rpartition("@")[2].split(",")
        try:
            addresses = [urlsplit(f"//{host}") for host in hosts]
            _ = [address.port for address in addresses]  # raises when one is not a number
        except ValueError:
            raise ValueError("the host or the port in this URL cannot be read") from None
        if scheme != "memory" and not all(address.hostname for address in addresses):
            raise ValueError("this URL names no host")
        return url

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_networks(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            try:
                value == "*" or ipaddress.ip_network(value, strict=False)
            except ValueError:
                raise ValueError(f"{value!r} is not an IP address or network") from None
        return values

    @field_validator("allowed_origins")
    @classmethod
    def _origins_are_origins(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if value not in ("*", "null") and (value.count("/") != 2 or not urlsplit(value).netloc):
                raise ValueError(f"{value!r} is not an origin: scheme://host or scheme://host:port, without a path")
        return values

    @field_validator("namespaces")
    @classmethod
    def _namespaces_are_few(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if len(values) > 100:
            raise ValueError("more than 100 namespaces would make too many time series")
        for value in values:
            if not value.replace("-", "_").replace(".", "_").isidentifier() or len(value) > 64:
                raise ValueError(f"{value!r} is not a namespace: letters, digits, '_', '-' and '.', at most 64 of them")
        return values

    @model_validator(mode="after")
    def _judge_together(self) -> Settings:
        problems = list(cross_checks(self))
        if problems:
            text = "; ".join(f"{problem.name}: {problem.problem}" for problem in problems)
            raise PydanticCustomError("cross_checks", "{text}", {"text": text, "problems": problems})
        return self


def cross_checks(settings: Settings) -> Iterator[Problem]:
    """What is wrong between fields that are each right."""
    yield from _check_listeners(settings)
    yield from _check_workers(settings)
    yield from _check_auth(settings.auth)
    limit, keepalive, drain = settings.connection_limit, settings.keepalive, settings.drain
    if limit.waiting and limit.total is None:
        yield Problem(
            env_name("connection_limit.waiting"), str(limit.waiting), "without a total limit nobody ever waits",
            f"set {env_name('connection_limit.total')}, or 0 here",
        )  # fmt: skip
    if keepalive.interval_seconds is not None and keepalive.timeout_seconds > keepalive.interval_seconds:
        yield Problem(
            env_name("keepalive.timeout_seconds"), f"{keepalive.timeout_seconds:g}",
            f"the next ping is due before this one is judged (every {keepalive.interval_seconds:g} s)",
            f"at most {keepalive.interval_seconds:g}, or a longer {env_name('keepalive.interval_seconds')}",
        )  # fmt: skip
    if drain.total_seconds > LONGEST_DRAIN_SECONDS:
        yield Problem(
            env_name("drain.period_seconds"), f"{drain.period_seconds:g}",
            f"delay, period and abort make {drain.total_seconds:g} s, more than an hour",
            f"at most {LONGEST_DRAIN_SECONDS} s in all",
        )  # fmt: skip


def _check_listeners(settings: Settings) -> Iterator[Problem]:
    wildcard = {"0.0.0.0", "::"}  # noqa: S104 - compared with, not bound to
    hosts, first, last = {settings.host, settings.ops_host}, settings.ops_port, settings.ops_port + settings.workers - 1
    if first and first <= settings.port <= last and (len(hosts) == 1 or hosts & wildcard):
        given = str(first) if first == last else f"{first} to {last}"
        yield Problem(
            env_name("ops_port"), given, "the public listener has this port",
            f"another port; metrics and the API are never on the public one ({env_name('port')})",
        )  # fmt: skip
    if first and last > LARGEST_PORT:
        yield Problem(
            env_name("ops_port"), str(first), f"{settings.workers} workers would need ports up to {last}",
            f"at most {LARGEST_PORT - settings.workers + 1}: each worker has its own ops port",
        )  # fmt: skip


def _check_workers(settings: Settings) -> Iterator[Problem]:
    if settings.workers > 1 and settings.broker.startswith("memory:"):
        yield Problem(
            env_name("workers"), str(settings.workers),
            "the memory broker carries nothing from one process to another, so that members of a room would not hear each other",
            f"a broker that does, such as {env_name('broker')}=redis://127.0.0.1:6379; or one worker",
        )  # fmt: skip


def _check_auth(auth: AuthSettings) -> Iterator[Problem]:
    keys = ("secret", "public_key", "jwks_url")
    given = [env_name(f"auth.{name}") for name in keys if getattr(auth, name) is not None]
    name, choice = env_name("auth.mode"), f"{env_name('auth.secret')}, …__PUBLIC_KEY or …__JWKS_URL"
    if auth.mode == "jwt" and not given:
        fix = f"set exactly one of {choice}; `openssl rand -hex 32` makes a secret"
        yield Problem(name, "jwt", "no key to check tokens with", fix)
    if auth.mode == "jwt" and len(given) > 1:
        yield Problem(name, "jwt", "several keys: " + ", ".join(given), f"keep exactly one of {choice}")
    if auth.mode == "none" and given and "mode" not in auth.model_fields_set:
        yield Problem(name, "(not set)", f"{given[0]} is set, but no token would be asked for", f"{name}=jwt, or remove it")


def check_exposure(settings: Settings) -> None:
    """Refuse to listen where others can reach us without somebody having decided who may connect.

    Raises:
        SettingsError: the public listener is not on loopback and ``auth.mode`` was left alone, or the ops listener is not on
            loopback and the API key can be guessed.
    """
    problems = []
    if not is_loopback(settings.host) and settings.auth.mode == "none" and "mode" not in settings.auth.model_fields_set:
        problems.append(
            Problem(
                env_name("auth.mode"),
                "(not set)",
                f"anybody who reaches {settings.host} could join every room",
                f"{env_name('auth.mode')}=jwt and a key; =none if that is meant; or {env_name('host')}=127.0.0.1",
            )
        )
    key = settings.api_key.get_secret_value() if settings.api_key else ""
    if not is_loopback(settings.ops_host) and key and len(key) < SHORTEST_EXPOSED_API_KEY:
        problems.append(
            Problem(
                env_name("api_key"),
                "********",
                f"{len(key)} characters can be guessed by whoever reaches {settings.ops_host}",
                f"at least {SHORTEST_EXPOSED_API_KEY}; `openssl rand -hex 24` makes a good one",
            )
        )
    if problems:
        raise SettingsError(problems)
