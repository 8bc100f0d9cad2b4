"""The protection controller: every position ends with the exits that its alerts asked for, or is closed; no exit outlives its position."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kekbridge.exchange.base import Accepted
from kekbridge.execution import protection_controller
from kekbridge.model import Order, OrderStatus, OrderType, Purpose, SideTotals
from kekbridge.model.notifications import MESSAGES
from kekbridge.store import alerts, journal, protection
from kekbridge.store import orders as order_rows
from tests.bridge import BTC, Bridge, position_fields, quick_bridge, running_paper
from tests.system.exposure import longest_naked_s
from tests.waiting import until

D = Decimal
DUST = "0.00004 BTC of it is dust: below the smallest order, it can be neither covered nor closed"
LADDER = [{"price": "1%", "share": "40%"}, {"price": "2%", "share": "30%"}, {"price": "3%", "share": "30%"}]
TWO_TAKE_PROFITS = [{"price": "1%", "share": "50%"}, {"price": "2%", "share": "50%"}]


@asynccontextmanager
async def _bridge(tmp_path: Path, *, protect_within_s: float = 30.0, **paper: Any) -> AsyncIterator[Bridge]:
    """A bridge whose exchange has no rate limits, with this time to place a stop. `paper`: settings of the exchange."""
    settings: dict[str, Any] = {"queue__protect_within_s": protect_within_s}
    async with (
        running_paper(tmp_path / "paper", **paper) as paper_url,
        quick_bridge(tmp_path, paper_url, **settings) as bridge,
    ):
        yield bridge


@pytest.fixture
def short_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    """The position counts as gone soon after its fill: reads of this exchange do not lag."""
    monkeypatch.setattr(protection_controller, "READ_LAG_S", 1.0)
    monkeypatch.setattr(protection_controller, "_LEFT_TO_EXCHANGE_S", 0.5)


async def _protective(bridge: Bridge, answer: dict[str, object]) -> tuple[Order, ...]:
    """The orders that were added for an entry, oldest first."""
    entry = await bridge.order(answer)
    legs = await bridge.daemon.database.read(order_rows.of_alert, entry.alert_id)
    return tuple(order for order in legs if order.is_protective)


async def _until_state(bridge: Bridge, answer: dict[str, object], state: str) -> None:
    def read(connection: object) -> str | None:
        row = connection.execute(  # type: ignore[attr-defined]
            "SELECT state FROM protections WHERE client_order_id = ?", (answer["clientOrderId"],)
        ).fetchone()
        return None if row is None else str(row[0])

    async def is_reached() -> bool:
        return await bridge.daemon.database.read(read) == state

    await until(is_reached)


async def _live(bridge: Bridge, algo_type: str = "") -> list[dict[str, Any]]:
    """The algo orders that are open at the exchange, of one root type or of all."""
    found: list[dict[str, Any]] = (await bridge.control("state"))["open_algo_orders"]
    return [row for row in found if algo_type in ("", row["algo_type"])]


async def _until_live(bridge: Bridge, algo_type: str, count: int = 1) -> list[dict[str, Any]]:
    async def is_live() -> bool:
        return len(await _live(bridge, algo_type)) == count

    await until(is_live)
    return await _live(bridge, algo_type)


async def _until_nothing_live(bridge: Bridge) -> None:
    async def is_empty() -> bool:
        return not await _live(bridge)

    await until(is_empty)


async def _messages(bridge: Bridge) -> Counter[str]:
    """The notifications so far, by kind."""
    await bridge.daemon.database.flush()
    events = await bridge.daemon.database.read(journal.list_events)
    return Counter(event.kind for event in events if event.kind in MESSAGES and not event.data.get("quiet"))


async def _until_message(bridge: Bridge, kind: str) -> None:
    async def is_published() -> bool:
        return bool((await _messages(bridge))[kind])

    await until(is_published)


async def _tries(bridge: Bridge, answer: dict[str, object]) -> int:
    """How often an order that was added for an entry was sent."""
    return max((order.attempt for order in await _protective(bridge, answer)), default=0)


async def _until_tried(bridge: Bridge, answer: dict[str, object], tries: int) -> None:
    async def has_tried() -> bool:
        return await _tries(bridge, answer) >= tries

    await until(has_tried)


# ------------------------------------------------------------------------------------------------------------------- stop loss


async def test_a_bracket_with_a_live_stop_needs_nothing(bridge: Bridge) -> None:
    """The usual case: the entry's own stop is live at the exchange, and no order is added."""
    _, answer = await bridge.send(stopLoss="2%")
    await _until_state(bridge, answer, "live")
    assert await _protective(bridge, answer) == ()


async def test_a_lost_stop_is_replaced(bridge: Bridge) -> None:
    """The exchange drops the stop of a filled entry: a stop order of the same size and price replaces it."""
    await bridge.fault("lose_stop", count=1)
    _, answer = await bridge.send(stopLoss="2%", quantity="0.02")
    await _until_state(bridge, answer, "replaced")
    (stop,) = await _protective(bridge, answer)
    assert stop.intent.order_type is OrderType.STOP
    assert (stop.intent.quantity, stop.intent.trigger_price) == (
        D("0.02"),
        (await bridge.order(answer)).intent.stop_loss,
    )
    assert stop.intent.reduce_only
    assert await bridge.positions() == {BTC: D("0.02")}


@pytest.mark.parametrize("has_two_take_profits", [False, True])
@pytest.mark.parametrize("is_stopped_out", [False, True])
async def test_a_position_opened_after_the_entry_was_closed_is_not_guarded_for_it(
    bridge: Bridge, has_two_take_profits: bool, is_stopped_out: bool
) -> None:
    """Closed (by an alert, or by its stop) and entered again at once: the first entry's stop is neither placed nor executed again."""
    take_profits = [{"price": "1%", "share": "50%"}, {"price": "2%", "share": "50%"}] if has_two_take_profits else None
    _, answer = await bridge.send(quantity="0.02", stopLoss="2%", takeProfit=take_profits)
    await _until_state(bridge, answer, "live")
    if is_stopped_out:
        await bridge.control("prices", {BTC: "63000"})
        await bridge.until_flat(BTC)
    else:
        assert (await bridge.send(action="close", quantity=None))[1]["status"] == "filled"
    _, again = await bridge.send(quantity="0.01")
    assert again["status"] == "filled"
    await _until_state(bridge, answer, "over")
    placed = [order for order in await _protective(bridge, answer) if not order.intent.take_profits]
    assert placed == []
    assert await bridge.positions() == {BTC: D("0.01")}


async def test_a_position_whose_stop_cannot_be_placed_is_closed(hasty_bridge: Bridge) -> None:
    """Stop lost and every new one rejected: within protect_within_s the position is closed by reduce-only orders."""
    bridge = hasty_bridge
    await bridge.fault("lose_stop", count=1)
    await bridge.fault("refuse", algo_type="STOP", code=-1101)
    _, answer = await bridge.send(stopLoss="2%")
    await bridge.until_flat(BTC)
    await _until_state(bridge, answer, "over")
    closes = [order for order in await _protective(bridge, answer) if order.intent.order_type is OrderType.MARKET]
    assert [order.intent.quantity for order in closes] == [D("0.01")]
    assert all(order.intent.reduce_only for order in closes)


async def test_only_the_uncovered_part_is_closed(hasty_bridge: Bridge) -> None:
    """Two entries in one symbol, one loses its stop for good: the other's position stays, though reads lag behind the close."""
    bridge = hasty_bridge
    _, covered = await bridge.send(stopLoss="2%", quantity="0.02")
    await _until_state(bridge, covered, "live")
    await bridge.fault("lose_stop", count=1)
    await bridge.fault("refuse", algo_type="STOP", code=-1101)
    _, uncovered = await bridge.send(stopLoss="2%", quantity="0.01")
    await _until_state(bridge, uncovered, "over")
    assert await bridge.positions() == {BTC: D("0.02")}
    await bridge.daemon.trading.reconciler.reconcile()
    bridge.daemon.trading.protection.wake()
    await _until_state(bridge, covered, "live")
    assert await bridge.positions() == {BTC: D("0.02")}


async def test_a_close_that_met_a_rate_limit_is_sent_again_as_the_same_order(hasty_bridge: Bridge) -> None:
    """A close that was proven not to exist is tried again under its id, beside the queue: one order in the trader's list."""
    bridge = hasty_bridge
    await bridge.fault("lose_stop", count=1)
    await bridge.fault("refuse", algo_type="STOP", code=-1101)
    await bridge.fault("rate_limit", path="/v1/order", method="POST", count=1)
    _, answer = await bridge.send(stopLoss="2%")
    await bridge.until_flat(BTC)
    await _until_state(bridge, answer, "over")
    closes = [order for order in await _protective(bridge, answer) if order.intent.order_type is OrderType.MARKET]
    assert [(order.status, order.attempt) for order in closes] == [(OrderStatus.FILLED, 2)]
    assert not bridge.daemon.trading.book.queued


async def test_a_stop_request_without_a_response_does_not_keep_the_position_open(tmp_path: Path) -> None:
    """The exchange delays the request for a new stop: the position is closed within protect_within_s, not after the response."""
    response_delay_s = 9
    settings: dict[str, Any] = {"queue__protect_within_s": 2.5, "exchange__request_timeout_s": 10}
    async with (
        running_paper(tmp_path / "paper") as paper_url,
        quick_bridge(tmp_path, paper_url, **settings) as bridge,
    ):
        await bridge.fault("lose_stop", count=1)
        _, answer = await bridge.send(orderType="limit", price="60000", stopLoss="50000")
        await bridge.until_stored(answer, "accepted")
        await bridge.fault(
            "delay", path="/v1/algo/order", method="POST", delay_ms=response_delay_s * 1000, when="before"
        )
        await bridge.control("prices", {BTC: "59000"})
        await _until_state(bridge, answer, "over")
        assert BTC not in await bridge.positions()
        uncovered_s = longest_naked_s(await bridge.control("journal"))
        assert uncovered_s is not None
        assert uncovered_s < response_delay_s


async def test_a_stop_waits_for_a_permit_no_longer_than_it_may(limited_bridge: Bridge) -> None:
    """Without a rate-limit permit in time nothing is stored or sent for the protective order, then or later."""
    bridge = limited_bridge
    _, answer = await bridge.send(stopLoss="2%")
    entry = await bridge.order(answer)
    exchange, submitter = bridge.daemon.exchange, bridge.daemon.trading.submitter
    permit = await exchange.acquire_permit(entry)  # brackets and stops share a window of one per second: it is full now
    intent = replace(
        entry.intent,
        order_type=OrderType.STOP,
        side=entry.intent.side.opposite,
        purpose=Purpose.PROTECT,
        reduce_only=True,
    )
    assert await submitter.submit(entry, intent, within_s=0.05) is None
    permit.release()
    assert await _protective(bridge, answer) == ()


async def test_a_partly_filled_entry_is_covered_after_every_fill(bridge: Bridge) -> None:
    """Each partial fill increases what must be covered; in the end the live stops are as large as the position."""
    await bridge.fault("partial_fills", parts=3, count=1)
    await bridge.fault("lose_stop", count=1)
    _, answer = await bridge.send(stopLoss="2%", quantity="0.03")

    async def is_covered() -> bool:
        stops = await bridge.daemon.exchange.live_stops(BTC)
        held = (await bridge.positions()).get(BTC, D(0))
        return held == D("0.03") and sum((stop.quantity for stop in stops), D(0)) >= held

    await until(is_covered)
    await _until_state(bridge, answer, "replaced")


async def test_refusals_are_tries_of_one_order(tmp_path: Path) -> None:
    """A stop that is refused again and again is one order in the trader's list, which counts its tries; in the end it is live."""
    async with _bridge(tmp_path) as bridge:
        await bridge.fault("lose_stop", count=1)
        await bridge.fault("refuse", algo_type="STOP", code=-1101, count=2)
        _, answer = await bridge.send(stopLoss="2%")
        await _until_state(bridge, answer, "replaced")
        (stop,) = await _protective(bridge, answer)
        assert (stop.status, stop.attempt) == (OrderStatus.ACCEPTED, 3)
        assert await bridge.positions() == {BTC: D("0.01")}


async def test_a_stop_has_the_size_of_the_position_on_the_grid(tmp_path: Path) -> None:
    """The position is 0.0123456 by now and the step 0.0001: the stop is placed for 0.0123."""
    rules = {BTC: {"base_tick": D("0.0001"), "base_min": D("0.0001")}}
    async with _bridge(tmp_path, rules=rules) as bridge:
        await bridge.fault("lose_stop", count=1)
        await bridge.fault("refuse", algo_type="STOP", code=-1104)
        _, answer = await bridge.send(stopLoss="2%", quantity="0.02")
        await _until_tried(bridge, answer, 1)
        await bridge.set_positions(BTC="0.0123456")
        await bridge.clear_faults()
        await _until_state(bridge, answer, "replaced")
        (row,) = await _until_live(bridge, "STOP")
        assert D(row["quantity"]) == D("0.0123")


async def test_dust_is_named(tmp_path: Path) -> None:
    """What is left is below the smallest order: nothing is placed for it, nothing is closed, and the condition says why."""
    rules = {BTC: {"base_tick": D("0.0001"), "base_min": D("0.0001")}}
    async with _bridge(tmp_path, protect_within_s=0.3, rules=rules) as bridge:
        await bridge.fault("lose_stop", count=1)
        await bridge.fault("refuse", algo_type="STOP", code=-1101)
        await bridge.fault("rate_limit", path="/v1/order", method="POST")
        _, answer = await bridge.send(stopLoss="2%", quantity="0.02")
        await _until_tried(bridge, answer, 1)
        await bridge.set_positions(BTC="0.00004")
        await bridge.clear_faults()

        async def is_named() -> bool:
            open_ones = await bridge.daemon.database.read(protection.open_protections)
            return [each.detail for each in open_ones] == [DUST]

        await until(is_named)
        assert await _live(bridge, "STOP") == []
        assert await bridge.positions() == {BTC: D("0.00004")}


async def test_trades_that_cannot_be_read_do_not_hold_back_a_stop(tmp_path: Path) -> None:
    """Nobody can tell whether the position was closed and opened again: the stop is placed, and nothing is closed in that doubt."""
    async with _bridge(tmp_path, protect_within_s=0.3) as bridge:
        await bridge.fault("server_error", path="/v1/trades", method="GET")
        await bridge.fault("lose_stop", count=1)
        await bridge.fault("refuse", algo_type="STOP", code=-1101, count=2)
        _, answer = await bridge.send(stopLoss="2%", quantity="0.02")
        await _until_state(bridge, answer, "replaced")
        assert await bridge.positions() == {BTC: D("0.02")}


async def test_maintenance_does_not_close_a_position_and_makes_one_message(tmp_path: Path) -> None:
    """Maintenance of several times protect_within_s with a naked position: the time does not count, then the stop comes; one message."""
    async with _bridge(tmp_path, protect_within_s=0.5) as bridge:
        await bridge.fault("lose_stop", count=1)
        _, answer = await bridge.send(orderType="limit", price="64000", stopLoss="50000", quantity="0.02")
        await bridge.until_stored(answer, "accepted")
        before = await _messages(bridge)
        await bridge.fault("maintenance")
        await bridge.control("prices", {BTC: "63000"})
        await bridge.until_stored(answer, "filled")
        await asyncio.sleep(1.0)
        during = await _messages(bridge) - before
        assert await bridge.positions() == {BTC: D("0.02")}
        assert sum(during.values()) - during["order_filled"] <= 1, during
        await bridge.clear_faults()
        await _until_state(bridge, answer, "replaced")
        assert await bridge.positions() == {BTC: D("0.02")}
        after = await _messages(bridge) - before
        assert {kind: count for kind, count in after.items() if count > 1} == {}


async def test_time_in_which_the_exchange_answers_nobody_does_not_count(tmp_path: Path) -> None:
    """Every request is cut for several times protect_within_s: nothing is closed, and once it answers again the stop is placed first."""
    async with _bridge(tmp_path, protect_within_s=0.5) as bridge:
        await bridge.fault("lose_stop", count=1)
        _, answer = await bridge.send(orderType="limit", price="64000", stopLoss="50000", quantity="0.02")
        await bridge.until_stored(answer, "accepted")
        for path in ("/v1/algo/order", "/v1/order"):
            await bridge.fault("reset_before", path=path)
        await bridge.fault("reset_before", method="GET")
        await bridge.control("prices", {BTC: "63000"})
        await asyncio.sleep(1.0)
        assert await bridge.positions() == {BTC: D("0.02")}
        await bridge.clear_faults()
        await _until_state(bridge, answer, "replaced")
        assert await bridge.positions() == {BTC: D("0.02")}
        assert [order.intent.order_type for order in await _protective(bridge, answer)] == [OrderType.STOP]


async def test_a_restart_goes_on_with_a_stop_that_is_missing(tmp_path: Path) -> None:
    """Stopped while the exchange refused the stop: the next start sends the same order, and the position stays."""
    options: dict[str, Any] = {"queue__protect_within_s": 30.0}
    async with running_paper(tmp_path / "paper") as paper_url:
        async with quick_bridge(tmp_path, paper_url, **options) as bridge:
            await bridge.fault("lose_stop", count=1)
            await bridge.fault("refuse", algo_type="STOP", code=-1101)
            _, answer = await bridge.send(stopLoss="2%")
            await _until_tried(bridge, answer, 2)
            await bridge.clear_faults()
        async with quick_bridge(tmp_path, paper_url, **options) as bridge:
            await _until_state(bridge, answer, "replaced")
            (stop,) = await _protective(bridge, answer)
            assert stop.status is OrderStatus.ACCEPTED
            assert await bridge.positions() == {BTC: D("0.01")}


@pytest.mark.parametrize(
    ("price", "kind"), [("63000", "stop_fired"), ("67000", "take_profit_fired")], ids=["stop", "take-profit"]
)
async def test_an_exit_that_fires_is_published_once(bridge: Bridge, price: str, kind: str) -> None:
    """The stop loss or take-profit that the entry's own request carried closes the position: one message says so."""
    await bridge.send(stopLoss="2%", takeProfit="2%")
    await bridge.control("prices", {BTC: price})
    await bridge.until_flat(BTC)
    await _until_message(bridge, kind)
    await bridge.daemon.trading.reconciler.reconcile()
    found = await _messages(bridge)
    assert {name: count for name, count in found.items() if name.endswith("_fired")} == {kind: 1}


async def test_a_replaced_stop_that_fires_is_published(bridge: Bridge) -> None:
    """So does one that kekbridge placed; nothing of it is left, and its protection is over."""
    await bridge.fault("lose_stop", count=1)
    _, answer = await bridge.send(stopLoss="2%")
    await _until_state(bridge, answer, "replaced")
    await bridge.control("prices", {BTC: "63000"})
    await bridge.until_flat(BTC)
    await _until_message(bridge, "stop_fired")
    await _until_state(bridge, answer, "over")


# ----------------------------------------------------------------------------------------------------------------- take-profits


async def test_the_nearer_take_profit_is_placed_after_the_entry(bridge: Bridge) -> None:
    """Two take-profits and a stop: the bracket holds stop and farthest, the nearer one is a separate order for its share."""
    _, answer = await bridge.send(quantity="0.02", stopLoss="2%", takeProfit=TWO_TAKE_PROFITS)
    assert answer["status"] == "filled"
    await _until_live(bridge, "TP_SL")
    await _until_accepted(bridge, answer)
    (nearer,) = await _protective(bridge, answer)
    assert (nearer.intent.quantity, nearer.status) == (D("0.01"), OrderStatus.ACCEPTED)
    assert nearer.intent.reduce_only


async def test_each_take_profit_closes_its_share(bridge: Bridge) -> None:
    """The mark price passes the nearer one: half is closed; it passes the farther one: no position and no order is left."""
    _, answer = await bridge.send(quantity="0.02", stopLoss="2%", takeProfit=TWO_TAKE_PROFITS)
    await _until_accepted(bridge, answer)
    await bridge.control("prices", {BTC: "65700"})

    async def is_half() -> bool:
        return await bridge.positions() == {BTC: D("0.01")}

    await until(is_half)
    await _until_message(bridge, "take_profit_fired")
    await bridge.control("prices", {BTC: "66350"})
    await bridge.until_flat(BTC)
    await _until_nothing_live(bridge)
    (nearer,) = await _protective(bridge, answer)
    assert nearer.status is OrderStatus.FILLED


async def test_take_profits_of_one_price_close_both_their_shares(bridge: Bridge) -> None:
    """They are one order of their whole quantity."""
    ladder = [
        {"price": "66300", "share": "30%"},
        {"price": "66300", "share": "30%"},
        {"price": "67600", "share": "40%"},
    ]
    await bridge.send(quantity="0.04", stopLoss="2%", takeProfit=ladder)
    (row,) = await _until_live(bridge, "TP_SL")
    assert D(row["quantity"]) == D("0.024")
    await bridge.control("prices", {BTC: "66400"})

    async def is_closed() -> bool:
        return await bridge.positions() == {BTC: D("0.016")}

    await until(is_closed)


async def test_an_open_take_profit_does_not_count_as_a_pending_close(bridge: Bridge) -> None:
    """It may never trade: 50% of the position is half of what is held, and a strategy's known position has not drifted."""
    _, answer = await bridge.send(quantity="0.02", stopLoss="2%", takeProfit=TWO_TAKE_PROFITS)
    await _until_accepted(bridge, answer)
    book = bridge.daemon.trading.book
    assert [order.intent.may_rest for order in book.orders.values()] == [True]
    usage = book.usage("", now=bridge.clock())
    assert usage.commitment(BTC).open != SideTotals()
    assert usage.pending(BTC) == 0
    _, answer = await bridge.send(action="close", quantity="50%")
    assert D(str(answer["executedQuantity"])) == D("0.01")


async def test_a_lost_take_profit_is_placed_again_without_a_stop_beside_it(bridge: Bridge) -> None:
    """An entry whose only exit is one take-profit: cancelled at the exchange, it is placed again, and it closes the position."""
    _, answer = await bridge.send(quantity="0.02", takeProfit="2%")
    assert answer["status"] == "filled"
    exchange, entry = bridge.daemon.exchange, await bridge.order(answer)
    report = await exchange.find(entry)
    assert report is not None
    assert isinstance(await exchange.cancel_exits(report), Accepted)
    await _until_live(bridge, "TP_SL")
    await _until_accepted(bridge, answer)
    (take_profit,) = await _protective(bridge, answer)
    assert (take_profit.intent.quantity, take_profit.intent.take_profits[0].trigger_price) == (
        D("0.02"),
        entry.intent.take_profits[0].trigger_price,
    )
    await bridge.control("prices", {BTC: "66400"})
    await bridge.until_flat(BTC)
    await _until_nothing_live(bridge)


@pytest.mark.usefixtures("short_lag")
async def test_a_take_profit_without_a_stop_beside_it_goes_with_its_position(bridge: Bridge) -> None:
    """Closed by an alert and opened again: it is neither placed again, nor does it close the new position."""
    await bridge.send(quantity="0.02", takeProfit="1%")
    assert (await bridge.send(action="close", quantity=None))[1]["status"] == "filled"
    _, again = await bridge.send(quantity="0.01")
    assert again["status"] == "filled"
    await _until_nothing_live(bridge)
    await bridge.control("prices", {BTC: "66000"})
    await asyncio.sleep(1.5)  # longer than the controller waits between two looks
    assert await _live(bridge) == []
    assert await bridge.positions() == {BTC: D("0.01")}


async def test_a_ladder_that_meets_maintenance_is_complete_afterwards(tmp_path: Path) -> None:
    """The entry fills during maintenance: no take-profit can be placed; afterwards all of them are, each for its share, once."""
    async with _bridge(tmp_path) as bridge:
        _, answer = await bridge.send(
            orderType="limit", price="64000", stopLoss="50000", quantity="0.1", takeProfit=LADDER
        )
        await bridge.until_stored(answer, "accepted")
        await bridge.fault("maintenance")
        await bridge.control("prices", {BTC: "63900"})
        await bridge.until_stored(answer, "filled")
        await asyncio.sleep(0.5)
        assert await _live(bridge, "TP_SL") == []
        await bridge.clear_faults()
        rows = await _until_live(bridge, "TP_SL", 2)
        assert sorted(D(row["quantity"]) for row in rows) == [D("0.03"), D("0.04")]
        await _until_accepted(bridge, answer, 2)
        assert len(await _protective(bridge, answer)) == 2


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "refuse", "algo_type": "TP_SL", "code": -1101, "count": 3},
        {"kind": "rate_limit", "path": "/v1/algo/order", "method": "POST", "count": 2},
        {"kind": "lose_answer", "path": "/v1/algo/order", "method": "POST", "count": 1},
        {"kind": "server_error", "path": "/v1/algo/order", "method": "POST", "status": 502, "count": 1},
    ],
    ids=["refused", "rate limit", "lost answer", "502"],
)
async def test_a_take_profit_is_tried_until_it_is_live(tmp_path: Path, fault: dict[str, Any]) -> None:
    """However its request fails, it is sent again as the same order and is at the exchange once; the position is never closed for it."""
    async with _bridge(tmp_path, protect_within_s=0.5) as bridge:
        _, answer = await bridge.send(
            orderType="limit", price="64000", stopLoss="50000", quantity="0.02", takeProfit=TWO_TAKE_PROFITS
        )
        await bridge.until_stored(answer, "accepted")
        await bridge.fault(**fault)
        await bridge.control("prices", {BTC: "63900"})
        await bridge.until_stored(answer, "filled")
        await _until_live(bridge, "TP_SL")
        await _until_accepted(bridge, answer)
        (take_profit,) = await _protective(bridge, answer)
        assert take_profit.intent.quantity == D("0.01")
        assert await bridge.positions() == {BTC: D("0.02")}


async def test_a_restart_places_what_is_missing_once(tmp_path: Path) -> None:
    """Stopped between the entry's fill and the placing: the next start places the take-profit, once."""
    async with running_paper(tmp_path / "paper") as paper_url:
        async with quick_bridge(tmp_path, paper_url) as bridge:
            _, answer = await bridge.send(quantity="0.02", stopLoss="2%", takeProfit=TWO_TAKE_PROFITS)
        async with quick_bridge(tmp_path, paper_url) as bridge:
            await _until_accepted(bridge, answer)
            await _until_live(bridge, "TP_SL")
            assert len(await _protective(bridge, answer)) == 1


@pytest.mark.usefixtures("short_lag")
async def test_a_position_that_is_gone_gets_no_take_profit(bridge: Bridge) -> None:
    """Closed before the take-profit could be placed: nothing more is sent, and the order that waited is withdrawn."""
    await bridge.fault("refuse", algo_type="TP_SL", code=-1101)
    _, answer = await bridge.send(quantity="0.02", stopLoss="2%", takeProfit=TWO_TAKE_PROFITS)
    await _until_tried(bridge, answer, 1)
    await bridge.send(action="close", quantity=None)
    await bridge.until_flat(BTC)
    await _until_state(bridge, answer, "over")
    await bridge.clear_faults()  # not before: until the bridge knows that the position is gone, it goes on trying
    assert await bridge.positions() == {}
    assert [(order.status, order.code) for order in await _protective(bridge, answer)] == [
        (OrderStatus.CANCELED, "withdrawn")
    ]
    assert await _live(bridge) == []


async def _until_accepted(bridge: Bridge, answer: dict[str, object], count: int = 1) -> None:
    async def is_accepted() -> bool:
        statuses = [order.status for order in await _protective(bridge, answer)]
        return statuses == [OrderStatus.ACCEPTED] * count

    await until(is_accepted)


# --------------------------------------------------------------------------------------------------------------- trailing stops


async def _until_trailing(bridge: Bridge, *statuses: OrderStatus) -> Order:
    async def is_reached() -> bool:
        return any(order.is_trailing_leg and order.status in statuses for order in await bridge.orders())

    await until(is_reached)
    return next(order for order in await bridge.orders() if order.is_trailing_leg)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "refuse", "algo_type": "TRAILING_STOP", "code": -1101, "count": 2},
        {"kind": "rate_limit", "path": "/v1/algo/order", "method": "POST", "count": 1},
        {"kind": "server_error", "path": "/v1/algo/order", "method": "POST", "status": 502, "count": 1},
        {"kind": "reset_before", "path": "/v1/algo/order", "method": "POST", "count": 1},
        {"kind": "lose_answer", "path": "/v1/algo/order", "method": "POST", "count": 1},
    ],
    ids=["refused", "rate limit", "502", "cut", "lost answer"],
)
async def test_a_trailing_stop_is_tried_until_it_is_live(tmp_path: Path, fault: dict[str, Any]) -> None:
    """However its request fails, it is sent again under its own id until it is live; what stood in for it is gone by then."""
    async with _bridge(tmp_path) as bridge:
        await bridge.fault(**fault)
        await bridge.send(quantity="0.02", trailingStop="3%")
        await _until_trailing(bridge, OrderStatus.ACCEPTED)
        (row,) = await _until_live(bridge, "TRAILING_STOP")
        assert D(row["quantity"]) == D("0.02")
        await _until_live(bridge, "STOP", 0)
        assert await bridge.positions() == {BTC: D("0.02")}


async def test_a_plain_stop_stands_in_for_a_trailing_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the exchange refuses it, a stop follows the best price, never looser; it is replaced once the trailing stop works again."""
    monkeypatch.setattr(protection_controller, "_FOLLOW_EVERY_S", 0.1)
    async with _bridge(tmp_path) as bridge:
        await bridge.control("prices", {BTC: "65000"})
        await bridge.fault("refuse", algo_type="TRAILING_STOP", code=-1101)
        await bridge.send(quantity="0.02", trailingStop="2%")
        (row,) = await _until_live(bridge, "STOP")
        assert D(row["trigger_price"]) >= D("65000") * D("0.98")
        assert row["reduce_only"]
        await bridge.control("prices", {BTC: "67000"})

        async def follows() -> bool:
            rows = await _live(bridge, "STOP")
            return [D(one["trigger_price"]) >= D("67000") * D("0.98") for one in rows] == [True]

        await until(follows)
        await bridge.clear_faults()
        await _until_live(bridge, "TRAILING_STOP")
        await _until_live(bridge, "STOP", 0)
        await bridge.control("prices", {BTC: "65500"})
        await bridge.until_flat(BTC)
        await _until_message(bridge, "trailing_fired")


async def test_the_stop_that_stands_in_fires(tmp_path: Path) -> None:
    """The price falls back while the trailing stop is refused: the plain stop closes the position, and nothing is left."""
    async with _bridge(tmp_path) as bridge:
        await bridge.fault("refuse", algo_type="TRAILING_STOP", code=-1101)
        await bridge.send(quantity="0.02", trailingStop="2%")
        await _until_live(bridge, "STOP")
        await bridge.control("prices", {BTC: "63000"})
        await bridge.until_flat(BTC)
        await _until_message(bridge, "stop_fired")
        await _until_trailing(bridge, OrderStatus.CANCELED)
        await _until_nothing_live(bridge)


async def test_a_price_beyond_the_trailing_stop_closes_the_position(tmp_path: Path) -> None:
    """Neither kind of stop can be placed and the price has passed where the trailing stop would be: closed, as that would have done."""
    async with _bridge(tmp_path) as bridge:
        for algo_type in ("TRAILING_STOP", "STOP"):
            await bridge.fault("refuse", algo_type=algo_type, code=-1101)
        await bridge.send(quantity="0.02", trailingStop="2%")
        await _until_trailing(bridge, OrderStatus.QUEUED)
        await bridge.control("prices", {BTC: "64900"})
        await asyncio.sleep(0.5)
        assert await bridge.positions() == {BTC: D("0.02")}
        await bridge.control("prices", {BTC: "63000"})
        await bridge.until_flat(BTC)


async def test_a_trailing_stop_is_not_mandatory(tmp_path: Path) -> None:
    """No stop of any kind can be placed for longer than protect_within_s, at a price that none would have fired at: nothing is closed."""
    async with _bridge(tmp_path, protect_within_s=0.3) as bridge:
        for algo_type in ("TRAILING_STOP", "STOP"):
            await bridge.fault("refuse", algo_type=algo_type, code=-1101)
        await bridge.send(quantity="0.02", trailingStop="2%")

        async def is_tried() -> bool:
            return (await _until_trailing(bridge, OrderStatus.QUEUED)).attempt >= 2

        await until(is_tried)
        assert await bridge.positions() == {BTC: D("0.02")}


# --------------------------------------------------------------------------------------------------- exits without a position


async def _open_with_trailing_stop(bridge: Bridge) -> dict[str, Any]:
    """Open a long of 0.02 whose trailing stop is live at the exchange."""
    _, answer = await bridge.send(quantity="0.02", trailingStop="3%")
    await _until_trailing(bridge, OrderStatus.ACCEPTED)
    return answer


@pytest.mark.usefixtures("short_lag")
async def test_a_trailing_stop_is_cancelled_with_its_position(bridge: Bridge) -> None:
    """An alert closes the position: no stop that could close a later one is left at the exchange."""
    entry = await bridge.order(await _open_with_trailing_stop(bridge))
    await bridge.send(action="close", quantity=None)
    await _until_trailing(bridge, OrderStatus.CANCELED)
    await _until_nothing_live(bridge)

    async def is_in_history() -> bool:
        history = await bridge.daemon.database.read(journal.of_alert, entry.alert_id)
        return [event.kind for event in history].count("leftover_canceled") == 1

    await until(is_in_history)
    assert (await bridge.daemon.database.read(alerts.get, entry.alert_id)).status == "filled"


async def test_a_trailing_stop_does_not_pass_to_the_next_position(bridge: Bridge) -> None:
    """Closed and entered again at once without a stop: the new position does not keep the stop of the previous one."""
    await _open_with_trailing_stop(bridge)
    await bridge.send(action="close", quantity=None)
    await bridge.send(quantity="0.01")
    await _until_trailing(bridge, OrderStatus.CANCELED)
    await _until_nothing_live(bridge)
    assert await bridge.positions() == {BTC: D("0.01")}


@pytest.mark.usefixtures("short_lag")
async def test_the_stop_of_a_partly_closed_position_stays(bridge: Bridge) -> None:
    """A part is closed, then more is bought: the position was never flat, so its stop still belongs to it."""
    await _open_with_trailing_stop(bridge)
    await bridge.send(action="close", quantity="0.01")
    await bridge.send(quantity="0.03")
    bridge.daemon.trading.protection.wake()
    await asyncio.sleep(0.5)
    assert len(await _live(bridge, "TRAILING_STOP")) == 1
    await bridge.send(action="close", quantity=None)
    await _until_trailing(bridge, OrderStatus.CANCELED)


async def test_the_trailing_stop_of_an_entry_that_did_not_execute_is_denied(bridge: Bridge) -> None:
    """The exchange refuses the entry: its trailing stop is never sent, and its alert is over."""
    await bridge.fault("refuse", code=-1101, count=1)
    _, answer = await bridge.send(quantity="0.02", trailingStop="3%")
    stop = await _until_trailing(bridge, OrderStatus.DENIED)
    assert (stop.code, stop.attempt) == ("earlier_leg_failed", 0)
    assert answer["success"] is False


# -------------------------------------------------------------------------------------------------- two webhooks in one market


async def test_the_exits_of_a_webhook_go_when_it_leaves_the_position(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two strategies are long in one market and one goes flat: its stop, which would close the other's part, is cancelled."""
    monkeypatch.setattr(protection_controller, "_OWNER_KNOWN_S", 0.3)
    bridge.add_webhook("other")
    _, first = await bridge.send(**position_fields("buy", "0", "0.02"), stopLoss="2%", takeProfit="5%")
    _, second = await bridge.send("other", **position_fields("buy", "0", "0.01"), stopLoss="1%")
    for answer in (first, second):
        await _until_state(bridge, answer, "live")
    _, closed = await bridge.send(**position_fields("sell", "0.02", "0"))
    assert closed["status"] == "filled"
    assert await bridge.positions() == {BTC: D("0.01")}
    await _until_state(bridge, first, "over")
    stops = await bridge.daemon.exchange.live_stops(BTC)
    assert [stop.quantity for stop in stops] == [D("0.01")]
    await bridge.control("prices", {BTC: "63500"})  # both stops would have fired
    await bridge.until_flat(BTC)
    await _until_state(bridge, second, "over")


async def test_the_stop_of_a_partly_closed_entry_shrinks_beside_another_webhook(bridge: Bridge) -> None:
    """A strategy halves its part: its own stop and take-profit, which are as large as the entry was, are replaced by smaller ones."""
    bridge.add_webhook("other")
    _, first = await bridge.send(**position_fields("buy", "0", "0.02"), stopLoss="3%", takeProfit="5%")
    _, second = await bridge.send("other", **position_fields("buy", "0", "0.01"), stopLoss="10%")
    for answer in (first, second):
        await _until_state(bridge, answer, "live")
    await bridge.send(**position_fields("sell", "0.02", "0.01"))
    await _until_state(bridge, first, "replaced")

    async def has_shrunk() -> bool:
        stops = await bridge.daemon.exchange.live_stops(BTC)
        take_profits = [D(row["quantity"]) for row in await _live(bridge, "TP_SL")]
        return [stop.quantity for stop in stops] == [D("0.01")] * 2 and take_profits == [D("0.01")]

    await until(has_shrunk)
    await bridge.control("prices", {BTC: "61500"})

    async def has_fired() -> bool:
        return await bridge.positions() == {BTC: D("0.01")}

    await until(has_fired)
    await _until_state(bridge, second, "live")


async def _until_sizes(bridge: Bridge, expected: dict[str, list[str]]) -> None:
    """Wait until the live algo orders of each type have these sizes, smallest first."""

    async def has_sizes() -> bool:
        rows = await _live(bridge)
        found = {kind: sorted(D(row["quantity"]) for row in rows if row["algo_type"] == kind) for kind in expected}
        return found == {kind: [D(size) for size in sizes] for kind, sizes in expected.items()}

    await until(has_sizes)


async def _until_held(bridge: Bridge, quantity: str) -> None:
    async def is_held() -> bool:
        return await bridge.positions() == {BTC: D(quantity)}

    await until(is_held)


@pytest.mark.parametrize(
    ("exits", "sizes", "price"),
    [
        ({"trailingStop": "1%"}, {"TRAILING_STOP": ["0.01"]}, "64000"),
        ({"takeProfit": "2%"}, {"BRACKET": [], "TP_SL": ["0.01"]}, "66500"),
        ({"stopLoss": "1%"}, {"BRACKET": [], "STOP": ["0.01"]}, "64000"),
        ({"takeProfit": [{"price": "2%", "share": "75%"}]}, {"TP_SL": ["0.01"]}, "66500"),
    ],
    ids=["trailing stop", "take-profit", "stop loss", "part of a ladder"],
)
async def test_exits_shrink_with_what_is_left_beside_another_webhook(
    tmp_path: Path, exits: dict[str, Any], sizes: dict[str, list[str]], price: str
) -> None:
    """A strategy halves its part twice: whichever exit fires then closes what it still holds, and nothing of the other's."""
    async with _bridge(tmp_path) as bridge:
        bridge.add_webhook("other")
        await bridge.send("other", **position_fields("buy", "0", "0.04"))
        await bridge.send(**position_fields("buy", "0", "0.04"), **exits)
        await _until_live(bridge, "")
        await bridge.send(**position_fields("sell", "0.04", "0.02"))
        halved = {kind: ["0.02"] if found else [] for kind, found in sizes.items()}
        await _until_sizes(bridge, halved)
        await bridge.send(**position_fields("sell", "0.02", "0.01"))
        await _until_sizes(bridge, sizes)
        await bridge.control("prices", {BTC: price})
        await _until_held(bridge, "0.04")
        await _until_nothing_live(bridge)
        assert await bridge.positions() == {BTC: D("0.04")}


async def test_a_trailing_stop_that_shrinks_is_no_looser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The price has come back a little from its best when a part is closed: what is left is closed where the larger stop would have fired,
    and the stop beside it goes, though the other webhook has no exits."""
    monkeypatch.setattr(protection_controller, "_OWNER_KNOWN_S", 0.3)
    async with _bridge(tmp_path) as bridge:
        bridge.add_webhook("other")
        await bridge.control("prices", {BTC: "65000"})
        await bridge.send("other", **position_fields("buy", "0", "0.04"))
        await bridge.send(**position_fields("buy", "0", "0.04"), trailingStop="1%")
        await _until_trailing(bridge, OrderStatus.ACCEPTED)
        await bridge.control("prices", {BTC: "66000"})
        await bridge.control("prices", {BTC: "65700"})
        await bridge.send(**position_fields("sell", "0.04", "0.02"))
        await _until_sizes(bridge, {"TRAILING_STOP": ["0.02"], "STOP": ["0.02"]})
        await bridge.control("prices", {BTC: "65300"})  # below 66000 less 1 %
        await _until_held(bridge, "0.04")
        await _until_nothing_live(bridge)
        assert await bridge.positions() == {BTC: D("0.04")}


async def test_the_stop_of_an_entry_does_not_close_a_later_one(tmp_path: Path) -> None:
    """A strategy halves its position and adds to it with a wider stop: each stop has the size of what is left of its entry."""
    async with _bridge(tmp_path) as bridge:
        _, first = await bridge.send(**position_fields("buy", "0", "0.04"), stopLoss="1%")
        await _until_state(bridge, first, "live")
        await bridge.send(**position_fields("sell", "0.04", "0.02"))
        _, second = await bridge.send(**position_fields("buy", "0.02", "0.06"), stopLoss="5%")
        await _until_sizes(bridge, {"BRACKET": ["0.04"], "STOP": ["0.02"]})
        await bridge.control("prices", {BTC: "64200"})
        await _until_held(bridge, "0.04")
        await _until_state(bridge, first, "over")
        await _until_state(bridge, second, "live")
        assert await bridge.positions() == {BTC: D("0.04")}


async def test_the_exits_of_an_entry_go_when_later_ones_hold_the_position(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A strategy has added to its position and closes as much as its first entry: that one's stop would close the second's part."""
    monkeypatch.setattr(protection_controller, "_OWNER_KNOWN_S", 0.3)
    async with _bridge(tmp_path) as bridge:
        _, first = await bridge.send(**position_fields("buy", "0", "0.04"), stopLoss="1%")
        _, second = await bridge.send(**position_fields("buy", "0.04", "0.08"), stopLoss="5%")
        for answer in (first, second):
            await _until_state(bridge, answer, "live")
        await bridge.send(**position_fields("sell", "0.08", "0.04"))
        await _until_state(bridge, first, "over")
        await _until_sizes(bridge, {"BRACKET": ["0.04"], "STOP": []})
        (stop,) = await bridge.daemon.exchange.live_stops(BTC)
        assert stop.quantity == D("0.04")
        await bridge.control("prices", {BTC: "64000"})
        await _until_state(bridge, second, "live")
        assert await bridge.positions() == {BTC: D("0.04")}


async def test_entries_of_two_webhooks_each_get_their_stop_back(tmp_path: Path) -> None:
    """Both lose theirs: each is replaced at its own price and size."""
    async with _bridge(tmp_path) as bridge:
        bridge.add_webhook("other")
        await bridge.fault("lose_stop", count=2)
        _, first = await bridge.send(quantity="0.02", stopLoss="2%")
        _, second = await bridge.send("other", quantity="0.01", stopLoss="4%")
        for answer in (first, second):
            await _until_state(bridge, answer, "replaced")
        rows = await _until_live(bridge, "STOP", 2)
        wanted = {(await bridge.order(answer)).intent.stop_loss for answer in (first, second)}
        assert {D(row["trigger_price"]) for row in rows} == wanted
        assert sorted(D(row["quantity"]) for row in rows) == [D("0.01"), D("0.02")]
