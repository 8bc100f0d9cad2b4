"""One UTC day in a few figures, for the summary that is told after it. Reads, and writes the history."""

from __future__ import annotations

import sqlite3
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Final

from kekbridge.model.statistics import group_of
from kekbridge.store import equity, events, settings, times

_TOLD: Final = "daily_summary_of"


def tell(connection: sqlite3.Connection, day: date, *, now: datetime) -> bool:
    """Put the summary of a day into the history; False when that day, or a later one, was told already."""
    if str(settings.get_value(connection, _TOLD) or "") >= day.isoformat():
        return False
    settings.set_value(connection, _TOLD, day.isoformat(), now=now)
    events.append(connection, "daily_summary", now=now, data=figures(connection, day))
    return True


def figures(connection: sqlite3.Connection, day: date) -> dict[str, object]:
    """Alerts and orders of the day, and the money of its fills: exact sums, told to the cent."""
    began = datetime.combine(day, time(), UTC)
    ended = began + timedelta(days=1)
    span = (times.to_text(began), times.to_text(ended))
    alerts = _counts(connection, "alert", day)
    orders = _counts(connection, "order", day)
    realized, fees, funding = Decimal(0), Decimal(0), Decimal(0)
    for fee, pnl in connection.execute(
        "SELECT fee, realized_pnl FROM fills WHERE executed_at >= ? AND executed_at < ?", span
    ):
        fees += Decimal(fee)
        realized += Decimal(pnl or 0)
    for (fee,) in connection.execute("SELECT fee FROM funding WHERE at >= ? AND at < ?", span):
        funding += Decimal(fee)
    value, change = _equity(connection, began, ended)
    return {
        "day": day.isoformat(),
        "alerts": sum(alerts.values()),
        "refused": sum(count for status, count in alerts.items() if group_of(status) == "refused"),
        "orders": sum(orders.values()),
        "filled": orders.get("filled", 0),
        "realized_pnl": _cents(realized),
        "fees": _cents(fees),
        "funding": _cents(funding),
        "net_pnl": f"{realized - fees - funding:+.2f}",
        "equity": "not known" if value is None else f"{value:.2f} USDC",
        "change": None if change is None else f"{change:+.2f}",
    }


def _counts(connection: sqlite3.Connection, kind: str, day: date) -> dict[str, int]:
    rows = connection.execute(
        "SELECT status, sum(count) FROM tallies WHERE kind = ? AND hour >= ? AND hour < ? GROUP BY status",
        (kind, day.isoformat(), (day + timedelta(days=1)).isoformat()),
    )
    return {status: count for status, count in rows if count}


def _equity(connection: sqlite3.Connection, began: datetime, ended: datetime) -> tuple[Decimal | None, Decimal | None]:
    """The account's value at the end of the day, and how it changed by trading: what came in or went out is left out."""
    marks = equity.list_marks(connection, since=began, until=ended)
    if not marks:
        return None, None
    before = equity.last_before(connection, began)
    first, rest = (marks[0], marks[1:]) if before is None else (before, marks)
    return marks[-1].value, marks[-1].value - first.value - sum((mark.flow for mark in rest), Decimal(0))


def _cents(amount: Decimal) -> str:
    return f"{amount:.2f}"
