"""An isolated position that the trader opens by hand and the cross position that alerts trade are two: neither is taken for the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kekbridge.execution.book import Book
from kekbridge.execution.load_book import load_book
from kekbridge.model import MarginMode, OrderType, RateLimits, Side
from kekbridge.store import codec, fills, positions
from kekbridge.store.settings import ACCOUNT
from tests.bridge import BTC, ETH, Bridge, running_bridge
from tests.waiting import until

D = Decimal
ISOLATED = MarginMode.ISOLATED


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    """A bridge with one webhook."""
    async with running_bridge(tmp_path) as opened:
        opened.add_webhook()
        yield opened


async def trade_by_hand(bridge: Bridge, side: Side, quantity: str, **fields: Any) -> None:
    """Send an order for the isolated position as the front end does: it is in no store."""
    await bridge.place_elsewhere(side=side, quantity=D(quantity), margin_mode=ISOLATED, **fields)


async def until_fills(bridge: Bridge, number: int) -> None:
    """Wait until so many fills are stored."""

    async def are_stored() -> bool:
        return len(await bridge.daemon.database.read(fills.list_fills)) == number

    await until(are_stored)


async def until_the_position_is_stored(bridge: Bridge, quantity: Decimal) -> None:
    """Wait until the table of positions, which a start reads, has the cross position."""

    async def is_stored() -> bool:
        held = await bridge.daemon.database.read(positions.list_all)
        return any(one.quantity == quantity and one.margin_mode is MarginMode.CROSS for one in held)

    await until(is_stored)


async def test_its_leverage_is_not_taken_for_the_cross_positions(bridge: Bridge) -> None:
    """Isolated at 3, cross at 10: the next alert without a leverage is sized and sent at 10, and neither changes."""
    before = bridge.daemon.exchange.leverage_of(BTC)
    await bridge.set_isolated(BTC, "-0.3", leverage=3)
    assert bridge.daemon.exchange.leverage_of(BTC) == before == 10
    assert (await bridge.send(quantity="0.2"))[1]["status"] == "filled"
    assert (await bridge.positions(), await bridge.isolated_positions()) == ({BTC: D("0.2")}, {BTC: D("-0.3")})
    assert await bridge.journal("leverage_set") == []


async def test_an_order_with_a_leverage_is_refused_by_name(bridge: Bridge) -> None:
    """Which of the two positions it means is not clear: denied with the code, the position and the ways out. Other markets are free."""
    await bridge.set_isolated(BTC, "-0.3", leverage=3)
    status, answer = await bridge.send(leverage="5")
    assert (status, answer["code"]) == (422, "isolated_position")
    assert "isolated one of -0.3" in answer["error"]
    assert "kekbridge close BTC --margin-mode isolated" in answer["error"]
    assert (await bridge.send(leverage="5", symbol="ETHUSDT.P", quantity="1"))[1]["status"] == "filled"
    await bridge.set_isolated(BTC, "0")
    assert (await bridge.send(leverage="5"))[1]["status"] == "filled"


@pytest.mark.parametrize("fields", [{"action": "close"}, {"action": "close_all", "symbol": None}])
async def test_a_close_says_that_it_stays_open(bridge: Bridge, fields: dict[str, Any]) -> None:
    """An alert's close finds no cross position: not just "flat", but the position that is left and the command that closes it."""
    await bridge.set_isolated(BTC, "-0.3")
    _, answer = await bridge.send(**fields)
    assert any("-0.3 stays open" in warning and "kekbridge close BTC" in warning for warning in answer["warnings"])
    assert await bridge.isolated_positions() == {BTC: D("-0.3")}
    assert await bridge.journal("order_received") == []


async def test_what_is_traded_in_it_is_no_webhooks(bridge: Bridge) -> None:
    """Opened and closed by hand at a loss beside a webhook's cross position: the loss counts for the account, not for the webhook, and the
    webhook still holds, and closes, what it opened. The book of the next start agrees.
    """
    assert (await bridge.send(quantity="0.2"))[1]["status"] == "filled"
    await trade_by_hand(bridge, Side.SELL, "0.5")
    await bridge.control("prices", {BTC: "66000"})
    await trade_by_hand(bridge, Side.BUY, "0.5", reduce_only=True)
    await until_fills(bridge, 3)
    stored = await bridge.daemon.database.read(fills.list_fills)
    assert [fill.margin_mode for fill in stored] == [MarginMode.CROSS, ISOLATED, ISOLATED]
    book, webhook_id, today = bridge.daemon.book, (await bridge.orders())[0].webhook_id, codec.day_of(bridge.clock())

    async def is_counted() -> bool:
        return book.day(ACCOUNT, today).realized_pnl < -400

    await until(is_counted)
    assert book.day(webhook_id, today).realized_pnl == 0
    assert book.holdings.comparable() == {BTC: {webhook_id: D("0.2")}}
    await until_the_position_is_stored(bridge, D("0.2"))
    with bridge.daemon.database.snapshot() as connection:
        loaded = Book()
        load_book(connection, loaded, account_rates=RateLimits(), now=bridge.clock())
    assert loaded.holdings.comparable() == {BTC: {webhook_id: D("0.2")}}
    assert (await bridge.send(action="close"))[1]["status"] == "filled"
    assert await bridge.positions() == {}


async def test_its_stop_protects_no_cross_position(bridge: Bridge) -> None:
    """The trader's stop order on the isolated position: a bracket that loses its own stop is protected with a stop of its own."""
    await bridge.set_isolated(BTC, "0.3")
    await trade_by_hand(bridge, Side.SELL, "0.3", order_type=OrderType.STOP, trigger_price=D(60_000), reduce_only=True)
    await bridge.fault("lose_stop", count=1)
    await bridge.send(quantity="0.2", stopLoss="2%")

    async def is_protected() -> bool:
        return any(stop.quantity == D("0.2") for stop in await bridge.daemon.exchange.live_stops(BTC))

    await until(is_protected)
    assert len(await bridge.daemon.exchange.live_stops(BTC)) == 1
    await bridge.control("prices", {BTC: "63000"})
    await bridge.until_flat(BTC)
    assert await bridge.isolated_positions() == {BTC: D("0.3")}


async def test_positions_are_listed_apart(bridge: Bridge) -> None:
    """The state that the pages and the dashboard show names the margin mode of each."""
    await bridge.set_positions(ETH="1")
    await bridge.set_isolated(ETH, "-2")
    held = (await bridge.daemon.state())["account"]["positions"]
    assert {(one["marginMode"], one["quantity"]) for one in held} == {("CROSS", "1"), ("ISOLATED", "-2")}
