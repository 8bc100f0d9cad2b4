"""The list of webhooks, and what happens to a whole one: rename, disable, delete."""

from __future__ import annotations

from decimal import Decimal

from kekbridge.admin.webhook_frame import TABS
from kekbridge.model import Limits
from kekbridge.store import webhooks
from tests.admin.session import Browser


async def test_a_webhooks_life(browser: Browser) -> None:
    """Every tab renders; the same functions as the command line with the same errors: a refused name is kept with 422."""
    key = await browser.log_in()
    database = browser.bridge.daemon.database
    browser.bridge.add_webhook("other")
    webhook = await database.read(webhooks.find, "main")
    base = f"/webhooks/{webhook.id}"
    assert base in await browser.page("/webhooks")
    for tab in TABS:
        assert 'aria-current="page">' + TABS[tab] in await browser.page(base if tab == "alert" else f"{base}/{tab}")
    for wrong in ("a b", "other"):
        status, page = await browser.post(f"{base}/rename", key=key, name=wrong)
        assert (status, f'value="{wrong}"' in page, "<details open" in page) == (422, True, True)
    assert (await browser.post(f"{base}/rename", key=key, name="renamed"))[0] == 303
    assert "Yes, disable renamed" in await browser.page(f"{base}/disable")
    await browser.post(f"{base}/disable", key=key)
    found = await database.read(webhooks.get, webhook.id)
    assert (found.name, found.enabled) == ("renamed", False)
    assert "The webhook is disabled and refuses every alert" in await browser.page(base)
    await browser.post(f"{base}/enable", key=key)
    assert (await database.read(webhooks.get, webhook.id)).enabled
    assert (await browser.post(f"{base}/explode", key=key))[0] in (404, 405)
    assert "Yes, delete renamed" in await browser.page(f"{base}/delete")
    assert (await browser.post(f"{base}/delete", key=key))[0] == 303
    assert [one.name for one in await database.read(webhooks.list_all)] == ["other"]
    await browser.page(base, 404)


async def test_a_closed_webhook_is_shown_as_closed(browser: Browser) -> None:
    """A limit that has closed it for entries stands in the list and above its tabs, not "enabled"."""
    browser.bridge.add_webhook("tight", limits=Limits(daily_limit=Decimal(1000)))
    for _ in range(2):
        await browser.bridge.send(webhook="tight", action="buy", quantity="0.01")
    await browser.bridge.until_settled()
    await browser.log_in()
    assert "daily limit" in await browser.page("/webhooks")
    identifier = (await browser.bridge.daemon.database.read(webhooks.find, "tight")).id
    page = await browser.page(f"/webhooks/{identifier}/limits")
    assert "exits only until" in page
    assert ">enabled<" not in page
