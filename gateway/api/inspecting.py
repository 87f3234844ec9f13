"""The operations of the HTTP API that look at this node and close connections."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ..server import WebSocketServer
from .elsewhere import Elsewhere
from .problems import Problem
from .requests import check_user, close_of, is_connection_id, name_of
from .responses import in_time, json_response

__all__ = ["Inspecting"]


class Inspecting:
    """The operations that look and close."""

    def __init__(self, server: WebSocketServer, version: str, broker_timeout_seconds: float, description: dict[str, Any]) -> None:
        self._server = server
        self._broker_timeout_seconds = broker_timeout_seconds
        self._version = version
        self._description = msgspec.json.encode(description)
        self._elsewhere = Elsewhere(server.cluster)
        self._started_at = time.monotonic()

    async def openapi(self, request: Request) -> Response:
        return json_response(self._description)

    async def node(self, request: Request) -> Response:
        hub = self._server.hub
        totals = hub.statistics()
        closed: dict[str, dict[str, int]] = {}
        for (reason, initiator), count in totals.closed.items():
            closed.setdefault(reason, {})[initiator or "server"] = count
        statistics = {
            **hub.registry.statistics()._asdict(),
            "opened": totals.opened,
            "closed": closed,
            "refused_by_broker": totals.refused_by_broker,
            "subscriptions": len(hub.subscriptions),
        }
        return json_response(
            {
                "id": hub.node,
                "version": self._version,
                "uptime_seconds": round(time.monotonic() - self._started_at, 3),
                "draining": self._server.admission.draining,
                "statistics": statistics,
            }
        )

    async def connection(self, request: Request) -> Response:
        connection_id = name_of(request.path_params["id"])
        connection = self._server.registry.get(connection_id)
        if connection is None:
            raise self._no_connection(connection_id)
        return json_response(connection.statistics()._asdict())

    async def close_connection(self, request: Request) -> Response:
        connection_id, close = name_of(request.path_params["id"]), close_of(request.query_params.get("reason"))
        local = self._server.registry.get(connection_id) is not None
        if not local and not is_connection_id(connection_id):  # it would become an address in the broker
            raise self._no_connection(connection_id)
        async with in_time(self._broker_timeout_seconds):
            if not await self._server.close_connection(connection_id, close):
                raise self._no_connection(connection_id)
        return json_response({"id": connection_id, "reason": close.reason, "local": local}, status=200 if local else 202)

    async def close_user(self, request: Request) -> Response:
        user, close = check_user(name_of(request.path_params["user"])), close_of(request.query_params.get("reason"))
        async with in_time(self._broker_timeout_seconds):
            count = await self._server.close_user(user, close)
        return json_response({"user": user, "reason": close.reason, "closed_local": count})

    def _no_connection(self, connection_id: str) -> Problem:
        """Says which node would know."""
        said = "What is asked for can be no id." if not is_connection_id(connection_id) else None
        return Problem(404, f"There is no such connection on this node. {said or self._elsewhere.of_connection(connection_id)[0]}")
