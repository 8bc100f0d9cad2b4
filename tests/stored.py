"""Alerts, orders and fills in a test's database, stored by the daemon's code: a book, its journal's rows and the projector."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any, Final

from msgspec.structs import replace

from kekbridge.execution import transitions
from kekbridge.execution.admission import Admission, _rate_limited, _stored_alert
from kekbridge.execution.book import Book, with_ms_times
from kekbridge.execution.load_book import load_book
from kekbridge.model import (
    FIRST_PROTECTIVE_LEG,
    Order,
    OrderIntent,
    OrderStatus,
    RateLimits,
    Usage,
    client_order_id_of,
)
from kekbridge.model.admission import Decision, NewAlert
from kekbridge.model.statistics import total_of
from kekbridge.store import codec, equity, facts, projector
from kekbridge.store.codec import from_json, to_json
from kekbridge.store.facts import AlertFact, ResponseFact
from tests.store.factories import EXPIRES, NO_RATES, NOW, admitting, fill, intent, new_alert, status_report

REQUEST: Final = '{"symbol": "PERP_BTC_USDC", "side": "BUY", "order_quantity": "0.01"}'


def funding_total(connection: sqlite3.Connection) -> Decimal:
    """All funding that is stored, in USDC."""
    return total_of(equity.list_funding(connection, codec.Span("2000", "~"))).funding


def book_on(connection: sqlite3.Connection, *, now: datetime = NOW, account_rates: RateLimits = NO_RATES) -> Book:
    """The book of what is stored; each of its rows is appended and projected at once, inside the open transaction."""
    book = Book(append=partial(projector.record, connection))
    load_book(connection, book, account_rates=account_rates, now=now)
    return book


# ---------------------------------------------------------------------------------------------------------------- alerts


def store_alert(
    book: Book,
    alert: NewAlert | None = None,
    decide: Callable[[Usage], Decision] | None = None,
    *,
    rates: RateLimits = NO_RATES,
    account_rates: RateLimits = NO_RATES,
    expires_at: datetime = EXPIRES,
    is_claimed: bool = False,
) -> Admission:
    """Decide about an alert, reserve room for its orders and append its row. `is_claimed`: its first order is claimed with it.

    For alerts that are no duplicates: `AlertAdmissions` looks for those, and sends.
    """
    alert = alert or new_alert()
    alert = replace(alert, payload=from_json(to_json(alert.payload)))  # as it is read back
    decision = (decide or admitting())(book.usage(alert.webhook_id, now=alert.received_at))
    excess = book.rates.find_excess(alert.webhook_id, rates=rates, account_rates=account_rates, now=alert.received_at)
    if excess is not None and not decision.is_exit and decision.status in ("admitted", "denied"):
        admission = _rate_limited(alert, decision, excess)
        _append(book, admission, Decision(status="refused"), "alert_rate_limited")
        return admission
    orders = _orders_of(book, alert, decision, expires_at)
    if orders and is_claimed:
        orders = (transitions.claimed(orders[0], now=alert.received_at), *orders[1:])
    status = orders[0].status.value if orders else decision.status
    admission = Admission(
        kind=decision.status,
        alert=_stored_alert(alert, decision, status="queued" if status == "admitted" else status),
        orders=orders,
    )
    _append(book, admission, decision, f"alert_{decision.status}")
    return admission


def store_order(
    book: Book, wanted: OrderIntent | None = None, status: OrderStatus = OrderStatus.QUEUED, **changes: Any
) -> Order:
    """Store an alert with one order and bring the order to a status. `changes` are of the alert."""
    admission = store_alert(book, new_alert(**changes), admitting(wanted or intent()))
    return bring(book, admission.orders[0], status)


def respond(
    book: Book,
    alert_id: str,
    *,
    status: int = 200,
    body: dict[str, object] | None = None,
    stages: dict[str, float] | None = None,
    now: datetime = NOW,
) -> None:
    """Append the row of an alert's response."""
    fact = ResponseFact(alert_id=alert_id, status=status, body=to_json(body or {}), stages=stages or {}, at=now)
    book.append(facts.response_entry(fact))


def _orders_of(book: Book, alert: NewAlert, decision: Decision, expires_at: datetime) -> tuple[Order, ...]:
    intents = decision.intents if decision.status == "admitted" else ()
    return tuple(
        with_ms_times(
            Order(
                client_order_id=client_order_id_of(alert.id, leg),
                alert_id=alert.id,
                webhook_id=alert.webhook_id,
                leg=leg,
                sequence=book.next_sequence(),
                intent=wanted,
                status=OrderStatus.QUEUED,
                created_at=alert.received_at,
                expires_at=expires_at,
            )
        )
        for leg, wanted in enumerate(intents)
    )


def _append(book: Book, admission: Admission, decision: Decision, kind: str) -> None:
    alert = admission.alert
    webhook_id = alert.webhook_id or ""
    if alert.counts_as_entry:
        book.rates.count(webhook_id, at=alert.received_at)
    for order in admission.orders:
        book.add(order)
    book.set_histories(webhook_id, decision.strategy_histories)
    fact = AlertFact(
        alert=alert,
        orders=admission.orders,
        cancels=decision.cancels,
        histories=decision.strategy_histories,
        message=to_json(alert.payload),
        request=REQUEST if admission.orders and admission.orders[0].attempt else None,
    )
    book.append(facts.alert_entry(fact, kind))
    for breach in decision.breaches:
        book.close_for_breach(breach, webhook_id=webhook_id, now=alert.received_at)


# ---------------------------------------------------------------------------------------------------------------- orders


def claim(book: Book, order: Order, *, now: datetime = NOW) -> Order:
    """Claim a queued order for sending."""
    return book.change(order, transitions.claimed(order, now=now), now=now, request=REQUEST)


def accept(book: Book, order: Order, *, order_id: str | None = None, now: datetime = NOW) -> Order:
    """The exchange accepts a claimed order, under `order_id` or one of its own."""
    order_id = order_id or f"x{order.sequence}"
    return book.change(order, transitions.accepted(order, order_id=order_id, now=now), now=now)


def report(
    book: Book,
    order: Order,
    status: OrderStatus,
    executed: Decimal | None = None,
    *,
    now: datetime = NOW,
    has_later_exits: bool = False,
    **changes: Any,
) -> Order:
    """The exchange reports a sent order; without `executed` as much as was known before."""
    quantity = order.executed_quantity if executed is None else executed
    found = status_report(
        order.client_order_id, status, quantity, **{"order_id": order.order_id or f"x{order.sequence}", **changes}
    )
    return book.change(order, transitions.reported(order, found, now=now), now=now, has_later_exits=has_later_exits)


def bring(book: Book, order: Order, status: OrderStatus, *, now: datetime = NOW) -> Order:
    """Bring a queued order to any status, by the transitions that lead to it."""
    if status is OrderStatus.QUEUED:
        return order
    if status is OrderStatus.DENIED:
        denied = transitions.denied(order, code="daily_limit", error="too much", now=now)
        return book.change(order, denied, now=now)
    if status is OrderStatus.EXPIRED:
        return book.change(order, transitions.expired(order, now=now), now=now)
    order = claim(book, order, now=now)
    if status is OrderStatus.SUBMITTING:
        return order
    if status is OrderStatus.UNKNOWN:
        return book.change(order, transitions.unknown(order, reason="no answer"), now=now)
    if status is OrderStatus.REJECTED:
        rejected = transitions.rejected(order, code="order_rejected", error="no", now=now)
        return book.change(order, rejected, now=now)
    order = accept(book, order, now=now)
    if status is OrderStatus.ACCEPTED:
        return order
    executed = {
        OrderStatus.PARTIALLY_FILLED: order.intent.quantity / 2,
        OrderStatus.FILLED: order.intent.quantity,
        OrderStatus.CANCELED: Decimal(0),
    }[status]
    return report(book, order, status, executed, now=now)


def add_protective(book: Book, entry: Order, wanted: OrderIntent, *, now: datetime = NOW) -> Order:
    """Add a protective order for an entry, claimed with its first row."""
    leg = max([FIRST_PROTECTIVE_LEG - 1, *book.legs.get(entry.alert_id, {})]) + 1
    order = Order(
        client_order_id=client_order_id_of(entry.alert_id, leg),
        alert_id=entry.alert_id,
        webhook_id=entry.webhook_id,
        leg=leg,
        sequence=book.next_sequence(),
        intent=wanted,
        status=OrderStatus.SUBMITTING,
        created_at=now,
        expires_at=now.replace(year=now.year + 1),
        attempt=1,
        submitted_at=now,
    )
    fact = book.apply(None, order, now=now, request=REQUEST)
    assert fact is not None
    book.append(facts.order_entry(fact))
    return fact.after


def record_fill(book: Book, order: Order | None = None, **changes: Any) -> bool:
    """Record a fill of an order (None: not one of ours); True if it is new."""
    order_id = {} if order is None or order.order_id is None else {"order_id": order.order_id}
    return book.record_fill(fill(**order_id | changes), order=order)


# ------------------------------------------------------------------------------------------------------------------ disk


def shrink(connection: sqlite3.Connection) -> None:
    """Let the file grow by two pages only, until the connection is opened again: a full disk."""
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
