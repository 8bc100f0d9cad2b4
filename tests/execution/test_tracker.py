"""The tracker learns the outcome of accepted orders from the stream, by queries after a gap, and by polling while the stream is down."""

from __future__ import annotations

from decimal import Decimal

from kekbridge.model import OrderStatus
from kekbridge.model.orders import ExitKind
from kekbridge.store import codec, events, fills, protection, reservations, settings
from tests.bridge import BTC, ETH, House
from tests.waiting import until

D = Decimal


async def _resting(house: House) -> dict[str, object]:
    """A limit buy under the market, accepted."""
    _, answer = await house.send(orderType="limit", limitPrice="64800")
    assert answer["status"] == "accepted"
    return answer


async def test_the_stream_reports_the_fill_of_a_resting_order(house: House) -> None:
    """The market reaches a limit order: its fill is known without a query."""
    answer = await _resting(house)
    await house.control("prices", {BTC: "64700"})
    order = await house.until_stored(answer, "filled")
    (fill,) = await house.daemon.database.read(fills.of_order, order.client_order_id)
    assert (fill.quantity, order.executed_quantity) == (D("0.01"), D("0.01"))


async def test_orders_are_polled_while_the_stream_is_down(house: House) -> None:
    """Without any stream the fill of a resting order is found by polling, within seconds."""
    answer = await _resting(house)
    await house.fault("stream_drop")
    await until(lambda: not house.daemon.exchange.health.stream_is_live)
    await house.control("prices", {BTC: "64700"})
    await house.until_stored(answer, "filled")
    assert not house.daemon.exchange.health.stream_is_live


async def test_unfinished_orders_are_queried_after_a_gap(house: House) -> None:
    """Reports withheld, then the stream drops once: after it reconnects the missed fill is known."""
    answer = await _resting(house)
    await house.fault("withhold_reports")
    await house.control("prices", {BTC: "64700"})
    assert (await house.order(answer)).status is OrderStatus.ACCEPTED
    await house.clear_faults()
    await house.fault("stream_drop", count=1)
    await house.until_stored(answer, "filled")


async def test_duplicate_reports_count_once(house: House) -> None:
    """Every report doubled: one fill, one quantity, one fee."""
    await house.fault("duplicate_reports")
    answer = await _resting(house)
    await house.control("prices", {BTC: "64700"})
    order = await house.until_stored(answer, "filled")
    await house.daemon.trading.reconciler.reconcile()
    recorded = await house.daemon.database.read(fills.of_order, order.client_order_id)
    assert sum((fill.quantity for fill in recorded), D(0)) == order.executed_quantity == D("0.01")


async def test_a_triggered_stop_is_recorded_with_its_entry(house: House) -> None:
    """The mark price passes the stop: both exits, the exchange's own trade and its loss are recorded with the entry and its webhook."""
    _, answer = await house.send(symbol="ETHUSDT.P", quantity="0.1", stopLoss="1%", takeProfit="2%")
    await house.control("prices", {ETH: "1764"})

    async def is_recorded() -> bool:
        legs = await house.daemon.database.read(protection.of_order, answer["clientOrderId"])
        return bool(legs) and all(leg.status.is_final for leg in legs)

    await until(is_recorded)
    legs = {leg.kind: leg for leg in await house.daemon.database.read(protection.of_order, answer["clientOrderId"])}
    assert legs[ExitKind.STOP_LOSS].status is OrderStatus.FILLED
    assert legs[ExitKind.STOP_LOSS].executed_quantity == D("0.1")
    assert legs[ExitKind.TAKE_PROFIT].status is OrderStatus.CANCELED
    (fill,) = await house.daemon.database.read(fills.exits_of, answer["clientOrderId"])
    assert (fill.side.value, fill.quantity) == ("SELL", D("0.1"))
    entry = await house.order(answer)
    assert entry.executed_quantity == D("0.1")
    kinds = [event.kind for event in await house.daemon.database.read(events.of_alert, entry.alert_id)]
    assert kinds.count("exit_fill") == 1

    async def is_loss_counted() -> bool:
        day = codec.day_of(house.clock())
        own = await house.daemon.database.read(reservations.day_totals, entry.webhook_id, day)
        account = await house.daemon.database.read(reservations.day_totals, reservations.ACCOUNT, day)
        return own.realized_pnl < 0 and own.realized_pnl == account.realized_pnl

    await until(is_loss_counted)
    assert await house.daemon.database.read(protection.open_entries) == ()


async def test_an_exit_that_was_not_requested_is_not_recorded(house: House) -> None:
    """A stop alone: the pair's other leg exists at the exchange, but has no trigger and is no take-profit that the trader set."""
    _, answer = await house.send(symbol="ETHUSDT.P", quantity="0.1", stopLoss="1%")

    async def kinds() -> list[str]:
        return [leg.kind for leg in await house.daemon.database.read(protection.of_order, answer["clientOrderId"])]

    async def is_recorded() -> bool:
        return bool(await kinds())

    await until(is_recorded)
    assert await kinds() == ["STOP_LOSS"]


async def test_positions_of_the_stream_are_stored(house: House) -> None:
    """`kekbridge positions` shows a position that kekbridge did not open."""
    await house.control("positions", {ETH: "0.3"})

    async def is_stored() -> bool:
        with house.daemon.database.snapshot() as connection:
            row = connection.execute("SELECT quantity FROM positions WHERE symbol = ?", (ETH,)).fetchone()
        return row is not None and D(row[0]) == D("0.3")

    await until(is_stored)
    assert await house.daemon.database.read(settings.get_value, "exchange_address") == house.paper_url
