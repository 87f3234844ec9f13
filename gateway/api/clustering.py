"""The operations of the HTTP API that tell of all nodes: who is there, and which rooms they have together."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..cluster import Gathered
from ..message import check_room
from ..server import WebSocketServer
from .requests import flag_of, name_of, page_of
from .responses import json_response

__all__ = ["Clustering"]


class Clustering:
    """The operations that ask the cluster."""

    def __init__(self, server: WebSocketServer) -> None:
        self._cluster = server.cluster
        self._registry = server.registry

    async def nodes(self, request: Request) -> Response:
        return json_response({"nodes": [node._asdict() for node in self._cluster.nodes()]})

    async def rooms(self, request: Request) -> Response:
        (limit, after), local = page_of(request.query_params), flag_of(request.query_params, "local")
        gathered = await self._cluster.rooms(after, limit, local=local)
        rooms = [
            {"name": name, "members": members, "members_local": gathered.local.get(name, 0)}
            for name, members in gathered.names.items()
        ]
        return json_response({"rooms": rooms, "total": gathered.total, "total_local": gathered.total_local, **_end(gathered)})

    async def room(self, request: Request) -> Response:
        name, (limit, after) = check_room(name_of(request.path_params["room"])), page_of(request.query_params)
        gathered = await self._cluster.members(name, after, limit, local=flag_of(request.query_params, "local"))
        room = self._registry.rooms.get(name)
        return json_response(
            {
                "name": name,
                "members": gathered.total,
                "members_local": gathered.total_local,
                "messages": room.statistics().messages if room is not None else 0,
                "connections": list(gathered.names),
                **_end(gathered),
            }
        )


def _end(gathered: Gathered) -> dict[str, Any]:
    return {"next": gathered.next, "complete": gathered.complete, "silent": gathered.silent}
