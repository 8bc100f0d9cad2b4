"""What happens, one line per event, for a person who watches `kekbridge serve` on a terminal.

A reader of the journal beside all others: no order waits for it. The texts of notifications are used where there is one.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from kekbridge.errors import StoreUnavailable
from kekbridge.formatting import amount, counted, duration, market, money
from kekbridge.log import get_logger
from kekbridge.model.notifications import MESSAGES, as_decimal, as_text, render_message
from kekbridge.reports.event_facts import event_facts, lacks_fills
from kekbridge.store import alerts, journal, projector, rejected_requests
from kekbridge.store import orders as order_rows
from kekbridge.store.database import Database
from kekbridge.store.journal import Event

log = get_logger("kekbridge.ops.event_lines")

_POLL_EVERY_S: Final = 0.25
_EVENTS_PER_POLL: Final = 500
_REFUSALS_PER_POLL: Final = 20
_MOST_REFUSALS: Final = 1000
# A duration is shown for what follows at once from an alert, not for an order that rested for hours.
_LONGEST_SHOWN: Final = timedelta(minutes=1)

Tone = Literal["good", "plain", "warning", "failure", "dim"]
_TONES: Final[dict[str, Tone]] = {"info": "plain", "warning": "warning", "failure": "failure"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLine:
    """One event for a person."""

    #: When it happened.
    at: datetime
    #: The webhook's name; empty for what is no webhook's.
    webhook: str
    #: What it is about, such as `buy 0.001 BTC`; may be empty.
    subject: str
    #: What happened, such as `filled at 65,000`.
    what: str
    #: How long after the alert was received; empty if that says nothing.
    took: str = ""
    #: How it is to be taken, for its colour.
    tone: Tone = "plain"


class EventLines:
    """Shows every event from the start on; one per daemon that has a terminal."""

    def __init__(
        self, database: Database, show: Callable[[Sequence[EventLine]], None], *, clock: Callable[[], datetime]
    ) -> None:
        """`show` may block: it is called in a thread."""
        self._database = database
        self._show = show
        self._clock = clock
        self._held: set[int] = set()  # sequences of fills whose result was not known at the last poll
        self._shown_refusals: dict[tuple[datetime, str, str], int] = {}

    async def run(self) -> None:
        """Until cancelled, or until the terminal is gone."""
        since = self._clock()
        last: int | None = None
        while True:
            try:
                last, lines = await self._database.read(_read, last, self._held)
                lines += self._new_refusals(await self._database.read(_refusals, since))
                if lines:
                    await asyncio.to_thread(self._show, lines)
            except StoreUnavailable:
                pass  # the log says so
            except OSError:
                return
            except Exception:
                log.exception("events_not_shown")  # a bug in a text must not hide what comes after it
                last = None
            await asyncio.sleep(_POLL_EVERY_S)

    def _new_refusals(self, found: Sequence[rejected_requests.RejectedRequest]) -> list[EventLine]:
        """Refused requests that were not shown yet, with their number."""
        lines = []
        for one in found:
            key = (one.minute, one.remote, one.code)
            new = one.count - self._shown_refusals.get(key, 0)
            if new > 0:
                times = f"{new} requests" if new > 1 else "request"
                what = f"refused: {one.code}: {as_text(one.error)}"
                lines.append(
                    EventLine(
                        at=one.last_at, webhook="", subject=f"{times} from {one.remote}", what=what, tone="warning"
                    )
                )
            self._shown_refusals[key] = one.count
        if len(self._shown_refusals) > _MOST_REFUSALS:  # of a bridge that runs for months
            listed = {(one.minute, one.remote, one.code) for one in found}
            self._shown_refusals = {key: count for key, count in self._shown_refusals.items() if key in listed}
        return lines


def _refusals(connection: sqlite3.Connection, since: datetime) -> tuple[rejected_requests.RejectedRequest, ...]:
    return rejected_requests.list_recent(connection, since=since, limit=_REFUSALS_PER_POLL)


def _read(connection: sqlite3.Connection, last: int | None, held: set[int]) -> tuple[int, list[EventLine]]:
    """The last sequence read, and the lines up to it; none at first.

    `held`: a fill whose result is not known is left, with what follows it, for the next poll, once.
    """
    newest = projector.position(connection)  # what lines name is in the tables up to there
    if last is None:
        return newest, []
    lines: list[EventLine] = []
    for event in journal.list_events(connection, after=last, until=newest, limit=_EVENTS_PER_POLL):
        if event.sequence not in held and lacks_fills(connection, event):
            held.add(event.sequence)
            break
        held.discard(event.sequence)
        last = event.sequence
        if (line := line_of(connection, event)) is not None:
            lines.append(line)
    return last, lines


def line_of(connection: sqlite3.Connection, event: Event) -> EventLine | None:
    """The line of an event; None for one that a person does not want to see, or that another line tells."""
    if event.data.get("quiet"):
        return None
    if event.kind == "cancel_done":
        return _cancel_line(connection, event)
    if event.kind in _ALERT_TEXTS:
        return _alert_line(connection, event)
    if event.kind in _ORDER_TEXTS:
        return _order_line(connection, event)
    if event.kind not in MESSAGES:
        return None
    facts = event_facts(connection, event)
    message = render_message(event.kind, facts, zone=None)
    if message is None:
        return None
    webhook = str(facts["webhook"])
    title = message.title.removeprefix(f"{webhook}: ") if webhook else message.title
    tone: Tone = "good" if event.kind == "take_profit_fired" else _TONES[message.severity]
    return EventLine(
        at=event.at,
        webhook=webhook,
        subject="",
        what=f"{title}: {message.detail}" if message.detail else title,
        tone=tone,
    )


_ALERT_TEXTS: Final[dict[str, tuple[str, Tone]]] = {
    "alert_denied": ("denied: {reason}", "warning"),
    "alert_refused": ("refused: {reason}", "warning"),
    "alert_rate_limited": ("refused: {reason}", "warning"),
    "alert_ignored": ("nothing to do: {reason}", "dim"),
    "alert_duplicate": ("received again, nothing was sent", "dim"),
    "alert_conflict": ("refused: its alertId was used before with other content", "warning"),
}
_ORDER_TEXTS: Final[dict[str, tuple[str, Tone]]] = {
    "order_accepted": ("accepted, rests at {limit}", "plain"),
    "order_partially_filled": ("filled {executed} so far at {price}", "good"),
    "order_filled": ("filled at {price}", "good"),
    "order_canceled": ("cancelled", "plain"),
    "order_denied": ("denied: {reason}", "warning"),
    "order_rejected": ("rejected by the exchange: {reason}", "failure"),
    "order_expired": ("not sent, too old: {reason}", "warning"),
    "order_unknown": ("no answer, outcome unknown: it is looked up", "failure"),
}


_EXITS: Final = {"stop_fired": " stop", "take_profit_fired": " take-profit", "trailing_fired": " trailing stop"}


def _alert_line(connection: sqlite3.Connection, event: Event) -> EventLine:
    facts = event_facts(connection, event)
    action, symbol = as_text(facts.get("action")), facts.get("symbol")
    size = as_decimal(facts.get("quantity"))
    parts = [action, "" if size is None else amount(size), market(str(symbol)) if symbol else ""]
    text, tone = _ALERT_TEXTS[event.kind]
    return EventLine(
        at=event.at,
        webhook=str(facts["webhook"]),
        subject=" ".join(part for part in parts if part) or "alert",
        what=text.format(reason=facts["reason"]).rstrip(": "),
        tone=tone,
    )


def _cancel_line(connection: sqlite3.Connection, event: Event) -> EventLine:
    facts = event_facts(connection, event)
    symbol = facts.get("symbol")
    return EventLine(
        at=event.at,
        webhook=str(facts["webhook"]),
        subject=f"cancel {market(str(symbol))}" if symbol else "cancel all",
        what=f"{counted(int(facts.get('canceled') or 0), 'order')} cancelled",
    )


def _order_line(connection: sqlite3.Connection, event: Event) -> EventLine | None:
    order = order_rows.find(connection, event.client_order_id or "")
    if order is None:
        return None
    intent = order.intent
    if event.kind == "order_accepted" and not intent.may_rest:
        return None  # its fill follows at once
    if intent.fired_event is not None and event.kind in ("order_filled", "order_accepted", "order_partially_filled"):
        return None  # an event of its own tells it
    facts = event_facts(connection, event)
    size = as_decimal(facts.get("quantity")) or intent.quantity
    executed = as_decimal(facts.get("executed_quantity"))
    price, limit = as_decimal(facts.get("average_price")), intent.limit_price or intent.trigger_price
    if event.kind == "order_partially_filled" and price is None:
        return None  # the query of its fills is under way
    text, tone = _ORDER_TEXTS[event.kind]
    what = text.format(
        reason=facts["reason"],
        price=money(price),
        limit="its trigger" if limit is None else money(limit),
        executed=amount(executed),
    ).rstrip(": ")
    if event.kind == "order_filled" and facts["result"].startswith("P&L"):
        what += f", {facts['result'].partition(',')[0]}"
    return EventLine(
        at=event.at,
        webhook=str(facts["webhook"]),
        subject=f"{intent.side.value.lower()} {amount(size)} {market(intent.symbol)}{_EXITS.get(intent.fired_event or '', '')}",
        what=what,
        took=_took(connection, event),
        tone=tone,
    )


def _took(connection: sqlite3.Connection, event: Event) -> str:
    """How long after its alert something happened, if it followed at once; empty for orders that kekbridge added."""
    sender: Any = None if event.alert_id is None else alerts.sender_of(connection, event.alert_id)
    if sender is None or event.kind not in ("order_filled", "order_rejected", "order_accepted"):
        return ""
    elapsed = event.at - sender[1]
    return duration(elapsed) if timedelta(0) <= elapsed <= _LONGEST_SHOWN else ""
