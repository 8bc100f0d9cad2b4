"""Orders that the exchange accepted and does not show, and orders that it has although they ended as unknown."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kekbridge.model import OrderStatus
from kekbridge.store import conditions, fills, journal
from tests.bridge import BTC, ETH, Bridge, quick_bridge, running_paper
from tests.equality import assert_rebuilt_equal, assert_same, book_contents, loaded_contents
from tests.store.factories import NO_RATES
from tests.waiting import until

D = Decimal
LIMIT = {"orderType": "limit", "limitPrice": "64000"}
CREATE = {"path": "/v1/order", "method": "POST"}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second instead of half a minute of proof."""
    times = {
        "_LOOK_EVERY_S": 0.05,
        "_SHOWN_WITHIN_S": 0.1,
        "_FIRST_PAUSE_S": 0.05,
        "_LONGEST_PAUSE_S": 0.2,
        "_PROOF_AFTER_S": 0.6,
        "_REPORTED_AFTER_S": 1.2,
        "_LATE_PAUSE_S": 0.1,
        "_LONGEST_LATE_PAUSE_S": 0.4,
    }
    for name, seconds in times.items():
        monkeypatch.setattr(f"kekbridge.execution.missing_orders.{name}", seconds)


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    """Afterwards the book equals one that is loaded, and the tables equal those of a rebuild."""
    async with running_paper(tmp_path / "paper") as paper_url:
        async with quick_bridge(
            tmp_path, paper_url, server__respond_within_s=0.2, queue__reconcile_every_s=2
        ) as inside:
            yield inside
            await _assert_book_loads_equal(inside)
        assert_rebuilt_equal(inside.data_dir)


async def _assert_book_loads_equal(bridge: Bridge) -> None:
    await bridge.clear_faults()
    await bridge.daemon.database.flush()
    book = bridge.daemon.trading.book

    def compare(connection: sqlite3.Connection) -> None:
        now = bridge.clock()
        live = book_contents(connection, book, account_rates=NO_RATES, now=now)
        assert_same(loaded_contents(connection, account_rates=NO_RATES, now=now), live)

    bridge.daemon.database.read_now(compare)


async def _events(bridge: Bridge, kind: str) -> list[journal.Event]:
    return list(await bridge.daemon.database.read(journal.list_events, kinds=[kind]))


async def _until_event(bridge: Bridge, kind: str, count: int = 1) -> None:
    async def has_event() -> bool:
        return len(await _events(bridge, kind)) == count

    await until(has_event)


@pytest.mark.parametrize(
    "fields",
    [{}, LIMIT, {"stopLoss": "2%"}, {"orderType": "stop", "triggerPrice": "66000"}],
    ids=["market", "limit", "bracket", "stop"],
)
async def test_a_ghost_ends_and_frees_its_room(bridge: Bridge, fields: dict[str, Any]) -> None:
    """Accepted with an id, and in no order, trade or position of the exchange: it ends as unknown, and the trader hears of it once."""
    await bridge.fault("lose_order", count=1)
    _, answer = await bridge.send(**fields)
    assert (await bridge.order(answer)).order_id is not None
    assert BTC in bridge.daemon.trading.book.commitments
    await _until_event(bridge, "ghost_order")
    order = await bridge.until_stored(answer, "unknown")
    assert order.finished_at is not None
    assert order.executed_quantity == 0
    assert BTC not in bridge.daemon.trading.book.commitments
    assert await bridge.positions() == {}
    assert len(await _events(bridge, "ghost_order")) == 1


async def test_an_exit_that_became_a_ghost_is_sent_again(bridge: Bridge) -> None:
    """Its position is still open: it goes back to the queue under a new id of the exchange, and closes once."""
    await bridge.send(quantity="0.02")
    await bridge.fault("lose_order", count=1)
    _, leaving = await bridge.send(action="close", quantity=None)
    order = await bridge.until_stored(leaving, "filled")
    assert order.attempt == 2
    assert await bridge.positions() == {}
    assert len(await _events(bridge, "ghost_order")) == 1


async def test_a_cancelled_exit_that_became_a_ghost_is_not_sent_again(bridge: Bridge) -> None:
    """The alert that cancelled it ends, and the position stays as it is."""
    await bridge.send(quantity="0.02")
    await bridge.fault("lose_order", count=1)
    _, resting = await bridge.send(action="close", quantity=None, orderType="limit", limitPrice="66000")
    await bridge.send(action="cancel", quantity=None)
    order = await bridge.until_stored(resting, "unknown")
    assert order.finished_at is not None
    assert len(await bridge.journal("order_accepted")) == 1
    assert await bridge.positions() == {BTC: D("0.02")}


async def test_an_order_that_reads_show_late_is_no_ghost(bridge: Bridge) -> None:
    """Reports are lost and reads lag: the order is found before anything is proven, and nothing is said."""
    await bridge.fault("read_lag", delay_ms=400)
    await bridge.fault("withhold_reports")
    _, resting = await bridge.send(**LIMIT)

    def is_found() -> bool:
        trading = bridge.daemon.trading
        return trading.tracker.unshown() == () and resting["clientOrderId"] in trading.book.orders

    await until(is_found)
    assert (await bridge.order(resting)).status is OrderStatus.ACCEPTED
    assert await _events(bridge, "ghost_order") == []


async def test_an_accepted_order_is_explained_by_its_trades(bridge: Bridge) -> None:
    """No report and no query shows it, but the account's trades name it: it is filled, with their quantity and price."""
    await bridge.fault("withhold_reports")
    await bridge.fault("hide_orders")
    _, answer = await bridge.send(quantity="0.02")
    order = await bridge.until_stored(answer, "filled")
    assert (order.executed_quantity, order.average_price) == (D("0.02"), D(65000))
    found = await bridge.daemon.database.read(fills.of_order, order.client_order_id)
    assert [fill.quantity for fill in found] == [D("0.02")]
    assert BTC not in bridge.daemon.trading.book.commitments
    assert await _events(bridge, "ghost_order") == []


async def test_a_bracket_that_traded_unseen_is_no_ghost(bridge: Bridge) -> None:
    """Its executions have other ids at the exchange: trades of its market that belong to no known order prove nothing."""
    await bridge.fault("withhold_reports")
    await bridge.fault("hide_orders")
    _, answer = await bridge.send(quantity="0.02", stopLoss="2%")
    await _until_event(bridge, "ghost_suspected")
    assert (await bridge.order(answer)).finished_at is None
    await bridge.clear_faults()
    assert (await bridge.until_stored(answer, "filled")).executed_quantity == D("0.02")
    await _until_event(bridge, "ghost_suspected")


async def test_a_position_that_nothing_explains_proves_no_ghost(bridge: Bridge) -> None:
    """The order is in no order and no trade, but the position changed as by it: it keeps its room, and a condition says so."""
    await bridge.fault("lose_order", count=1)
    _, answer = await bridge.send(quantity="0.02")
    await bridge.set_positions(BTC="0.02")
    await _until_event(bridge, "ghost_suspected")
    assert BTC in bridge.daemon.trading.book.commitments
    assert (await bridge.order(answer)).finished_at is None
    active = await bridge.daemon.database.read(conditions.list_active)
    (data,) = [one.data for name, one in active.items() if name == f"ghost:{answer['clientOrderId']}"]
    assert "0.02" in data["detail"]
    await bridge.set_positions()
    await bridge.until_stored(answer, "unknown")

    async def is_over() -> bool:
        return not any(name.startswith("ghost:") for name in await bridge.daemon.database.read(conditions.list_active))

    await until(is_over)
    assert len(await _events(bridge, "ghost_suspected")) == 1


# ------------------------------------------------------------------------------------------------------- ended as unknown


async def _send_unseen(bridge: Bridge, **fields: Any) -> dict[str, Any]:
    """An order whose answer is lost and which reads show only after it was given up; returns the answer to its alert."""
    await bridge.fault("read_lag", delay_ms=2500)
    await bridge.fault("withhold_reports")
    await bridge.fault("lose_answer", path="/v1/order", method="POST", count=1)
    _, answer = await bridge.send(**fields)

    async def is_given_up() -> bool:
        return (await bridge.order(answer)).finished_at is not None

    await until(is_given_up)
    assert (await bridge.order(answer)).status is OrderStatus.UNKNOWN
    return answer


@pytest.mark.parametrize("parts", [1, 3])
async def test_a_fill_after_unknown_is_adopted(bridge: Bridge, parts: int) -> None:
    """Given up, but at the exchange: it ends as filled, with every fill, and position, reservation and totals of the day say the same."""
    if parts > 1:
        await bridge.fault("partial_fills", parts=parts)
    answer = await _send_unseen(bridge, quantity="0.03")
    order = await bridge.until_stored(answer, "filled")
    assert (order.executed_quantity, order.average_price) == (D("0.03"), D(65000))

    async def has_all() -> bool:
        found = await bridge.daemon.database.read(fills.of_order, order.client_order_id)
        return sum(fill.quantity for fill in found) == D("0.03")

    await until(has_all)
    assert await bridge.positions() == {BTC: D("0.03")}
    book = bridge.daemon.trading.book
    assert BTC not in book.commitments
    assert book.usage(order.webhook_id, now=bridge.clock()).traded_today == D("1950")
    await bridge.clear_faults()


async def test_a_fill_after_unknown_is_adopted_by_the_next_start(tmp_path: Path) -> None:
    """The order was given up and the bridge stopped before the exchange showed it."""
    async with running_paper(tmp_path / "paper") as paper_url:
        async with quick_bridge(tmp_path, paper_url) as bridge:
            answer = await _send_unseen(bridge, quantity="0.03", stopLoss=None)
            assert (await bridge.order(answer)).status is OrderStatus.UNKNOWN
        async with quick_bridge(tmp_path, paper_url) as bridge:
            await bridge.clear_faults()
            order = await bridge.until_stored(answer, "filled")
            assert order.executed_quantity == D("0.03")
            assert await bridge.positions() == {BTC: D("0.03")}
            await _assert_book_loads_equal(bridge)
        assert_rebuilt_equal(bridge.data_dir)


async def test_a_cancel_holds_for_an_order_that_turns_up_late(bridge: Bridge) -> None:
    """Cancelled while its outcome was unknown, given up, and found resting afterwards: it is cancelled then."""
    await bridge.fault("read_lag", delay_ms=2500)
    await bridge.fault("withhold_reports")
    await bridge.fault("lose_answer", path="/v1/order", method="POST", count=1)
    _, answer = await bridge.send(**LIMIT)
    await bridge.send(action="cancel", quantity=None)
    await bridge.until_stored(answer, "canceled")
    assert await bridge.journal("order_canceled") != []
    assert BTC not in bridge.daemon.trading.book.commitments


async def test_a_trade_of_no_known_order_has_unknown_ones_asked_for(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, whatever pause had grown by then."""
    monkeypatch.setattr("kekbridge.execution.missing_orders._LATE_PAUSE_S", 3600.0)
    monkeypatch.setattr("kekbridge.execution.missing_orders._LONGEST_LATE_PAUSE_S", 3600.0)
    answer = await _send_unseen(bridge, symbol="ETHUSDT.P", quantity="0.1")
    await bridge.clear_faults()
    await bridge.daemon.trading.reconciler.reconcile()
    assert (await bridge.until_stored(answer, "filled")).executed_quantity == D("0.1")
    assert await bridge.positions() == {ETH: D("0.1")}


async def test_a_ghost_of_a_stop_leaves_no_position_without_one(bridge: Bridge) -> None:
    """The stop that replaces a lost one is accepted and never exists: another one is placed, or the position is closed."""
    await bridge.fault("lose_stop", count=1)
    await bridge.fault("lose_order", algo_type="STOP", count=1)
    await bridge.send(quantity="0.02", stopLoss="2%")

    async def is_safe() -> bool:
        return not await bridge.positions() or bool(await bridge.daemon.exchange.live_stops(BTC))

    await until(is_safe)
    await _until_event(bridge, "ghost_order")
    await until(is_safe)
