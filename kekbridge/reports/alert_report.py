"""Report on one alert: the message, the rules checked, the orders, the exchange's replies and the latency of each stage.

`read` collects what is stored, `AlertReport.sections` arranges it for people: `kekbridge explain` and the alert's page render the same
sections. Read-only; nothing is decided here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from typing import Final, Literal

from kekbridge.codes import find as find_code
from kekbridge.formatting import age, amount, duration, moment, rounded, to_text, zone_name
from kekbridge.model import Fill, MarginMode, Order, Verdict
from kekbridge.model.latency import AlertTimestamps, stages_of
from kekbridge.model.orders import ExitStatus
from kekbridge.store import alerts, fills, journal, protection
from kekbridge.store import orders as order_rows
from kekbridge.store.alerts import StoredAlert
from kekbridge.store.journal import Event
from kekbridge.store.orders import OrderDetails

# Order events that are shown as replies, with their descriptions; they are also values of `explain --json`.
_REPLIES: Final = {
    "order_submitting": "being sent",
    "order_accepted": "accepted",
    "order_partially_filled": "partly filled",
    "order_filled": "filled",
    "cancel_requested": "to be canceled",
    "order_canceled": "canceled",
    "order_rejected": "rejected",
    "order_unknown": "no conclusive answer",
    "order_queued": "back in the queue",
    "order_denied": "denied by a risk rule",
    "order_expired": "too old to be sent",
}

SectionKind = Literal[
    "alert", "message", "rules", "order", "replies", "request", "fills", "exits", "recheck", "stages", "response"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One titled part of a report: names with values, or a table. Cells are plain values; formatting is the renderer's task."""

    #: What the section shows, for renderers that treat some of them specially.
    kind: SectionKind
    #: Heading.
    title: str
    #: Cells of a table, or (name, value) if `columns` is empty. A value of None means not known (yet).
    rows: tuple[tuple[object, ...], ...]
    #: Column headings of a table. Cells under "Status" and "Verdict" are statuses.
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FillSlippage:
    """Difference between the average fill price and an expected price."""

    #: The expected price's name: "signal price" or "mark".
    against: str
    #: Expected price.
    expected: Decimal
    #: Difference as a fraction of the expected price; positive is worse for us.
    share: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeReply:
    """One event of an order on its way to the exchange and back."""

    #: When it was stored.
    at: datetime
    #: Milliseconds since the alert was received.
    ms: float
    #: Description of the event.
    what: str
    #: The event's data in one line; may be empty.
    figures: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderTimeline:
    """One order of the alert with everything stored about it."""

    #: The order with its current state.
    order: Order
    #: The exact request body (signatures travel in headers and are not stored) and the rules checked right before sending.
    details: OrderDetails
    #: Fills of the order itself.
    fills: tuple[Fill, ...]
    #: The stop loss and take-profit sent with the order.
    exits: tuple[ExitStatus, ...]
    #: Fills of those exits.
    exit_fills: tuple[Fill, ...]
    #: Slippage against each expected price; empty before the first fill.
    slippage: tuple[FillSlippage, ...]
    #: Events between queue and exchange, oldest first.
    answers: tuple[ExchangeReply, ...]

    def sections(self, zone: tzinfo | None = UTC) -> Iterator[Section]:
        """The order's facts and the replies to it (both always present), then request, fills, exits and denials where there are any."""
        number = f"{self.order.asked_leg + 1}{', sent again' if self.order.is_retry else ''}"
        yield Section(
            kind="order",
            title=f"Order {number}: {describe_order(self.order)} {self.order.intent.symbol}",
            rows=tuple(self._facts()),
        )
        yield Section(
            kind="replies",
            title="Exchange replies",
            columns=("After", "Event", "Details"),
            rows=tuple((f"+{one.ms:,.0f} ms", one.what, one.figures) for one in self.answers),
        )
        if self.details.request:
            yield Section(
                kind="request",
                title="Exact request (without signature headers)",
                rows=(("Request", self.details.request),),
            )
        if trades := (*self.fills, *self.exit_fills):
            yield Section(
                kind="fills",
                title="Fills",
                columns=(
                    f"Time ({_zone_of(trades, zone)})",
                    "Side",
                    "Quantity",
                    "Price",
                    "Fee",
                    "Liquidity",
                    "Realized P&L",
                ),
                rows=tuple(
                    (
                        one.executed_at if zone is UTC else moment(one.executed_at, zone),
                        one.side.lower(),
                        one.quantity,
                        one.price,
                        one.fee,
                        "maker" if one.is_maker else "taker",
                        rounded(one.realized_pnl),
                    )
                    for one in trades
                ),
            )
        # The exchange always names both exits of a pair: one without trigger and fills was not ordered.
        if exits := [one for one in self.exits if one.trigger_price is not None or one.executed_quantity]:
            yield Section(
                kind="exits",
                title="Exits at the exchange",
                columns=("Exit", "Status", "Trigger price", "Filled", "Average price"),
                rows=tuple(
                    (
                        one.kind.replace("_", " ").lower(),
                        one.status,
                        one.trigger_price,
                        one.executed_quantity,
                        rounded(one.average_price),
                    )
                    for one in exits
                ),
            )
        if denied := [verdict for verdict in self.details.verdicts if not verdict.passed]:
            yield verdict_section("recheck", "Rules right before sending", denied)

    def _facts(self) -> Iterator[tuple[str, object]]:
        order, intent = self.order, self.order.intent
        yield "Status", order.status
        yield "Client order id", order.client_order_id
        yield "Order id", order.order_id
        yield (
            "Filled",
            f"{amount(order.executed_quantity)} of {amount(intent.quantity)} at {amount(rounded(order.average_price))}",
        )
        yield "Fee (USDC)", rounded(order.fee)
        yield "Expected price", intent.reference_price
        optional: tuple[tuple[str, object], ...] = (
            ("Stop loss", intent.stop_loss),
            ("Take profits", [f"{amount(one.quantity)} at {amount(one.trigger_price)}" for one in intent.take_profits]),
            ("Realized P&L", rounded(order.realized_pnl) or None),
            *(
                (f"Slippage to {one.against}", f"{one.share * 100:+.3f} % of {amount(one.expected)}")
                for one in self.slippage
            ),
            ("Attempts", order.attempt if order.attempt > 1 else None),
            ("Code", order.code),
            ("Why", order.error),
        )
        yield from ((name, value) for name, value in optional if value not in (None, "", []))


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertReport:
    """Everything stored about one alert."""

    #: The alert with its message, verdicts and response.
    alert: StoredAlert
    #: Its orders by leg.
    orders: tuple[OrderTimeline, ...]
    #: Its history events, oldest first.
    events: tuple[Event, ...]
    #: Latency in milliseconds by stage, in the order of model.latency.STAGES: `received` since the alert fired, others since receipt.
    stages: Mapping[str, float]

    def sections(self, now: datetime, zone: tzinfo | None = UTC) -> Iterator[Section]:
        """The report for people, in the order in which things happened: alert, message, rules, each order, latency, response."""
        alert = self.alert
        yield Section(kind="alert", title="Alert", rows=tuple(self._facts(now, zone)))
        yield Section(kind="message", title="Message (credentials shortened)", rows=tuple(alert.payload.items()))
        yield verdict_section("rules", "Rules at admission", alert.verdicts)
        for order in self.orders:
            yield from order.sections(zone)
        yield Section(
            kind="stages",
            title="Latency in milliseconds (received: since the alert fired; others: since it was received)",
            rows=tuple((stage, f"{value:,.1f}") for stage, value in self.stages.items()),
        )
        if alert.answer is not None:
            yield Section(
                kind="response", title=f"Answered with HTTP {alert.answer_status}", rows=tuple(alert.answer.items())
            )

    def _facts(self, now: datetime, zone: tzinfo | None) -> Iterator[tuple[str, object]]:
        alert = self.alert
        yield "Alert", alert.id
        yield "alertId", alert.alert_id
        yield "Webhook", alert.webhook_name
        yield "Received", f"{_at(alert.received_at, zone)} ({age(alert.received_at, now)})"
        yield "From", f"{to_text(alert.remote)}, proof: {to_text(alert.proof)}"
        if alert.fired_at is not None:
            delay = duration(alert.received_at - alert.fired_at)
            yield "Fired", f"{_at(alert.fired_at, zone)}, {delay} before it was received"
        yield "Action", " ".join(part for part in (alert.action, alert.symbol) if part)
        yield "Status", alert.status
        if alert.code:
            code = find_code(alert.code)
            yield "Code", alert.code
            yield "Why", alert.error or (code.meaning if code else None)
            if code:
                yield "Fix", code.fix
        for warning in alert.warnings:
            yield "Warning", warning


def verdict_section(kind: SectionKind, title: str, verdicts: Sequence[Verdict]) -> Section:
    """A table of what each rule found, its limit, and whether it passed."""
    return Section(
        kind=kind,
        title=title,
        columns=("Rule", "Scope", "Found", "Limit", "Verdict"),
        rows=tuple(
            (one.rule, one.scope, one.found, one.limit, "passed" if one.passed else "denied") for one in verdicts
        ),
    )


def _zone_of(trades: Sequence[Fill], zone: tzinfo | None) -> str:
    return zone_name(trades[0].executed_at, zone)


def _at(at: datetime, zone: tzinfo | None) -> str:
    return f"{moment(at, zone)} {zone_name(at, zone)}"


def describe_order(order: Order) -> str:
    """`buy 0.001 limit 65000`, `sell 0.5 market (exit)`, `sell 0.5 market (isolated exit)`."""
    intent = order.intent
    parts = [intent.side.value.lower(), amount(intent.quantity), intent.order_type.value]
    if intent.limit_price is not None:
        parts.append(amount(intent.limit_price))
    if not order.is_entry:
        mode = "isolated " if intent.margin_mode is MarginMode.ISOLATED else ""
        parts.append(f"({mode}{intent.purpose.value})")
    return " ".join(parts)


def read(connection: sqlite3.Connection, reference: str) -> AlertReport:
    """Collect the report of the alert that `reference` names (see `store.alerts.find`). Raises NotFound."""
    alert = alerts.find(connection, reference)
    history = journal.of_alert(connection, alert.id)
    timelines = tuple(
        _timeline(connection, order, alert, history) for order in order_rows.of_alert(connection, alert.id)
    )
    return AlertReport(alert=alert, orders=timelines, events=history, stages=stages_of(_timestamps(alert, timelines)))


def _timeline(
    connection: sqlite3.Connection, order: Order, alert: StoredAlert, history: tuple[Event, ...]
) -> OrderTimeline:
    client_order_id = order.client_order_id
    return OrderTimeline(
        order=order,
        details=order_rows.details(connection, client_order_id),
        fills=fills.of_order(connection, client_order_id),
        exits=protection.exits_of(connection, client_order_id),
        exit_fills=fills.exits_of(connection, client_order_id),
        slippage=_slippage(order),
        answers=tuple(
            ExchangeReply(
                at=event.at,
                ms=(event.at - alert.received_at).total_seconds() * 1000,
                what=_REPLIES[event.kind],
                figures=", ".join(
                    f"{key.replace('_', ' ')} {to_text(value)}"
                    for key, value in event.data.items()
                    if value not in (None, "") and not key.endswith("_at")  # the time after the alert is shown
                ),
            )
            for event in history
            if event.client_order_id == client_order_id and event.kind in _REPLIES
        ),
    )


def _slippage(order: Order) -> tuple[FillSlippage, ...]:
    """Of an order with fills: against the signal's price, if the alert named one, and against the mark price at the decision."""
    expected = (("signal price", order.intent.signal_price), ("mark", order.intent.reference_price))
    if order.average_price is None:
        return ()
    return tuple(
        FillSlippage(against=name, expected=price, share=(order.average_price - price) * order.intent.side.sign / price)
        for name, price in expected
        if price
    )


def _timestamps(alert: StoredAlert, timelines: tuple[OrderTimeline, ...]) -> AlertTimestamps:
    """Timestamps of the alert and its first order."""
    first = next((one for one in timelines if one.order.leg == 0), None)
    return AlertTimestamps(
        received=alert.received_at,
        fired=alert.fired_at,
        stored_ms=alert.stages.get("stored"),
        answered_ms=alert.stages.get("answered"),
        claimed=first.order.submitted_at if first else None,
        signed=first.details.signed_at if first else None,
        accepted=first.order.accepted_at if first else None,
        filled=first.order.finished_at if first and first.order.status == "filled" else None,
    )
