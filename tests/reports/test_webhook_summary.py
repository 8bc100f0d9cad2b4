"""Webhooks in one line each: what they accept now, and what opens a closed one."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from kekbridge.model import Limits, TradingState, Webhook, WebhookSettings
from kekbridge.reports.webhook_summary import accepted_text, largest_order_text, markets_text, read, read_all
from kekbridge.store import settings, webhooks
from tests.fresh_database import open_database
from tests.trading import NOW

PLAIN = Webhook(id="1", name="a", enabled=True, created_at=NOW)


def limited(**limits: object) -> Webhook:
    return replace(PLAIN, settings=WebhookSettings(limits=Limits(**limits)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("webhook", "markets", "largest"),
    [
        (limited(max_notional=None), "any", None),
        (limited(allowed_symbols=("PERP_BTC_USDC", "PERP_ETH_USDC")), "BTC, ETH", "10,000 USDC"),
        (limited(allowed_symbols=(), max_order_size=Decimal("0.5"), max_notional=None), "none", "0.5"),
        (limited(max_order_size=Decimal("0.5")), "any", "0.5, 10,000 USDC"),
    ],
)
def test_limits_in_a_line(webhook: Webhook, markets: str, largest: str | None) -> None:
    """Markets without the exchange's spelling; no market is not any market."""
    assert (markets_text(webhook), largest_order_text(webhook)) == (markets, largest)


def test_a_disabled_webhook_is_only_disabled() -> None:
    """Whatever its trading state is: that matters once it is enabled."""
    assert accepted_text("halted (lunch)", is_enabled=False) == "disabled"
    assert accepted_text("halted (lunch)", is_enabled=True) == "halted (lunch)"
    assert accepted_text("running", is_enabled=True) == "enabled"


def test_a_closed_webhook_says_what_opens_it(tmp_path: Path) -> None:
    """The account's state closes all its webhooks; a disabled one needs no resume."""
    database = open_database(tmp_path)
    with database.transaction() as connection:
        for name in ("a", "b"):
            webhooks.create(connection, webhook_id=name, name=name, settings=WebhookSettings(), now=NOW)
        webhooks.disable(connection, "b", now=NOW)
        assert [one.state for one in read_all(connection, now=NOW)] == ["enabled", "disabled"]
        assert read(connection, "a", now=NOW).last_alert_at is None
        settings.set_trading_state(connection, TradingState.HALTED, reason="lunch", by="test", now=NOW)
        found, disabled = read_all(connection, now=NOW)
    assert (found.state, found.fix) == ("halted (lunch)", "`kekbridge resume`")
    assert (disabled.state, disabled.fix) == ("disabled", "")
    database.close_now()
