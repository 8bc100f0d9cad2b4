"""Whatever happens to the account and whatever cannot be read of it for a while: in the end every figure is the exchange's own."""

from __future__ import annotations

import asyncio
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kekbridge.store import codec, fills, incomplete_orders, reservations, settings
from tests.bridge import BTC, ETH, SOL, Bridge, quick_bridge, running_paper
from tests.equality import assert_rebuilt_equal
from tests.stored import funding_total
from tests.waiting import until

D = Decimal
STEPS = 40
PRICES = {BTC: D(65000), ETH: D(1800), SOL: D(150)}
TICKERS = {BTC: "BTCUSDT.P", ETH: "ETHUSDT.P", SOL: "SOLUSDT.P"}
SIZES = {BTC: "0.02", ETH: "0.5", SOL: "5"}
FAULTS: list[dict[str, Any]] = [
    {"kind": "server_error", "method": "GET"},
    {"kind": "server_error", "method": "GET", "path": "/v1/trades"},
    {"kind": "server_error", "method": "GET", "path": "/v1/liquidations"},
    {"kind": "server_error", "method": "GET", "path": "/v1/funding_fee/history"},
    {"kind": "withhold_reports"},
    {"kind": "duplicate_reports"},
    {"kind": "reorder_reports"},
    {"kind": "stream_drop", "count": 2},
    {"kind": "partial_fills", "parts": 3},
    {"kind": "read_lag", "delay_ms": 300},
]


async def step(bridge: Bridge, choice: random.Random, prices: dict[str, Decimal]) -> None:
    """Do one thing to the account, with or without an alert."""
    symbol = choice.choice(list(PRICES))
    what = choice.choice(("entry", "entry", "entry", "close", "prices", "prices", "fault", "fault", "clear", "account"))
    if what == "entry":
        exits = choice.choice(({}, {"stopLoss": "1%"}, {"stopLoss": "1%", "takeProfit": "1%"}))
        action = choice.choice(("buy", "sell"))
        await bridge.send(symbol=TICKERS[symbol], action=action, quantity=SIZES[symbol], **exits)
    elif what == "close":
        await bridge.send(symbol=TICKERS[symbol], action="close", quantity=None)
    elif what == "prices":
        prices[symbol] = (prices[symbol] * choice.choice((D("0.985"), D("1.015")))).quantize(D("0.1"))
        await bridge.control("prices", {symbol: str(prices[symbol])})
    elif what == "fault":
        await bridge.fault(**choice.choice(FAULTS))
    elif what == "clear":
        await bridge.clear_faults()
    else:
        await change_account(bridge, choice, symbol)


async def change_account(bridge: Bridge, choice: random.Random, symbol: str) -> None:
    """What the exchange, or the trader elsewhere, does to the account."""
    held = (await bridge.positions()).get(symbol, D(0))
    isolated = symbol in await bridge.isolated_positions()
    what = choice.choice(("funding", "transfer", "isolated", "liquidation", "adl"))
    if what == "funding":
        await bridge.control("funding", {symbol: "0.0007"})
    elif what == "transfer":
        await bridge.control("transfer", {"amount": choice.choice(("250", "-100"))})
    elif what == "isolated" and not isolated:
        await bridge.control("isolated-positions", {symbol: {"quantity": SIZES[symbol], "leverage": 5}})
    elif isolated and what == "liquidation":
        await bridge.control("liquidate", {"symbol": symbol, "margin_mode": "ISOLATED"})
    elif held and what == "liquidation":
        await bridge.control("liquidate", {"symbol": symbol, "tenths": choice.choice((5, 10))})
    elif held:
        await bridge.control("adl", {"symbol": symbol, "quantity": str(abs(held))})


async def differences(bridge: Bridge) -> dict[str, tuple[object, object]]:
    """What the bridge has counted and what the exchange has booked, where they differ."""
    database, today = bridge.daemon.database, codec.day_of(bridge.clock())
    booked = await bridge.control("journal")

    def rows(event: str) -> list[dict[str, Any]]:
        return [row for row in booked if row["event"] == event]

    def total(of: list[dict[str, Any]], field: str) -> Decimal:
        return codec.exact_total(D(row[field]) for row in of)

    taken = [row for event in rows("liquidation") for row in event["positions"]]
    day = await database.read(reservations.read_day, settings.ACCOUNT, today)
    stored = await database.read(fills.list_fills, limit=10_000)
    found: dict[str, tuple[object, object]] = {
        "trades": (
            sorted(fill.trade_id for fill in stored if fill.trade_id.isdigit()),
            sorted(str(row["trade_id"]) for row in rows("fill")),
        ),
        "realized": (day.realized_pnl, total([*rows("fill"), *taken, *rows("adl")], "realized_pnl")),
        "funding": (day.funding, total(rows("funding"), "funding_fee")),
        "funding stored": (await database.read(funding_total), day.funding),
        "transfers": (total(await bridge.events("transfer"), "amount"), total(rows("transfer"), "amount")),
        "liquidations": (len(await bridge.events("liquidation")), len(taken)),
        "takeovers": (len(await bridge.events("adl")), len(rows("adl"))),
        "incomplete": (await database.read(incomplete_orders.count), 0),
    }
    return {name: pair for name, pair in found.items() if pair[0] != pair[1]}


@pytest.mark.parametrize("seed", [1, 33])
async def test_every_figure_is_the_exchanges_own(tmp_path: Path, seed: int) -> None:
    """Trades, realized P&L, funding, transfers and takeovers are complete after any mixture of faults, each counted once."""
    choice, prices = random.Random(seed), dict(PRICES)
    async with (
        running_paper(tmp_path / "paper") as paper_url,
        quick_bridge(tmp_path, paper_url, queue__reconcile_every_s=2) as bridge,
    ):
        await bridge.control("prices", {symbol: str(price) for symbol, price in PRICES.items()})
        for _ in range(STEPS):
            await step(bridge, choice, prices)
            await asyncio.sleep(choice.choice((0.0, 0.02, 0.1)))
        await bridge.clear_faults()

        async def is_equal() -> bool:
            await bridge.daemon.operator_services.jobs.run_now("equity")
            return not await differences(bridge)

        try:
            await until(is_equal)
        except AssertionError:
            raise AssertionError(f"seed {seed}: {await differences(bridge)}") from None
    assert_rebuilt_equal(tmp_path / "data")
