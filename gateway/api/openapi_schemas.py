"""The parameters and schemas of the OpenAPI description: what goes into the API's answers and addresses."""

from __future__ import annotations

from typing import Any

from ..message import MAX_ROOM_BYTES
from .requests import DEFAULT_PAGE, LARGEST_PAGE, LONGEST_KEY, LONGEST_USER, REASONS

__all__ = ["EXPLAIN_PARAMETERS", "PARAMETERS", "SCHEMAS"]

Json = dict[str, Any]


def _path_parameter(name: str, description: str, **schema: Any) -> Json:
    return {"name": name, "in": "path", "required": True, "description": description, "schema": {"type": "string", **schema}}


def _query_parameter(name: str, description: str, **schema: Any) -> Json:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _header_parameter(name: str, description: str, **schema: Any) -> Json:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string", **schema}}


PARAMETERS: Json = {
    "room": _path_parameter(
        "room",
        f"1 to {MAX_ROOM_BYTES} bytes of UTF-8; no control characters, no `/`; names that begin with `~` are reserved.",
        minLength=1,
        maxLength=MAX_ROOM_BYTES,
        examples=["lobby", "chat:42"],
    ),
    "user": _path_parameter(
        "user", "The user's id, percent-encoded where it must be (`a%2Fb`).", minLength=1, maxLength=LONGEST_USER
    ),
    "id": _path_parameter("id", "The connection's id; the part before the last dash names its node.", minLength=1),
    "exclude": _query_parameter("exclude", "Id of a connection that is not to get the message.", type="string"),
    "limit": _query_parameter("limit", "Size of the page.", type="integer", minimum=1, maximum=LARGEST_PAGE, default=DEFAULT_PAGE),
    "after": _query_parameter("after", "`next` of the page before.", type="string"),
    "local": _query_parameter("local", "Ask the node that answers alone.", type="boolean", default=False),
    "reason": _query_parameter(
        "reason", "What the clients are told; the close code belongs to it.", enum=list(REASONS), default=REASONS[0]
    ),
    "Idempotency-Key": _header_parameter(
        "Idempotency-Key",
        "The request's name. Made again with it within ten minutes, to the same node, the answer is as before and nothing is sent.",
        minLength=1,
        maxLength=LONGEST_KEY,
        pattern="^[!-~]+$",
    ),
    "traceparent": _header_parameter(
        "traceparent", "W3C trace context that the message's spans belong to; ignored when it is not well-formed."
    ),
}


def _object(properties: Json, *, optional: tuple[str, ...] = ()) -> Json:
    return {"type": "object", "properties": properties, "required": [name for name in properties if name not in optional]}


def _array(items: Json) -> Json:
    return {"type": "array", "items": items}


_TEXT: Json = {"type": "string"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_SECONDS: Json = {"type": "number", "minimum": 0}
_FLAG: Json = {"type": "boolean"}
_REASON: Json = {"type": "string", "enum": list(REASONS)}
_NEXT: Json = {"type": ["string", "null"], "description": "`after` of the next page; null at the end."}
_LOCAL: Json = {**_COUNT, "description": "Of these, on the node that answers."}
_END: Json = {
    "next": _NEXT,
    "complete": {**_FLAG, "description": "Every node that is known of was asked and has answered."},
    "silent": {**_array(_TEXT), "description": "Nodes that have not; what they have is missing."},
}
_STATE: Json = {"type": "string", "enum": ["connecting", "open", "closing", "closed"]}
_COUNTS: Json = {"type": "object", "additionalProperties": _COUNT}

EXPLAIN_PARAMETERS: list[Json] = [
    _query_parameter("connection", "Id of the connection that it is about, or of a message.", type="string"),
    _query_parameter("user", "Id of the user whose connections it is about.", type="string"),
    _query_parameter("room", "Only messages to this room; alone: what the room itself has seen.", type="string"),
    _query_parameter("message", "Only this message; alone: what became of it. Publishing answers with its id.", type="string"),
]


SCHEMAS: Json = {
    "Published": _object(
        {
            "id": {"type": "string", "description": "The message's id, unique over all nodes."},
            "accepted_at": {"type": "number", "description": "Seconds since 1970, UTC."},
            "recipients_local": {**_COUNT, "description": "Connections of this node that it goes to; other nodes may have more."},
        }
    ),
    "Nodes": _object(
        {
            "nodes": _array(
                _object(
                    {
                        "id": _TEXT,
                        "version": _TEXT,
                        "age_seconds": _SECONDS,
                        "connections": _COUNT,
                        "rooms": _COUNT,
                        "load": {**_SECONDS, "description": "CPU seconds per second of its process; 1 is one core in full."},
                        "draining": _FLAG,
                        "heard_seconds_ago": {**_SECONDS, "description": "How old these figures are; 0 for the node that answers."},
                    }
                )
            )
        }
    ),
    "Rooms": _object(
        {
            "rooms": _array(_object({"name": _TEXT, "members": _COUNT, "members_local": _LOCAL})),
            "total": {**_COUNT, "description": "The sum of the nodes' rooms; one that is on two nodes counts twice."},
            "total_local": {**_COUNT, "description": "Rooms of the node that answers."},
            **_END,
        }
    ),
    "Room": _object(
        {
            "name": _TEXT,
            "members": _COUNT,
            "members_local": _LOCAL,
            "messages": {**_COUNT, "description": "Published to it on this node since its first member came."},
            "connections": _array(_TEXT),
            **_END,
        }
    ),
    "Connection": _object(
        {
            "id": _TEXT,
            "user": {"type": ["string", "null"]},
            "state": _STATE,
            "rooms": _array(_TEXT),
            "age_seconds": _SECONDS,
            "received_messages": _COUNT,
            "received_bytes": _COUNT,
            "sent_messages": _COUNT,
            "sent_bytes": _COUNT,
            "buffered_bytes": {**_COUNT, "description": "What waits for the client to read."},
            "dropped_messages": {**_COUNT, "description": "Messages it did not get because it was too slow."},
        }
    ),
    "ClosedConnection": _object(
        {"id": _TEXT, "reason": _REASON, "local": {"type": "boolean", "description": "It was on the node that answers."}}
    ),
    "ClosedUser": _object(
        {"user": _TEXT, "reason": _REASON, "closed_local": {**_COUNT, "description": "Connections of this node."}}
    ),
    "Node": _object(
        {
            "id": _TEXT,
            "version": _TEXT,
            "uptime_seconds": _SECONDS,
            "draining": _FLAG,
            "statistics": _object(
                {
                    "connections": _COUNT,
                    "rooms": _COUNT,
                    "users": _COUNT,
                    "memberships": {**_COUNT, "description": "Connections in rooms, each room counted."},
                    "opened": {**_COUNT, "description": "Connections since the start."},
                    "closed": {
                        "type": "object",
                        "description": "Ended connections since the start, by reason and by who ended them (client, server).",
                        "additionalProperties": _COUNTS,
                    },
                    "refused_by_broker": {**_COUNT, "description": "Messages of clients that the broker did not take."},
                    "subscriptions": {**_COUNT, "description": "Rooms this node listens to."},
                }
            ),
        }
    ),
    "Explanation": _object(
        {
            "node": _TEXT,
            "answer": {**_array(_TEXT), "description": "In plain words, a sentence or two each."},
            "connections": {**_array({"type": "object"}), "description": "What is known of each, with a verdict for each message."},
            "rooms": {
                **_array({"type": "object"}),
                "description": "The last messages of the room, or what is known of the message in the rooms it went to.",
            },
            "left_out": {
                **_object({"connections": _COUNT, "deliveries": _COUNT}),
                "description": "Older connections of the user, and older messages, that there are besides.",
            },
            "elsewhere": {
                **_array(_object({"node": _TEXT, "is_heard": _FLAG, "connections": _array(_TEXT)})),
                "description": "Other nodes to ask, whether this one hears of them, and about which connections.",
            },
        }
    ),
    "Problem": {
        **_object(
            {
                "type": {"type": "string", "format": "uri-reference"},
                "title": _TEXT,
                "status": {"type": "integer"},
                "detail": _TEXT,
                "parameter": {
                    **_TEXT,
                    "description": "The query parameter that is unknown, or comes twice.",
                },
                "nearest": {**_TEXT, "description": "The parameter of the address that is most like it."},
            },
            optional=("parameter", "nearest"),
        ),
        "description": "RFC 9457.",
    },
}
