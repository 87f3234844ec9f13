"""The operation of the HTTP API that says why a client did not get a message."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ..explain import Explainer
from ..message import check_room, user_room
from .elsewhere import Elsewhere, Node
from .problems import Problem
from .requests import check_user, is_connection_id
from .responses import json_response

__all__ = ["Explaining"]

_MESSAGE_ID = re.compile(r"[\x21-\x7e]{1,255}")


class Explaining:
    """See the module."""

    def __init__(self, explainer: Explainer | None, elsewhere: Elsewhere) -> None:
        self._explainer = explainer
        self._elsewhere = elsewhere

    async def explain(self, request: Request) -> Response:
        """``?connection=``, ``?user=`` or ``?room=``, and ``&message=`` for one alone, or that alone; as JSON, or as text."""
        if self._explainer is None:
            raise Problem(404, "Nothing is remembered: set TIDEGATE_TELEMETRY__EXPLAIN=true and start again.")
        query = request.query_params
        asked = {name: query[name] for name in ("connection", "user", "room", "message") if query.get(name)}
        _check(asked)
        found = await self._explainer.explain_in_turns(**asked)
        lines, nodes = await self._others(asked, found)
        found["answer"] += lines
        found["elsewhere"] = [node._asdict() for node in nodes]
        if "text/plain" in request.headers.get("accept", ""):
            return PlainTextResponse("\n".join(found["answer"]) + "\n")
        return json_response(found)

    async def _others(self, asked: dict[str, str], found: dict[str, Any]) -> tuple[list[str], list[Node]]:
        """Which other nodes to ask, too."""
        room = user_room(asked["user"]) if "user" in asked else asked.get("room")
        if room is None and found["rooms"]:  # those to which the message went that was asked about
            return await self._elsewhere.of_room(found["rooms"][0]["name"])
        if "connection" in asked:
            line, nodes = self._elsewhere.of_connection(asked["connection"])
            return ([], []) if found["connections"] else ([line], nodes)
        return await self._elsewhere.of_room(room) if room is not None else ([], [])


def _check(asked: dict[str, str]) -> None:
    if not asked:
        raise Problem(400, "Say what it is about: ?connection=, ?user=, ?room= or ?message=, of which the last goes with each.")
    if "room" in asked:
        check_room(asked["room"])
    if "user" in asked:
        check_user(asked["user"])
    if "connection" in asked and not is_connection_id(asked["connection"]):
        raise Problem(400, "That cannot be the id of a connection; GET /api/rooms/{room} lists them.")
    if "message" in asked and not _MESSAGE_ID.fullmatch(asked["message"]):
        raise Problem(400, "That cannot be the id of a message; publishing answers with it.")
