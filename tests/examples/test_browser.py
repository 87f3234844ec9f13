"""The example page in a real browser against a real gateway."""

from __future__ import annotations

import asyncio
import warnings
from pathlib import Path
from typing import Any

import pytest
import websockets

from tests.integration.gateway_process import running
from tests.needs import need

PAGE = (Path(__file__).parents[2] / "examples" / "browser.html").as_uri()
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def chromium() -> str:
    """The path of a Chromium; without one the test is skipped on a laptop and fails in CI."""
    return need("chromium", "chromium-browser", "google-chrome", how="apt-get install chromium")


async def test_two_pages_talk_in_a_room_and_come_back_after_a_restart() -> None:
    """What one says the other shows as text; after a close that allows it the page reconnects by itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from playwright.async_api import async_playwright
    path = chromium()
    async with running(ALLOWED_ORIGINS="null") as gateway, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            pages = [await browser.new_page() for _ in range(2)]
            for page in pages:
                await page.goto(f"{PAGE}?url={gateway.url('lobby')}")
                await page.get_by_text("Connected.").wait_for()
            await pages[0].get_by_label("Message").fill("<b>hello</b>")
            await pages[0].get_by_role("button", name="Send").click()
            await pages[1].get_by_text("<b>hello</b>", exact=True).wait_for()  # as text: no markup of strangers is run
            async with gateway.connect("lobby") as client:
                await client.send(b"12345")
            await pages[1].get_by_text("5 bytes").wait_for()
            await _close_all(gateway)
            await pages[1].get_by_text("trying again").wait_for()
            await pages[1].get_by_text("Connected.").wait_for()
        finally:
            await browser.close()


async def _close_all(gateway: Any) -> None:
    _, room = await gateway.get("/api/rooms/lobby")
    for identity in room["connections"]:
        await gateway.request("DELETE", f"/api/connections/{identity}?reason=restarting")


async def test_a_page_of_another_origin_is_refused() -> None:
    """Without the origin on the list the browser gets no socket."""
    async with running() as gateway:
        with pytest.raises(websockets.exceptions.InvalidStatus):
            await gateway.connect("lobby", origin=websockets.Origin("null"))
        await asyncio.sleep(0)
