"""The facts behind the statistics: counted by the tallies, summed exactly from fills, sampled where only a distribution is wanted.

Reads only. A million alerts cost no more than a thousand: whole hours come from `tallies`, the hour that `since` cuts from an index,
and latencies and slippage from the newest SAMPLE alerts and orders.
"""

from __future__ import annotations

import json
import sqlite3
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Final

from kekbridge.model import Side
from kekbridge.stats import Execution, Facts, Tally
from kekbridge.store import equity, positions, times, webhooks
from kekbridge.store.codec import decimal_text, optional_decimal

SAMPLE: Final = 2000
_LONG_AGO: Final = "0000"
_POINTS: Final = 240


def gather(
    connection: sqlite3.Connection, *, since: datetime | None, now: datetime, webhook: str | None = None
) -> Facts:
    """Everything that stats.report needs. `webhook` is a name or id; raises NotFound for one that does not exist."""
    webhook_id = None if webhook is None else webhooks.find(connection, webhook).id
    start = times.optional_text(since) or _LONG_AGO
    realized, fees, trips = _money(connection, start, webhook_id)
    held = positions.list_all(connection)
    open_pnl = [one.unrealized_pnl for one in held]
    mark = equity.latest(connection)
    return Facts(
        since=since,
        alerts=(*_tallies(connection, "alert", start, webhook_id), *_tallies(connection, "event", start, webhook_id)),
        refusals=_refusals(connection, start) if webhook_id is None else (),
        orders=_tallies(connection, "order", start, webhook_id),
        latencies=_latencies(connection, start, webhook_id),
        executions=_executions(connection, start, webhook_id),
        trips=trips,
        realized=realized,
        fees=fees,
        funding=_funding(connection, start) if webhook_id is None else None,
        unrealized=sum((one for one in open_pnl if one is not None), Decimal(0)) if webhook_id is None else None,
        stops=_stops(connection, start, webhook_id),
        exposure=sum((abs(one.quantity * (one.mark_price or one.average_open_price)) for one in held), Decimal(0)),
        account_value=None if mark is None else mark.value,
        per_day=_per_day(connection, since, now, webhook_id),
        equity=_equity(connection, since, now),
    )


def add_funding(connection: sqlite3.Connection, symbol: str, at: datetime, fee: Decimal) -> None:
    """Note one funding payment of the exchange's list (USDC, received negative); told again it changes nothing."""
    connection.execute(
        "INSERT OR REPLACE INTO funding (symbol, at, fee) VALUES (?, ?, ?)",
        (symbol, times.to_text(at), decimal_text(fee)),
    )


def funding_known_until(connection: sqlite3.Connection) -> datetime | None:
    """When the newest known payment was made."""
    return times.optional_time(connection.execute("SELECT max(at) FROM funding").fetchone()[0])


# What makes a row of each kind, for the hour that a period begins in.
_ROWS: Final = {
    "alert": ("alerts", "received_at", "webhook_id", "status, coalesce(code, '') AS code", "TRUE"),
    "order": ("orders", "created_at", "webhook_id", "status, iif(submitted_at IS NULL, '', 'sent') AS code", "TRUE"),
    "event": (
        "events",
        "at",
        "(SELECT webhook_id FROM alerts WHERE id = alert_id)",
        "kind AS status, '' AS code",
        "kind IN ('alert_duplicate', 'alert_conflict')",
    ),
}


def _tallies(connection: sqlite3.Connection, kind: str, start: str, webhook_id: str | None) -> tuple[Tally, ...]:
    """Whole hours after `start` from the tallies; minus what the first hour holds before it."""
    found: dict[tuple[str, str], int] = {}
    rows = connection.execute(
        "SELECT status, code, sum(count) FROM tallies WHERE kind = ? AND hour >= ? AND (?3 IS NULL OR webhook_id = ?3)"
        " GROUP BY status, code",
        (kind, start[:13], webhook_id),
    )
    for status, code, count in rows:
        found[status, code] = count
    if len(start) > 13:
        table, column, owner, columns, which = _ROWS[kind]
        early = connection.execute(
            f"SELECT {columns} FROM {table} WHERE {column} >= ? AND {column} < ? AND {which} AND (?3 IS NULL OR {owner} = ?3)",
            (start[:13], start, webhook_id),
        )
        for status, code in early:
            found[status, code] = found.get((status, code), 0) - 1
    return tuple(Tally(status, code, count) for (status, code), count in found.items() if count)


def _refusals(connection: sqlite3.Connection, start: str) -> tuple[Tally, ...]:
    """Requests nobody vouched for; counted by whole minutes."""
    rows = connection.execute(
        "SELECT code, sum(count) FROM refusals WHERE minute >= ? GROUP BY code", (start[:16],)
    ).fetchall()
    return tuple(Tally("refused", code, count) for code, count in rows)


def _latencies(connection: sqlite3.Connection, start: str, webhook_id: str | None) -> dict[str, list[float]]:
    """Milliseconds by stage, of the newest alerts; an alert with several orders counts by its first."""
    rows = connection.execute(
        "SELECT a.id, a.received_at, a.fired_at, a.stages FROM alerts a"
        " WHERE a.received_at >= ?1 AND (?2 IS NULL OR a.webhook_id = ?2) ORDER BY a.received_at DESC LIMIT ?3",
        (start, webhook_id, SAMPLE),
    ).fetchall()
    found: dict[str, list[float]] = {}
    for alert_id, received, fired, stages in rows:
        order = order_moments(connection, alert_id)
        for stage, value in stages_of(received, fired, stages, order):
            found.setdefault(stage, []).append(value)
    return found


def order_moments(connection: sqlite3.Connection, alert_id: str) -> tuple[str | None, str | None, str | None]:
    """When the alert's first order was signed, accepted and filled; None for what has not happened."""
    row = connection.execute(
        "SELECT submitted_at, accepted_at, iif(status = 'filled', finished_at, NULL) FROM orders WHERE alert_id = ? AND leg = 0",
        (alert_id,),
    ).fetchone()
    return (None, None, None) if row is None else (row[0], row[1], row[2])


def stages_of(received: str, fired: str | None, stages: str, order: tuple[str | None, ...]) -> list[tuple[str, float]]:
    """Every stage that is known of one alert: `received` after it fired, all others in milliseconds after it was received."""
    at = times.from_text(received)
    found: list[tuple[str, float]] = []
    if fired is not None:
        found.append(("received", max(_milliseconds(times.from_text(fired), at), 0.0)))
    noted = json.loads(stages)
    found += [(name, float(noted[name])) for name in ("stored", "answered") if name in noted]
    for name, moment in zip(("signed", "accepted", "filled"), order, strict=True):
        if moment is not None:
            found.append((name, max(_milliseconds(at, times.from_text(moment)), 0.0)))
    return found


def _milliseconds(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds() * 1000


def _executions(connection: sqlite3.Connection, start: str, webhook_id: str | None) -> tuple[Execution, ...]:
    rows = connection.execute(
        "SELECT side, average_price, json_extract(intent, '$.signal_price'), json_extract(intent, '$.reference_price')"
        " FROM (SELECT * FROM orders WHERE (?1 IS NULL OR webhook_id = ?1) ORDER BY sequence DESC LIMIT ?3)"
        " WHERE created_at >= ?2 AND average_price IS NOT NULL AND order_type = 'market'",
        (webhook_id, start, SAMPLE),
    )
    return tuple(
        Execution(
            sign=Side(side).sign,
            average_price=Decimal(average),
            signal=optional_decimal(signal),
            mark=Decimal(reference),
        )
        for side, average, signal, reference in rows
    )


def _money(
    connection: sqlite3.Connection, start: str, webhook_id: str | None
) -> tuple[Decimal, Decimal, tuple[Decimal, ...]]:
    """Realized P&L and fees as the exchange booked them with each fill, and the P&L of each order that closed something."""
    realized, fees = Decimal(0), Decimal(0)
    closing: dict[str, Decimal] = {}
    rows = connection.execute(
        "SELECT order_id, fee, realized_pnl FROM fills WHERE executed_at >= ?1 AND (?2 IS NULL OR webhook_id = ?2)",
        (start, webhook_id),
    )
    for order_id, fee, pnl in rows:
        fees += Decimal(fee)
        if pnl is not None and (amount := Decimal(pnl)):
            realized += amount
            closing[order_id] = closing.get(order_id, Decimal(0)) + amount
    return realized, fees, tuple(closing.values())


def _funding(connection: sqlite3.Connection, start: str) -> Decimal:
    rows = connection.execute("SELECT fee FROM funding WHERE at >= ?", (start,))
    return sum((Decimal(fee) for (fee,) in rows), Decimal(0))


def _stops(connection: sqlite3.Connection, start: str, webhook_id: str | None) -> tuple[int, int]:
    """Entries whose exits at the exchange are decided, and those of them that the stop loss closed."""
    rows = connection.execute(
        "SELECT e.legs FROM exits e JOIN orders o USING (client_order_id)"
        " WHERE e.is_over = 1 AND e.updated_at >= ?1 AND (?2 IS NULL OR o.webhook_id = ?2)",
        (start, webhook_id),
    )
    stops = [[leg for leg in json.loads(legs) if leg["kind"] == "STOP_LOSS"] for (legs,) in rows]
    decided = [legs for legs in stops if legs]
    return len(decided), sum(1 for legs in decided if any(leg["status"] == "filled" for leg in legs))


def _per_day(
    connection: sqlite3.Connection, since: datetime | None, now: datetime, webhook_id: str | None
) -> dict[date, int]:
    """Alerts of each of the last days (at most 30), also those without any."""
    first = max((since or now - timedelta(days=29)).date(), (now - timedelta(days=29)).date())
    days = {first + timedelta(days=offset): 0 for offset in range((now.date() - first).days + 1)}
    rows = connection.execute(
        "SELECT substr(hour, 1, 10), sum(count) FROM tallies WHERE kind = 'alert' AND hour >= ?1"
        " AND (?2 IS NULL OR webhook_id = ?2) GROUP BY 1",
        (first.isoformat(), webhook_id),
    )
    for day, count in rows:
        if date.fromisoformat(day) in days:
            days[date.fromisoformat(day)] = count
    return days


def _equity(
    connection: sqlite3.Connection, since: datetime | None, now: datetime
) -> tuple[tuple[datetime, Decimal], ...]:
    """The account's value over the period (at most 90 days), at most a few hundred points."""
    start = max(since or now - timedelta(days=90), now - timedelta(days=90))
    rows = connection.execute(
        "SELECT at, account_value FROM equity_marks WHERE at >= ? ORDER BY at", (times.to_text(start),)
    ).fetchall()
    slots = min(_POINTS, len(rows))
    chosen = [rows[(index + 1) * len(rows) // slots - 1] for index in range(slots)]
    return tuple((times.from_text(at), Decimal(value)) for at, value in chosen)
