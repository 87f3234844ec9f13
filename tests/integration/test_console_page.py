"""The console in a real browser against a real gateway."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from urllib.parse import quote

from playwright.async_api import expect

from tests.integration.console_browser import console
from tests.integration.gateway_process import API_KEY, hear

HOSTILE = "<img src=x onerror=alert(1)>\u202e'\"&amp;"


async def test_figures_move_under_load() -> None:
    """Connections, rates, rooms, ledger and closes are those of what clients do, and nothing on the page fails."""
    async with console() as shown:
        await shown.open()
        page = shown.page
        await expect(shown.figure("connections.now")).to_have_text("0")
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(shown.gateway.connect("lobby")) for _ in range(3)]
            await expect(shown.figure("connections.now")).to_have_text("3")

            async def talk() -> None:
                while True:
                    await clients[0].send("hello")
                    await hear(clients[1])
                    await hear(clients[2])
                    await asyncio.sleep(0.02)

            talking = asyncio.create_task(talk())
            for name in ("messages.received_per_second", "messages.sent_per_second"):
                await expect(shown.figure(name)).to_have_text(re.compile(r"^(?!0$)[\d,.]+$"))
            row = page.locator("#rooms tr", has_text="lobby")
            await expect(row.locator("td").nth(1)).to_have_text("3")
            await page.get_by_role("button", name="by rate").click()
            await expect(row.locator("td").nth(2)).to_have_text(re.compile(r"^(?!0$)[\d,.]+$"))
            await expect(page.locator("#latencies tr", has_text="Fan-out").locator("td").nth(4)).not_to_have_text("0")
            assert await page.locator("#traffic path.line").first.get_attribute("d")
            talking.cancel()
            await asyncio.wait((talking,))
        await expect(page.locator("#closes tr", has_text="normal").locator("td").nth(2)).to_have_text("3")
        await expect(page.locator("#accounted")).to_have_text("all accounted for")
        await expect(shown.figure("connections.peak")).to_have_text("3")


async def test_what_strangers_choose_is_shown_as_text() -> None:
    """A room and messages that are markup stay what they are, wherever they are shown; no script of theirs runs."""
    async with console() as shown:
        async with shown.gateway.connect(quote(HOSTILE, safe="")) as client:
            await shown.open()
            page = shown.page
            await page.locator("#rooms button").click()
            await expect(page.locator("#rooms button")).to_have_text(HOSTILE)
            await expect(page.locator("#inspect-members")).to_have_text("1")
            await expect(page.locator("#inspect-room")).to_have_value(HOSTILE)
            await page.locator("#inspect-connections button").first.click()
            await expect(page.locator("#inspect-connection")).to_contain_text(HOSTILE)
            await page.locator("#listen-button").click()
            await expect(page.locator("#listen-note")).to_contain_text("Listening as")
            await client.send("<script>alert(2)</script>")
            await expect(page.locator("#heard li span")).to_have_text("<script>alert(2)</script>")
            await client.send(b"\x00\x01\x02")
            await expect(page.locator("#heard li span").last).to_have_text("[binary, about 3 B]")
            assert await page.locator("img").count() == 1  # its own
            assert await page.locator("main script, main img").count() == 0


async def test_the_key_is_asked_for_kept_in_the_tab_and_forgotten() -> None:
    """Without it nothing is claimed or can be tried; a wrong one is told until the right one comes, which survives a reload."""
    async with console() as shown:
        await shown.open(key=None)
        page = shown.page
        await expect(shown.key_field).to_be_focused()
        assert not re.search(r"\d", await shown.figure("connections.now").text_content())
        for claim in ("#rooms-empty", "#closes-empty"):
            await expect(page.locator(claim)).to_be_hidden()
        for box in ("inspect", "publish", "listen"):
            await expect(page.locator(f"#{box}-note")).to_have_text("Enter the API key above.")
            await expect(page.locator(f"#{box}-room")).to_be_disabled()
        await shown.key_field.fill("wrong-key")
        await page.get_by_role("button", name="Use this key").click()
        await expect(page.get_by_role("alert")).to_contain_text("This is not the API's key")
        await expect(shown.key_field).to_be_focused()
        await shown.key_field.fill(API_KEY)
        await page.keyboard.press("Enter")
        await shown.live()
        await expect(shown.key_field).to_be_hidden()
        await expect(page.locator("#rooms-empty, #closes-empty")).to_have_text(
            ["Nobody is in a room.", "No client has disconnected yet."]
        )
        for box in ("inspect", "publish", "listen"):
            await expect(page.locator(f"#{box}-note")).to_have_text("")
            await expect(page.locator(f"#{box}-room")).to_be_enabled()
        assert "API's key" not in await page.content()
        await page.reload()
        await shown.live()
        assert API_KEY not in await page.content()
        assert API_KEY not in page.url
        assert await page.evaluate("Object.values(localStorage).join()") == "system"
        await page.get_by_role("button", name="Forget key").click()
        await expect(shown.key_field).to_be_visible()


async def test_without_a_key_there_are_figures_and_word_of_how_to_set_one() -> None:
    """Figures are shown at once; the boxes that do something say what is missing."""
    async with console(API_KEY="") as shown:
        await shown.open(key=None)
        page = shown.page
        await shown.live()
        await expect(shown.figure("connections.now")).to_have_text("0")
        await expect(page.locator("#no-key")).to_contain_text("TIDEGATE_API_KEY")
        await expect(shown.key_field).to_be_hidden()
        await page.get_by_label("Room to publish to").fill("lobby")
        await page.get_by_role("button", name="Publish").click()
        await expect(page.locator("#publish-note")).to_contain_text("TIDEGATE_API_KEY")
        await page.get_by_label("Room to listen to").fill("lobby")
        await page.locator("#listen-button").click()
        await expect(page.locator("#listen-note")).to_contain_text("TIDEGATE_API_KEY")
        await expect(page.locator("#listen-note")).not_to_contain_text("`")


async def test_what_is_published_is_heard() -> None:
    """By the listen box and by a client; a body that is wrong is told; stopping leaves the room."""
    async with console() as shown:
        async with shown.gateway.connect("lobby") as client:
            await shown.open()
            page = shown.page
            await page.get_by_label("Room to listen to").fill("lobby")
            await page.locator("#listen-button").click()
            await expect(page.locator("#listen-note")).to_contain_text("Listening as")
            await page.get_by_label("Room to publish to").fill("lobby")
            await page.get_by_label("Message to publish").fill("high tide")
            await page.get_by_role("button", name="Publish").click()
            await expect(page.locator("#publish-note")).to_contain_text("to 2 on this node")
            await expect(page.locator("#heard li span")).to_have_text("high tide")
            assert await hear(client) == ["high tide"]
            await page.get_by_label("Type of the message").select_option("application/json")
            await page.get_by_role("button", name="Publish").click()
            await expect(page.locator("#publish-note")).to_contain_text("not JSON")
            await page.locator("#listen-button").click()
            await expect(page.locator("#listen-note")).to_have_text("Stopped.")
            await page.get_by_label("Room to look into").fill("lobby")
            await page.keyboard.press("Enter")
            await expect(page.locator("#inspect-members")).to_have_text("1")
            await page.get_by_label("Room to look into").fill("empty")
            await page.keyboard.press("Enter")
            await expect(page.locator("#inspect-note")).to_have_text("Nobody is in this room.")  # of the whole cluster
            await page.get_by_label("Room to look into").fill("a/b")
            await page.keyboard.press("Enter")
            await expect(page.locator("#inspect-note")).to_contain_text("not a room name")


async def test_everything_can_be_done_with_the_keyboard() -> None:
    """From the key to a room's members, publishing and listening, without a mouse; every control has a name."""
    async with console() as shown:
        async with shown.gateway.connect("lobby") as client:
            await shown.open(key=None)
            page, keys = shown.page, shown.page.keyboard
            await expect(shown.key_field).to_be_focused()
            await keys.type(API_KEY)
            await keys.press("Enter")
            await shown.live()
            await expect(page.locator("#rooms button")).to_have_text("lobby")
            await shown.tab_to("by-rate")
            await keys.press("Space")
            await expect(page.locator("#by-rate")).to_have_attribute("aria-pressed", "true")
            await keys.press("Shift+Tab")
            await keys.press("Enter")
            await shown.tab_to("lobby")
            await keys.press("Enter")
            await expect(page.locator("#inspect-members")).to_have_text("1")
            assert await shown.focused() == "lobby"  # the table's change of figures takes the focus from nobody
            await shown.tab_to("publish-text")
            await keys.type("by hand")
            await shown.tab_to("Publish")
            await keys.press("Enter")
            assert await hear(client) == ["by hand"]
            await expect(page.locator("#publish-note")).to_contain_text("Published")
            assert await shown.focused() == "Publish"
            await shown.tab_to("listen-button")
            await keys.press("Enter")
            await expect(page.locator("#listen-note")).to_contain_text("Listening as")
            await keys.press("Enter")
            await expect(page.locator("#listen-note")).to_have_text("Stopped.")
            await page.reload()
            await shown.live()
            await keys.press("Tab")
            await expect(page.get_by_text("Skip to the figures")).to_be_focused()
            await keys.press("Enter")
            await shown.tab_to("by-members")
            nameless = await page.evaluate(
                """[...document.querySelectorAll("button, input, select, textarea, meter, progress, [role], [tabindex='0']")]
                   .filter((one) => !(one.labels?.length || one.ariaLabel || one.hasAttribute("aria-labelledby")
                                      || one.textContent.trim() || ["status", "alert"].includes(one.role)))
                   .map((one) => one.outerHTML)"""
            )
            assert nameless == []


LIGHT, DARK = "rgb(243, 245, 247)", "rgb(13, 19, 25)"


async def test_light_and_dark() -> None:
    """As the system has it, unless somebody has chosen, which a reload remembers. Nothing is wider than a small screen."""
    async with console(scheme="dark") as shown:
        await shown.open()
        page, body = shown.page, shown.page.locator("body")
        await expect(body).to_have_css("background-color", DARK)
        await page.emulate_media(color_scheme="light")
        await expect(body).to_have_css("background-color", LIGHT)
        toggle = page.get_by_role("button", name="Theme")
        await toggle.click()
        await toggle.click()
        await expect(toggle).to_have_text("Theme: dark")
        await expect(body).to_have_css("background-color", DARK)
        await page.reload()
        await expect(body).to_have_css("background-color", DARK)
        await toggle.click()
        await expect(body).to_have_css("background-color", LIGHT)
        for width in (360, 768, 1100, 1920):
            await page.set_viewport_size({"width": width, "height": 800})
            assert await page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), width


async def test_a_drain_is_shown_and_not_held_up() -> None:
    """SIGTERM shows how many are left; an open console with a listener keeps the process from nothing."""
    async with console(DRAIN__DELAY_SECONDS="3", DRAIN__PERIOD_SECONDS="2") as shown:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(5):
                await stack.enter_async_context(shown.gateway.connect("lobby"))
            await shown.open()
            page = shown.page
            await page.get_by_label("Room to listen to").fill("lobby")
            await page.locator("#listen-button").click()
            await expect(page.locator("#listen-note")).to_contain_text("Listening as")
            shown.gateway.process.send_signal(signal.SIGTERM)
            await expect(page.get_by_role("heading", name="Draining")).to_be_visible()
            await expect(page.locator("#drain-text")).to_contain_text("connections are still to be closed")
            await expect(page.locator("#listen-note")).to_have_text("Closed by the gateway: 1012 restarting.")
            async with asyncio.timeout(30):
                assert await shown.gateway.process.wait() == 0
                await asyncio.gather(*shown.gateway._readers)
            (drained,) = shown.gateway.events("drained")
            assert drained["aborted"] == 0
            await expect(page.locator("#link")).to_contain_text("trying again")
            await expect(page.locator("#state")).to_have_text("gone")


async def test_pause_stops_asking() -> None:
    """Nothing is asked of the gateway while paused, and figures go on where they are when it is over."""
    async with console() as shown:
        await shown.open()
        await shown.page.get_by_role("button", name="Pause").click()
        await expect(shown.page.locator("#link")).to_have_text("Paused")
        async with shown.gateway.connect("lobby"):
            await shown.page.get_by_role("button", name="Go on").click()
            await shown.live()
            await expect(shown.figure("connections.now")).to_have_text("1")
