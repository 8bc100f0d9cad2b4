"""Waiters get an alert's orders once they are settled; acceptances, reports and fills that are not stored yet change no decision."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kekbridge.execution import updates
from kekbridge.execution.tracker import record_report
from kekbridge.execution.updates import OrderUpdates, PendingAcceptance, TimedEvent, UnrecordedFills
from kekbridge.model import FIRST_PROTECTIVE_LEG, Fill, Order, OrderStatus, OrderType, Purpose, client_order_id_of
from kekbridge.model.orders import OrderStatusReport
from kekbridge.store import events, order_lifecycle
from kekbridge.store import orders as order_rows
from kekbridge.store.admissions import admit
from kekbridge.store.connections import connect
from kekbridge.store.database import Database
from tests.bridge import Bridge
from tests.store.factories import EXPIRES, NO_RATES, NOW, admitting, fill, intent, new_alert

ALERT = "01KF0000000000000000000001"
LATER, LAST = NOW + timedelta(milliseconds=5), NOW + timedelta(milliseconds=9)
_TABLES = ("orders", "alerts", "reservations", "daily_usage", "fills", "results", "events", "protections", "exits")

# ------------------------------------------------------------------------------------------------------------- TimedEvent


async def test_waiting_for_a_set_event_takes_no_turn_of_the_event_loop() -> None:
    """An event set before the wait is not missed, and no other task runs in between."""
    has_run = False

    def run() -> None:
        nonlocal has_run
        has_run = True

    asyncio.get_running_loop().call_soon(run)
    event = TimedEvent()
    event.set()
    assert await event.wait(60)
    assert not has_run


async def test_setting_an_event_ends_the_wait() -> None:
    """Also if it is set twice before the waiter runs."""
    event = TimedEvent()
    waiting = asyncio.create_task(event.wait(60))
    await asyncio.sleep(0)
    event.set()
    event.set()
    async with asyncio.timeout(5):
        assert await waiting


async def test_waiting_for_an_event_times_out() -> None:
    """The timeout is in seconds; an event that was set and cleared before does not count."""
    event = TimedEvent()
    event.set()
    event.clear()
    async with asyncio.timeout(5):
        assert not await event.wait(0.001)


async def test_an_event_works_again_after_a_cancelled_wait() -> None:
    """Setting it after the wait was cancelled wakes no task, and the next wait starts afresh."""
    event = TimedEvent()
    waiting = asyncio.create_task(event.wait(60))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    event.set()
    event.clear()
    assert not await event.wait(0)


# ------------------------------------------------------------------------------------------------------ UnrecordedFills


async def test_without_unrecorded_fills_waiting_takes_no_turn_of_the_event_loop() -> None:
    """The usual alert does not wait: no other task runs in between, so the snapshot it saw is the one it is decided by."""
    has_run = False

    def run() -> None:
        nonlocal has_run
        has_run = True

    asyncio.get_running_loop().call_soon(run)
    await UnrecordedFills().wait()
    assert not has_run


async def test_a_decision_waits_for_every_unrecorded_fill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for one that is added while it waits; an order added twice is discarded once."""
    monkeypatch.setattr(updates, "LONGEST_WAIT_S", 60)
    unrecorded = UnrecordedFills()
    unrecorded.add("a")
    unrecorded.add("a")
    waiting = asyncio.create_task(unrecorded.wait())
    await asyncio.sleep(0)
    unrecorded.add("b")
    unrecorded.discard("a")
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    unrecorded.discard("b")
    await waiting


async def test_a_decision_does_not_wait_for_a_fill_that_is_never_recorded() -> None:
    """If the response to an order is lost, its fill is not recorded for seconds: alerts are decided before that."""
    unrecorded = UnrecordedFills()
    unrecorded.add("a")
    async with asyncio.timeout(30):
        await unrecorded.wait()


def test_discarding_an_order_that_was_not_added_is_no_error() -> None:
    """Reports found by polling were never added by the stream."""
    UnrecordedFills().discard("a")


# -------------------------------------------------------------------------------------------- OrderWaiter, OrderUpdates


def order(leg: int = 0, status: OrderStatus = OrderStatus.QUEUED, **changes: object) -> Order:
    """One leg of alert ALERT."""
    base = Order(
        client_order_id=client_order_id_of(ALERT, leg),
        alert_id=ALERT,
        webhook_id="hook",
        leg=leg,
        sequence=leg,
        intent=intent(),
        status=status,
        created_at=NOW,
        expires_at=NOW + timedelta(seconds=60),
    )
    return replace(base, **changes)


async def test_a_waiter_is_woken_when_every_leg_is_settled() -> None:
    """Of two legs the first outcome does not wake the waiter, the second does; both are returned by leg."""
    order_updates = OrderUpdates()
    with order_updates.wait_for(ALERT, [order(0), order(1)]) as waiter:
        waiting = asyncio.create_task(waiter.wait(20))
        order_updates.publish(order(1, OrderStatus.FILLED))
        await asyncio.sleep(0)
        assert not waiting.done()
        order_updates.publish(order(0, OrderStatus.REJECTED))
        assert [each.status for each in await waiting] == [OrderStatus.REJECTED, OrderStatus.FILLED]


async def test_a_resting_order_settles_and_a_market_order_does_not() -> None:
    """Accepted ends the wait for a limit order, which may rest for days, but not for a market order."""
    order_updates = OrderUpdates()
    limit = intent(order_type=OrderType.LIMIT, limit_price=Decimal(64000))
    with order_updates.wait_for(ALERT, [order(0, intent=limit)]) as waiter:
        order_updates.publish(order(0, OrderStatus.ACCEPTED, intent=limit))
        assert (await waiter.wait(0.001))[0].is_settled
    with order_updates.wait_for(ALERT, [order(0)]) as waiter:
        order_updates.publish(order(0, OrderStatus.ACCEPTED))
        assert not (await waiter.wait(0.001))[0].is_settled


async def test_a_waiter_ignores_protective_orders() -> None:
    """A stop that kekbridge added afterwards may stay open for days: it neither delays the response nor appears in it."""
    order_updates = OrderUpdates()
    stop = order(FIRST_PROTECTIVE_LEG, OrderStatus.QUEUED, intent=intent(purpose=Purpose.PROTECT, reduce_only=True))
    with order_updates.wait_for(ALERT, [order(0, OrderStatus.FILLED), stop]) as waiter:
        order_updates.publish(stop)
        assert [each.leg for each in await waiter.wait(20)] == [0]


async def test_a_waiter_gets_only_its_own_alerts_orders_inside_the_block() -> None:
    """Orders of other alerts, and those published after the block, do not reach it."""
    order_updates = OrderUpdates()
    with order_updates.wait_for(ALERT, [order(0)]) as waiter:
        assert (await waiter.wait(0))[0].status is OrderStatus.QUEUED
        order_updates.publish(replace(order(0, OrderStatus.FILLED), alert_id="another"))
        assert waiter.orders[0].status is OrderStatus.QUEUED
    order_updates.publish(order(0, OrderStatus.FILLED))
    assert waiter.orders[0].status is OrderStatus.QUEUED


# ---------------------------------------------------------------------------------------------------- PendingAcceptance


@pytest.fixture
def sent(tmp_path: Path) -> Iterator[tuple[sqlite3.Connection, Order]]:
    """A stored order that is being sent."""
    with closing(connect(Database.open(tmp_path).path)) as connection:
        planned = admitting(intent())
        stored = admit(connection, new_alert(), planned, rates=NO_RATES, now=NOW, expires_at=EXPIRES).orders[0]
        yield connection, order_lifecycle.claim(connection, stored.client_order_id, now=NOW)


def report(order: Order, status: OrderStatus, executed: Decimal) -> OrderStatusReport:
    return OrderStatusReport(
        order_id="7",
        client_order_id=order.client_order_id,
        is_algo=False,
        symbol=order.intent.symbol,
        side=order.intent.side,
        order_type=OrderType.MARKET,
        venue_type=None,
        status=status,
        quantity=order.intent.quantity,
        executed_quantity=executed,
        average_price=Decimal(65000) if executed else None,
        limit_price=None,
        trigger_price=None,
        fee=Decimal("0.05") if executed else Decimal(0),
        realized_pnl=None,
        reduce_only=False,
        reason="",
        created_at=LATER,
        updated_at=LATER,
    )


def content(connection: sqlite3.Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table that an order changes; of the tallies those that are not zero."""
    found = {table: [tuple(row) for row in connection.execute(f"SELECT * FROM {table}")] for table in _TABLES}
    found["tallies"] = [tuple(row) for row in connection.execute("SELECT * FROM tallies WHERE count <> 0")]
    return found


def write_separately(
    connection: sqlite3.Connection, acceptance: PendingAcceptance, reported: OrderStatusReport, fills: tuple[Fill, ...]
) -> None:
    acceptance.write_alone(connection)
    record_report(connection, acceptance.client_order_id, reported, fills, None, now=LAST)


async def write_together(
    connection: sqlite3.Connection, acceptance: PendingAcceptance, reported: OrderStatusReport, fills: tuple[Fill, ...]
) -> Order | None:
    joined = acceptance.join(
        lambda c, known: record_report(c, acceptance.client_order_id, reported, fills, None, now=LAST, known=known)
    )
    assert joined is not None
    accepted, updated = acceptance.write(connection)
    assert accepted.order_id == "7"
    return updated


@pytest.mark.parametrize("was_unknown", [False, True])
@pytest.mark.parametrize("executed", [Decimal(0), Decimal("0.004"), Decimal("0.01")])
@pytest.mark.parametrize("status", [OrderStatus.ACCEPTED, OrderStatus.FILLED, OrderStatus.CANCELED])
async def test_writing_a_report_with_the_acceptance_equals_writing_both_in_turn(
    sent: tuple[sqlite3.Connection, Order], status: OrderStatus, executed: Decimal, was_unknown: bool
) -> None:
    """Rows, reservations, totals, the alert's status, signed_at and the history's hash chain are equal, whatever the report says."""
    connection, order = sent
    client_order_id = order.client_order_id
    if was_unknown:
        order_lifecycle.mark_unknown(connection, client_order_id, reason="no answer", now=NOW)
    reported = report(order, status, executed)
    fills = (fill(order_id="7", client_order_id=client_order_id, quantity=executed),) if executed else ()
    contents = []
    for is_together in (False, True):
        connection.execute("BEGIN")
        acceptance = PendingAcceptance(client_order_id, order_id="7", now=LATER, signed_at=NOW)
        if is_together:
            assert await write_together(connection, acceptance, reported, fills) == order_rows.get(
                connection, client_order_id
            )
        else:
            write_separately(connection, acceptance, reported, fills)
        assert events.verify(connection) is None
        contents.append(content(connection))
        connection.execute("ROLLBACK")
    assert contents[0] == contents[1]
    kinds = [row[2] for row in contents[1]["events"]]
    assert "order_accepted" in kinds


async def test_a_report_that_comes_too_late_cannot_join(sent: tuple[sqlite3.Connection, Order]) -> None:
    """Once the write has begun, or another report has joined, a report is refused: it would be lost."""
    connection, order = sent
    acceptance = PendingAcceptance(order.client_order_id, order_id="7", now=LATER, signed_at=NOW)
    accepted, reported = acceptance.write(connection)
    assert (accepted.status, reported) == (OrderStatus.ACCEPTED, None)
    assert acceptance.join(lambda c, known: order) is None
    other = PendingAcceptance(order.client_order_id, order_id="7", now=LATER, signed_at=NOW)
    assert other.join(lambda c, known: order) is not None
    assert other.join(lambda c, known: order) is None


async def test_no_report_can_join_after_a_decision(bridge: Bridge) -> None:
    """What is stored before a decision must be in the snapshot it was made by: an acceptance queued ahead of it takes no new report."""
    acceptance = PendingAcceptance("kb-a", order_id="7", now=LATER, signed_at=NOW)
    bridge.daemon.trading.updates.add_acceptance(acceptance)
    await bridge.send()
    assert acceptance.join(lambda c, known: pytest.fail("written")) is None


async def test_a_joined_report_gets_the_order_or_the_error(sent: tuple[sqlite3.Connection, Order]) -> None:
    """The future of a joined report ends with the order, or with the error of the write; a second call has no effect."""
    _, order = sent
    for fails in (False, True):
        acceptance = PendingAcceptance(order.client_order_id, order_id="7", now=LATER, signed_at=NOW)
        joined = acceptance.join(lambda c, known: order)
        assert isinstance(joined, asyncio.Future)
        if fails:
            acceptance.fail(OSError("gone"))
            acceptance.resolve(order)
            with pytest.raises(OSError, match="gone"):
                await joined
        else:
            acceptance.resolve(order)
            acceptance.fail(OSError("gone"))
            assert await joined is order
