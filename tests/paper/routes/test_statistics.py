"""Endpoints of statistics."""

from __future__ import annotations

from tests.paper.trader import Trader


async def test_statistics_count_own_trades(trader: Trader) -> None:
    """Volume and fees are those of the account's own trades."""
    order = await trader.done(await trader.order(order_quantity="0.1"))
    found = await trader.ok("GET", "/v1/client/statistics")
    assert found["perp_trading_volume_last_24_hours"] == 6500
    assert found["fees_paid_last_30_days"] == order["total_fee"]
    assert (await trader.ok("GET", "/v1/volume/user/stats"))["perp_volume_ltd"] == 6500
