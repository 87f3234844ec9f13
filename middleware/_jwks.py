"""Keys that an issuer publishes (JWK Set, RFC 7517 §5), fetched for ``_jwt.py`` and ``auth.py``.

1. The address is the operator's; nothing from a token reaches it. Redirects are not followed.
2. Requests leave one at a time and at most one per ``refetch_seconds``, however many tokens name keys that nobody knows.
3. The event loop never waits: a thread fetches, with a time-out and a bound on the answer.
4. Keys older than ``cache_seconds`` are replaced in the background while they still serve; when the issuer cannot be reached they
   serve on until ``stale_seconds``, then no longer: a key that was withdrawn must stop working some day.

Imported by ``auth.py`` only.
"""

from __future__ import annotations

import asyncio
import http.client
import ipaddress
import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection
from typing import IO, Any
from urllib.parse import urlsplit

import jwt
from cryptography.exceptions import UnsupportedAlgorithm

from ._jwt import PUBLIC_ALGORITHMS, Key, TokenError, usable_key

__all__ = ["PublishedKeys"]

MAX_DOCUMENT_BYTES = 256 * 1024
MAX_KEYS = 100

logger = logging.getLogger("tidegate.middleware")


class PublishedKeys:
    """The keys at ``url``; a ``KeySource``."""

    def __init__(
        self,
        url: str,
        *,
        cache_seconds: float = 300.0,
        refetch_seconds: float = 10.0,
        stale_seconds: float = 3600.0,
        timeout_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        _check_address(url)
        if min(cache_seconds, refetch_seconds, timeout_seconds) <= 0 or stale_seconds < cache_seconds:
            raise ValueError("the times for a JWKS are positive, and stale_seconds is not below cache_seconds")
        self.algorithms: Collection[str] = PUBLIC_ALGORITHMS
        self.fetched = 0
        """Requests that brought keys."""
        self.failed = 0
        """Requests that did not."""
        self._url = url
        self._cache_seconds = cache_seconds
        self._refetch_seconds = refetch_seconds
        self._stale_seconds = stale_seconds
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._keys: dict[str | None, list[Key]] = {}
        self._age_from = -float("inf")
        self._asked_at = -float("inf")
        self._request: asyncio.Task[None] | None = None

    def find(self, kid: str | None, algorithm: str) -> Key | None:
        if self._age_seconds() > self._stale_seconds:
            return None
        if kid is None and len(self._keys) == 1:  # a set of one needs no names
            kid = next(iter(self._keys))
        return next((key for key in self._keys.get(kid, ()) if algorithm in key.algorithms), None)

    async def refresh(self) -> None:
        """Fetch, or wait for the request under way; return at once when the last one was a moment ago."""
        request = self._start()
        if request is not None:
            await asyncio.wait([request], timeout=self._timeout_seconds)  # never cancels it: others wait too
        if self._age_seconds() > self._stale_seconds:
            raise TokenError("unavailable", "the issuer's keys could not be fetched")

    def used(self) -> None:
        if self._age_seconds() > self._cache_seconds:
            self._start()

    def _age_seconds(self) -> float:
        return self._clock() - self._age_from

    def _start(self) -> asyncio.Task[None] | None:
        """The request under way, a new one, or ``None`` while it is too early for another."""
        loop = asyncio.get_running_loop()
        if self._request is not None and not self._request.done() and self._request.get_loop() is loop:
            return self._request
        if self._clock() - self._asked_at < self._refetch_seconds:
            return None
        self._asked_at = self._clock()
        self._request = loop.create_task(self._fetch())
        return self._request

    async def _fetch(self) -> None:
        try:
            self._keys = await asyncio.to_thread(_load, self._url, self._timeout_seconds)
        except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
            self.failed += 1
            logger.warning("the keys at %s could not be fetched: %s", _without_query(self._url), error)
        else:
            self.fetched += 1
            self._age_from = self._clock()


def _check_address(url: str) -> None:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https" and host:
        return
    if parts.scheme == "http" and (host == "localhost" or _is_loopback(host)):
        return
    raise ValueError("jwks_url is an https address (http only on this host): whoever can change the answer can sign tokens")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _without_query(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{parts.path}"


class _StayHere(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str) -> None:
        raise urllib.error.HTTPError(req.full_url, code, "redirects are not followed", headers, fp)


def _load(url: str, timeout_seconds: float) -> dict[str | None, list[Key]]:
    """The keys; blocking, in a thread. Raises ``OSError`` (time-outs and HTTP errors too) and ``ValueError``."""
    try:
        return _parse(_download(url, timeout_seconds))
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise OSError(f"{error.code} {error.reason}") from None


def _download(url: str, timeout_seconds: float) -> bytes:
    deadline = time.monotonic() + timeout_seconds
    opener = urllib.request.build_opener(_StayHere)
    request = urllib.request.Request(url, headers={"accept": "application/json", "user-agent": "tidegate"})  # noqa: S310  # see _check_address
    document = bytearray()
    with opener.open(request, timeout=timeout_seconds) as response:
        while chunk := response.read1(65536):
            document += chunk
            if len(document) > MAX_DOCUMENT_BYTES:
                raise ValueError(f"the answer has more than {MAX_DOCUMENT_BYTES} bytes")
            if time.monotonic() > deadline:
                raise TimeoutError("the answer takes too long")
    return bytes(document)


def _parse(document: bytes) -> dict[str | None, list[Key]]:
    """The keys that can check a token, by id; others are passed over (RFC 7517 §5). Raises ``ValueError`` when there are none."""
    parsed = json.loads(document)
    entries = parsed.get("keys") if isinstance(parsed, dict) else None
    if not isinstance(entries, list):
        raise ValueError("the answer is not a JWK Set")
    keys: dict[str | None, list[Key]] = {}
    for entry in entries[:MAX_KEYS]:
        key = _key(entry)
        if key is not None:
            kid = entry.get("kid")
            keys.setdefault(kid if isinstance(kid, str) else None, []).append(key)
    if not keys:
        raise ValueError("none of the published keys can check a token")
    return keys


def _key(entry: Any) -> Key | None:
    """A key for encryption (``use: enc``) signs nothing, and a secret (``oct``) in a public document is no ``usable_key``."""
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    try:
        return usable_key(jwt.PyJWK(entry).key, entry.get("alg"))
    except (jwt.PyJWTError, ValueError, TypeError, LookupError, UnsupportedAlgorithm):
        return None
