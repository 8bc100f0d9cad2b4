"""Take-profits that an entry's own request cannot carry are placed once it executed, sized by what was executed, with bounded retries."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from kekbridge.model import Order, OrderStatus, SideTotals
from kekbridge.store import protection
from tests.bridge import BTC, Bridge, quick_bridge, running_paper
from tests.waiting import until

D = Decimal
TAKE_PROFITS = [{"price": "1%", "share": "50%"}, {"price": "2%", "share": "50%"}]


async def _exits_of(bridge: Bridge, answer: dict[str, object]) -> tuple[Order, ...]:
    return await bridge.daemon.database.read(protection.orders_for, await bridge.order(answer))


async def _until_over(bridge: Bridge) -> None:
    async def is_over() -> bool:
        return await bridge.daemon.database.read(protection.entries_missing_take_profits) == ()

    await until(is_over)


async def test_the_nearer_take_profit_is_placed_after_the_entry(bridge: Bridge) -> None:
    """Two take-profits and a stop: the bracket holds stop and farthest, the nearer one is a separate order for its share."""
    _, answer = await bridge.send(quantity="0.02", stopLoss="2%", takeProfit=TAKE_PROFITS)
    assert answer["status"] == "filled"
    await _until_over(bridge)
    (nearer,) = await _exits_of(bridge, answer)
    assert (nearer.intent.quantity, nearer.status) == (D("0.01"), OrderStatus.ACCEPTED)
    assert nearer.intent.reduce_only


async def test_each_take_profit_closes_its_share(bridge: Bridge) -> None:
    """The mark price passes the nearer one: half is closed; it passes the farther one: no position and no order is left."""
    _, answer = await bridge.send(quantity="0.02", stopLoss="2%", takeProfit=TAKE_PROFITS)
    await _until_over(bridge)
    await bridge.control("prices", {BTC: "65700"})

    async def is_half() -> bool:
        return await bridge.positions() == {BTC: D("0.01")}

    await until(is_half)
    await bridge.control("prices", {BTC: "66350"})
    await bridge.until_flat(BTC)

    async def has_no_open_order() -> bool:
        return await bridge.daemon.exchange.open_orders() == ()

    await until(has_no_open_order)

    async def is_recorded() -> bool:
        (known,) = await _exits_of(bridge, answer)
        return known.status is OrderStatus.FILLED

    await until(is_recorded)


async def test_an_open_take_profit_does_not_count_as_a_pending_close(bridge: Bridge) -> None:
    """It may never trade: 50% of the position is half of what is held, and a strategy's known position has not drifted."""
    await bridge.send(quantity="0.02", stopLoss="2%", takeProfit=TAKE_PROFITS)
    await _until_over(bridge)
    book = bridge.daemon.trading.book
    assert [order.intent.may_rest for order in book.orders.values()] == [True]
    usage = book.usage("", now=bridge.clock())
    assert usage.commitment(BTC).open != SideTotals()
    assert usage.pending(BTC) == 0
    _, answer = await bridge.send(action="close", quantity="50%")
    assert D(str(answer["executedQuantity"])) == D("0.01")


async def test_a_rejected_take_profit_is_given_up_after_three_attempts(bridge: Bridge) -> None:
    """The exchange rejects it each time: it is sent three times, each attempt stored with its reason, and then no more."""
    await bridge.fault("refuse", algo_type="TP_SL", code=-1101)
    _, answer = await bridge.send(quantity="0.02", stopLoss="2%", takeProfit=TAKE_PROFITS)
    await _until_over(bridge)
    attempts = await _exits_of(bridge, answer)
    assert [(order.status, order.code) for order in attempts] == [(OrderStatus.REJECTED, "orderly:-1101")] * 3


async def test_a_restart_places_what_is_missing_once(tmp_path: Path) -> None:
    """Stopped between the entry's fill and the placing: the next start places the take-profit, once."""
    async with running_paper(tmp_path / "paper") as paper_url:
        async with quick_bridge(tmp_path, paper_url) as bridge:
            _, answer = await bridge.send(quantity="0.02", stopLoss="2%", takeProfit=TAKE_PROFITS)
        async with quick_bridge(tmp_path, paper_url) as bridge:
            await _until_over(bridge)
            placed = [order for order in await _exits_of(bridge, answer) if order.status is OrderStatus.ACCEPTED]
            assert len(placed) == 1


async def test_a_position_that_is_gone_gets_no_take_profit(bridge: Bridge) -> None:
    """Closed before the take-profit could be placed: nothing more is sent."""
    await bridge.fault("refuse", algo_type="TP_SL", code=-1101, count=1)
    await bridge.send(quantity="0.02", stopLoss="2%", takeProfit=TAKE_PROFITS)
    await bridge.send(action="close", quantity=None)
    await bridge.until_flat(BTC)
    await _until_over(bridge)
    assert await bridge.positions() == {}
