"""What a request of the HTTP API says, checked: the key, the body, the headers and the query. Knows no web framework.

Everything here raises ``Problem`` for what is wrong with a request, and repeats nothing of it beyond a bound.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec

from middleware.close import (
    AT_CAPACITY,
    FORBIDDEN,
    GOING_AWAY,
    NAMED,
    NORMAL,
    RATE_LIMITED,
    REPLACED,
    RESTARTING,
    UNAUTHORIZED,
    Close,
)  # fmt: skip

from ..message import Message
from .problems import Problem

__all__ = [
    "DEFAULT_PAGE", "LARGEST_PAGE", "LONGEST_KEY", "LONGEST_USER", "REASONS", "ApiKey", "Page", "check_user", "close_of",
    "flag_of", "idempotency_key_of", "is_connection_id", "message_of", "name_of", "page_of", "read_body", "traceparent_of",
]  # fmt: skip

REASONS = tuple(
    close.reason for close in (NORMAL, GOING_AWAY, FORBIDDEN, RATE_LIMITED, RESTARTING, AT_CAPACITY, REPLACED, UNAUTHORIZED)
)
"""Endings that may be asked for: those that say something about the client's right to be here, not what the wire saw."""
DEFAULT_PAGE, LARGEST_PAGE = 100, 1000
LONGEST_KEY = 255
LONGEST_USER = 256
_KEY = re.compile(r"[\x21-\x7e]+")
_FORBIDDEN_IN_USER = re.compile("[\x00-\x1f\x7f-\x9f\ufffd\ud800-\udfff\u2028\u2029]")
_CONNECTION_ID = re.compile(r"[A-Za-z0-9_.:~-]{1,255}")
_NUMBER = re.compile(r"[0-9]{1,9}")
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_TYPES = "text/plain (UTF-8), application/json or application/octet-stream"
_json = msgspec.json.Decoder(msgspec.Raw)
"""Judges JSON without building anything of it."""


class ApiKey:
    """The API's key, kept as a digest; ``None`` or empty means that there is none and nobody gets in."""

    def __init__(self, key: str | None) -> None:
        self._digest = hashlib.sha256(key.encode()).digest() if key else None

    @property
    def is_set(self) -> bool:
        """Whether there is a key at all."""
        return self._digest is not None

    def check(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Raise ``Problem`` 403 when there is no key, 401 unless the request shows it (RFC 6750 §2.1, §3)."""
        if self._digest is None:
            raise Problem(
                403,
                "The API is off because no key is set. Set TIDEGATE_API_KEY to a long random text (`openssl rand -hex 24`"
                " makes a good one), restart, and send it as `Authorization: Bearer <key>`.",
            )
        shown = [value for name, value in headers if name == b"authorization"]
        if not shown:
            raise _unauthorized("Send the API's key as `Authorization: Bearer <key>`.", "")
        scheme, _, given = shown[0].partition(b" ")
        # Digests are of one length, so the time of the comparison says nothing about the key.
        is_key = hmac.compare_digest(hashlib.sha256(given.strip()).digest(), self._digest)
        if not is_key or len(shown) != 1 or scheme.lower() != b"bearer":
            raise _unauthorized("This is not the API's key.", ', error="invalid_token"')


def _unauthorized(detail: str, error: str) -> Problem:
    return Problem(401, detail, headers={"WWW-Authenticate": f'Bearer realm="tidegate"{error}'})


async def read_body(stream: AsyncIterator[bytes], declared: str | None, *, max_bytes: int, timeout_seconds: float) -> bytes:
    """The body.

    Args:
        stream: its parts.
        declared: ``Content-Length``, by which a body that is too large is refused before it is read.

    Raises:
        Problem: 413 when it is larger than ``max_bytes``, 408 when it takes longer than ``timeout_seconds``.
    """
    if declared is not None and declared.isdecimal() and (len(declared) > 18 or int(declared) > max_bytes):
        raise _too_large(max_bytes)
    parts, size = [], 0
    try:
        async with asyncio.timeout(timeout_seconds):
            async for part in stream:
                size += len(part)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                parts.append(part)
    except TimeoutError:
        raise Problem(
            408, f"The body was not complete within {timeout_seconds:g} seconds.", headers={"Connection": "close"}
        ) from None
    return b"".join(parts)


def _too_large(max_bytes: int) -> Problem:
    # The rest of the body is not wanted, so the connection cannot be used for another request.
    return Problem(413, f"A body has at most {max_bytes} bytes.", headers={"Connection": "close"})


def message_of(headers: Mapping[str, str], body: bytes) -> Message:
    """The message that a body stands for.

    Raises:
        Problem: 415 when its type stands for none, 400 when it is not of its type.
    """
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise Problem(415, "The body must not be compressed.", headers={"Accept-Encoding": "identity"})
    media_type, _, parameters = headers.get("content-type", "").partition(";")
    media_type, charset = media_type.strip().lower(), _charset(parameters)
    if media_type == "application/octet-stream":
        return Message(body)
    if media_type not in ("text/plain", "application/json") or charset not in ("", "utf-8", "us-ascii"):
        raise Problem(415, f"Say with Content-Type what the body is: {_TYPES}.")
    try:
        if media_type == "application/json":
            _json.decode(body)
        return Message(body.decode())
    except msgspec.MsgspecError as error:
        raise Problem(400, f"The body is not JSON: {str(error)[:200]}.") from None
    except UnicodeDecodeError as error:
        raise Problem(400, f"The body is not UTF-8: byte {error.start} is wrong.") from None
    except RecursionError:
        raise Problem(400, "The body is JSON that is nested too deeply.") from None


def _charset(parameters: str) -> str:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip('"').lower().replace("utf8", "utf-8")
    return ""


def name_of(segment: str) -> str:
    """The name in one segment of an address as it was sent; what is not UTF-8 becomes U+FFFD, which no name may have."""
    return unquote_to_bytes(segment.encode("latin-1")).decode("utf-8", "replace")


def is_connection_id(text: str) -> bool:
    """Whether this could be the id of a connection on another node."""
    return _CONNECTION_ID.fullmatch(text) is not None


def traceparent_of(values: Sequence[str]) -> str:
    """The trace context of the request (W3C Trace Context §3.2), ``""`` when there is none or it is not well-formed."""
    match = _TRACEPARENT.fullmatch(values[0]) if len(values) == 1 and len(values[0]) <= 512 else None
    if match is None or match[1] == "ff" or (match[1] == "00" and match[4]):
        return ""
    if not match[2].strip("0") or not match[3].strip("0"):
        return ""
    return match[0][:55]  # a later version may say more behind what this one knows


def idempotency_key_of(values: Sequence[str]) -> str | None:
    """The ``Idempotency-Key``, ``None`` without one; 1 to 255 visible ASCII characters, else ``Problem`` 400."""
    if not values:
        return None
    if len(values) > 1 or len(values[0]) > LONGEST_KEY or not _KEY.fullmatch(values[0]):
        raise Problem(400, f"An Idempotency-Key is 1 to {LONGEST_KEY} visible ASCII characters, sent once.")
    return values[0]


def close_of(reason: str | None) -> Close:
    """The ending that ``?reason=`` names, normal when it is absent. Raises ``Problem`` 400."""
    if reason is None:
        return NORMAL
    if reason not in REASONS:
        raise Problem(400, f"reason is one of {', '.join(REASONS)}.")
    return NAMED[reason]


def check_user(user: str) -> str:
    """``user`` when it can be one. Raises ``Problem`` 400."""
    if not 0 < len(user) <= LONGEST_USER or _FORBIDDEN_IN_USER.search(user):
        raise Problem(400, f"A user is 1 to {LONGEST_USER} characters of valid UTF-8, without control characters.")
    return user


class Page(NamedTuple):
    """Which part of a sorted list is asked for: at most ``limit`` names behind ``after``."""

    limit: int
    after: str


def page_of(query: Mapping[str, str]) -> Page:
    """``?limit=`` and ``?after=``. Raises ``Problem`` 400."""
    limit = query.get("limit", str(DEFAULT_PAGE))
    if not _NUMBER.fullmatch(limit) or not 1 <= int(limit) <= LARGEST_PAGE:
        raise Problem(400, f"limit is a number from 1 to {LARGEST_PAGE}.")
    return Page(int(limit), query.get("after", ""))


def flag_of(query: Mapping[str, str], name: str) -> bool:
    """``?name=true`` or ``false``; false when it is absent. Raises ``Problem`` 400."""
    value = query.get(name, "false")
    if value not in ("true", "false"):
        raise Problem(400, f"{name} is true or false.")
    return value == "true"
