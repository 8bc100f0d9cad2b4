"""A new webhook by form: every wrong field at once, nothing created until all are right."""

from __future__ import annotations

from decimal import Decimal

from kekbridge.store import webhooks
from tests.admin.session import Browser


async def test_a_webhook_is_created(browser: Browser) -> None:
    """Name and limits are checked together; what was entered is kept; a taken name is one, too."""
    key = await browser.log_in()
    database = browser.bridge.daemon.database
    assert "New webhook" in await browser.page("/webhooks")
    assert 'name="max_notional"' in await browser.page("/webhooks/new")
    status, page = await browser.post(
        "/webhooks/new", key=key, name="from <page>", max_order_size="1 BTC", allowed_symbols="BTC"
    )
    assert status == 422
    for words in ("2 fields are wrong", "from &lt;page&gt;", 'value="1 BTC"', 'value="BTC"', "1 to 64 letters"):
        assert words in page
    status, page = await browser.post("/webhooks/new", key=key, name="main")
    assert (status, "A webhook named main already exists" in page) == (422, True)
    assert len(await database.read(webhooks.list_all)) == 1
    status, _ = await browser.post(
        "/webhooks/new", key=key, name="paged", max_order_size="0.5", allowed_symbols="BTC", max_notional=""
    )
    made = await database.read(webhooks.find, "paged")
    limits = made.settings.limits
    assert (status, limits.max_order_size, limits.max_notional) == (303, Decimal("0.5"), None)
    assert limits.allowed_symbols == ("PERP_BTC_USDC",)
    assert "wh_test_" in await browser.page(f"/webhooks/{made.id}")
