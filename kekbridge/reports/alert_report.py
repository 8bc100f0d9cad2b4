"""The whole story of one alert as it is stored, for `kekbridge explain` and the page of an alert. Reads only.

Nothing is judged here: what was asked, which rules were asked, what was sent, what came back, how long each stage took.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from kekbridge.formatting import plain
from kekbridge.model import Fill, Order
from kekbridge.model.latency import AlertTimestamps, stages_of
from kekbridge.model.orders import ExitStatus
from kekbridge.store import alerts, events, fills, protection
from kekbridge.store import orders as order_rows
from kekbridge.store.alerts import StoredAlert
from kekbridge.store.events import Event
from kekbridge.store.orders import OrderDetails

# What an order's line of history says of the exchange, in words.
_SAID = {
    "order_submitting": "being sent",
    "order_accepted": "accepted",
    "order_partially_filled": "partly filled",
    "order_filled": "filled",
    "order_canceled": "canceled",
    "order_rejected": "rejected",
    "order_unknown": "no answer that proves anything",
    "order_queued": "back in the queue",
    "order_denied": "denied by a rule of ours",
    "order_expired": "too old to be sent",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FillSlippage:
    """How much worse than expected, as a fraction; negative is better."""

    against: str  # "signal price" or "mark"
    expected: Decimal
    share: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeReply:
    """One thing that the exchange, or the bridge on its way there, said of an order; `ms` since the alert was received."""

    at: datetime
    ms: float
    what: str
    figures: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderTimeline:
    """One order with all that belongs to it. `details.request` is the exact body; signatures travel in headers and are not kept."""

    order: Order
    details: OrderDetails
    fills: tuple[Fill, ...]
    exits: tuple[ExitStatus, ...]
    exit_fills: tuple[Fill, ...]
    slippage: tuple[FillSlippage, ...]
    answers: tuple[ExchangeReply, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertReport:
    """Everything stored about an alert. `stages` in milliseconds, in the order of stages.STAGES."""

    alert: StoredAlert
    orders: tuple[OrderTimeline, ...]
    events: tuple[Event, ...]
    stages: Mapping[str, float]


def read(connection: sqlite3.Connection, reference: str) -> AlertReport:
    """The story of the alert that `reference` names (see alerts.find). Raises NotFound."""
    alert = alerts.find(connection, reference)
    happened = events.of_alert(connection, alert.id)
    told = tuple(
        _order_story(connection, order, alert, happened) for order in order_rows.of_alert(connection, alert.id)
    )
    return AlertReport(alert=alert, orders=told, events=happened, stages=stages_of(_moments(alert, told)))


def _order_story(
    connection: sqlite3.Connection, order: Order, alert: StoredAlert, happened: tuple[Event, ...]
) -> OrderTimeline:
    name = order.client_order_id
    return OrderTimeline(
        order=order,
        details=order_rows.details(connection, name),
        fills=fills.of_order(connection, name),
        exits=protection.exits_of(connection, name),
        exit_fills=fills.exits_of(connection, name),
        slippage=_slippage(order),
        answers=tuple(
            ExchangeReply(
                at=event.at,
                ms=(event.at - alert.received_at).total_seconds() * 1000,
                what=_SAID[event.kind],
                figures=", ".join(
                    f"{key.replace('_', ' ')} {plain(value)}"
                    for key, value in event.data.items()
                    if value not in (None, "") and key != "finished_at"
                ),
            )
            for event in happened
            if event.client_order_id == name and event.kind in _SAID
        ),
    )


def _slippage(order: Order) -> tuple[FillSlippage, ...]:
    """Of an order that traded: against the price of the signal, if it told one, and against the mark when it was decided."""
    expected = (("signal price", order.intent.signal_price), ("mark", order.intent.reference_price))
    if order.average_price is None:
        return ()
    return tuple(
        FillSlippage(against=name, expected=price, share=(order.average_price - price) * order.intent.side.sign / price)
        for name, price in expected
        if price
    )


def _moments(alert: StoredAlert, told: tuple[OrderTimeline, ...]) -> AlertTimestamps:
    """Of the alert and its first order."""
    moments = AlertTimestamps(
        received=alert.received_at,
        fired=alert.fired_at,
        stored_ms=alert.stages.get("stored"),
        answered_ms=alert.stages.get("answered"),
    )
    first = next((one for one in told if one.order.leg == 0), None)
    if first is None:
        return moments
    return AlertTimestamps(
        received=moments.received,
        fired=moments.fired,
        stored_ms=moments.stored_ms,
        answered_ms=moments.answered_ms,
        claimed=first.order.submitted_at,
        signed=first.details.signed_at,
        accepted=first.order.accepted_at,
        filled=first.order.finished_at if first.order.status == "filled" else None,
    )
