"""The pages on the two limits: every snippet runs as written, every option and observation of the code is in its table."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import jwt
import pytest

from middleware import ConnectionLimitMiddleware, RateLimitMiddleware, connection_limit, handshake_limiter, rate_limit
from tests.middleware.asgi_helpers import run, text, websocket_scope

LAYERS = Path(__file__).parents[2] / "docs" / "layers"
RATE, CONNECTIONS = (LAYERS / "rate_limit.md").read_text(), (LAYERS / "connection_limit.md").read_text()


def snippets(page: str) -> list[dict[str, Any]]:
    """What each fenced Python block of a page defines when it is run."""
    made: list[dict[str, Any]] = []
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        names: dict[str, Any] = {"__name__": "snippet"}
        exec(compile(code, "snippet", "exec", dont_inherit=True), names)
        made.append(names)
    return made


@pytest.mark.parametrize(("page", "path"), [(RATE, "/ws"), (CONNECTIONS, "/ws/lobby")])
async def test_the_first_snippet_echoes(page: str, path: str) -> None:
    """In a FastAPI app, as written."""
    server = await run(snippets(page)[0]["app"], websocket_scope(path), text("hello"))
    assert server.payloads == ["hello"]


async def test_the_shared_limiter_is_made_as_written() -> None:
    """Redis is asked by the first handshake, not before."""
    made = snippets(RATE)[1]
    assert made["app"].middleware_stack is None
    await made["limiter"].aclose()


async def test_two_limits_around_authentication_work_as_written() -> None:
    """Who has a token gets in, who has none is refused and holds no slot."""
    app = snippets(CONNECTIONS)[1]["app"]
    token = jwt.encode({"sub": "ada", "exp": 4_000_000_000}, "replace me by 32 random bytes or more", algorithm="HS256")
    bearer = (b"authorization", f"Bearer {token}".encode())
    assert (await run(app, websocket_scope("/ws", headers=[bearer]))).payloads == ["hello ada"]
    assert (await run(app, websocket_scope("/ws"))).status == 401


@pytest.mark.parametrize(("page", "layer"), [(RATE, RateLimitMiddleware), (CONNECTIONS, ConnectionLimitMiddleware)])
def test_every_option_is_in_the_table(page: str, layer: type) -> None:
    """And the table has none that does not exist."""
    table = page[page.index("| option |") :].split("\n\n")[0]
    documented = re.findall(r"^\| `(\w+)`", table, re.MULTILINE)
    parameters = inspect.signature(layer).parameters.values()
    assert sorted(documented) == sorted(one.name for one in parameters if one.kind is one.KEYWORD_ONLY)


@pytest.mark.parametrize(
    ("page", "modules"), [(RATE, (rate_limit, handshake_limiter)), (CONNECTIONS, (connection_limit,))], ids=["rate", "connections"]
)
def test_every_observation_is_in_the_table(page: str, modules: tuple[Any, ...]) -> None:
    """A constant that starts like the layer's observations is one."""
    values = {value for module in modules for value in vars(module).values() if isinstance(value, str)}
    names = {value for value in values if re.fullmatch(r"(rate_limit|slots)_\w+", value)}
    reported = page[page.index("## What it reports") :]
    assert names == set(re.findall(r"`((?:rate_limit|slots)_\w+)`", reported))
