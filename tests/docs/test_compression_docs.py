"""The pages on compression say what is so: their snippet runs, their tables name what there is."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import zstandard

from middleware import compression
from middleware.compression import CompressionMiddleware

from ..middleware.asgi_helpers import run, websocket_scope

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "layers" / "compression.md").read_text()


@pytest.mark.parametrize(
    ("offered", "told"), [(["chat+zstd", "chat"], "chat+zstd"), (["zstd"], "zstd"), (["chat"], "chat"), ([], None)]
)
async def test_snippet_runs(offered: list[str], told: str | None) -> None:
    """The first snippet, as written, is an app that compresses for those who ask."""
    snippet = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert snippet is not None
    names: dict[str, Any] = {}
    exec(snippet[1], names)
    server = await run(names["app"], websocket_scope("/ws", subprotocols=offered))
    assert server.of("accept")[0].get("subprotocol") == told
    (message,) = server.payloads
    if told in ("chat", None):
        assert message == "hello " * 100
    else:
        assert isinstance(message, bytes)
        assert message[0] == 3
        assert zstandard.decompress(message[1:]) == b"hello " * 100
        assert len(message) < 40


def test_options_table_is_complete() -> None:
    """Every option is in the table, with its default."""
    parameters = list(inspect.signature(CompressionMiddleware).parameters.values())[1:]
    rows = re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", PAGE, re.MULTILINE)
    assert rows == [(option.name, str(option.default)) for option in parameters]


def test_observations_are_named() -> None:
    """Every observation of the layer is on its page."""
    names = {getattr(compression, name) for name in compression.__all__ if name.startswith(("COMPRESSION_", "DECOMPRESSION_"))}
    assert set(re.findall(r"`((?:de)?compression_(?!ratio)\w+)`", PAGE)) == names
