"""Answers of the HTTP API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from starlette.responses import Response

from ..errors import BrokerUnavailable
from .problems import PROBLEM_JSON, Problem

__all__ = ["in_time", "json_response", "problem_response"]

NO_STORE = {"Cache-Control": "no-store"}


def json_response(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """``body`` as JSON; bytes are JSON already."""
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return Response(content, status, {**NO_STORE, **(headers or {})}, "application/json")


def problem_response(problem: Problem) -> Response:
    """The problem document."""
    return Response(problem.body(), problem.status, {**NO_STORE, **problem.headers}, PROBLEM_JSON)


@asynccontextmanager
async def in_time(seconds: float) -> AsyncIterator[None]:
    """Raise ``BrokerUnavailable`` when what is inside takes longer: a broker that hangs holds no request for ever."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise BrokerUnavailable("the broker did not answer in time") from None
