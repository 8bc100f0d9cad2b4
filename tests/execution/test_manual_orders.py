"""Orders of the operator in a running daemon: closes and cancels by hand are sent, stored, tracked and counted like any other order."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from kekbridge.errors import ConfigError, NotFound
from kekbridge.model import (
    MarginMode,
    OrderStatus,
    OrderType,
    RateLimits,
    TradingState,
)
from kekbridge.ops.trading_operations import Cancel, Close, Flatten
from kekbridge.store import alerts, fills, projector
from tests.bridge import BTC, ETH, SOL, Bridge
from tests.equality import assert_same, book_contents, loaded_contents, table_rows
from tests.waiting import until

D = Decimal


async def close(bridge: Bridge, symbol: str = "BTC", **fields: Any) -> dict[str, Any]:
    result: dict[str, Any] = await bridge.daemon.operations.run(Close(symbol=symbol, **fields))
    return result


async def cancel(bridge: Bridge, name: str) -> dict[str, Any]:
    result: dict[str, Any] = await bridge.daemon.operations.run(Cancel(order=name))
    return result


async def flatten(bridge: Bridge, deadline_s: int = 10) -> dict[str, Any]:
    result: dict[str, Any] = await bridge.daemon.operations.run(Flatten(deadline_s=deadline_s))
    return result


async def resting(bridge: Bridge, **fields: Any) -> dict[str, Any]:
    """Send an order that rests far from the market; return the response."""
    _, answer = await bridge.send(**{"orderType": "limit", "limitPrice": "60000", **fields})
    assert answer["status"] == "accepted", answer
    return answer


async def place_elsewhere(bridge: Bridge) -> str:
    """Place a resting order that is in no store, as by hand in the front end; return the exchange's id."""
    return await bridge.place_elsewhere(order_type=OrderType.LIMIT, limit_price=D(60_000))


# ----------------------------------------------------------------------------------------------------------------- closing


async def test_a_close_is_an_order_like_any_other(bridge: Bridge) -> None:
    """Sent at the position's size, stored with its fill, its P&L the entering webhook's; the log names it and who asked."""
    _, entered = await bridge.send(quantity="0.2", stopLoss="2%")
    result = await close(bridge)
    assert (result["closed"], result["trouble"], result["positionsLeft"]) == (True, "", [])
    (sent,) = result["orders"]
    assert (sent["side"], sent["quantity"], sent["executedQuantity"], sent["status"]) == (
        "SELL",
        "0.2",
        "0.2",
        "filled",
    )
    assert await bridge.positions() == {}
    entry, order = await bridge.order(entered), await bridge.order(sent)
    assert (order.webhook_id, order.intent.reduce_only) == (entry.webhook_id, True)
    alert = await bridge.daemon.database.read(alerts.get, order.alert_id)
    assert (alert.webhook_name, alert.action, alert.status, alert.remote) == (
        "(by hand)",
        "close",
        "filled",
        "command line",
    )

    async def fill_is_stored() -> bool:
        return bool(await bridge.daemon.database.read(fills.of_order, order.client_order_id))

    await until(fill_is_stored)


async def test_a_part_is_closed_and_the_rest_keeps_its_stop(bridge: Bridge) -> None:
    """A quantity, then a share of what is left."""
    await bridge.send(quantity="0.2", stopLoss="2%")
    first = await close(bridge, quantity=D("0.05"))
    assert (first["closed"], [each["quantity"] for each in first["positionsLeft"]]) == (True, ["0.15"])
    second = await close(bridge, share=D(20))
    assert second["orders"][0]["quantity"] == "0.03"
    assert await bridge.position() == D("0.12")
    assert len(await bridge.daemon.exchange.live_stops(BTC)) == 1


async def test_a_large_position_is_closed_in_parts(bridge: Bridge) -> None:
    """18 BTC with base_max 10 by hand: orders of 10 and 8, both reduce-only, both stored."""
    await bridge.set_positions(BTC="-18")
    result = await close(bridge)
    assert [(each["side"], each["quantity"]) for each in result["orders"]] == [("BUY", "10"), ("BUY", "8")]
    assert (result["closed"], await bridge.positions()) == (True, {})
    assert await bridge.journal("order_refused") == []


async def test_dust_is_named_and_never_sent(bridge: Bridge) -> None:
    """5.1234 SOL with steps of 0.01: 5.12 is closed, 0.0034 is named with the minimum; of dust alone nothing is sent."""
    await bridge.set_positions(SOL="5.1234")
    result = await close(bridge, "SOL")
    assert (result["closed"], result["orders"][0]["quantity"]) == (True, "5.12")
    assert [each["quantity"] for each in result["dust"]] == ["0.0034"]
    await bridge.until_positions({SOL: D("0.0034")})
    again = await close(bridge, "SOL")
    assert (again["closed"], again["orders"], "is dust" in again["trouble"]) == (False, [], True)


async def test_an_isolated_position_is_closed_as_isolated(bridge: Bridge) -> None:
    """Opened by hand beside a cross position: each can be closed alone, and without a mode both are."""
    await bridge.set_positions(BTC="0.5")
    await bridge.set_isolated(BTC, "-0.3")
    with pytest.raises(ConfigError, match="cross and an isolated"):
        await close(bridge, share=D(50))
    result = await bridge.daemon.operations.run(Close(symbol="BTC", margin_mode=None, dry_run=True))
    assert [(each["marginMode"], each["side"], each["quantity"]) for each in result["orders"]] == [
        ("CROSS", "SELL", "0.5"),
        ("ISOLATED", "BUY", "0.3"),
    ]
    assert await bridge.journal("order_received") == []
    assert (await close(bridge))["closed"]
    assert (await bridge.positions(), await bridge.isolated_positions()) == ({}, {})


async def test_a_halt_does_not_stop_the_operator(bridge: Bridge) -> None:
    """Halted, so no alert trades: a close by hand does."""
    await bridge.send(quantity="0.2")
    await bridge.set_state(TradingState.HALTED)
    assert (await close(bridge))["closed"]
    assert await bridge.positions() == {}


async def test_a_refused_close_is_tried_again_until_its_deadline(bridge: Bridge) -> None:
    """Refused twice, then taken: closed by the third order. Refused for ever: not closed, with the reason, and nothing left queued."""
    await bridge.send(quantity="0.2")
    await bridge.fault("refuse", code=-1101, message="no", count=2)
    result = await close(bridge)
    assert (result["closed"], [each["status"] for each in result["orders"]][-1]) == (True, "filled")
    await bridge.send(quantity="0.2")
    await bridge.fault("refuse", code=-1101, message="no")
    result = await close(bridge, deadline_s=1)
    assert (result["closed"], "-1101" in result["trouble"]) == (False, True)
    assert [each["quantity"] for each in result["positionsLeft"]] == ["0.2"]
    assert bridge.daemon.book.queued == {}
    await bridge.clear_faults()
    assert await bridge.position() == D("0.2")  # nothing that was given up is sent later


@pytest.mark.parametrize("fields", [{}, {"share": D(50)}, {"margin_mode": MarginMode.CROSS}])
async def test_a_whole_close_ends_the_markets_entries_that_wait(bridge: Bridge, fields: dict[str, Any]) -> None:
    """Of every webhook, before the close is sent: they would open again what the operator closes. Others go on, and a partial close ends
    none; what rests at the exchange is counted."""
    bridge.add_webhook("other")
    await bridge.send(quantity="0.2")
    limit = await resting(bridge)
    await bridge.fault("rate_limit", path="/v1/algo/order", method="POST")
    waiting = [(await bridge.send(name, quantity="0.01", stopLoss="2%"))[1] for name in ("main", "other")]
    _, elsewhere = await bridge.send(symbol="ETHUSDT.P", quantity="0.1", stopLoss="2%")
    result = await close(bridge, **fields)
    assert result["closed"]
    names = [answer["clientOrderId"] for answer in waiting]
    if "share" in fields:
        assert (result["entriesEnded"], result["entriesLeft"]) == ([], 3)
    else:
        assert (result["entriesEnded"], result["entriesLeft"]) == (names, 1)
        for answer in waiting:
            ended = await bridge.until_stored(answer, "denied")
            assert ended.code == "canceled_by_hand"
            assert ended.error is not None
            assert "closed by hand" in ended.error
    await bridge.clear_faults()
    for answer in (elsewhere, *(waiting if "share" in fields else ())):
        await bridge.until_stored(answer, "filled")
    assert await bridge.position() == (D("0.12") if "share" in fields else D(0))
    await cancel(bridge, limit["clientOrderId"])


async def test_a_lost_answer_closes_once(bridge: Bridge) -> None:
    """The request was executed, its answer lost: one order, one fill, and the result says filled or that it is not known yet."""
    await bridge.send(quantity="0.2")
    await bridge.fault("html", when="after", count=1, method="POST", path="/v1/order")
    result = await close(bridge)
    assert len(result["orders"]) == 1
    await bridge.until_flat(BTC)
    assert len(await bridge.journal("fill", side="SELL")) == 1


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"quantity": D(0)}, "quantity: found 0"),
        ({"share": D(101)}, "share: found 101"),
        ({"share": D(10), "quantity": D(1)}, "at most one"),
    ],
)
def test_parameters_are_checked(fields: dict[str, Any], error: str) -> None:
    """Before anything is read or sent."""
    with pytest.raises(ConfigError, match=error):
        Close(**{"symbol": "BTC", **fields})


async def test_nothing_to_close_is_said_by_name(bridge: Bridge) -> None:
    """No position, none in that mode, and less than any order."""
    with pytest.raises(NotFound, match="PERP_ETH_USDC has no open position"):
        await close(bridge, "ETH")
    await bridge.set_positions(BTC="0.5")
    with pytest.raises(ConfigError, match="the exchange's smallest order"):
        await close(bridge, quantity=D("0.000001"))


async def test_tables_follow_from_the_journal(bridge: Bridge) -> None:
    """Rebuilt from the journal, closes and cancels by hand are the same rows, and the book that a start loads is the daemon's."""
    await bridge.send(quantity="0.2")
    await bridge.set_isolated(ETH, "2")
    order = await resting(bridge)
    await cancel(bridge, order["clientOrderId"])
    await close(bridge)
    await close(bridge, "ETH")
    await bridge.until_settled()
    await bridge.daemon.database.flush()
    with bridge.daemon.database.transaction() as connection:
        rows = table_rows(connection)
        now = bridge.clock()
        contents = book_contents(connection, bridge.daemon.book, account_rates=RateLimits(), now=now)
        projector.rebuild(connection)
        assert_same(table_rows(connection), rows)
        assert_same(loaded_contents(connection, account_rates=RateLimits(), now=now), contents)


# --------------------------------------------------------------------------------------------------------------- canceling


@pytest.mark.parametrize("name", ["clientOrderId", "orderId", "alert", "beginning"])
async def test_an_order_is_canceled_by_any_of_its_names(bridge: Bridge, name: str) -> None:
    """Our id, the exchange's id, the id of its alert, or the beginning of it in any case; another order stays."""
    answer, other = await resting(bridge), await resting(bridge, symbol="ETHUSDT.P", quantity="1", limitPrice="1500")
    order = await bridge.order(answer)
    names = {
        "clientOrderId": order.client_order_id,
        "orderId": order.order_id or "",
        "alert": order.alert_id,
        "beginning": order.client_order_id[:-3].lower(),
    }
    result = await cancel(bridge, names[name])
    assert (result["canceled"], result["clientOrderId"], result["status"]) == (True, order.client_order_id, "canceled")
    assert [each.client_order_id for each in await bridge.daemon.exchange.open_orders()] == [other["clientOrderId"]]
    assert (await bridge.order(answer)).status is OrderStatus.CANCELED


async def test_a_queued_order_is_ended_before_it_is_sent(bridge: Bridge) -> None:
    """Maintenance holds an entry back: canceled by hand, it is never sent, and its alert says why."""
    await bridge.fault("maintenance")

    async def is_known() -> bool:
        await bridge.daemon.exchange.refresh()
        return bridge.daemon.exchange.health.is_maintenance

    await until(is_known)
    _, answer = await bridge.send()
    assert answer["status"] == "queued"
    result = await cancel(bridge, answer["clientOrderId"])
    assert (result["canceled"], result["status"]) == (True, "denied")
    await bridge.clear_faults()
    order = await bridge.order(answer)
    assert (order.status, order.code) == (OrderStatus.DENIED, "canceled_by_hand")
    assert await bridge.journal("order_accepted") == []


async def test_an_order_placed_elsewhere_is_canceled_too(bridge: Bridge) -> None:
    """It has no id of ours; the exchange's is enough."""
    order_id = await place_elsewhere(bridge)
    result = await cancel(bridge, order_id)
    assert (result["canceled"], result["orderId"]) == (True, order_id)
    assert await bridge.daemon.exchange.open_orders() == ()


async def test_the_stop_of_an_open_position_is_refused(bridge: Bridge) -> None:
    """It would be placed again; the error names the command that closes the position."""
    _, answer = await bridge.send(stopLoss="2%")
    with pytest.raises(ConfigError, match="kekbridge close BTC"):
        await cancel(bridge, answer["clientOrderId"])
    assert len(await bridge.daemon.exchange.live_stops(BTC)) == 1


async def test_names_that_are_not_clear_are_refused(bridge: Bridge) -> None:
    """Too short, of several orders, of none, and of one that has ended."""
    answer = await resting(bridge)
    await resting(bridge)
    with pytest.raises(ConfigError, match="at least 4 characters"):
        await cancel(bridge, "kb-")
    with pytest.raises(ConfigError, match="means 2 open orders"):
        await cancel(bridge, "kb-0" if answer["clientOrderId"].startswith("kb-0") else answer["clientOrderId"][:6])
    with pytest.raises(NotFound, match="no open order is named"):
        await cancel(bridge, "nonsense")
    await cancel(bridge, answer["clientOrderId"])
    with pytest.raises(NotFound, match="is not open any more: it is canceled"):
        await cancel(bridge, answer["clientOrderId"])


# --------------------------------------------------------------------------------------------------------------- flattening


async def test_flatten_stores_its_closes(bridge: Bridge) -> None:
    """All markets in one alert: 18 BTC in two orders, an isolated ETH, 5.12 of 5.1234 SOL; halted, and nothing refused."""
    await resting(bridge, quantity="0.01")
    await bridge.set_positions(BTC="18", SOL="5.1234")
    await bridge.set_isolated(ETH, "-2")
    result = await flatten(bridge)
    assert (result["flat"], result["positionsClosed"], result["ordersLeft"]) == (True, 3, 0)
    assert [each["quantity"] for each in result["dust"]] == ["0.0034"]
    assert (await bridge.positions(), await bridge.isolated_positions()) == ({SOL: D("0.0034")}, {})
    stored = [order for order in await bridge.orders() if order.intent.reduce_only]
    assert sorted((order.intent.symbol, order.intent.quantity) for order in stored) == [
        (BTC, D(8)),
        (BTC, D(10)),
        (ETH, D(2)),
        (SOL, D("5.12")),
    ]
    assert {order.status for order in stored} == {OrderStatus.FILLED}
    assert await bridge.journal("order_refused") == []


async def test_flatten_does_not_fight_the_protection(bridge: Bridge) -> None:
    """Brackets, one of which has lost its stop and got another: their exits go once their position is gone, and none is placed again."""
    await bridge.send(quantity="0.2", stopLoss="2%", takeProfit="3%")
    await bridge.fault("lose_stop", count=1)
    await bridge.send(symbol="ETHUSDT.P", quantity="1", stopLoss="2%")

    async def is_protected() -> bool:
        return len(await bridge.daemon.exchange.live_stops(ETH)) == 1

    await until(is_protected)
    placed, refused = await bridge.journal("order_accepted"), await bridge.journal("order_refused")
    result = await flatten(bridge)
    assert (result["flat"], result["positionsClosed"]) == (True, 2)
    await bridge.until_settled()
    await asyncio.sleep(0.5)
    assert len(await bridge.journal("order_accepted")) == len(placed) + 2  # one close for each position
    assert await bridge.journal("order_refused") == refused
    assert await bridge.daemon.exchange.open_orders() == ()


async def test_a_close_whose_request_was_lost_is_not_sent_twice(bridge: Bridge) -> None:
    """Cut before it was read, so nothing is known: the result says so. It is looked up, sent once more while it is young, and closes."""
    await bridge.send(quantity="0.2")
    await bridge.fault("reset_before", method="POST", path="/v1/order", count=1)
    result = await close(bridge)
    assert len(result["orders"]) == 1
    await bridge.until_flat(BTC)
    await bridge.until_settled()
    assert len(await bridge.journal("fill", side="SELL")) == 1
    assert await bridge.positions() == {}


async def test_flatten_keeps_the_stop_of_what_it_cannot_close(bridge: Bridge) -> None:
    """Every close is refused: the stop stays live, the entry is gone, and no close is left to be sent later."""
    await bridge.send(quantity="0.2", stopLoss="2%")
    await resting(bridge)
    await bridge.fault("refuse", code=-1101, message="no")
    result = await flatten(bridge, deadline_s=2)
    assert (result["flat"], [each["quantity"] for each in result["positionsLeft"]]) == (False, ["0.2"])
    assert "-1101" in result["trouble"]
    assert len(await bridge.daemon.exchange.live_stops(BTC)) == 1
    assert [order.order_type for order in await bridge.daemon.exchange.open_orders() if order.may_open] == []
    assert bridge.daemon.book.queued == {}
