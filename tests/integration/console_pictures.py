"""Takes the pictures of ``docs/console.md``: ``python -m tests.integration.console_pictures [FOLDER]``, about two minutes.

What ``tidegate top --once`` shows of the same gateway is printed, to go into the page as it is.

A gateway with some life in it, seen light, dark, on a small screen and before the key is given.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import random
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.integration.console_browser import Console, console
from tests.integration.gateway_process import API_KEY, GatewayProcess

IMAGES = Path(__file__).parents[2] / "docs" / "images"
ROOMS = {
    "lobby": 46, "chat:general": 31, "chat:42": 22, "prices:EURUSD": 18, "game:7f3a": 9, "ops:alerts": 6, "<b>bold": 3,
    "статус": 2, "game:91c0": 2,
}  # fmt: skip
SAYINGS = ("high tide at 14:32", "gate 3 is open", "wind 4 from the west", "low tide at 20:51", "all quiet")
WATCHED_SECONDS = 110.0


async def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    async with console(height=980, NAMESPACES="chat,prices,game") as shown, contextlib.AsyncExitStack() as stack:
        clients = [await _member(stack, shown.gateway, room) for room, members in ROOMS.items() for _ in range(members)]
        living = asyncio.create_task(_live(shown.gateway, clients))
        await shown.open(key=None)
        await shown.key_field.wait_for()
        await shown.page.screenshot(path=folder / "console-key.png", clip={"x": 0, "y": 0, "width": 1440, "height": 340})
        await shown.open()
        await _use(shown)
        await asyncio.sleep(WATCHED_SECONDS)
        await _pictures(shown, folder)
        await _top(shown.gateway)
        living.cancel()
        await asyncio.wait((living,))


async def _member(stack: contextlib.AsyncExitStack, gateway: GatewayProcess, room: str) -> Any:
    client = await stack.enter_async_context(gateway.connect(quote(room, safe="")))
    reading = asyncio.create_task(_read(client))
    stack.callback(reading.cancel)
    return client


async def _read(client: Any) -> None:
    with contextlib.suppress(Exception):
        async for _ in client:
            pass


async def _live(gateway: GatewayProcess, clients: list[Any]) -> None:
    """Talk, in waves; now and then somebody comes and goes."""
    tide = 0.0
    while True:
        tide += random.uniform(0.05, 0.25)
        for client in random.sample(clients, int(12 + 8 * (1 + math.sin(tide)))):
            await client.send(json.dumps({"n": random.randrange(1000), "text": random.choice(SAYINGS)}))
        if random.random() < 0.3:
            async with gateway.connect("lobby"):
                await asyncio.sleep(0.1)
        await asyncio.sleep(random.uniform(0.1, 0.3))


async def _use(shown: Console) -> None:
    page = shown.page
    await page.get_by_role("button", name="lobby").click()
    await page.locator("#inspect-connections button").first.click()
    await page.get_by_label("Room to listen to").fill("game:7f3a")
    await page.locator("#listen-button").click()
    await page.get_by_label("Room to publish to").fill("game:7f3a")
    await page.get_by_label("Message to publish").fill("spring tide tomorrow: the gate closes at 02:10")
    await page.get_by_role("button", name="Publish").click()


async def _pictures(shown: Console, folder: Path) -> None:
    page = shown.page
    await page.mouse.move(0, 0)
    await page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    height = await page.evaluate("document.documentElement.scrollHeight")
    await page.set_viewport_size({"width": 1440, "height": height})
    await page.screenshot(path=folder / "console-light.png")
    await page.emulate_media(color_scheme="dark")
    await page.screenshot(path=folder / "console-dark.png")
    await page.set_viewport_size({"width": 420, "height": 860})
    await page.screenshot(path=folder / "console-small.png")


async def _top(gateway: GatewayProcess) -> None:
    command = [sys.executable, "-m", "gateway", "top", "--once", "--ops-url", f"http://{gateway.ops}"]
    environment = {**os.environ, "COLUMNS": "113", "TIDEGATE_API_KEY": API_KEY}
    process = await asyncio.create_subprocess_exec(*command, env=environment)
    await process.wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES))
