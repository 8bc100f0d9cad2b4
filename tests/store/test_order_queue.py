"""The queue: which order may be sent next, and which has to wait, expire or be denied."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from decimal import Decimal

import pytest

from kekbridge.model import Order, OrderIntent, OrderStatus, OrderType
from kekbridge.store import order_lifecycle, order_queue, orders
from kekbridge.store.admissions import admit
from tests.store.factories import EXPIRES, NO_RATES, NOW, admitting, exit_intent, intent, new_alert, status_report

ETH, SOL = "PERP_ETH_USDC", "PERP_SOL_USDC"


def put(connection: sqlite3.Connection, *intents: OrderIntent) -> tuple[Order, ...]:
    return admit(connection, new_alert(), admitting(*intents), rates=NO_RATES, now=NOW, expires_at=EXPIRES).orders


def names(found: tuple[Order, ...]) -> list[str]:
    return [order.client_order_id for order in found]


def finish(connection: sqlite3.Connection, order: Order, status: OrderStatus) -> None:
    """Send an order and let the exchange end it."""
    order_lifecycle.claim(connection, order.client_order_id, now=NOW)
    order_lifecycle.mark_accepted(connection, order.client_order_id, order_id=f"x{order.sequence}", now=NOW)
    report = status_report(order.client_order_id, status, order.intent.quantity)
    order_lifecycle.apply_report(connection, order.client_order_id, report, now=NOW)


def test_first_in_first_out_within_a_symbol(connection: sqlite3.Connection) -> None:
    """Only the oldest open order of a symbol is returned, until it no longer holds back others."""
    first, second = put(connection, intent())[0], put(connection, intent())[0]
    assert names(order_queue.claimable(connection, now=NOW)) == names((first,))
    order_lifecycle.claim(connection, first.client_order_id, now=NOW)
    assert order_queue.claimable(connection, now=NOW) == ()
    order_lifecycle.mark_unknown(connection, first.client_order_id, reason="x", now=NOW)
    assert order_queue.claimable(connection, now=NOW) == ()
    order_lifecycle.mark_accepted(connection, first.client_order_id, order_id="1", now=NOW)
    assert names(order_queue.claimable(connection, now=NOW)) == names((second,))


def test_symbols_do_not_wait_for_each_other_and_exits_go_first(connection: sqlite3.Connection) -> None:
    """Symbols are independent; of several symbols one with an exit comes before older entries."""
    entry = put(connection, intent())[0]
    other = put(connection, intent(symbol=ETH))[0]
    leaving = put(connection, exit_intent(symbol=SOL))[0]
    assert names(order_queue.claimable(connection, now=NOW)) == names((leaving, entry, other))


def test_order_behind_an_overlappable_one_is_claimable(connection: sqlite3.Connection) -> None:
    """An order that is queued again or unknown holds back the next one, even if it is listed as overlappable."""
    first, second = put(connection, intent())[0], put(connection, intent())[0]
    taken, symbol = {first.client_order_id}, first.intent.symbol
    assert names(order_queue.claimable(connection, now=NOW, overlappable_ids=taken)) == names((first,))
    order_lifecycle.claim(connection, first.client_order_id, now=NOW)
    assert order_queue.claimable(connection, now=NOW) == ()
    assert names(order_queue.claimable(connection, now=NOW, overlappable_ids=taken)) == names((second,))
    assert not order_queue.is_symbol_free(connection, symbol, overlappable_ids=taken)
    order_lifecycle.claim(connection, second.client_order_id, now=NOW)
    assert order_queue.is_symbol_free(connection, symbol, overlappable_ids={*taken, second.client_order_id})
    order_lifecycle.mark_unknown(connection, first.client_order_id, reason="x", now=NOW)
    assert not order_queue.is_symbol_free(connection, symbol, overlappable_ids={*taken, second.client_order_id})


def test_exit_waits_for_an_older_entry_of_its_symbol(connection: sqlite3.Connection) -> None:
    """Overtaking within a symbol would close nothing and then open: orders keep the order of the alerts."""
    entry, leaving = put(connection, intent())[0], put(connection, exit_intent())[0]
    assert names(order_queue.claimable(connection, now=NOW)) == names((entry,))
    # While no entry may be sent at all, exits must not wait behind them.
    assert names(order_queue.claimable(connection, now=NOW, entries_allowed=False)) == names((leaving,))


def test_unknown_entry_holds_exits_back_even_without_entries_allowed(connection: sqlite3.Connection) -> None:
    """A close sized while an entry may or may not exist could have the wrong size."""
    entry = put(connection, intent())[0]
    put(connection, exit_intent())
    order_lifecycle.claim(connection, entry.client_order_id, now=NOW)
    order_lifecycle.mark_unknown(connection, entry.client_order_id, reason="x", now=NOW)
    assert order_queue.claimable(connection, now=NOW, entries_allowed=False) == ()


def test_resting_order_holds_back_no_other(connection: sqlite3.Connection) -> None:
    """A limit order may rest in the book for days; later orders trade in the meantime."""
    resting = put(connection, intent(order_type=OrderType.LIMIT, limit_price=Decimal(60000)))[0]
    later = put(connection, intent())[0]
    order_lifecycle.claim(connection, resting.client_order_id, now=NOW)
    order_lifecycle.mark_accepted(connection, resting.client_order_id, order_id="1", now=NOW)
    assert names(order_queue.claimable(connection, now=NOW)) == names((later,))


def test_deferred_order_waits_and_keeps_its_place(connection: sqlite3.Connection) -> None:
    """The back-off holds back later orders of the symbol: a retry does not change their order."""
    first = put(connection, intent())[0]
    put(connection, intent())
    order_lifecycle.claim(connection, first.client_order_id, now=NOW)
    due = NOW + timedelta(seconds=2)
    order_lifecycle.mark_deferred(connection, first.client_order_id, next_attempt_at=due, now=NOW)
    assert order_queue.claimable(connection, now=due - timedelta(milliseconds=1)) == ()
    assert names(order_queue.claimable(connection, now=due)) == names((first,))


@pytest.mark.parametrize("ending", [OrderStatus.FILLED, OrderStatus.CANCELED])
def test_later_leg_follows_when_the_earlier_one_is_done(connection: sqlite3.Connection, ending: OrderStatus) -> None:
    """A flip closes first; the new position is opened when the close is finished, not merely accepted."""
    close, entry = put(connection, exit_intent(), intent(symbol=ETH, after_leg=0))
    assert names(order_queue.claimable(connection, now=NOW)) == names((close,))
    order_lifecycle.claim(connection, close.client_order_id, now=NOW)
    order_lifecycle.mark_accepted(connection, close.client_order_id, order_id="1", now=NOW)
    assert order_queue.claimable(connection, now=NOW) == ()
    report = status_report(close.client_order_id, ending, close.intent.quantity)
    order_lifecycle.apply_report(connection, close.client_order_id, report, now=NOW)
    (ready,) = order_queue.claimable(connection, now=NOW)
    assert (ready.client_order_id, ready.code) == (entry.client_order_id, None)


def test_close_with_nothing_to_close_lets_the_next_leg_follow(connection: sqlite3.Connection) -> None:
    """Flipping from flat: the close is denied with nothing_to_close, and the entry is sent."""
    close, _ = put(connection, exit_intent(), intent(after_leg=0))
    order_lifecycle.mark_denied(connection, close.client_order_id, code="nothing_to_close", error="flat", now=NOW)
    (ready,) = order_queue.claimable(connection, now=NOW)
    assert ready.code is None


@pytest.mark.parametrize("ending", ["denied", "rejected", "expired", "given up", "missing"])
def test_later_leg_is_denied_when_the_earlier_one_failed(connection: sqlite3.Connection, ending: str) -> None:
    """It is returned with a code, for the dispatcher to deny it: it must neither be sent nor wait for ever."""
    close, entry = put(connection, exit_intent(), intent(after_leg=7 if ending == "missing" else 0))
    name = close.client_order_id
    if ending == "denied":
        order_lifecycle.mark_denied(connection, name, code="trading_halted", error="x", now=NOW)
    elif ending == "expired":
        order_lifecycle.mark_expired(connection, name, now=NOW)
    else:
        order_lifecycle.claim(connection, name, now=NOW)
        if ending == "given up":
            order_lifecycle.close_unknown(connection, name, reason="x", now=NOW)
        else:
            order_lifecycle.mark_rejected(connection, name, code="x", error="x", now=NOW)
    (found,) = order_queue.claimable(connection, now=NOW)
    assert (found.client_order_id, found.code) == (entry.client_order_id, "earlier_leg_failed")


def test_expired_order_is_returned_with_a_code(connection: sqlite3.Connection) -> None:
    """It is returned to be finished, never to be sent; behind another order it is found by `overdue`."""
    first, second = put(connection, intent())[0], put(connection, intent())[0]
    early = EXPIRES - timedelta(milliseconds=1)
    assert order_queue.claimable(connection, now=early)[0].code is None
    assert order_queue.overdue(connection, now=early) == ()
    assert [order.code for order in order_queue.claimable(connection, now=EXPIRES)] == ["alert_expired"]
    assert names(order_queue.overdue(connection, now=EXPIRES)) == names((first, second))
    for order in order_queue.overdue(connection, now=EXPIRES):
        order_lifecycle.mark_expired(connection, order.client_order_id, now=EXPIRES)
    assert order_queue.overdue(connection, now=EXPIRES) == order_queue.unfinished(connection) == ()


def test_symbol_is_free_when_no_order_holds_back(connection: sqlite3.Connection) -> None:
    """A claim at admission must never overtake: queued, submitting and unknown orders of the symbol hold back."""
    symbol = intent().symbol
    assert order_queue.is_symbol_free(connection, symbol)
    first = put(connection, intent())[0]
    assert not order_queue.is_symbol_free(connection, symbol)
    assert order_queue.is_symbol_free(connection, ETH)
    order_lifecycle.claim(connection, first.client_order_id, now=NOW)
    assert not order_queue.is_symbol_free(connection, symbol)
    order_lifecycle.mark_accepted(connection, first.client_order_id, order_id="1", now=NOW)
    assert order_queue.is_symbol_free(connection, symbol)


def test_interrupted_orders_are_found_at_start(connection: sqlite3.Connection) -> None:
    """Submitting and unknown orders are queried; queued, resting and finished ones are distinguished from them."""
    queued, sending, unknown, resting, done = (put(connection, intent(symbol=f"PERP_{i}_USDC"))[0] for i in range(5))
    for order in (sending, unknown, resting):
        order_lifecycle.claim(connection, order.client_order_id, now=NOW)
    order_lifecycle.mark_unknown(connection, unknown.client_order_id, reason="x", now=NOW)
    order_lifecycle.mark_accepted(connection, resting.client_order_id, order_id="r", now=NOW)
    finish(connection, done, OrderStatus.FILLED)
    assert names(order_queue.interrupted(connection)) == names((sending, unknown))
    assert names(order_queue.unfinished(connection)) == names((queued, sending, unknown, resting))
    assert orders.count_queued(connection) == 1


def test_queue_reads_open_orders_only(connection: sqlite3.Connection) -> None:
    """The queue must be as quick after a million orders as after ten: no plan scans the orders table."""
    plans: list[str] = []
    connection.set_trace_callback(lambda statement: plans.append(statement))
    order_queue.claimable(connection, now=NOW)
    order_queue.claimable(connection, now=NOW, entries_allowed=False)
    order_queue.overdue(connection, now=NOW)
    order_queue.unfinished(connection)
    order_queue.interrupted(connection)
    orders.count_queued(connection)
    order_queue.is_symbol_free(connection, put(connection, intent())[0].intent.symbol)
    connection.set_trace_callback(None)
    reads = [statement for statement in plans if statement.startswith("SELECT") and "FROM orders" in statement]
    assert len(reads) >= 7
    for statement in reads:
        for step in connection.execute(f"EXPLAIN QUERY PLAN {statement}"):
            is_scan = step["detail"].startswith("SCAN") and not any(
                name in step["detail"] for name in ("orders_open", "json_each")
            )
            assert not is_scan, (statement, step["detail"])
