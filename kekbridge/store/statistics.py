"""Facts for the statistics (model/statistics.py), and the daily summary.

A million alerts cost no more than a thousand: whole hours are read from `tallies` and `results`, the hour that `since` divides from
indexes, latencies and slippage from a sample of the newest alerts and orders, the equity curve with one lookup per point.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Final

from kekbridge.model import Side
from kekbridge.model.latency import AlertTimestamps, stages_of
from kekbridge.model.statistics import Execution, Facts, Tally, group_of, net_of
from kekbridge.store import codec, equity, fills, journal, positions, settings, webhooks
from kekbridge.store.codec import optional_decimal

SAMPLE: Final = 2000
_LONG_AGO: Final = "0000"
_POINTS: Final = 240
_LAST_SUMMARY: Final = "daily_summary_of"
# By kind of tally: the table, its time, its webhook, status and code, and which rows count. For the hour that `since` divides.
_ROWS: Final = {
    "alert": ("alerts", "received_at", "webhook_id", "status, coalesce(code, '') AS code", "TRUE"),
    "order": ("orders", "created_at", "webhook_id", "status, iif(submitted_at IS NULL, '', 'sent') AS code", "TRUE"),
    "event": (
        "journal",
        "at",
        "(SELECT webhook_id FROM alerts WHERE id = alert_id)",
        "kind AS status, '' AS code",
        "kind IN ('alert_duplicate', 'alert_conflict')",
    ),
    "stop": (
        "exits",
        "updated_at",
        "(SELECT webhook_id FROM orders WHERE orders.client_order_id = exits.client_order_id)",
        "iif(EXISTS (SELECT 1 FROM json_each(legs) WHERE json_extract(value, '$.kind') = 'STOP_LOSS'"
        " AND json_extract(value, '$.status') = 'filled'), 'hit', 'kept') AS status, '' AS code",
        "is_over = 1 AND EXISTS (SELECT 1 FROM json_each(legs) WHERE json_extract(value, '$.kind') = 'STOP_LOSS')",
    ),
}


# --------------------------------------------------------------------------------------------------------------- facts


def gather_facts(
    connection: sqlite3.Connection, *, since: datetime | None, now: datetime, webhook: str | None = None
) -> Facts:
    """Read everything that model.statistics.build_report needs. `webhook` is a name or id. Raises NotFound."""
    webhook_id = None if webhook is None else webhooks.find(connection, webhook).id
    start = codec.optional_time_text(since) or _LONG_AGO
    results = fills.sum_results(connection, since=start, webhook_id=webhook_id)
    open_positions = positions.list_all(connection)
    open_pnl = [one.unrealized_pnl for one in open_positions]
    mark = equity.latest(connection)
    return Facts(
        since=since,
        alerts=(*_tallies(connection, "alert", start, webhook_id), *_tallies(connection, "event", start, webhook_id)),
        refusals=_tallies(connection, "refusal", start, None) if webhook_id is None else (),
        orders=_tallies(connection, "order", start, webhook_id),
        latencies=_latencies(connection, start, webhook_id),
        executions=_executions(connection, start, webhook_id),
        closings=results.closings,
        wins=results.wins,
        realized=results.realized,
        fees=results.fees,
        funding=equity.funding_total(connection, since=start) if webhook_id is None else None,
        unrealized=sum((one for one in open_pnl if one is not None), Decimal(0)) if webhook_id is None else None,
        stops=_stops(connection, start, webhook_id),
        exposure=sum(
            (abs(one.quantity * (one.mark_price or one.average_open_price)) for one in open_positions), Decimal(0)
        ),
        account_value=None if mark is None else mark.value,
        per_day=_per_day(connection, since, now, webhook_id),
        equity=_equity(connection, since, now),
    )


def timestamps_of(
    connection: sqlite3.Connection, alert_id: str, received: str, fired: str | None, stages: str
) -> AlertTimestamps:
    """Timestamps of an alert (from its columns as stored) and its first order."""
    row = connection.execute(
        "SELECT submitted_at, signed_at, accepted_at, iif(status = 'filled', finished_at, NULL) FROM orders"
        " WHERE alert_id = ? AND leg = 0",
        (alert_id,),
    ).fetchone()
    claimed, signed, accepted, filled = (None,) * 4 if row is None else map(codec.optional_time, row)
    measured = json.loads(stages)
    return AlertTimestamps(
        received=codec.parse_time(received),
        fired=codec.optional_time(fired),
        stored_ms=measured.get("stored"),
        claimed=claimed,
        signed=signed,
        accepted=accepted,
        filled=filled,
        answered_ms=measured.get("answered"),
    )


def _tallies(connection: sqlite3.Connection, kind: str, start: str, webhook_id: str | None) -> tuple[Tally, ...]:
    """Counts since `start`: from the tallies of whole hours, minus what the first hour contains before `start`."""
    found: dict[tuple[str, str], int] = {}
    rows = connection.execute(
        "SELECT status, code, sum(count) FROM tallies WHERE kind = ? AND hour >= ? AND (?3 IS NULL OR webhook_id = ?3)"
        " GROUP BY status, code",
        (kind, start[:13], webhook_id),
    )
    for status, code, count in rows:
        found[status, code] = count
    for status, code, count in _early(connection, kind, start, webhook_id) if len(start) > 13 else ():
        found[status, code] = found.get((status, code), 0) - count
    return tuple(Tally(status, code, count) for (status, code), count in found.items() if count)


def _early(
    connection: sqlite3.Connection, kind: str, start: str, webhook_id: str | None
) -> Iterator[tuple[str, str, int]]:
    """Counts of the hour of `start` before `start`. Unauthenticated requests are stored by whole minutes."""
    if kind == "refusal":
        yield from connection.execute(
            "SELECT 'refused', code, sum(count) FROM refusals WHERE minute >= ? AND minute < ? GROUP BY code",
            (start[:13], start[:16]),
        )
        return
    table, column, owner, columns, which = _ROWS[kind]
    rows = connection.execute(
        f"SELECT {columns} FROM {table} WHERE {column} >= ? AND {column} < ? AND {which} AND (?3 IS NULL OR {owner} = ?3)",
        (start[:13], start, webhook_id),
    )
    yield from ((status, code, 1) for status, code in rows)


def _latencies(connection: sqlite3.Connection, start: str, webhook_id: str | None) -> dict[str, list[float]]:
    """Milliseconds by stage, of the newest alerts; an alert with several orders counts by its first."""
    rows = connection.execute(
        "SELECT a.id, a.received_at, a.fired_at, a.stages FROM alerts a"
        " WHERE a.received_at >= ?1 AND (?2 IS NULL OR a.webhook_id = ?2) ORDER BY a.received_at DESC LIMIT ?3",
        (start, webhook_id, SAMPLE),
    ).fetchall()
    found: dict[str, list[float]] = {}
    for alert_id, received, fired, stages in rows:
        timestamps = timestamps_of(connection, alert_id, received, fired, stages)
        for stage, value in stages_of(timestamps).items():
            found.setdefault(stage, []).append(value)
    return found


def _executions(connection: sqlite3.Connection, start: str, webhook_id: str | None) -> tuple[Execution, ...]:
    """The newest executed market orders; those of one webhook are found through its alerts."""
    newest = (
        "SELECT * FROM orders ORDER BY sequence DESC LIMIT ?3"
        if webhook_id is None
        else "SELECT o.* FROM alerts a CROSS JOIN orders o ON o.alert_id = a.id WHERE a.webhook_id = ?1 AND a.received_at >= ?2"
        " ORDER BY a.received_at DESC LIMIT ?3"
    )
    rows = connection.execute(
        "SELECT side, average_price, json_extract(intent, '$.signal_price'), json_extract(intent, '$.reference_price')"
        f" FROM ({newest}) WHERE created_at >= ?2 AND average_price IS NOT NULL AND order_type = 'market'",
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


def _stops(connection: sqlite3.Connection, start: str, webhook_id: str | None) -> tuple[int, int]:
    """Number of entries whose exits at the exchange are finished, and of those closed by the stop loss."""
    found = {one.status: one.count for one in _tallies(connection, "stop", start, webhook_id)}
    return sum(found.values()), found.get("hit", 0)


def _per_day(
    connection: sqlite3.Connection, since: datetime | None, now: datetime, webhook_id: str | None
) -> dict[date, int]:
    """Alerts of each of the last 30 days at most, including days without any."""
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
    """The account value over at most 90 days: the last mark of each of 240 equal intervals."""
    earliest = codec.time_text(max(since or now - timedelta(days=90), now - timedelta(days=90)))
    first = connection.execute("SELECT min(at) FROM equity_marks WHERE at >= ?", (earliest,)).fetchone()[0]
    if first is None:
        return ()
    start = codec.parse_time(first)
    chosen: dict[datetime, Decimal] = {}
    for part in range(_POINTS):
        end = codec.time_text(start + (now - start) * (part + 1) / _POINTS)
        at, value = connection.execute(
            "SELECT at, account_value FROM equity_marks WHERE at <= max(?, ?) ORDER BY at DESC LIMIT 1", (end, first)
        ).fetchone()
        chosen[codec.parse_time(at)] = Decimal(value)
    return tuple(chosen.items())


# ------------------------------------------------------------------------------------------------------- daily summary


def record_daily_summary(connection: sqlite3.Connection, day: date, *, now: datetime) -> bool:
    """Append the summary of a day to the history; False if that day's or a later one's was appended already."""
    if str(settings.get_value(connection, _LAST_SUMMARY) or "") >= day.isoformat():
        return False
    settings.set_value(connection, _LAST_SUMMARY, day.isoformat(), now=now)
    journal.append(connection, "daily_summary", now=now, data=daily_summary(connection, day))
    return True


def daily_summary(connection: sqlite3.Connection, day: date) -> dict[str, object]:
    """The figures of a UTC day's summary: counts of alerts and orders, and exact sums of fills and funding, shown to the cent."""
    began = datetime.combine(day, time(), UTC)
    ended = began + timedelta(days=1)
    span = (codec.time_text(began), codec.time_text(ended))
    alerts = _counts(connection, "alert", day)
    orders = _counts(connection, "order", day)
    booked = connection.execute(
        "SELECT fee, realized_pnl FROM fills WHERE executed_at >= ? AND executed_at < ?", span
    ).fetchall()
    fees = codec.exact_total(Decimal(fee) for fee, _ in booked)
    realized = codec.exact_total(Decimal(pnl or 0) for _, pnl in booked)
    charged = connection.execute("SELECT fee FROM funding WHERE at >= ? AND at < ?", span)
    funding = codec.exact_total(Decimal(fee) for (fee,) in charged)
    value, change = _equity_change(connection, began, ended)
    return {
        "day": day.isoformat(),
        "alerts": sum(alerts.values()),
        "refused": sum(count for status, count in alerts.items() if group_of(status) == "refused"),
        "orders": sum(orders.values()),
        "filled": orders.get("filled", 0),
        "realized_pnl": _cents(realized),
        "fees": _cents(fees),
        "funding": _cents(funding),
        "net_pnl": f"{net_of(realized, fees, funding):+.2f}",
        "equity": "not known" if value is None else f"{value:.2f} USDC",
        "change": None if change is None else f"{change:+.2f}",
    }


def _counts(connection: sqlite3.Connection, kind: str, day: date) -> dict[str, int]:
    rows = connection.execute(
        "SELECT status, sum(count) FROM tallies WHERE kind = ? AND hour >= ? AND hour < ? GROUP BY status",
        (kind, day.isoformat(), (day + timedelta(days=1)).isoformat()),
    )
    return {status: count for status, count in rows if count}


def _equity_change(
    connection: sqlite3.Connection, began: datetime, ended: datetime
) -> tuple[Decimal | None, Decimal | None]:
    """The account value at the end of the day and its change by trading, without deposits and withdrawals."""
    marks = equity.list_marks(connection, since=began, until=ended)
    if not marks:
        return None, None
    before = equity.last_before(connection, began)
    first, rest = (marks[0], marks[1:]) if before is None else (before, marks)
    return marks[-1].value, marks[-1].value - first.value - sum((mark.flow for mark in rest), Decimal(0))


def _cents(amount: Decimal) -> str:
    return f"{amount:.2f}"
