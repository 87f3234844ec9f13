"""The groups of ``Settings``: one frozen model per concern, with defaults, bounds and meanings. Import them from ``settings``.

The text under a field is its line in ``docs/configuration.md``; the unit is in its name.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator

__all__ = [
    "AuthSettings",
    "CompressionSettings",
    "ConnectionLimitSettings",
    "DefaultText",
    "DrainSettings",
    "Fix",
    "Group",
    "Host",
    "KeepaliveSettings",
    "Lower",
    "MessageSettings",
    "OutboxSettings",
    "Port",
    "RateLimitSettings",
    "Takes",
    "TelemetrySettings",
    "Texts",
]

SHORTEST_JWT_SECRET_BYTES = 32
"""A key for HS256 has at least 256 bits (RFC 7518 §3.2)."""
LONGEST_DRAIN_SECONDS = 3_600


def _off_is_none(value: Any) -> Any:
    return None if isinstance(value, str) and value.strip().lower() in {"", "off", "none"} else value


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _split(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


def _delay_default() -> float:
    """Nobody waits for a load balancer at a terminal."""
    return 0.0 if sys.stdin is not None and sys.stdin.isatty() else 5.0


def _timeout_default(validated: dict[str, Any]) -> float:
    """With a short interval alone set, the timeout follows."""
    return min(20.0, validated.get("interval_seconds") or 20.0)


class Takes(NamedTuple):
    """Says in the docs what a field takes, where its type says too little."""

    text: str


class DefaultText(NamedTuple):
    """Says in the docs what a computed default is."""

    text: str


class Fix(NamedTuple):
    """Says in an error what to give, where type and default would not help."""

    text: str


Off = BeforeValidator(_off_is_none)
Lower = BeforeValidator(_lower)
Texts = Annotated[tuple[str, ...], BeforeValidator(_split), Takes("comma-separated list")]
Paths = Annotated[tuple[Path, ...], BeforeValidator(_split), Takes("comma-separated list of paths")]
HttpUrl = Annotated[str, Field(pattern=r"^https?://[^\s/]+"), Takes("http:// or https:// URL")]
Host = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[A-Za-z0-9.:_\[\]%-]+$"), Takes("address or host name")]
Port = Annotated[int, Field(ge=0, le=65_535)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Bytes = Annotated[int, Field(ge=1, le=1 << 30)]
Rate = Annotated[float, Field(gt=0, le=1e9)]
Seconds = Annotated[float, Field(gt=0, le=31_536_000)]
Wait = Annotated[float, Field(ge=0, le=LONGEST_DRAIN_SECONDS)]


class Group(BaseModel):
    """One concern's settings."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class ConnectionLimitSettings(Group):
    """How many connections there may be."""

    total: Annotated[Count | None, Off] = 10_000
    """Connections of this process; more are refused with 503."""
    per_client: Annotated[Count | None, Off] = 100
    """Connections of one client address (IPv6: one /64 network); more are refused with 429."""
    per_user: Annotated[Count | None, Off] = None
    """Connections of one authenticated user."""
    per_room: Annotated[Count | None, Off] = None
    """Connections in one room."""
    waiting: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Handshakes that may wait for a free slot instead of being refused at once."""
    waiting_seconds: Seconds = 5.0
    """How long a handshake waits for a slot."""


class RateLimitSettings(Group):
    """How fast a client may be."""

    messages_per_second: Annotated[Rate | None, Off] = 50.0
    """Messages a connection may send in the long run."""
    burst: Count = 100
    """Messages a connection may send at once after a pause."""
    bytes_per_second: Annotated[Rate | None, Off] = None
    """Payload bytes a connection may send in the long run; its burst is one second's worth or the largest message."""
    handshakes_per_second: Annotated[Rate | None, Off] = None
    """Handshakes of one client address in the long run; more are refused with 429."""
    handshake_burst: Count = 20
    """Handshakes of one client address at once after a pause; used when their rate is set."""
    exceeded: Annotated[Literal["delay", "drop", "close"], Lower] = "delay"
    """What happens above the rate: reading slows down and nothing is lost; the message is dropped; the connection is closed."""


class MessageSettings(Group):
    """What a client may send."""

    max_bytes: Bytes = 1 << 20
    """Largest message a client may send; a larger one ends the connection with 1009 before it is read."""
    allow: Annotated[Literal["any", "text", "binary"], Lower] = "any"
    """Kinds of messages that clients may send."""
    inbound_messages: Count = 64
    """Messages of one connection that may wait to be handled before reading pauses."""


class OutboxSettings(Group):
    """What happens to a client that reads too slowly."""

    max_bytes: Bytes = 1 << 20
    """What may wait to be sent to one connection; above it the policy acts."""
    policy: Annotated[Literal["close", "drop", "latest"], Lower] = "close"
    """Above the bound: close as slow-consumer; drop the new message; keep only the latest."""
    max_delay_ms: Annotated[float, Field(ge=0, le=1_000)] = 0.0
    """How long a room may gather messages to write them together; 0 gathers within one turn of the event loop."""


class CompressionSettings(Group):
    """Which compression clients may negotiate."""

    zstd: bool = True
    """Offer zstd per message, by subprotocol."""
    deflate: bool = False
    """Offer permessage-deflate (without context, so that idle connections cost nothing)."""
    level: Annotated[int, Field(ge=1, le=19)] = 3
    """Compression level of zstd; permessage-deflate uses it up to 9."""
    minimum_bytes: Annotated[int, Field(ge=0, le=1 << 30)] = 64
    """Smaller messages are sent as they are."""
    dictionaries: Paths = ()
    """Files of trained zstd dictionaries (``tidegate dictionary train``)."""

    @field_validator("dictionaries")
    @classmethod
    def _dictionaries_exist(cls, paths: tuple[Path, ...]) -> tuple[Path, ...]:
        for path in paths:
            if not path.is_file():
                raise ValueError(f"there is no file {path}")
        return paths


class KeepaliveSettings(Group):
    """How a dead or an idle connection is noticed."""

    interval_seconds: Annotated[Seconds | None, Off] = 20.0
    """Time between pings."""
    timeout_seconds: Annotated[Seconds, DefaultText("20, or the interval when that is shorter")] = Field(
        default_factory=_timeout_default
    )
    """How long the answer to a ping may take; at most the interval."""
    idle_seconds: Annotated[Seconds | None, Off] = None
    """Close a connection on which no message went either way for so long."""
    max_age_seconds: Annotated[Seconds | None, Off] = None
    """Close a connection after so long, give or take a tenth, so that clients spread over new nodes."""


class AuthSettings(Group):
    """Who may connect."""

    mode: Annotated[Literal["none", "jwt"], Lower] = "none"
    """``jwt`` asks every client for a token. ``none`` must be said aloud to listen on an address that others can reach."""
    secret: Annotated[SecretStr | None, Fix("at least 32 bytes; `openssl rand -hex 32` makes a good one")] = None
    """Shared secret of HS256 tokens, at least 32 bytes."""
    public_key: Annotated[str, Takes("PEM text or path")] | None = None
    """Public key of RS, ES or EdDSA tokens: PEM text, or the path of a PEM file."""
    jwks_url: HttpUrl | None = None
    """Where the issuer publishes its keys."""
    audience: str | None = None
    """The ``aud`` a token must have."""
    issuer: str | None = None
    """The ``iss`` a token must have."""
    query_token: bool = False
    """Accept ``?token=…`` too; addresses get written down in many places, so only where nothing else works."""

    @field_validator("secret")
    @classmethod
    def _secret_is_long(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and len(secret.get_secret_value().encode()) < SHORTEST_JWT_SECRET_BYTES:
            raise ValueError(f"the secret has fewer than {SHORTEST_JWT_SECRET_BYTES} bytes")
        return secret

    @field_validator("public_key")
    @classmethod
    def _public_key_is_pem(cls, key: str | None) -> str | None:
        if key is None:
            return None
        try:
            text = key if "-----BEGIN" in key else Path(key).read_text(encoding="ascii")
        except (OSError, ValueError):
            raise ValueError("this is neither PEM text nor a file that can be read") from None
        if "PRIVATE KEY" in text or "-----BEGIN" not in text:
            raise ValueError("this is not a public key in PEM form")
        return text


class DrainSettings(Group):
    """How the process ends (SIGTERM)."""

    delay_seconds: Annotated[Wait, DefaultText("5; 0 at a terminal")] = Field(default_factory=_delay_default)
    """Not ready, but still accepting, so that load balancers notice."""
    period_seconds: Wait = 20.0
    """Connections are closed evenly over this time."""
    abort_after_seconds: Annotated[float, Field(gt=0, le=600)] = 5.0
    """A peer that does not take its close by then is cut off."""

    @property
    def total_seconds(self) -> float:
        """The longest a drain takes; an orchestrator's grace period must be longer."""
        return self.delay_seconds + self.period_seconds + self.abort_after_seconds


class TelemetrySettings(Group):
    """What the gateway reports, beside metrics and logs."""

    otlp_endpoint: HttpUrl | None = None
    """Address of an OpenTelemetry collector (OTLP over HTTP); without it no spans are made."""
    message_ratio: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of messages that get spans, of the connections that are sampled."""
    confirms_per_second: Annotated[float, Field(ge=0, le=10_000)] = 5.0
    """Deliveries per second, of all of this process, that the client confirms: a ping behind the message and its pong; 0: none."""
    explain: bool = True
    """Remember the last messages of each room and the happenings of each connection, for `GET /api/explain`; no payloads."""
