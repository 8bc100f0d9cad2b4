"""The Activity tab: the alerts, P&L and latency of one webhook, not of its neighbours."""

from __future__ import annotations

from decimal import Decimal

from kekbridge.admin.webhook_activity import figures
from kekbridge.model.statistics import Facts, PnlPart, Tally, build_report
from kekbridge.store import webhooks
from tests.admin.session import Browser


def test_the_figures_of_a_period() -> None:
    """Net is what was realized less its fees and the funding of positions that it entered."""
    facts = Facts(
        since=None,
        alerts=[Tally("filled", "", 3), Tally("denied", "max_notional", 1)],
    )
    total = PnlPart(name="", realized_pnl=Decimal("12.5"), fees=Decimal("0.75"), funding=Decimal("-0.25"))
    found = {name: str(value) for name, value in figures(build_report(facts), total)}
    assert (found["Alerts"], found["Success"], found["Win rate"]) == ("4", "75.0 %", "-")
    assert "+12.00" in found["Net P&L (USDC)"]


async def test_a_webhooks_own_activity(browser: Browser) -> None:
    """Filtered by webhook and period; a period that does not exist is the usual one."""
    bridge = browser.bridge
    bridge.add_webhook("other")
    await bridge.send(action="buy", quantity="0.01")
    await bridge.send(webhook="other", action="buy", quantity="0.01", symbol="NOPEUSDT.P")
    await bridge.until_settled()
    await browser.log_in()
    main, other = [(await bridge.daemon.database.read(webhooks.find, name)).id for name in ("main", "other")]
    page = await browser.page(f"/webhooks/{main}/activity?days=1")
    assert "buy BTC" in page
    assert "symbol_unknown" not in page
    assert "accepted" in page
    page = await browser.page(f"/webhooks/{other}/activity?days=9")
    assert "symbol_unknown" in page
    assert "buy BTC" not in page
    assert "/log?webhook=other" in page
