"""The operations of the HTTP API that send messages."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ..hub import Hub
from ..message import Message, check_room, user_room
from ..registry import EVERYONE
from .idempotency import IdempotencyTable, KeyReused, TableFull
from .problems import Problem
from .requests import check_user, idempotency_key_of, message_of, name_of, read_body, traceparent_of
from .responses import in_time, json_response

__all__ = ["Publishing"]


class Publishing:
    """The operations that send messages."""

    def __init__(
        self,
        hub: Hub,
        idempotency: IdempotencyTable,
        max_body_bytes: int,
        body_timeout_seconds: float,
        broker_timeout_seconds: float,
    ) -> None:
        self._hub = hub
        self._idempotency = idempotency
        self._max_body_bytes = max_body_bytes
        self._body_timeout_seconds = body_timeout_seconds
        self._broker_timeout_seconds = broker_timeout_seconds

    async def publish_to_room(self, request: Request) -> Response:
        return await self._publish(request, check_room(name_of(request.path_params["room"])))

    async def publish_to_user(self, request: Request) -> Response:
        return await self._publish(request, user_room(check_user(name_of(request.path_params["user"]))))

    async def broadcast(self, request: Request) -> Response:
        return await self._publish(request, EVERYONE)

    async def _publish(self, request: Request, room: str) -> Response:
        key = idempotency_key_of(request.headers.getlist("idempotency-key"))
        exclude = request.query_params.get("exclude", "")
        body = await read_body(
            request.stream(), request.headers.get("content-length"),
            max_bytes=self._max_body_bytes, timeout_seconds=self._body_timeout_seconds,
        )  # fmt: skip
        message = message_of(request.headers, body)
        traceparent = traceparent_of(request.headers.getlist("traceparent"))
        publish = partial(self._publish_now, room, message, exclude, traceparent)
        if key is None:
            return json_response(await publish())
        return await self._publish_once(key, _fingerprint(room, exclude, message), publish)

    async def _publish_once(self, key: str, fingerprint: bytes, publish: Callable[[], Awaitable[bytes]]) -> Response:
        try:
            answer, replayed = await self._idempotency.run(key, fingerprint, publish)
        except KeyReused:
            raise Problem(422, "This Idempotency-Key was used for another request. Take a new one for a new message.") from None
        except TableFull:
            raise Problem(503, "Too many requests are under way. Try again.", headers={"Retry-After": "1"}) from None
        return json_response(answer, headers={"Idempotency-Replayed": "true"} if replayed else None)

    async def _publish_now(self, room: str, message: Message, exclude: str, traceparent: str) -> bytes:
        async with in_time(self._broker_timeout_seconds):
            published = await self._hub.publish(room, message, exclude=exclude or None, traceparent=traceparent)
        return msgspec.json.encode(published._asdict())


def _fingerprint(room: str, exclude: str, message: Message) -> bytes:
    """Equal for requests that ask for the same: every part with its length, so that no two requests look alike."""
    digest = hashlib.sha256()
    for part in (
        room.encode(),
        exclude.encode("utf-8", "surrogatepass"),
        b"text" if message.is_text else b"binary",
        message.payload,
    ):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
