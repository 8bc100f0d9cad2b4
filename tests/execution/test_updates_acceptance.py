"""An acceptance and the report of the order's end, written as one: nothing in the tables tells that they were not written in turn."""

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

from kekbridge.execution.tracker import record_report
from kekbridge.execution.updates import PendingAcceptance
from kekbridge.model import Fill, Order, OrderStatus, OrderType
from kekbridge.model.orders import OrderStatusReport
from kekbridge.store import events, order_lifecycle, orders
from kekbridge.store.admissions import admit
from kekbridge.store.connections import connect
from kekbridge.store.database import Database
from tests.bridge import Bridge
from tests.store.factories import EXPIRES, NO_RATES, NOW, admitting, fill, intent, new_alert

LATER, LAST = NOW + timedelta(milliseconds=5), NOW + timedelta(milliseconds=9)
_TABLES = ("orders", "alerts", "reservations", "daily_usage", "fills", "results", "events", "protections", "exits")


@pytest.fixture
def sent(tmp_path: Path) -> Iterator[tuple[sqlite3.Connection, Order]]:
    """An order being sent."""
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
    """Every row of every table that an order moves; of the tallies those that count anything."""
    found = {table: [tuple(row) for row in connection.execute(f"SELECT * FROM {table}")] for table in _TABLES}
    found["tallies"] = [tuple(row) for row in connection.execute("SELECT * FROM tallies WHERE count <> 0")]
    return found


def in_turn(
    connection: sqlite3.Connection, acceptance: PendingAcceptance, told: OrderStatusReport, fills: tuple[Fill, ...]
) -> None:
    acceptance.write_alone(connection)
    record_report(connection, acceptance.client_order_id, told, fills, None, now=LAST)


async def as_one(
    connection: sqlite3.Connection, acceptance: PendingAcceptance, told: OrderStatusReport, fills: tuple[Fill, ...]
) -> Order | None:
    joined = acceptance.join(
        lambda c, known: record_report(c, acceptance.client_order_id, told, fills, None, now=LAST, known=known)
    )
    assert joined is not None
    accepted, reported = acceptance.write(connection)
    assert accepted.order_id == "7"
    return reported


@pytest.mark.parametrize("was_doubted", [False, True])
@pytest.mark.parametrize("executed", [Decimal(0), Decimal("0.004"), Decimal("0.01")])
@pytest.mark.parametrize("status", [OrderStatus.ACCEPTED, OrderStatus.FILLED, OrderStatus.CANCELED])
async def test_written_as_one_or_in_turn_is_the_same(
    sent: tuple[sqlite3.Connection, Order], status: OrderStatus, executed: Decimal, was_doubted: bool
) -> None:
    """Rows, room, totals, headline, signed_at and the whole chain of the history are equal to the last hash, whatever the report says."""
    connection, order = sent
    name = order.client_order_id
    if was_doubted:
        order_lifecycle.mark_unknown(connection, name, reason="no answer", now=NOW)
    told = report(order, status, executed)
    fills = (fill(order_id="7", client_order_id=name, quantity=executed),) if executed else ()
    found = []
    for is_one in (False, True):
        connection.execute("BEGIN")
        acceptance = PendingAcceptance(name, order_id="7", now=LATER, signed_at=NOW)
        if is_one:
            assert await as_one(connection, acceptance, told, fills) == orders.get(connection, name)
        else:
            in_turn(connection, acceptance, told, fills)
        assert events.verify(connection) is None
        found.append(content(connection))
        connection.execute("ROLLBACK")
    assert found[0] == found[1]
    kinds = [row[2] for row in found[1]["events"]]
    assert "order_accepted" in kinds


async def test_a_report_that_comes_too_late_is_written_alone(sent: tuple[sqlite3.Connection, Order]) -> None:
    """Once the writer has begun, or when another report joined already, nothing is taken along that would be lost."""
    connection, order = sent
    acceptance = PendingAcceptance(order.client_order_id, order_id="7", now=LATER, signed_at=NOW)
    accepted, reported = acceptance.write(connection)
    assert (accepted.status, reported) == (OrderStatus.ACCEPTED, None)
    assert acceptance.join(lambda c, known: order) is None
    other = PendingAcceptance(order.client_order_id, order_id="7", now=LATER, signed_at=NOW)
    assert other.join(lambda c, known: order) is not None
    assert other.join(lambda c, known: order) is None


async def test_a_report_does_not_overtake_a_decision(bridge: Bridge) -> None:
    """What is stored before a decision is in the picture it was given: an acceptance that waits in front of it takes nothing new."""
    acceptance = PendingAcceptance("kb-a", order_id="7", now=LATER, signed_at=NOW)
    bridge.daemon.trading.updates.add_acceptance(acceptance)
    await bridge.send()
    assert acceptance.join(lambda c, known: pytest.fail("written")) is None


async def test_who_joined_is_told_or_learns_why_not(sent: tuple[sqlite3.Connection, Order]) -> None:
    """The future of a joined report ends with the order, or with what went wrong; told again changes nothing."""
    _, order = sent
    for fails in (False, True):
        acceptance = PendingAcceptance(order.client_order_id, order_id="7", now=LATER, signed_at=NOW)
        joined = acceptance.join(lambda c, known: order)
        assert isinstance(joined, asyncio.Future)
        if fails:
            acceptance.fail(OSError("gone"))
            acceptance.report(order)
            with pytest.raises(OSError, match="gone"):
                await joined
        else:
            acceptance.report(order)
            acceptance.fail(OSError("gone"))
            assert await joined is order
