"""The Statistics page and its CSV files: any period, any webhook, figures of the store, wrong input in one line."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape

from tests.admin.session import Browser


async def test_statistics_of_any_period(browser: Browser) -> None:
    """Usual periods, dates with both days included, one webhook; charts with their figures as text; no style in the page; small."""
    await browser.log_in()
    empty = await browser.page("/stats?days=all")
    assert "none in this period" in empty
    await browser.bridge.send(action="buy", quantity="0.01")
    await browser.bridge.send(action="buy", quantity="1", symbol="NOPEUSDT.P")
    await browser.bridge.until_settled()
    await browser.bridge.daemon.operator_services.equity.run()
    text = unescape(await browser.page("/stats"))
    assert len(text) < 150_000
    assert "style=" not in text
    for words in ("Net P&L by day", "refused: symbol_unknown 1", "<b>Stored</b>", "data-crosshair", "Orders filled"):
        assert words in text, words
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    today = browser.bridge.clock().date()
    within = await browser.page(f"/stats?from={today}&to={today}")
    assert "symbol_unknown" in within
    assert f'value="{today}"' in within
    before = await browser.page(f"/stats?to={today - timedelta(days=1)}")
    assert "symbol_unknown" not in before
    own = await browser.page("/stats?days=1&webhook=main")
    assert "data-crosshair" not in own  # the account's equity is not that of a webhook
    assert 'href="/stats?days=30&amp;webhook=main"' in own


async def test_wrong_periods_are_explained_in_the_page(browser: Browser) -> None:
    """422 with the form and one line: what was found and expected. Outside text stays text."""
    await browser.log_in()
    for query, words in (
        ("from=<b>", "From: found '<b>'"),
        ("from=2026-11-22&to=2026-11-20", "To: found '2026-11-20', expected a time after From (2026-11-22)"),
        ("days=9", "days: found '9', expected one of 1, 7, 30, all"),
        ("webhook=mian", "mian"),
    ):
        text = await browser.page(f"/stats?{query}", 422)
        assert "<b>'" not in text
        assert words in unescape(text)
        assert "<form" in text
    await browser.page("/stats/other.csv", 404)


async def test_tables_are_downloaded_as_csv(browser: Browser) -> None:
    """The same period as on the page, as a file with a name."""
    await browser.log_in()
    await browser.bridge.send(action="buy", quantity="1", symbol="NOPEUSDT.P")
    await browser.bridge.until_settled()
    async with browser.session.get(f"{browser.url}/stats/rejections.csv?days=1") as answer:
        assert answer.status == 200
        assert answer.content_type == "text/csv"
        assert answer.headers["Content-Disposition"] == 'attachment; filename="kekbridge-rejections.csv"'
        assert await answer.text() == "outcome,code,alerts\nrefused,symbol_unknown,1\n"
