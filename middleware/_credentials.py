"""Where a handshake may carry a token, for ``auth.py``: what is found, and what inner layers must not see of it.

1. Exactly one token counts. A source that holds two is refused rather than judged.
2. A token in a subprotocol or the query is taken out of what inner layers and the app see: it could be echoed or written down.

Imported by ``auth.py`` only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from .asgi import Event, Scope
from .layer import Guard, Link

__all__ = ["BadCredentials", "Sources"]

SUBPROTOCOL_HEADER = b"sec-websocket-protocol"


class BadCredentials(Exception):
    """The handshake carries something in the place of a token that cannot be one."""


class Sources(NamedTuple):
    """Which places count, in the order of precedence; ``None`` switches one off."""

    subprotocol_prefix: str | None
    query_parameter: str | None
    cookie: str | None

    def token(self, scope: Scope, subprotocols: Sequence[str], *, cookie_counts: bool) -> str | None:
        """The first token found, explicit ones before the cookie; raises ``BadCredentials``."""
        found = _only(_bearer_headers(scope))
        if found is None and self.subprotocol_prefix is not None:
            prefix = self.subprotocol_prefix
            found = _only(name[len(prefix) :].encode() for name in subprotocols if name.startswith(prefix))
        if found is None and self.query_parameter is not None:
            name = self.query_parameter.encode()
            found = _only(value for key, value in _query(scope) if key == name)
        if found is None and self.cookie is not None and cookie_counts:
            found = _only(set(_cookies(scope, self.cookie.encode())))
        return found

    def hide(self, link: Link) -> Guard | None:
        """Take every token out of what inner layers and the app see; the guard sees to it that none is echoed."""
        if self.query_parameter is not None:
            name, query = self.query_parameter.encode(), link.get("query_string", b"")
            link.set(query_string=b"&".join(part for part in query.split(b"&") if _pair(part)[0] != name))
        prefix, offered = self.subprotocol_prefix, link.subprotocols
        if prefix is None or not any(name.startswith(prefix) for name in offered):
            return None
        kept = [name for name in offered if not name.startswith(prefix)]
        headers = [pair for pair in link.get("headers") if pair[0] != SUBPROTOCOL_HEADER]
        if kept:
            headers.append((SUBPROTOCOL_HEADER, ", ".join(kept).encode("latin-1", "replace")))
        link.set(subprotocols=kept, headers=headers)
        return _NeverEchoed(prefix)


class _NeverEchoed(Guard):
    """An app may have read the token elsewhere and select it as the subprotocol; then none is selected."""

    __slots__ = ("_prefix",)

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def accepting(self, event: Event) -> Event:
        return {**event, "subprotocol": None} if (event.get("subprotocol") or "").startswith(self._prefix) else event


def _only(found: Iterator[bytes] | set[bytes]) -> str | None:
    """The one token, or ``None`` without any: one or more visible ASCII characters (RFC 6750 §2.1 allows fewer)."""
    tokens = list(found)
    if not tokens:
        return None
    token = tokens[0].decode("latin-1")
    if len(tokens) > 1 or not token.isascii() or not token.isprintable() or not token or " " in token:
        raise BadCredentials("there must be one token")
    return token


def _bearer_headers(scope: Scope) -> Iterator[bytes]:
    """The credentials of every ``Authorization: Bearer``; other schemes are for others. RFC 9110 §11.1: in any case."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, credentials = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                yield credentials.strip()


def _cookies(scope: Scope, name: bytes) -> Iterator[bytes]:
    """The values of every cookie of this name (RFC 6265 §4.2); a cookie header may come in pieces (RFC 9113 §8.2.3)."""
    for key, value in scope["headers"]:
        if key == b"cookie":
            for pair in value.split(b";"):
                cookie, equals, content = pair.strip().partition(b"=")
                if equals and cookie == name:
                    yield content.strip().removeprefix(b'"').removesuffix(b'"')


def _query(scope: Scope) -> Iterator[tuple[bytes, bytes]]:
    for part in scope.get("query_string", b"").split(b"&"):
        yield _pair(part)


def _pair(part: bytes) -> tuple[bytes, bytes]:
    """Name and value of one part of a query, decoded as a form is, so that ``%74oken=`` is found as well."""
    key, _, value = part.replace(b"+", b" ").partition(b"=")
    return unquote_to_bytes(key), unquote_to_bytes(value)
