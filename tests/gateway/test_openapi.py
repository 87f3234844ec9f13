"""``gateway.api.openapi``: the description says what the routes do, no more and no less."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from gateway.api import api_routes
from gateway.api.openapi import openapi_document
from gateway.explain import Explainer, Records
from gateway.server import WebSocketServer
from tests.gateway.api_helpers import VERSION, open_api
from tests.gateway.console_helpers import feed_of

DOCUMENT = openapi_document(VERSION)


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, method and description of every operation."""
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                yield (
                    path,
                    method.upper(),
                    {**operation, "parameters": item.get("parameters", []) + operation.get("parameters", [])},
                )


def resolved(value: dict[str, Any]) -> dict[str, Any]:
    """What a reference stands for."""
    if "$ref" not in value:
        return value
    found: Any = DOCUMENT
    for part in value["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return dict(found)


def test_it_is_an_openapi_document() -> None:
    """It keeps the rules of OpenAPI 3.1."""
    validate(DOCUMENT)  # type: ignore[arg-type]  # any mapping


def test_every_route_and_method_is_described_and_exists() -> None:
    """Addresses, methods and operation names are the same set in the description and in the routes (HEAD goes with GET)."""
    (api,) = api_routes(WebSocketServer(), api_key="k", max_body_bytes=1, version=VERSION, feed=feed_of())
    routes = {
        (path, method, handler.__name__)
        for path, operations in api.operations.items()  # type: ignore[attr-defined]
        for method, handler in operations.handlers.items()
        if method != "HEAD"
    }
    assert {(path, method, operation["operationId"]) for path, method, operation in operations()} == routes


@pytest.mark.parametrize(
    ("path", "method", "operation"), list(operations()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_operation_is_complete(path: str, method: str, operation: dict[str, Any]) -> None:
    """A summary, a tag, the path's parameters, the answers to a missing key and a wrong method."""
    assert operation["summary"].endswith(".")
    assert operation["tags"]
    described = {resolved(parameter)["name"] for parameter in operation["parameters"] if resolved(parameter)["in"] == "path"}
    assert described == {part[1:-1] for part in path.split("/") if part.startswith("{")}
    expected = {"400", "405"} if operation.get("security") == [] else {"400", "401", "403", "405", "500"}
    assert expected <= operation["responses"].keys()


async def test_it_is_served_without_a_key() -> None:
    """Tools may read the description without being able to use it."""
    for key in (None, "another"):
        async with open_api(key=key, show={}, feed=feed_of()) as api:
            response = await api.client.get("/api/openapi.json")
            assert (response.status_code, response.json()) == (200, DOCUMENT)


async def test_answers_are_as_described() -> None:
    """Every kind of answer, given by the real server, keeps its schema and comes with a status that is described."""
    server, records = WebSocketServer(node="n1"), Records()
    server.hub.observers.add(records)
    async with open_api(server, feed=feed_of(), explainer=Explainer(server.hub, records)) as api:
        ann = await api.join("lobby", "ann")
        await api.join("other")
        message = {"content": "x", "headers": {"content-type": "text/plain", "idempotency-key": "k"}}
        requests: list[tuple[str, str, str, dict[str, Any]]] = [
            ("POST", "/api/rooms/{room}/messages", "/api/rooms/lobby/messages", message),
            ("POST", "/api/rooms/{room}/messages", "/api/rooms/lobby/messages", message),
            ("POST", "/api/rooms/{room}/messages", "/api/rooms/other/messages", message),
            ("POST", "/api/rooms/{room}/messages", "/api/rooms/~x/messages", message),
            ("POST", "/api/users/{user}/messages", "/api/users/ann/messages", {"content": "x"}),
            ("POST", "/api/broadcast", "/api/broadcast", {"content": "x" * 2000}),
            ("GET", "/api/rooms", "/api/rooms?limit=1", {}),
            ("GET", "/api/rooms", "/api/rooms?limit=0", {}),
            ("GET", "/api/rooms/{room}", "/api/rooms/lobby", {}),
            ("GET", "/api/connections/{id}", f"/api/connections/{ann.id}", {}),
            ("GET", "/api/connections/{id}", "/api/connections/x", {}),
            ("GET", "/api/node", "/api/node", {}),
            ("GET", "/api/nodes", "/api/nodes", {}),
            ("GET", "/api/stats", "/api/stats", {}),
            ("GET", "/api/explain", f"/api/explain?connection={ann.id}&room=lobby", {}),
            ("GET", "/api/explain", "/api/explain", {}),
            ("GET", "/api/rooms", "/api/rooms?limt=2", {}),
            ("DELETE", "/api/connections/{id}", f"/api/connections/{ann.id}", {}),
            ("DELETE", "/api/connections/{id}", "/api/connections/n2-1", {}),
            ("DELETE", "/api/users/{user}/connections", "/api/users/ann/connections", {}),
        ]
        seen = set()
        for method, path, address, options in requests:
            response = await api.client.request(method, address, **options)
            described = resolved(DOCUMENT["paths"][path][method.lower()]["responses"][str(response.status_code)])
            media_type = response.headers["content-type"]
            schema = {**described["content"][media_type]["schema"], "components": DOCUMENT["components"]}
            Draft202012Validator(schema).validate(response.json())
            seen.add((method, path))
        described_operations = {(method, path) for path, method, _ in operations()}
        streams = {("GET", "/api/stats/stream"), ("GET", "/api/rooms/{room}/stream")}  # see test_console_api.py
        assert seen == described_operations - {("GET", "/api/openapi.json")} - streams


def test_schemas_leave_nothing_out() -> None:
    """The fields of an answer are those of its schema: what is described is what is sent."""
    from gateway.connection import ConnectionStatistics
    from gateway.hub import Published
    from gateway.registry import RegistryStatistics

    schemas = DOCUMENT["components"]["schemas"]
    assert set(schemas["Published"]["properties"]) == set(Published._fields)
    assert set(schemas["Connection"]["properties"]) == set(ConnectionStatistics._fields)
    assert set(RegistryStatistics._fields) <= set(schemas["Node"]["properties"]["statistics"]["properties"])
