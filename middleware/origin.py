"""Which web pages may open a socket: the defence against cross-site WebSocket hijacking.

A browser lets any page open a WebSocket to any host and sends that host's cookies along; no same-origin policy applies. All
it does is tell the truth in ``Origin`` (RFC 6455 §4.1, §10.2; RFC 6454 §7). So the handshake is judged by that header:

1. An origin is compared as scheme, host and port, never as a prefix, suffix or pattern of text.
2. A browser writes an origin in one way only, in lower case and without a path (RFC 6454 §6.2). Whatever is written in
   another way, or twice, was not written by a browser and is refused.
3. Nothing the client sent is repeated in the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from .asgi import ORIGIN_CHECKED, SELF_CHECK, ASGIApp, Scope
from .close import FORBIDDEN
from .layer import Layer, Link, Refuse

__all__ = ["OriginMiddleware"]

MAX_ORIGIN_BYTES = 512
"""Longer than any scheme, DNS name (253 characters) and port together."""
DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = r"(?P<host>[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::(?P<port>[1-9][0-9]{0,4}))?"
_ORIGIN = re.compile(r"\A(?P<scheme>[a-z][a-z0-9+.-]{0,31})://" + _HOST, re.ASCII)
_HOST_HEADER = re.compile(r"\A" + _HOST, re.ASCII)


class Origin(NamedTuple):
    """Scheme, host and port (``None`` where the scheme has no default and none was written)."""

    scheme: str
    host: str
    port: int | None


class OriginMiddleware(Layer):
    """Refuses handshakes from web pages that are not on the list, with 403 ``forbidden``.

    Options: ``allowed``, origins such as ``https://example.com``, ``https://*.example.com:8443`` (any depth of sub-domain,
    not the domain itself), ``null`` (sandboxed pages and local files: everybody can make one) or ``*`` (no check);
    ``same_origin``, whether pages of the host that is connected to are welcome; ``absent``, what happens without the
    header, which only clients that are not browsers leave out.

    Reports ``origin_refused``. When the check has passed and was one, inner layers see ``ORIGIN_CHECKED`` in the scope.

    Raises:
        ValueError: an entry of ``allowed`` is not an origin, or nobody could ever connect.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        allowed: Iterable[str] = (),
        same_origin: bool = True,
        absent: Literal["allow", "refuse"] = "allow",
    ) -> None:
        super().__init__(app)
        if isinstance(allowed, str):
            raise ValueError(f"allowed is a list of origins, not one string: [{allowed!r}]")
        if absent not in ("allow", "refuse"):
            raise ValueError(f"absent is 'allow' or 'refuse', not {absent!r}")
        entries = tuple(allowed)
        if not entries and not same_origin and absent == "refuse":
            raise ValueError("with nothing allowed, same_origin off and absent='refuse', nobody could connect")
        self.same_origin = same_origin
        self.absent = absent
        self._everyone = "*" in entries
        self._null = "null" in entries
        self._exact: set[Origin] = set()
        self._below: set[Origin] = set()
        """Origins whose sub-domains are welcome."""
        for entry in entries:
            if entry not in ("*", "null"):
                self._allow(entry)

    def _allow(self, entry: str) -> None:
        origin = _parse(entry.lower().replace("://*.", "://", 1))
        if origin is None:
            hint = "" if entry.isascii() else "; write an international name in its ASCII form, xn--…"
            raise ValueError(f"{entry!r} is not an origin: scheme://host or scheme://host:port, without a path{hint}")
        (self._below if "://*." in entry else self._exact).add(origin)

    async def open(self, link: Link) -> None:
        """Judge the handshake's Origin; there is nothing to do for this layer afterwards."""
        if self._everyone or link.get(SELF_CHECK) is True:
            return
        written = [value for name, value in link.scope["headers"] if name == b"origin"]
        if not (self._is_welcome(written[0], link.scope) if len(written) == 1 else not written and self.absent == "allow"):
            link.observe("origin_refused")
            raise Refuse(403, FORBIDDEN, detail="this origin may not connect")
        if written != [b"null"]:  # every page can put on "null", so having it vouches for nothing
            link.set(**{ORIGIN_CHECKED: True})

    def _is_welcome(self, value: bytes, scope: Scope) -> bool:
        if len(value) > MAX_ORIGIN_BYTES:
            return False
        text = value.decode("latin-1")
        if text == "null":
            return self._null
        origin = _parse(text)
        if origin is None:
            return False
        return origin in self._exact or self._is_below(origin) or (self.same_origin and origin == _own_origin(scope))

    def _is_below(self, origin: Origin) -> bool:
        """Whether one of the domains above the host is on the list with a wildcard."""
        if not self._below:
            return False
        labels = origin.host.split(".")
        return all(labels) and any(origin._replace(host=".".join(labels[depth:])) in self._below for depth in range(1, len(labels)))


def _parse(text: str) -> Origin | None:
    """The origin that ``text`` serialises, or ``None``; a default port may be written out."""
    match = _ORIGIN.fullmatch(text)
    return _origin(match["scheme"], match) if match else None


def _own_origin(scope: Scope) -> Origin | None:
    """The origin of a page that was loaded from the host of this handshake: ``ws`` goes with ``http``, ``wss`` with ``https``."""
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    if len(hosts) != 1 or len(hosts[0]) > MAX_ORIGIN_BYTES:
        return None
    match = _HOST_HEADER.fullmatch(hosts[0].decode("latin-1").lower())
    return _origin("https" if scope.get("scheme") in ("wss", "https") else "http", match) if match else None


def _origin(scheme: str, match: re.Match[str]) -> Origin | None:
    port = int(match["port"]) if match["port"] else DEFAULT_PORTS.get(scheme)
    return None if port is not None and port > 65535 else Origin(scheme, match["host"], port)
