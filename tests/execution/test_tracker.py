"""The tracker learns the outcome of accepted orders from the stream, by queries after a gap, and by polling while the stream is down."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kekbridge.errors import ExchangeUnavailable
from kekbridge.model import Limits, OrderStatus
from kekbridge.model.orders import ExitKind
from kekbridge.store import (
    codec,
    fills,
    incomplete_orders,
    journal,
    protection,
    read_positions,
    reservations,
    settings,
)
from kekbridge.store.read_positions import RecordKind
from tests.bridge import BTC, ETH, Bridge, quick_bridge, running_paper
from tests.equality import assert_rebuilt_equal
from tests.waiting import until

D = Decimal


async def _resting(bridge: Bridge) -> dict[str, object]:
    """A limit buy under the market, accepted."""
    _, answer = await bridge.send(orderType="limit", limitPrice="64800")
    assert answer["status"] == "accepted"
    return answer


async def test_the_stream_reports_the_fill_of_a_resting_order(bridge: Bridge) -> None:
    """The market reaches a limit order: its fill is known without a query."""
    answer = await _resting(bridge)
    await bridge.control("prices", {BTC: "64700"})
    order = await bridge.until_stored(answer, "filled")
    (fill,) = await bridge.daemon.database.read(fills.of_order, order.client_order_id)
    assert (fill.quantity, order.executed_quantity) == (D("0.01"), D("0.01"))


async def test_orders_are_polled_while_the_stream_is_down(bridge: Bridge) -> None:
    """Without any stream the fill of a resting order is found by polling, within seconds."""
    answer = await _resting(bridge)
    await bridge.fault("stream_drop")
    await until(lambda: not bridge.daemon.exchange.health.stream_is_live)
    await bridge.control("prices", {BTC: "64700"})
    await bridge.until_stored(answer, "filled")
    assert not bridge.daemon.exchange.health.stream_is_live


async def test_unfinished_orders_are_queried_after_a_gap(bridge: Bridge) -> None:
    """Reports withheld, then the stream drops once: after it reconnects the missed fill is known."""
    answer = await _resting(bridge)
    await bridge.fault("withhold_reports")
    await bridge.control("prices", {BTC: "64700"})
    assert (await bridge.order(answer)).status is OrderStatus.ACCEPTED
    await bridge.clear_faults()
    await bridge.fault("stream_drop", count=1)
    await bridge.until_stored(answer, "filled")


async def test_duplicate_reports_count_once(bridge: Bridge) -> None:
    """Every report doubled: one fill, one quantity, one fee."""
    await bridge.fault("duplicate_reports")
    answer = await _resting(bridge)
    await bridge.control("prices", {BTC: "64700"})
    order = await bridge.until_stored(answer, "filled")
    await bridge.daemon.trading.reconciler.reconcile()
    recorded = await bridge.daemon.database.read(fills.of_order, order.client_order_id)
    assert sum((fill.quantity for fill in recorded), D(0)) == order.executed_quantity == D("0.01")


async def test_a_triggered_stop_is_recorded_with_its_entry(bridge: Bridge) -> None:
    """The mark price passes the stop: both exits, the exchange's own trade and its loss are recorded with the entry and its webhook."""
    _, answer = await bridge.send(symbol="ETHUSDT.P", quantity="0.1", stopLoss="1%", takeProfit="2%")
    await bridge.control("prices", {ETH: "1764"})

    async def is_recorded() -> bool:
        legs = await bridge.daemon.database.read(protection.exits_of, answer["clientOrderId"])
        return bool(legs) and all(leg.status.is_final for leg in legs)

    await until(is_recorded)
    legs = {leg.kind: leg for leg in await bridge.daemon.database.read(protection.exits_of, answer["clientOrderId"])}
    assert legs[ExitKind.STOP_LOSS].status is OrderStatus.FILLED
    assert legs[ExitKind.STOP_LOSS].executed_quantity == D("0.1")
    assert legs[ExitKind.TAKE_PROFIT].status is OrderStatus.CANCELED
    (fill,) = await bridge.daemon.database.read(fills.exits_of, answer["clientOrderId"])
    assert (fill.side.value, fill.quantity) == ("SELL", D("0.1"))
    entry = await bridge.order(answer)
    assert entry.executed_quantity == D("0.1")
    kinds = [event.kind for event in await bridge.daemon.database.read(journal.of_alert, entry.alert_id)]
    assert kinds.count("exit_fill") == 1

    async def is_loss_counted() -> bool:
        day = codec.day_of(bridge.clock())
        own = await bridge.daemon.database.read(reservations.read_day, entry.webhook_id, day)
        account = await bridge.daemon.database.read(reservations.read_day, settings.ACCOUNT, day)
        return own.realized_pnl < 0 and own.realized_pnl == account.realized_pnl

    await until(is_loss_counted)
    assert await bridge.daemon.database.read(protection.entries_with_open_exits) == ()


async def test_an_exit_that_was_not_requested_is_not_recorded(bridge: Bridge) -> None:
    """A stop alone: the pair's other leg exists at the exchange, but has no trigger and is no take-profit that the trader set."""
    _, answer = await bridge.send(symbol="ETHUSDT.P", quantity="0.1", stopLoss="1%")

    async def kinds() -> list[str]:
        return [leg.kind for leg in await bridge.daemon.database.read(protection.exits_of, answer["clientOrderId"])]

    async def is_recorded() -> bool:
        return bool(await kinds())

    await until(is_recorded)
    assert await kinds() == ["STOP_LOSS"]


async def test_positions_of_the_stream_are_stored(bridge: Bridge) -> None:
    """`kekbridge positions` shows a position that kekbridge did not open."""
    await bridge.control("positions", {ETH: "0.3"})

    async def is_stored() -> bool:
        with bridge.daemon.database.snapshot() as connection:
            row = connection.execute("SELECT quantity FROM positions WHERE symbol = ?", (ETH,)).fetchone()
        return row is not None and D(row[0]) == D("0.3")

    await until(is_stored)
    assert await bridge.daemon.database.read(settings.get_value, "exchange_address") == bridge.paper_url


async def test_fills_of_a_bracket_belong_to_its_entry(bridge: Bridge) -> None:
    """The stream reports the execution first, without its price; the trades follow by a query, and are those of our order."""
    for quantity in ("0.01", "0.02"):
        _, answer = await bridge.send(quantity=quantity, stopLoss="2%")
        order = await bridge.until_stored(answer, "filled")
        await bridge.daemon.operator_services.jobs.run_now("reconcile")
        found = await bridge.daemon.database.read(fills.of_order, order.client_order_id)
        assert sum(fill.quantity for fill in found) == order.executed_quantity == D(quantity)


# ------------------------------------------------------------------------------------------------------ complete executions


async def realized(bridge: Bridge) -> Decimal:
    """What the exchange's own records of trades realized."""
    trades = await bridge.journal("fill")
    return sum((D(trade["realized_pnl"]) for trade in trades), D(0))


async def day_total(bridge: Bridge) -> Decimal:
    day = codec.day_of(bridge.clock())
    return (await bridge.daemon.database.read(reservations.read_day, settings.ACCOUNT, day)).realized_pnl


async def until_complete(bridge: Bridge) -> None:
    """Wait until no order lacks a fill and the day's total is what the exchange's trades realized."""

    async def is_complete() -> bool:
        missing = await bridge.daemon.database.read(incomplete_orders.count)
        return missing == 0 and await day_total(bridge) == await realized(bridge)

    await until(is_complete)


async def test_a_stop_that_fires_while_reads_fail_is_counted(bridge: Bridge) -> None:
    """Its fill is stored although another market trades later, and the daily loss that it is stops the next entry."""
    bridge.add_webhook("careful", limits=Limits(max_notional=None, max_leverage=None, max_daily_loss=D(20)))
    await bridge.send("careful", symbol="ETHUSDT.P", quantity="1", stopLoss="1%")
    await bridge.fault("server_error", method="GET")
    await bridge.control("prices", {ETH: "1764"})
    await bridge.until_flat(ETH)
    await bridge.send(quantity="0.01")
    await asyncio.sleep(0.8)
    await bridge.clear_faults()
    await until_complete(bridge)
    assert await day_total(bridge) < -20
    status, answer = await bridge.send("careful", symbol="ETHUSDT.P", quantity="0.1")
    assert (status, answer["code"]) in ((422, "daily_loss"), (422, "exits_only"))


async def test_orders_that_come_and_go_are_no_missing_executions(bridge: Bridge) -> None:
    """A bracket that rests and is cancelled is reported, with its exits, and nothing has traded: no entry waits for fills because of it."""
    tracker = bridge.daemon.trading.tracker
    await bridge.until_synced()
    lacking = False

    async def watch() -> None:
        nonlocal lacking
        while True:
            lacking = lacking or tracker.lacks_executions
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    limit = {"orderType": "limit", "limitPrice": "64500", "stopLoss": "2%"}
    _, answer = await bridge.send(quantity="0.01", **limit)
    await bridge.until_stored(answer, "accepted")
    await bridge.send(action="cancel", quantity=None)
    await bridge.until_stored(answer, "canceled")
    await asyncio.sleep(0.2)  # the last reports
    watching.cancel()
    assert not lacking


async def test_an_entry_waits_while_the_loss_of_the_day_is_not_known(bridge: Bridge) -> None:
    """The stop has fired and its fill cannot be read: an entry under a daily loss is queued, not sent, and denied by what the stop lost."""
    bridge.add_webhook("careful", limits=Limits(max_notional=None, max_leverage=None, max_daily_loss=D(20)))
    await bridge.send("careful", symbol="ETHUSDT.P", quantity="1", stopLoss="1%")
    await bridge.fault("server_error", method="GET")
    await bridge.control("prices", {ETH: "1764"})
    await bridge.until_flat(ETH)
    await until(lambda: bridge.daemon.trading.tracker.lacks_executions)
    status, waiting = await bridge.send("careful", quantity="0.01")
    assert (status, waiting["status"]) == (202, "queued")
    _, free = await bridge.send(quantity="0.01")
    assert free["status"] == "filled", "a webhook without this limit does not wait"
    await bridge.clear_faults()
    order = await bridge.until_stored(waiting, "denied", "filled")
    assert (order.status, order.code) in ((OrderStatus.DENIED, "daily_loss"), (OrderStatus.DENIED, "exits_only"))
    await until_complete(bridge)


async def test_trades_that_are_listed_late_are_asked_for_again(tmp_path: Path) -> None:
    """The stream reports the fired stop, the lists show it some seconds later: nobody has to ask for anything else until it is stored."""
    async with (
        running_paper(tmp_path / "paper") as paper_url,
        quick_bridge(tmp_path, paper_url, queue__reconcile_every_s=3600) as bridge,
    ):
        await bridge.send(symbol="ETHUSDT.P", quantity="1", stopLoss="1%")
        await bridge.fault("read_lag", delay_ms=1500)
        await bridge.control("prices", {ETH: "1764"})
        await until(lambda: bridge.daemon.trading.tracker.lacks_executions)
        await until_complete(bridge)
        await until(lambda: not bridge.daemon.trading.tracker.lacks_executions)
        assert await day_total(bridge) < -20


async def test_a_close_whose_fills_cannot_be_read_is_completed_later(bridge: Bridge) -> None:
    """No report of the stream and no query of trades: the order stays on the to-do list, over a later trade, until its fill is there."""
    await bridge.send(quantity="0.02")
    await bridge.control("prices", {BTC: "64000"})
    await bridge.fault("withhold_reports")
    for path in ("/v1/trades",):
        await bridge.fault("server_error", method="GET", path=path)
    await bridge.fault("partial_fills", parts=3)
    _, answer = await bridge.send(action="close")
    order = await bridge.until_stored(answer, "filled")
    await bridge.fault("server_error", method="GET", path=f"/v1/order/{order.order_id}/trades")
    await bridge.clear_faults()
    await bridge.send(symbol="ETHUSDT.P", quantity="0.1")
    await until_complete(bridge)
    found = await bridge.daemon.database.read(fills.of_order, order.client_order_id)
    assert sum(fill.quantity for fill in found) == D("0.02")


async def test_an_incomplete_order_is_looked_for_after_a_restart(tmp_path: Path) -> None:
    """Stopped before the fill could be read: the next start finds it, for it stays on the list in the store."""
    async with running_paper(tmp_path / "paper") as paper_url:
        async with quick_bridge(tmp_path, paper_url) as first:
            _, answer = await first.send(orderType="limit", limitPrice="64800")
            order = await first.order(answer)
            for path in ("/v1/trades", f"/v1/order/{order.order_id}/trades"):
                await first.fault("server_error", method="GET", path=path)
            await first.fault("withhold_reports")
            await first.control("prices", {BTC: "64700"})
            await first.daemon.trading.tracker.poll(await first.order(answer))
            assert (await first.order(answer)).status is OrderStatus.FILLED
            assert await first.daemon.database.read(incomplete_orders.count) == 1
            assert [each.client_order_id for each in first.daemon.book.incomplete.values()] == [order.client_order_id]
            await first.clear_faults()
            await first.fault("server_error", method="GET", path=f"/v1/order/{order.order_id}/trades")
            await first.fault("server_error", method="GET", path="/v1/trades")
        async with quick_bridge(tmp_path, paper_url, ready=False) as second:
            await second.clear_faults()
            await second.until_ready()
            await until_complete(second)
            (fill,) = await second.daemon.database.read(fills.of_order, order.client_order_id)
            assert fill.quantity == D("0.01")
    assert_rebuilt_equal(tmp_path / "data")


async def test_the_fill_of_an_exit_is_looked_for(bridge: Bridge) -> None:
    """The state of a fired stop is known, its trades cannot be read: the entry stays on the list until they are."""
    _, answer = await bridge.send(symbol="ETHUSDT.P", quantity="0.1", stopLoss="1%")
    order = await bridge.until_stored(answer, "filled")
    path = f"/v1/algo/order/{order.order_id}/trades"
    for each in (path, "/v1/trades"):
        await bridge.fault("server_error", method="GET", path=each)
    await bridge.control("prices", {ETH: "1764"})

    async def is_missed() -> bool:
        return await bridge.daemon.database.read(incomplete_orders.count) == 1

    await until(is_missed)
    await bridge.clear_faults()
    await until_complete(bridge)
    (fill,) = await bridge.daemon.database.read(fills.exits_of, order.client_order_id)
    assert fill.quantity == D("0.1")


async def test_trades_are_read_from_where_the_last_complete_read_ended(bridge: Bridge) -> None:
    """A fill that the stream brought moves nothing: a foreign trade before it, missed while reads failed, is still found."""
    tracker, database = bridge.daemon.trading.tracker, bridge.daemon.database
    await bridge.until_synced()  # else the bridge may read, too
    await tracker.sync_fills()
    before = await database.read(read_positions.read, RecordKind.TRADES)
    await bridge.fault("server_error", method="GET", path="/v1/trades")
    await bridge.send(quantity="0.01")
    with pytest.raises(ExchangeUnavailable):
        await tracker.sync_fills()
    assert await database.read(read_positions.read, RecordKind.TRADES) == before
    await bridge.clear_faults()
    await tracker.sync_fills()
    after = await database.read(read_positions.read, RecordKind.TRADES)
    assert before is not None
    assert after is not None
    assert before < after <= bridge.clock()


# ------------------------------------------------------------------------------------------------------------ what has fired


async def fired(bridge: Bridge, kind: str) -> dict[str, Any]:
    """Wait for the event that an exit has fired; it is written once."""
    await bridge.heard(kind)
    await bridge.daemon.trading.reconciler.reconcile()
    return await bridge.heard(kind)


async def test_a_stop_that_fires_is_told(bridge: Bridge) -> None:
    """Once, with side, size and price of what it closed."""
    await bridge.send(symbol="ETHUSDT.P", quantity="0.1", stopLoss="1%", takeProfit="2%")
    await bridge.control("prices", {ETH: "1764"})
    told = await fired(bridge, "stop_fired")
    assert (told["side"], D(told["quantity"])) == ("sell", D("0.1"))
    assert D(told["average_price"]) <= D(told["trigger_price"])
    assert await bridge.events("take_profit_fired") == []


async def test_a_take_profit_that_fires_is_told(bridge: Bridge) -> None:
    """The nearest of the entry's own."""
    await bridge.send(symbol="ETHUSDT.P", quantity="0.1", stopLoss="1%", takeProfit="2%")
    await bridge.control("prices", {ETH: "1900"})
    told = await fired(bridge, "take_profit_fired")
    assert (told["side"], D(told["quantity"])) == ("sell", D("0.1"))


async def test_a_trailing_stop_that_fires_is_told(bridge: Bridge) -> None:
    """It is an order of its own, reported as what it is."""
    await bridge.send(symbol="ETHUSDT.P", quantity="0.1", trailingStop="2%")
    await until(
        lambda: any(order.intent.fired_event and order.order_id for order in bridge.daemon.book.orders.values())
    )
    await bridge.control("prices", {ETH: "1900"})
    await bridge.control("prices", {ETH: "1700"})
    told = await fired(bridge, "trailing_fired")
    assert D(told["quantity"]) == D("0.1")
