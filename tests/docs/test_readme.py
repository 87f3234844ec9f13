"""The README's code runs as written, its generated part is what the generator makes, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.settings.text import settings_table_markdown
from tests.middleware.asgi_helpers import Server, disconnect, text, websocket_scope

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN = [
    "TIDEGATE_HOST", "TIDEGATE_PORT", "TIDEGATE_OPS_HOST", "TIDEGATE_OPS_PORT", "TIDEGATE_API_KEY", "TIDEGATE_ALLOWED_ORIGINS",
    "TIDEGATE_TRUSTED_PROXIES", "TIDEGATE_AUTH__MODE", "TIDEGATE_AUTH__SECRET", "TIDEGATE_CONNECTION_LIMIT__TOTAL",
    "TIDEGATE_RATE_LIMIT__MESSAGES_PER_SECOND", "TIDEGATE_MESSAGE__MAX_BYTES", "TIDEGATE_OUTBOX__POLICY",
    "TIDEGATE_DRAIN__PERIOD_SECONDS", "TIDEGATE_LOG_LEVEL",
]  # fmt: skip


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def short_table() -> str:
    """The head of the full table and the rows of the settings most people touch."""
    lines = settings_table_markdown().splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = [line for name in SHOWN for line in lines if line.startswith(f"| `{name}`")]
    return "\n".join([*lines[head : head + 2], *rows])


def test_the_settings_table_is_the_generated_one() -> None:
    """Regenerate it with: python -m tests.docs.test_readme."""
    inside = re.search(r"settings:begin.*?-->\n(.*?)\n?<!-- settings:end", README, re.DOTALL)
    assert inside is not None
    assert inside.group(1) == short_table()
    assert all(name in inside.group(1) for name in SHOWN)


def rows(markdown: str) -> list[list[str]]:
    """The cells of all table rows."""
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_figures_beside_others_are_those_that_were_measured() -> None:
    """Each cell within a quarter of the performance page's summary; else copy the new ones."""
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    head, *measured = rows(page[page.index("## In short") : page.index("The same of messages")])
    found = {(row[0], server): cell for row in measured for server, cell in zip(head[1:], row[1:], strict=True)}
    (_, *servers), *shown = rows(README[README.index("<!-- figures") : README.index("<!-- /figures")])
    assert shown
    for label, *cells in shown:
        for server, cell in zip(servers, cells, strict=True):
            figure, unit = found[label, server].partition(" ")[::2]
            if not unit:  # a dash: not measured
                assert cell == figure
            else:
                assert cell.endswith(f" {unit}")
                assert 0.75 < float(cell.split()[0]) / float(figure) < 1.34, f"{label}, {server}: {figure}"


def test_the_readme_is_short() -> None:
    """What it is, what to try and why stand first; the rest is for the pages behind it."""
    assert len(README.splitlines()) < 200
    assert README.index("make serve") < README.index("## Why") < 2000


async def test_the_composition_in_a_fastapi_app_runs_as_written() -> None:
    """Two clients in a room behind the three layers: one hears the other; a foreign page gets 403."""
    import asyncio

    names: dict[str, object] = {}
    exec(compile(snippets()[0], "README.md", "exec"), names)
    app = names["app"]
    clients = [Server(stay=True), Server(stay=True)]
    serving = [asyncio.create_task(app(websocket_scope("/rooms/tea"), one.receive, one.send)) for one in clients]  # type: ignore[operator]
    for _ in range(40):
        await asyncio.sleep(0)
    clients[0].feed(text("hello"))
    for _ in range(40):
        await asyncio.sleep(0)
    assert [one.payloads for one in clients] == [[], ["hello"]]
    for one in clients:
        one.feed(disconnect(1000))
    await asyncio.wait_for(asyncio.gather(*serving), 5)
    stranger = Server()
    scope = websocket_scope("/rooms/tea", headers=[(b"origin", b"https://evil.example")])
    await app(scope, stranger.receive, stranger.send)  # type: ignore[operator]
    assert stranger.status == 403


async def test_create_app_with_a_handler_runs_as_written() -> None:
    """The three lines make an app that answers."""
    import asyncio

    names: dict[str, object] = {}
    exec(compile(snippets()[1], "README.md", "exec"), names)
    app = names["app"]
    client = Server(stay=True)
    serving = asyncio.create_task(app(websocket_scope("/ws/tea"), client.receive, client.send))  # type: ignore[operator]
    for _ in range(40):
        await asyncio.sleep(0)
    client.feed(text("hi"))
    for _ in range(40):
        await asyncio.sleep(0)
    assert client.payloads == ["you said hi"]
    client.feed(disconnect(1000))
    await asyncio.wait_for(serving, 5)
    await app.stop()  # type: ignore[attr-defined]


def test_every_link_in_the_documents_leads_to_a_file() -> None:
    """Relative links of the README and of docs/ exist."""
    for document in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.relative_to(ROOT)}: {target}"


if __name__ == "__main__":
    begin, end = README.index("-->", README.index("settings:begin")) + 4, README.index("<!-- settings:end")
    (ROOT / "README.md").write_text(README[:begin] + short_table() + "\n" + README[end:], encoding="utf-8")
