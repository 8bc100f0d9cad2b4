"""What becomes of orders the exchange took: by the stream, by asking after a gap, and by polling while the stream is away."""

from __future__ import annotations

from decimal import Decimal

from kekbridge.model import OrderStatus
from kekbridge.model.orders import ExitKind
from kekbridge.store import codec, events, fills, protection, reservations, settings
from tests.bridge import BTC, ETH, Bridge
from tests.waiting import until

D = Decimal


async def _resting(bridge: Bridge) -> dict[str, object]:
    """A limit buy under the market, accepted."""
    _, answer = await bridge.send(orderType="limit", limitPrice="64800")
    assert answer["status"] == "accepted"
    return answer


async def test_a_resting_order_is_told_by_the_stream(bridge: Bridge) -> None:
    """The market comes to a limit order: its fill is known without anybody asking."""
    answer = await _resting(bridge)
    await bridge.control("prices", {BTC: "64700"})
    order = await bridge.until_stored(answer, "filled")
    (fill,) = await bridge.daemon.database.read(fills.of_order, order.client_order_id)
    assert (fill.quantity, order.executed_quantity) == (D("0.01"), D("0.01"))


async def test_polling_goes_on_while_the_stream_is_away(bridge: Bridge) -> None:
    """No stream at all: the fill of a resting order is found by asking, within seconds."""
    answer = await _resting(bridge)
    await bridge.fault("stream_drop")
    await until(lambda: not bridge.daemon.exchange.health.stream_is_live)
    await bridge.control("prices", {BTC: "64700"})
    await bridge.until_stored(answer, "filled")
    assert not bridge.daemon.exchange.health.stream_is_live


async def test_after_a_gap_everything_unfinished_is_asked_for(bridge: Bridge) -> None:
    """Reports withheld, then the stream breaks once: after it came back the missed fill is known."""
    answer = await _resting(bridge)
    await bridge.fault("withhold_reports")
    await bridge.control("prices", {BTC: "64700"})
    assert (await bridge.order(answer)).status is OrderStatus.ACCEPTED
    await bridge.clear_faults()
    await bridge.fault("stream_drop", count=1)
    await bridge.until_stored(answer, "filled")


async def test_reports_that_come_twice_count_once(bridge: Bridge) -> None:
    """Every report doubled: one fill, one quantity, one fee."""
    await bridge.fault("duplicate_reports")
    answer = await _resting(bridge)
    await bridge.control("prices", {BTC: "64700"})
    order = await bridge.until_stored(answer, "filled")
    await bridge.daemon.trading.reconciler.reconcile()
    recorded = await bridge.daemon.database.read(fills.of_order, order.client_order_id)
    assert sum((fill.quantity for fill in recorded), D(0)) == order.executed_quantity == D("0.01")


async def test_a_triggered_stop_is_the_entrys_own_story(bridge: Bridge) -> None:
    """The mark passes the stop: both exits, the exchange's own trade and its loss are recorded with the entry and its webhook."""
    _, answer = await bridge.send(symbol="ETHUSDT.P", quantity="0.1", stopLoss="1%", takeProfit="2%")
    await bridge.control("prices", {ETH: "1764"})

    async def is_told() -> bool:
        legs = await bridge.daemon.database.read(protection.exits_of, answer["clientOrderId"])
        return bool(legs) and all(leg.status.is_final for leg in legs)

    await until(is_told)
    legs = {leg.kind: leg for leg in await bridge.daemon.database.read(protection.exits_of, answer["clientOrderId"])}
    assert legs[ExitKind.STOP_LOSS].status is OrderStatus.FILLED
    assert legs[ExitKind.STOP_LOSS].executed_quantity == D("0.1")
    assert legs[ExitKind.TAKE_PROFIT].status is OrderStatus.CANCELED
    (fill,) = await bridge.daemon.database.read(fills.exits_of, answer["clientOrderId"])
    assert (fill.side.value, fill.quantity) == ("SELL", D("0.1"))
    entry = await bridge.order(answer)
    assert entry.executed_quantity == D("0.1")
    kinds = [event.kind for event in await bridge.daemon.database.read(events.of_alert, entry.alert_id)]
    assert kinds.count("exit_fill") == 1

    async def loss_is_booked() -> bool:
        day = codec.day_of(bridge.clock())
        own = await bridge.daemon.database.read(reservations.day_totals, entry.webhook_id, day)
        account = await bridge.daemon.database.read(reservations.day_totals, settings.ACCOUNT, day)
        return own.realized_pnl < 0 and own.realized_pnl == account.realized_pnl

    await until(loss_is_booked)
    assert await bridge.daemon.database.read(protection.entries_with_open_exits) == ()


async def test_an_exit_that_nobody_asked_for_is_not_told(bridge: Bridge) -> None:
    """A stop alone: the pair's other leg exists at the exchange, but has no trigger and is no take-profit of the trader's."""
    _, answer = await bridge.send(symbol="ETHUSDT.P", quantity="0.1", stopLoss="1%")

    async def kinds() -> list[str]:
        return [leg.kind for leg in await bridge.daemon.database.read(protection.exits_of, answer["clientOrderId"])]

    async def is_told() -> bool:
        return bool(await kinds())

    await until(is_told)
    assert await kinds() == ["STOP_LOSS"]


async def test_positions_are_written_down_as_the_stream_tells_them(bridge: Bridge) -> None:
    """`kekbridge positions` sees a position that somebody else opened."""
    await bridge.control("positions", {ETH: "0.3"})

    async def is_seen() -> bool:
        with bridge.daemon.database.snapshot() as connection:
            row = connection.execute("SELECT quantity FROM positions WHERE symbol = ?", (ETH,)).fetchone()
        return row is not None and D(row[0]) == D("0.3")

    await until(is_seen)
    assert await bridge.daemon.database.read(settings.get_value, "exchange_address") == bridge.paper_url
