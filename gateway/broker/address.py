"""``Address``: what ``TIDEGATE_BROKER`` says, taken apart.

``scheme://[user[:password]@]host[:port][,host[:port]…][/database][?option=value&…]``. Options: ``prefix`` (what channels and
subjects begin with; ``tidegate``), and over TLS ``ca``, ``cert`` and ``key`` (files in PEM form).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from ..errors import StartupError

__all__ = ["Address"]

DEFAULT_PORTS = {"redis": 6379, "rediss": 6379, "redis+cluster": 6379, "rediss+cluster": 6379, "nats": 4222, "tls": 4222}
ONE_SERVER = ("redis", "rediss")
TLS_SCHEMES = ("rediss", "rediss+cluster", "tls")
_PREFIX = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FILES = {"ca": "ca_file", "cert": "cert_file", "key": "key_file"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where an engine is and how to get in. Its ``repr`` holds no secret."""

    scheme: str
    hosts: tuple[tuple[str, int], ...]
    username: str = ""
    password: str = field(default="", repr=False)
    database: int = 0
    prefix: str = "tidegate"
    """What every channel begins with; deployments that share an engine have one each."""
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises ``StartupError`` with a sentence, which does not repeat the URL."""
        parts = urlsplit(url)
        userinfo, _, hosts = parts.netloc.rpartition("@")
        username, _, password = userinfo.partition(":")
        if "," in hosts and parts.scheme in ONE_SERVER:
            raise StartupError(
                f"{parts.scheme}:// is one server, with one host; those of a cluster are for {parts.scheme}+cluster://"
            )
        return cls(
            scheme=parts.scheme,
            hosts=tuple(_host(one, DEFAULT_PORTS[parts.scheme]) for one in hosts.split(",")),
            username=unquote(username),
            password=unquote(password),
            database=_database(parts.path),
            **_options(parts.query, tls=parts.scheme in TLS_SCHEMES),
        )

    @property
    def tls(self) -> bool:
        return self.scheme in TLS_SCHEMES

    @property
    def where(self) -> str:
        """The hosts, for logs and answers."""
        return ", ".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)

    def clean(self, text: object) -> str:
        """``text``, an error of some library, in one line and without our credentials."""
        cleaned = " ".join(str(text).split())
        for secret in (self.password, self.username if not self.password else ""):
            if secret:
                cleaned = cleaned.replace(secret, "[redacted]")
        return cleaned


def _host(text: str, default_port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise StartupError("a host or a port in TIDEGATE_BROKER cannot be read") from None
    if not host:
        raise StartupError("TIDEGATE_BROKER names no host")
    return host, port or default_port


def _database(path: str) -> int:
    number = path.strip("/")
    if number and not number.isdecimal():
        raise StartupError("the path in TIDEGATE_BROKER is the number of a database, or nothing")
    return int(number or 0)


def _options(query: str, *, tls: bool) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "prefix":
            if not _PREFIX.fullmatch(value):
                raise StartupError("prefix in TIDEGATE_BROKER has 1 to 64 letters, digits, '-' and '_'")
            found["prefix"] = value
        elif name in _FILES and tls:
            found[_FILES[name]] = value
        elif name in _FILES:
            raise StartupError(f"{name} in TIDEGATE_BROKER is for TLS: use rediss://, rediss+cluster:// or tls://")
        else:
            raise StartupError("TIDEGATE_BROKER has an option that there is not; there are prefix, ca, cert and key")
    return found
