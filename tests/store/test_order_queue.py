"""The queue: which order may go next, and which must wait, expire or be given up."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from decimal import Decimal

import pytest

from kekbridge.model import Order, OrderIntent, OrderStatus, OrderType
from kekbridge.store import order_lifecycle, order_queue
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
    """Only the oldest open order of a symbol is given, until it is out of the way."""
    first, second = put(connection, intent())[0], put(connection, intent())[0]
    assert names(order_queue.claimable(connection, now=NOW)) == names((first,))
    order_lifecycle.claim(connection, first.client_order_id, now=NOW)
    assert order_queue.claimable(connection, now=NOW) == ()
    order_lifecycle.mark_unknown(connection, first.client_order_id, reason="x", now=NOW)
    assert order_queue.claimable(connection, now=NOW) == ()
    order_lifecycle.mark_accepted(connection, first.client_order_id, order_id="1", now=NOW)
    assert names(order_queue.claimable(connection, now=NOW)) == names((second,))


def test_symbols_do_not_wait_for_each_other_and_exits_go_first(connection: sqlite3.Connection) -> None:
    """Parallel across symbols; of several symbols the one with an exit is served before older entries."""
    entry = put(connection, intent())[0]
    other = put(connection, intent(symbol=ETH))[0]
    leaving = put(connection, exit_intent(symbol=SOL))[0]
    assert names(order_queue.claimable(connection, now=NOW)) == names((leaving, entry, other))


def test_behind_one_that_is_passable_the_next_is_seen(connection: sqlite3.Connection) -> None:
    """Taken but not written down yet, or in line itself. Queued again or unknown it holds the next one back, whatever the sender
    believes."""
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


def test_an_exit_waits_for_an_older_entry_of_its_symbol(connection: sqlite3.Connection) -> None:
    """Overtaking within a symbol would close nothing and then open: the order of the alerts is the order of the orders."""
    entry, leaving = put(connection, intent())[0], put(connection, exit_intent())[0]
    assert names(order_queue.claimable(connection, now=NOW)) == names((entry,))
    # While no entry may be sent at all, exits must not wait behind them.
    assert names(order_queue.claimable(connection, now=NOW, entries_allowed=False)) == names((leaving,))


def test_an_unknown_entry_holds_exits_back_even_when_entries_are_not_allowed(connection: sqlite3.Connection) -> None:
    """A close sized while an entry may or may not exist could be of the wrong size."""
    entry = put(connection, intent())[0]
    put(connection, exit_intent())
    order_lifecycle.claim(connection, entry.client_order_id, now=NOW)
    order_lifecycle.mark_unknown(connection, entry.client_order_id, reason="x", now=NOW)
    assert order_queue.claimable(connection, now=NOW, entries_allowed=False) == ()


def test_a_resting_order_is_not_in_the_way(connection: sqlite3.Connection) -> None:
    """A limit order may wait in the book for days; what comes later trades meanwhile."""
    resting = put(connection, intent(order_type=OrderType.LIMIT, limit_price=Decimal(60000)))[0]
    later = put(connection, intent())[0]
    order_lifecycle.claim(connection, resting.client_order_id, now=NOW)
    order_lifecycle.mark_accepted(connection, resting.client_order_id, order_id="1", now=NOW)
    assert names(order_queue.claimable(connection, now=NOW)) == names((later,))


def test_a_deferred_order_waits_for_its_time_and_keeps_its_place(connection: sqlite3.Connection) -> None:
    """The back-off holds the later orders of the symbol back: a retry does not change their order."""
    first = put(connection, intent())[0]
    put(connection, intent())
    order_lifecycle.claim(connection, first.client_order_id, now=NOW)
    due = NOW + timedelta(seconds=2)
    order_lifecycle.mark_deferred(connection, first.client_order_id, next_attempt_at=due, now=NOW)
    assert order_queue.claimable(connection, now=due - timedelta(milliseconds=1)) == ()
    assert names(order_queue.claimable(connection, now=due)) == names((first,))


@pytest.mark.parametrize("ending", [OrderStatus.FILLED, OrderStatus.CANCELED])
def test_a_later_leg_goes_when_the_earlier_one_is_done(connection: sqlite3.Connection, ending: OrderStatus) -> None:
    """A flip closes first; the new position is opened when the close is over, not when it is merely accepted."""
    close, entry = put(connection, exit_intent(), intent(symbol=ETH, after_leg=0))
    assert names(order_queue.claimable(connection, now=NOW)) == names((close,))
    order_lifecycle.claim(connection, close.client_order_id, now=NOW)
    order_lifecycle.mark_accepted(connection, close.client_order_id, order_id="1", now=NOW)
    assert order_queue.claimable(connection, now=NOW) == ()
    report = status_report(close.client_order_id, ending, close.intent.quantity)
    order_lifecycle.apply_report(connection, close.client_order_id, report, now=NOW)
    (ready,) = order_queue.claimable(connection, now=NOW)
    assert (ready.client_order_id, ready.code) == (entry.client_order_id, None)


def test_a_close_that_found_nothing_makes_way(connection: sqlite3.Connection) -> None:
    """Flipping from flat: the close is denied with nothing_to_close, and the entry goes."""
    close, _ = put(connection, exit_intent(), intent(after_leg=0))
    order_lifecycle.mark_denied(connection, close.client_order_id, code="nothing_to_close", error="flat", now=NOW)
    (ready,) = order_queue.claimable(connection, now=NOW)
    assert ready.code is None


@pytest.mark.parametrize("ending", ["denied", "rejected", "expired", "given up", "missing"])
def test_a_later_leg_is_given_up_when_the_earlier_one_failed(connection: sqlite3.Connection, ending: str) -> None:
    """It comes back marked, so that the worker denies it: it must neither be sent nor wait for ever."""
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


def test_what_is_too_old_comes_back_marked(connection: sqlite3.Connection) -> None:
    """An expired order is handed out to be finished, never as one to send; behind another it is found by `overdue`."""
    first, second = put(connection, intent())[0], put(connection, intent())[0]
    early = EXPIRES - timedelta(milliseconds=1)
    assert order_queue.claimable(connection, now=early)[0].code is None
    assert order_queue.overdue(connection, now=early) == ()
    assert [order.code for order in order_queue.claimable(connection, now=EXPIRES)] == ["alert_expired"]
    assert names(order_queue.overdue(connection, now=EXPIRES)) == names((first, second))
    for order in order_queue.overdue(connection, now=EXPIRES):
        order_lifecycle.mark_expired(connection, order.client_order_id, now=EXPIRES)
    assert order_queue.overdue(connection, now=EXPIRES) == order_queue.unfinished(connection) == ()


def test_the_way_is_free_when_nothing_of_the_symbol_is_open(connection: sqlite3.Connection) -> None:
    """Claiming in the admitting transaction must never overtake: queued, being sent and unknown orders of the symbol are in the way."""
    symbol = intent().symbol
    assert order_queue.is_symbol_free(connection, symbol)
    first = put(connection, intent())[0]
    assert not order_queue.is_symbol_free(connection, symbol)
    assert order_queue.is_symbol_free(connection, ETH)
    order_lifecycle.claim(connection, first.client_order_id, now=NOW)
    assert not order_queue.is_symbol_free(connection, symbol)
    order_lifecycle.mark_accepted(connection, first.client_order_id, order_id="1", now=NOW)
    assert order_queue.is_symbol_free(connection, symbol)


def test_a_start_finds_what_was_in_flight(connection: sqlite3.Connection) -> None:
    """W4 to W6: submitting and unknown are asked for; queued, resting and finished ones are told apart from them."""
    queued, sending, unknown, resting, done = (put(connection, intent(symbol=f"PERP_{i}_USDC"))[0] for i in range(5))
    for order in (sending, unknown, resting):
        order_lifecycle.claim(connection, order.client_order_id, now=NOW)
    order_lifecycle.mark_unknown(connection, unknown.client_order_id, reason="x", now=NOW)
    order_lifecycle.mark_accepted(connection, resting.client_order_id, order_id="r", now=NOW)
    finish(connection, done, OrderStatus.FILLED)
    assert names(order_queue.interrupted(connection)) == names((sending, unknown))
    assert names(order_queue.unfinished(connection)) == names((queued, sending, unknown, resting))
    assert order_queue.count_waiting(connection) == 1


def test_finding_the_next_order_reads_the_open_ones_only(connection: sqlite3.Connection) -> None:
    """The queue must be as quick after a million orders as after ten: no plan scans the table of orders."""
    plans: list[str] = []
    connection.set_trace_callback(lambda statement: plans.append(statement))
    order_queue.claimable(connection, now=NOW)
    order_queue.claimable(connection, now=NOW, entries_allowed=False)
    order_queue.overdue(connection, now=NOW)
    order_queue.unfinished(connection)
    order_queue.interrupted(connection)
    order_queue.count_waiting(connection)
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
