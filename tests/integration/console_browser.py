"""The console in a headless browser against a real gateway."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.examples.test_browser import FLAGS, chromium
from tests.integration.gateway_process import API_KEY, GatewayProcess, running

__all__ = ["Console", "console"]


class Console:
    """A page with the console, what it has complained about, and the gateway that it shows."""

    def __init__(self, page: Any, gateway: GatewayProcess) -> None:
        self.page = page
        self.gateway = gateway
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("dialog", lambda dialog: self.complaints.append(f"a dialog: {dialog.message}"))

    async def open(self, key: str | None = API_KEY) -> None:
        """Load the page and, with a key, use it."""
        await self.page.goto(f"http://{self.gateway.ops}/console")
        if key is not None:
            await self.key_field.fill(key)
            await self.page.keyboard.press("Enter")
            await self.live()

    async def live(self) -> None:
        await self.page.get_by_text("Live", exact=True).wait_for()

    @property
    def key_field(self) -> Any:
        return self.page.get_by_role("textbox", name="API key")

    def figure(self, name: str) -> Any:
        """The first place of a figure, such as ``connections.now``."""
        return self.page.locator(f'[data-figure="{name}"]').first

    async def focused(self) -> str:
        """The id or the text of what has the focus."""
        found: str = await self.page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")
        return found

    async def tab_to(self, wanted: str) -> None:
        """Go on with the Tab key until ``wanted`` has the focus."""
        seen = []
        for _ in range(80):
            await self.page.keyboard.press("Tab")
            seen.append(await self.focused())
            if seen[-1] == wanted:
                return
        raise AssertionError(f"the Tab key never came to {wanted}: {seen}")


@asynccontextmanager
async def console(*, scheme: str = "light", width: int = 1440, height: int = 1000, **settings: str) -> AsyncIterator[Console]:
    """A gateway with these settings, and a page that is not loaded yet. At the end it must not have complained."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from playwright.async_api import async_playwright, expect
    expect.set_options(timeout=20_000)
    path = chromium()
    async with running(**settings) as gateway, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            page = await browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.set_default_timeout(20_000)
            shown = Console(page, gateway)
            yield shown
            expected = ("status of 401", "status of 403", "status of 400", "ERR_", "net::")
            assert [text for text in shown.complaints if not any(part in text for part in expected)] == []
        finally:
            await browser.close()
