"""The OpenAPI 3.1 description of the HTTP API, kept by hand beside its routes; a test compares the two."""

from __future__ import annotations

from typing import Any

from ..console.figures import schemas as statistics_schemas
from .events import EVENT_STREAM
from .openapi_schemas import EXPLAIN_PARAMETERS, PARAMETERS, SCHEMAS
from .problems import PROBLEM_JSON

__all__ = ["openapi_document"]

Json = dict[str, Any]

_ERRORS = {
    "400": (
        "BadRequest",
        "A name, a parameter, a header or the body is not what it should be, or a query parameter is unknown.",
    ),
    "401": ("Unauthorized", "The key is missing or wrong."),
    "403": ("Off", "No key is set, so the API is off; the detail says how to set one."),
    "404": ("NotFound", "There is no such connection, or nothing at this address."),
    "405": ("MethodNotAllowed", "The address does not take this method; `Allow` says which it takes."),
    "408": ("Timeout", "The body was not complete in time."),
    "413": ("TooLarge", "The body is larger than a message may be."),
    "415": ("UnsupportedType", "`Content-Type` is none that stands for a message, or the body is compressed."),
    "422": ("KeyReused", "The `Idempotency-Key` was used for another request."),
    "500": ("InternalError", "A fault of the gateway."),
    "503": ("Unavailable", "The broker cannot be used, or too much is under way. Try again after `Retry-After` seconds."),
}
_ASKED = "Every node is asked; those that do not answer within a second are named in `silent`, and what they have is missing."
_ALWAYS = ("400", "401", "403", "405", "500")
_PUBLISHING = ("408", "413", "415", "422", "503")


def openapi_document(version: str, *, has_statistics: bool = True) -> Json:
    """The description.

    Args:
        version: of the gateway.
        has_statistics: whether there are the process' figures, too.
    """
    statistics = _statistics_paths() if has_statistics else {}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tidegate",
            "version": version,
            "summary": "Publish to WebSocket clients, look at them, close them.",
            "description": "On the ops listener only. Errors are problem documents (RFC 9457). Rooms are counted over all"
            " nodes, other figures are those of the node that answers; publishing and closing reach every node.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "tags": [
            {"name": "publish", "description": "Send messages."},
            {"name": "inspect", "description": "Look at this node."},
            {"name": "close", "description": "End connections."},
        ],
        "paths": {**_publish_paths(), **_room_paths(), **_connection_paths(), **statistics, **_other_paths()},
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "The value of TIDEGATE_API_KEY."}},
            "parameters": PARAMETERS,
            "responses": {name: _problem_answer(status, text) for status, (name, text) in _ERRORS.items()},
            "schemas": {**SCHEMAS, **(statistics_schemas() if has_statistics else {})},
        },
    }


def _publish_paths() -> Json:
    return {
        "/api/rooms/{room}/messages": {
            "parameters": [_ref("parameters", "room")],
            "post": _publish("publish_to_room", "Send a message to everybody in a room, on every node."),
        },
        "/api/users/{user}/messages": {
            "parameters": [_ref("parameters", "user")],
            "post": _publish("publish_to_user", "Send a message to all connections of a user, on every node."),
        },
        "/api/broadcast": {"post": _publish("broadcast", "Send a message to every connection, on every node.")},
    }


def _publish(operation: str, summary: str) -> Json:
    answer = _answer("Published.", "Published")
    answer["headers"] = {
        "Idempotency-Replayed": {
            "description": "Present when the request had been made before and nothing was sent again.",
            "schema": {"const": "true"},
        }
    }
    return {
        "operationId": operation,
        "summary": summary,
        "tags": ["publish"],
        "parameters": [_ref("parameters", name) for name in ("exclude", "Idempotency-Key", "traceparent")],
        "requestBody": {
            "required": True,
            "description": "The message. Text and JSON are sent as text messages, octets as a binary one, all as they are.",
            "content": {
                "text/plain": {"schema": {"type": "string"}, "example": "hello"},
                "application/json": {"schema": True, "example": {"n": 1}},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            },
        },
        "responses": {"200": answer, **_errors(*_PUBLISHING)},
    }


def _room_paths() -> Json:
    return {
        "/api/rooms": {
            "get": {
                "operationId": "rooms",
                "summary": "The rooms that have members on any node, by name.",
                "description": _ASKED + " A page may be shorter than `limit` and have a `next` all the same.",
                "tags": ["inspect"],
                "parameters": [_ref("parameters", name) for name in ("limit", "after", "local")],
                "responses": {"200": _answer("A page of rooms.", "Rooms"), **_errors("503")},
            }
        },
        "/api/rooms/{room}": {
            "parameters": [_ref("parameters", "room")],
            "get": {
                "operationId": "room",
                "summary": "The members of a room on all nodes, by connection id.",
                "description": "A room is there while somebody is in it, so one that nobody is in has 0 members. " + _ASKED,
                "tags": ["inspect"],
                "parameters": [_ref("parameters", name) for name in ("limit", "after", "local")],
                "responses": {"200": _answer("The room and a page of its members.", "Room"), **_errors("503")},
            },
        },
        "/api/rooms/{room}/stream": {
            "parameters": [_ref("parameters", "room")],
            "get": {
                "operationId": "room_stream",
                "summary": "What is said in a room, as server-sent events.",
                "description": "The listener is a member of the room. Events: `joined` with its connection's id, `message` with"
                " `text` or `base64`, `closed` with code and reason at the end.",
                "tags": ["inspect"],
                "responses": {"200": _events("It goes on until one side ends it.", {"type": "object"}), **_errors("503")},
            },
        },
    }


def _statistics_paths() -> Json:
    snapshot = {"security": [{"key": []}, {}], "tags": ["inspect"]}
    note = "Needs no key while none is set; then only for who asks by address (`127.0.0.1`, `localhost`)."
    return {
        "/api/stats": {
            "get": {
                "operationId": "stats",
                "summary": "The process' own figures, with rates over the last second.",
                "description": note,
                **snapshot,
                "responses": {"200": _answer("The figures.", "StatisticsSnapshot"), **_errors("503")},
            }
        },
        "/api/stats/stream": {
            "get": {
                "operationId": "stats_stream",
                "summary": "The process' own figures every second, as server-sent events.",
                "description": note,
                **snapshot,
                "responses": {
                    "200": _events("One snapshot per event.", _ref("schemas", "StatisticsSnapshot")),
                    **_errors("503"),
                },
            }
        },
    }


def _connection_paths() -> Json:
    closing = {"tags": ["close"], "parameters": [_ref("parameters", "reason")]}
    return {
        "/api/connections/{id}": {
            "parameters": [_ref("parameters", "id")],
            "get": {
                "operationId": "connection",
                "summary": "One connection of this node.",
                "tags": ["inspect"],
                "responses": {"200": _answer("The connection.", "Connection"), **_errors("404")},
            },
            "delete": {
                "operationId": "close_connection",
                "summary": "Close a connection, on whichever node.",
                **closing,
                "responses": {
                    "200": _answer("It is being closed.", "ClosedConnection"),
                    "202": _answer("The node that its id names was told to close it.", "ClosedConnection"),
                    **_errors("404", "503"),
                },
            },
        },
        "/api/users/{user}/connections": {
            "parameters": [_ref("parameters", "user")],
            "delete": {
                "operationId": "close_user",
                "summary": "Close all connections of a user, on every node.",
                **closing,
                "responses": {"200": _answer("They are being closed.", "ClosedUser"), **_errors("503")},
            },
        },
    }


def _other_paths() -> Json:
    description = {"description": "The description.", "content": {"application/json": {"schema": {"type": "object"}}}}
    return {
        "/api/node": {
            "get": {
                "operationId": "node",
                "summary": "This node.",
                "tags": ["inspect"],
                "responses": {"200": _answer("The node and its figures.", "Node"), **_errors()},
            }
        },
        "/api/explain": {
            "get": {
                "operationId": "explain",
                "summary": "Why did this client not get that message? Of this node, from what it remembers.",
                "tags": ["inspect"],
                "parameters": EXPLAIN_PARAMETERS,
                "responses": {"200": _explanation(), **_errors("404")},
            }
        },
        "/api/nodes": {
            "get": {
                "operationId": "nodes",
                "summary": "The nodes that this one hears of, itself first.",
                "description": "A node is there from its first heartbeat until it says goodbye or has missed three: seven seconds.",
                "tags": ["inspect"],
                "responses": {"200": _answer("The nodes.", "Nodes"), **_errors()},
            }
        },
        "/api/openapi.json": {
            "get": {
                "operationId": "openapi",
                "summary": "This description; needs no key.",
                "tags": ["inspect"],
                "security": [],
                "responses": {
                    "200": description,
                    "400": _ref("responses", "BadRequest"),
                    "405": _ref("responses", "MethodNotAllowed"),
                },
            }
        },
    }


def _explanation() -> Json:
    answer = _answer("The answer; as text when `Accept` names `text/plain`.", "Explanation")
    answer["content"]["text/plain"] = {"schema": {"type": "string"}}
    return answer


def _ref(kind: str, name: str) -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}


def _answer(description: str, schema: str) -> Json:
    return {"description": description, "content": {"application/json": {"schema": _ref("schemas", schema)}}}


def _events(description: str, schema: Json) -> Json:
    """An answer that goes on; ``schema`` is that of one event's data."""
    return {"description": description, "content": {EVENT_STREAM: {"schema": schema}}}


def _errors(*statuses: str) -> Json:
    return {status: _ref("responses", _ERRORS[status][0]) for status in sorted({*_ALWAYS, *statuses})}


def _problem_answer(status: str, text: str) -> Json:
    headers = {
        "401": {"WWW-Authenticate": {"schema": {"type": "string"}}},
        "405": {"Allow": {"schema": {"type": "string"}}},
        "503": {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}},
    }.get(status, {})
    return {
        "description": text,
        "content": {PROBLEM_JSON: {"schema": _ref("schemas", "Problem")}},
        **({"headers": headers} if headers else {}),
    }
