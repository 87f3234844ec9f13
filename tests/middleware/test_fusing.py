"""Adjacent layers run as one, however an app puts them together; what stands in between parts them and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from middleware import Guard, Layer, Link
from middleware.asgi import ASGIApp, Receive, Scope, Send

from .asgi_helpers import run, text, websocket_scope
from .everywhere_app import FRAMEWORKS


class Foreign:
    """Somebody else's pure ASGI middleware, which wraps the connection."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receiving() -> Any:
            return await receive()

        async def sending(event: Any) -> None:
            await send(event)

        await self.app(scope, receiving, sending)


def watching(name: str, links: dict[str, Link]) -> Any:
    """A layer class that notes its link."""

    class Watching(Layer):
        async def open(self, link: Link) -> Guard | None:
            links[name] = link
            return None

    return Watching


@pytest.fixture(params=list(FRAMEWORKS))
def build(request: pytest.FixtureRequest) -> Callable[[Any], ASGIApp]:
    """Plain nesting and each framework's own way."""
    return FRAMEWORKS[request.param]


async def test_adjacent_layers_share_one_link(build: Callable[[Any], ASGIApp]) -> None:
    """Which means one driver, one wrapper around ``receive`` and ``send``, and one copy of the scope."""
    links: dict[str, Link] = {}
    app = build([(watching(name, links), {}) for name in "abc"])
    assert (await run(app, websocket_scope(), text("x"))).payloads == ["x"]
    assert list(links) == ["a", "b", "c"]
    assert links["a"] is links["b"] is links["c"]


async def test_a_foreign_middleware_in_between_makes_two_runs(build: Callable[[Any], ASGIApp]) -> None:
    """Order and effect stay as they were written."""
    links: dict[str, Link] = {}
    layers: list[Any] = [(watching(name, links), {}) for name in "abcd"]
    app = build([*layers[:2], (Foreign, {}), *layers[2:]])
    assert (await run(app, websocket_scope(), text("x"))).payloads == ["x"]
    assert list(links) == ["a", "b", "c", "d"]
    assert links["a"] is links["b"]
    assert links["c"] is links["d"]
    assert links["a"] is not links["c"]


async def test_the_same_layer_may_stand_in_two_stacks() -> None:
    """Configuration is on the layer, the run is the outermost layer's: neither stack changes the other."""
    links: dict[str, Link] = {}
    inner = watching("inner", links)(FRAMEWORKS["plain"]([]))
    first, second = watching("first", links)(inner), watching("second", links)(inner)
    for app in (first, second, inner):
        assert (await run(app, websocket_scope(), text("x"))).payloads == ["x"]


@pytest.mark.parametrize("framework", ["starlette", "fastapi", "litestar"])
async def test_the_route_is_known_by_its_template(framework: str) -> None:
    """What a router finds inside is seen by layers outside of it, as a label may need it: never the raw path."""
    links: dict[str, Link] = {}
    await run(FRAMEWORKS[framework]([(watching("a", links), {})]), websocket_scope(), text("x"))
    assert links["a"].route == "/ws"
