"""The page of the notifications: what it shows, what it changes, and how it refuses."""

from __future__ import annotations

from kekbridge.ops.notify_settings import ListEvents, ShowQuietHours
from kekbridge.ops.vault_operations import ListChannels
from tests.admin.session import Browser

TOKEN = "s3cret-token"


async def test_channels_are_added_tested_and_removed(browser: Browser) -> None:
    """A channel is used at once and shown by its name, never by its URL; what is no URL comes back with its message, and is kept."""
    key = await browser.log_in()
    run = browser.bridge.daemon.operations.run
    assert "No channel yet" in await browser.page("/notifications")
    assert (await browser.post("/notifications/test", key=key))[0] == 422
    status, page = await browser.post("/notifications/add", key=key, url="nonsense<b>")
    assert status == 422
    assert 'value="nonsense&lt;b&gt;"' in page
    assert "apprise knows" in page
    assert (await browser.post("/notifications/add", key=key, url=f"json://127.0.0.1:1/{TOKEN}"))[0] == 303
    (name,) = await run(ListChannels())
    page = await browser.page("/notifications?done=added")
    assert name in page
    assert "The channel was added" in page
    assert TOKEN not in page
    status, page = await browser.post("/notifications/test", key=key)
    assert status == 200
    assert "NOT delivered" in page
    assert (await browser.post("/notifications/remove", key=key, channel=name))[0] == 303
    assert await run(ListChannels()) == []
    assert (await browser.post("/notifications/remove", key=key, channel=name))[0] == 404


async def test_quiet_hours_and_levels_are_saved(browser: Browser) -> None:
    """Wrong hours come back with a message under the field; only levels that were changed are stored."""
    key = await browser.log_in()
    run = browser.bridge.daemon.operations.run
    status, page = await browser.post("/notifications/hours", key=key, hours="25:00-07:00", zone="")
    assert status == 422
    assert 'id="hours-problem"' in page
    assert (await browser.post("/notifications/hours", key=key, hours="22:00-07:00", zone="Europe/Berlin"))[0] == 303
    assert await run(ShowQuietHours()) == {"hours": "22:00-07:00", "zone": "Europe/Berlin"}
    assert (await browser.post("/notifications/hours", key=key, hours="22:00-07:00", off="yes"))[0] == 303
    assert (await run(ShowQuietHours()))["hours"] == ""
    sent = {"level-order_filled": "off", "level-stop_fired": "warning", "level-unknown": "off"}
    assert (await browser.post("/notifications/levels", key=key, **sent))[0] == 303
    levels = {one["event"]: one["level"] for one in await run(ListEvents()) if one["level"] != one["severity"]}
    assert levels == {"order_filled": "off"}
    assert "Information: " in await browser.page("/notifications")
    assert (await browser.post("/notifications/levels", key=key, **{"level-order_filled": "loud"}))[0] == 409
