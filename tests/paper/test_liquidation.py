"""Liquidation (docs/internals/orderly.md, section 10)."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

from kekbridge.paper.settings import PaperSettings
from tests.paper.offline_exchange import OfflineExchange
from tests.paper.trader import BTC, ETH, SOL, Trader

D = Decimal


async def test_liquidation_reduces_the_position_and_rejects_orders(trader: Trader) -> None:
    """Below the maintenance margin orders are canceled and the position is reduced; creates are then rejected with -1012."""
    await trader.ok("POST", "/v1/client/leverages", {"symbol": BTC, "leverage": 20})
    await trader.done(await trader.order(order_quantity="10"))
    resting = await trader.order(symbol=ETH, order_type="LIMIT", order_price="1750", order_quantity="0.1")
    liquidation_price = (await trader.position_row(BTC))["est_liq_price"]
    await trader.prices(BTC=str(liquidation_price.quantize(Decimal("0.1")) + 20))
    assert await trader.position() == 10
    await trader.prices(BTC=str(liquidation_price.quantize(Decimal("0.1")) - 300))
    body = {"symbol": SOL, "side": "BUY", "order_type": "MARKET", "order_quantity": "1"}
    assert await trader.rejected("POST", "/v1/order", body) == (400, -1012)
    assert await trader.position() < 10
    assert (await trader.ok("GET", f"/v1/order/{resting}"))["status"] == "CANCELLED"
    (entry,) = (await trader.ok("GET", "/v1/liquidations"))["rows"]
    assert entry["positions_by_perp"][0]["symbol"] == BTC


def test_liquidation_accounts_for_every_usdc(tmp_path: Path) -> None:
    """Balance, costs, liquidation fees and insurance fund add up; the account value never ends below zero."""
    offline = OfflineExchange(tmp_path / "paper.db", PaperSettings(prices="static", balance=D(10_000), leverage=20))
    offline.order(order_quantity="2")
    offline.run()
    offline.price(BTC, "55000")
    state = offline.exchange.state
    (event,) = [e for e in offline.journal.events() if e["event"] == "liquidation"]
    (handed,) = event["positions"]
    assert D(handed["position_qty"]) == 2
    assert offline.held(BTC) == 0
    fees = D(handed["abs_liquidator_fee"]) + D(handed["abs_insurance_fund_fee"])
    lost = 10_000 + 2 * (D(55000) - 65000) - D("58.5") - fees
    value = offline.exchange.portfolio.margin().account_value
    assert lost < 0
    assert value == 0
    (entry,) = state.history["liquidations"]
    assert json.loads(entry.body, parse_float=D)["transfer_amount_to_insurance_fund"] == lost
    assert state.account.frozen_until > offline.now
    offline.journal.close()
