"""HTTP for the command line's clients, on the standard library alone: publish a message, ask for health."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

__all__ = ["ClientError", "Reply", "events", "healthy", "is_refused", "publish", "reason_of", "request"]

LARGEST_REPLY_BYTES = 4 << 20
_ERRNO = re.compile(r"\[Errno -?[0-9]+\] ?")


class ClientError(Exception):
    """It did not work; the text is one sentence for the user.

    Args:
        final: trying again would end the same way.
    """

    def __init__(self, text: str, *, final: bool = False) -> None:
        super().__init__(text)
        self.final = final


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response."""

    status: int
    body: bytes

    def detail(self) -> str:
        """What a problem document (RFC 9457) says, or the status."""
        with contextlib.suppress(ValueError, AttributeError):
            problem = json.loads(self.body)
            return f"{self.status} {problem.get('detail') or problem['title']}"
        return f"{self.status} {http.client.responses.get(self.status, '')}".strip()

    def why(self) -> str:
        """``detail``, and of a refusal by the API what may help."""
        detail = self.detail()
        if self.status == 401:
            return f"{detail} (the key is TIDEGATE_API_KEY, the same as the gateway's)"
        is_elsewhere = detail.startswith(("404 There is nothing at this address", "404 Not Found"))
        return f"{detail} (is this the ops address?)" if is_elsewhere else detail


def request(
    method: str,
    url: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_seconds: float = 10.0,
) -> Reply:
    """One HTTP request, without redirects or proxies.

    Raises:
        ClientError: the address is none, or nobody answers there.
    """
    with _response(method, url, body, headers, timeout_seconds) as response:
        return Reply(response.status, response.read(LARGEST_REPLY_BYTES))


@contextlib.contextmanager
def _response(
    method: str, url: str, body: bytes | None, headers: Mapping[str, str] | None, timeout_seconds: float
) -> Iterator[http.client.HTTPResponse]:
    """The response to one request, to be read inside. Raises ``ClientError``, also for what goes wrong while it is read."""
    try:
        address = urlsplit(url)
        kind = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}[address.scheme]
        connection = kind(address.hostname or "", address.port, timeout=timeout_seconds)
    except (KeyError, ValueError):
        raise ClientError(f"{url} is not an http:// or https:// address") from None
    try:
        try:
            connection.request(
                method, (address.path or "/") + (f"?{address.query}" if address.query else ""), body, dict(headers or {})
            )
        except ValueError:  # a line break, or what is beyond Latin-1
            raise ClientError("the key or another header has a character that HTTP does not carry", final=True) from None
        with connection.getresponse() as response:
            yield response
    except (OSError, http.client.HTTPException) as error:
        hint = "; is the gateway running, with its ops listener here (--ops-url)?" if is_refused(error) else ""
        raise ClientError(f"no answer from {address.scheme}://{address.netloc}: {reason_of(error)}{hint}") from None
    finally:
        connection.close()


def events(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    timeout_seconds: float = 30.0,
) -> Iterator[bytes]:
    """The data of a stream's events (WHATWG HTML §9.2), of one line each, until the server ends it.

    Args:
        timeout_seconds: how long the server may be silent.

    Raises:
        ClientError: nobody answers, the server refused, or it is silent.
    """
    with _response("GET", url, None, headers, timeout_seconds) as response:
        if response.status != 200:
            reply = Reply(response.status, response.read(LARGEST_REPLY_BYTES))
            raise ClientError(f"refused: {reply.why()}", final=reply.status < 500)
        while line := response.readline(LARGEST_REPLY_BYTES):
            if line.startswith(b"data: "):
                yield line[6:].rstrip(b"\r\n")


def publish(
    ops_url: str,
    room: str,
    payload: bytes,
    *,
    content_type: str,
    api_key: str | None,
    idempotency_key: str | None = None,
    timeout_seconds: float = 10.0,
) -> dict[str, Any]:
    """Publish one message through the ops API; returns its answer.

    Raises:
        ClientError: nobody answers, or the API refused.
    """
    headers = {"content-type": content_type}
    if api_key:
        headers["authorization"] = f"Bearer {api_key}"
    if idempotency_key:
        headers["idempotency-key"] = idempotency_key
    url = f"{ops_url.rstrip('/')}/api/rooms/{quote(room, safe='')}/messages"
    reply = request("POST", url, body=payload, headers=headers, timeout_seconds=timeout_seconds)
    if not 200 <= reply.status < 300:
        raise ClientError(f"not published: {reply.why()}")
    try:
        return dict(json.loads(reply.body))
    except (ValueError, TypeError):
        raise ClientError("published, but the answer is not JSON: is this the ops address of a Tidegate?") from None


def healthy(ops_url: str, path: str = "/healthz", *, timeout_seconds: float = 3.0) -> Reply:
    """What the gateway says of its own health; 200 is good.

    Raises:
        ClientError: nobody answers.
    """
    return request("GET", ops_url.rstrip("/") + path, timeout_seconds=timeout_seconds)


def reason_of(error: BaseException) -> str:
    """What went wrong, in the words of the system."""
    number = errno.ECONNREFUSED if is_refused(error) else getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number).lower()
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return _ERRNO.sub("", text).strip().lower()


def is_refused(error: BaseException) -> bool:
    """Whether nobody listens there; of a name with several addresses asyncio makes one error, in words."""
    return isinstance(error, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in str(error)
