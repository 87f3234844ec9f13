"""``Problem``: an error answer of the HTTP API as an RFC 9457 problem document. Knows no web framework."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus

import msgspec

from ..errors import BrokerUnavailable, InvalidRoomName, TooBigForBroker

__all__ = ["PROBLEM_JSON", "Problem", "problem_of"]

PROBLEM_JSON = "application/problem+json"
"""The media type (RFC 9457 §3)."""


class Problem(Exception):
    """Raised to answer a request with an error.

    Args:
        status: the HTTP status, 400 or more.
        detail: one or two sentences for whoever made the request: what is wrong and what would be right.
        headers: further header fields of the answer.
        more: members of the document besides those that every one has (RFC 9457 §3.2).
    """

    def __init__(
        self, status: int, detail: str, *, headers: Mapping[str, str] | None = None, more: Mapping[str, str] | None = None
    ) -> None:
        if not 400 <= HTTPStatus(status) <= 599:
            raise ValueError(f"a problem has a status from 400 to 599, not {status}")
        super().__init__(f"{status} {detail}")
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.more = dict(more or {})

    @property
    def title(self) -> str:
        """The status in words, as ``about:blank`` demands (RFC 9457 §4.2.1)."""
        return HTTPStatus(self.status).phrase

    def body(self) -> bytes:
        """The document."""
        document = {"type": "about:blank", "title": self.title, "status": self.status, "detail": self.detail, **self.more}
        return msgspec.json.encode(document)


def problem_of(error: Exception) -> Problem | None:
    """What an error of the gateway means over HTTP; ``None`` for one that is a bug."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, InvalidRoomName):
        return Problem(400, f"This is not a room name: {error}.")
    if isinstance(error, TooBigForBroker):
        return Problem(413, "The broker takes no message of this size.")
    if isinstance(error, BrokerUnavailable):
        seconds = str(max(1, math.ceil(error.retry_after)))  # whole seconds (RFC 9110 §10.2.3)
        return Problem(503, "The broker cannot be used at the moment. Try again.", headers={"Retry-After": seconds})
    return None
