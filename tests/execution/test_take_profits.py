"""Take-profits that an entry's own request cannot carry: placed once it executed, by what executed, and not for ever."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from kekbridge.model import Order, OrderStatus
from kekbridge.planning.decide import pending_quantities
from kekbridge.store import protection, reservations
from kekbridge.store import protection as protections
from kekbridge.store.reservations import read_usage
from tests.bridge import BTC, Bridge, quick_bridge, running_paper
from tests.waiting import until

D = Decimal
LADDER = [{"price": "1%", "share": "50%"}, {"price": "2%", "share": "50%"}]


async def _exits_of(bridge: Bridge, answer: dict[str, object]) -> tuple[Order, ...]:
    return await bridge.daemon.database.read(protections.orders_for, await bridge.order(answer))


async def _until_over(bridge: Bridge) -> None:
    async def is_over() -> bool:
        return await bridge.daemon.database.read(protection.entries_missing_take_profits) == ()

    await until(is_over)


async def test_the_nearer_take_profit_is_placed_after_the_entry(bridge: Bridge) -> None:
    """Two take-profits and a stop: the bracket holds stop and farthest, the nearer one is an order of its own, for its share."""
    _, answer = await bridge.send(quantity="0.02", stopLoss="2%", takeProfit=LADDER)
    assert answer["status"] == "filled"
    await _until_over(bridge)
    (nearer,) = await _exits_of(bridge, answer)
    assert (nearer.intent.quantity, nearer.status) == (D("0.01"), OrderStatus.ACCEPTED)
    assert nearer.intent.reduce_only


async def test_each_take_profit_closes_its_share(bridge: Bridge) -> None:
    """The mark passes the nearer one: half is closed; it passes the farther one: nothing is left, and nothing is open."""
    _, answer = await bridge.send(quantity="0.02", stopLoss="2%", takeProfit=LADDER)
    await _until_over(bridge)
    await bridge.control("prices", {BTC: "65700"})

    async def is_half() -> bool:
        return await bridge.positions() == {BTC: D("0.01")}

    await until(is_half)
    await bridge.control("prices", {BTC: "66350"})
    await bridge.until_flat(BTC)

    async def nothing_waits() -> bool:
        return await bridge.daemon.exchange.open_orders() == ()

    await until(nothing_waits)

    async def is_told() -> bool:
        (known,) = await _exits_of(bridge, answer)
        return known.status is OrderStatus.FILLED

    await until(is_told)


async def test_a_waiting_take_profit_takes_nothing_off_the_position(bridge: Bridge) -> None:
    """It may never trade: half of the position is half of what is held, and a strategy that held all of it has not drifted."""
    await bridge.send(quantity="0.02", stopLoss="2%", takeProfit=LADDER)
    await _until_over(bridge)
    assert [held.is_resting for held in await bridge.daemon.database.read(reservations.open_reservations)] == [True]
    usage = await bridge.daemon.database.read(read_usage, "", now=bridge.clock())
    assert not pending_quantities(usage)
    _, answer = await bridge.send(action="close", quantity="50%")
    assert D(str(answer["executedQuantity"])) == D("0.01")


async def test_a_refused_take_profit_is_given_up_after_three_tries(bridge: Bridge) -> None:
    """The exchange refuses it each time: it is tried thrice, each try stored with its reason, and then left."""
    await bridge.fault("refuse", algo_type="TP_SL", code=-1101)
    _, answer = await bridge.send(quantity="0.02", stopLoss="2%", takeProfit=LADDER)
    await _until_over(bridge)
    tries = await _exits_of(bridge, answer)
    assert [(order.status, order.code) for order in tries] == [(OrderStatus.REJECTED, "orderly:-1101")] * 3


async def test_a_restart_goes_on_where_it_stood(tmp_path: Path) -> None:
    """Stopped between the fill and the placing: the next start places what is missing, once."""
    async with running_paper(tmp_path / "paper") as paper_url:
        async with quick_bridge(tmp_path, paper_url) as bridge:
            _, answer = await bridge.send(quantity="0.02", stopLoss="2%", takeProfit=LADDER)
        async with quick_bridge(tmp_path, paper_url) as bridge:
            await _until_over(bridge)
            placed = [order for order in await _exits_of(bridge, answer) if order.status is OrderStatus.ACCEPTED]
            assert len(placed) == 1


async def test_a_position_that_is_gone_gets_no_take_profit(bridge: Bridge) -> None:
    """Closed by somebody else before the take-profit could be placed: nothing more is sent."""
    await bridge.fault("refuse", algo_type="TP_SL", code=-1101, count=1)
    await bridge.send(quantity="0.02", stopLoss="2%", takeProfit=LADDER)
    await bridge.send(action="close", quantity=None)
    await bridge.until_flat(BTC)
    await _until_over(bridge)
    assert await bridge.positions() == {}
