"""Facts for the statistics (model/statistics.py), and the daily summary.

A million alerts cost no more than a thousand: whole hours are read from `tallies` and `results`, an hour that the period divides from
indexes, latencies and slippage from a sample of the newest alerts and orders, the equity curve with one lookup per point.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Final

import msgspec

from kekbridge.model import EquityMark, Side
from kekbridge.model.latency import AlertTimestamps, stages_of
from kekbridge.model.statistics import (
    Execution,
    Facts,
    Pnl,
    PnlPart,
    ResultLine,
    Tally,
    divide,
    group_of,
    net_of,
    total_of,
)
from kekbridge.store import codec, equity, fills, journal, positions, settings, webhooks
from kekbridge.store.codec import Span, optional_decimal

SAMPLE: Final = 2000
_MEASURED: Final = msgspec.json.Decoder(dict[str, float])
_POINTS: Final = 240
_LAST_SUMMARY: Final = "daily_summary_of"
# By kind of tally: the table, its time, its webhook, status and code, and which rows count. For an hour that the period divides.
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
    connection: sqlite3.Connection,
    *,
    since: datetime | None,
    now: datetime,
    until: datetime | None = None,
    webhook: str | None = None,
) -> Facts:
    """Read everything that model.statistics.build_report needs. `webhook` is a name or id. Raises NotFound."""
    webhook_id = None if webhook is None else webhooks.find(connection, webhook).id
    span = Span.of(since, until)
    lines = _result_lines(connection, span, webhook_id)
    total = total_of(lines)
    open_positions = positions.list_all(connection)
    open_pnl = [one.unrealized_pnl for one in open_positions]
    mark = equity.latest(connection)
    end = min(until or now, now)
    return Facts(
        since=since,
        alerts=(*_tallies(connection, "alert", span, webhook_id), *_tallies(connection, "event", span, webhook_id)),
        refusals=_tallies(connection, "refusal", span, None) if webhook_id is None else (),
        orders=_tallies(connection, "order", span, webhook_id),
        latencies=_latencies(connection, span, webhook_id),
        executions=_executions(connection, span, webhook_id),
        closings=total.closing_orders,
        wins=total.wins,
        realized=total.realized_pnl,
        fees=total.fees,
        funding=total.funding if webhook_id is None else None,
        lines=lines,
        unrealized=sum((one for one in open_pnl if one is not None), Decimal(0)) if webhook_id is None else None,
        stops=_stops(connection, span, webhook_id),
        exposure=sum(
            (abs(one.quantity * (one.mark_price or one.average_open_price)) for one in open_positions), Decimal(0)
        ),
        account_value=None if mark is None else mark.value,
        per_day=_last_days(connection, since, end, webhook_id),
        equity=tuple((one.at, one.value) for one in _equity(connection, since, end)),
    )


def has_filled_order(connection: sqlite3.Connection) -> bool:
    """True if an order was ever filled."""
    found = "SELECT 1 FROM tallies WHERE kind = 'order' AND status = 'filled' AND count > 0 LIMIT 1"
    return connection.execute(found).fetchone() is not None


def _tallies(connection: sqlite3.Connection, kind: str, span: Span, webhook_id: str | None) -> tuple[Tally, ...]:
    """Counts of a period: from the tallies of whole hours, minus what its first and last hour contain beyond it."""
    found: dict[tuple[str, str], int] = {}
    rows = connection.execute(
        "SELECT status, code, sum(count) FROM tallies WHERE kind = ?1 AND hour >= ?2 AND hour < ?3"
        " AND (?4 IS NULL OR webhook_id = ?4) GROUP BY status, code",
        (kind, span.first_hour, span.end, webhook_id),
    )
    for status, code, count in rows:
        found[status, code] = count
    for edge in span.edges:
        for status, code, count in _rows_of(connection, kind, edge, webhook_id):
            found[status, code] = found.get((status, code), 0) - count
    return tuple(Tally(status, code, count) for (status, code), count in found.items() if count)


def _rows_of(
    connection: sqlite3.Connection, kind: str, edge: tuple[str, str], webhook_id: str | None
) -> Iterator[tuple[str, str, int]]:
    """Counts of a part of an hour. Unauthenticated requests are stored by whole minutes."""
    low, high = edge
    if kind == "refusal":
        yield from connection.execute(
            "SELECT 'refused', code, sum(count) FROM refusals WHERE minute >= ? AND minute < ? GROUP BY code",
            (low[:16], high[:16]),
        )
        return
    table, column, owner, columns, which = _ROWS[kind]
    rows = connection.execute(
        f"SELECT {columns} FROM {table} WHERE {column} >= ? AND {column} < ? AND {which} AND (?3 IS NULL OR {owner} = ?3)",
        (low, high, webhook_id),
    )
    yield from ((status, code, 1) for status, code in rows)


def _latencies(connection: sqlite3.Connection, span: Span, webhook_id: str | None) -> dict[str, list[float]]:
    """Milliseconds by stage, of the newest alerts; an alert with several orders counts by its first."""
    rows = connection.execute(
        "SELECT a.received_at, a.fired_at, a.stages, o.submitted_at, o.signed_at, o.accepted_at,"
        " iif(o.status = 'filled', o.finished_at, NULL)"
        " FROM (SELECT id, received_at, fired_at, stages FROM alerts WHERE received_at >= ?1 AND received_at < ?2"
        " AND (?3 IS NULL OR webhook_id = ?3) ORDER BY received_at DESC LIMIT ?4) a"
        " LEFT JOIN orders o ON o.alert_id = a.id AND o.leg = 0",
        (*span, webhook_id, SAMPLE),
    )
    found: dict[str, list[float]] = {}
    optional, parse = codec.optional_time, codec.parse_time
    for received, fired, stages, claimed, signed, accepted, filled in rows:
        measured = _MEASURED.decode(stages)
        timestamps = AlertTimestamps(
            parse(received),
            optional(fired),
            measured.get("stored"),
            optional(claimed),
            optional(signed),
            optional(accepted),
            optional(filled),
            measured.get("answered"),
        )
        for stage, value in stages_of(timestamps).items():
            found.setdefault(stage, []).append(value)
    return found


def _executions(connection: sqlite3.Connection, span: Span, webhook_id: str | None) -> tuple[Execution, ...]:
    """The newest executed market orders; those of one webhook are found through its alerts."""
    newest = (
        "SELECT * FROM orders WHERE created_at >= ?2 AND created_at < ?3 ORDER BY created_at DESC LIMIT ?4"
        if webhook_id is None
        else "SELECT o.* FROM alerts a CROSS JOIN orders o ON o.alert_id = a.id WHERE a.webhook_id = ?1"
        " AND a.received_at >= ?2 AND a.received_at < ?3 ORDER BY a.received_at DESC LIMIT ?4"
    )
    rows = connection.execute(
        "SELECT side, average_price, json_extract(intent, '$.signal_price'), json_extract(intent, '$.reference_price')"
        f" FROM ({newest}) WHERE average_price IS NOT NULL AND order_type = 'market'",
        (webhook_id, *span, SAMPLE),
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


def _stops(connection: sqlite3.Connection, span: Span, webhook_id: str | None) -> tuple[int, int]:
    """Number of entries whose exits at the exchange are finished, and of those closed by the stop loss."""
    found = {one.status: one.count for one in _tallies(connection, "stop", span, webhook_id)}
    return sum(found.values()), found.get("hit", 0)


def count_by_day(connection: sqlite3.Connection, span: Span, *, webhook_id: str | None = None) -> dict[date, int]:
    """Alerts of a period by UTC day, days with any, oldest first."""
    rows = connection.execute(
        "SELECT substr(hour, 1, 10), sum(count) FROM tallies WHERE kind = 'alert' AND hour >= ?1 AND hour < ?2"
        " AND (?3 IS NULL OR webhook_id = ?3) GROUP BY 1 ORDER BY 1",
        (span.first_hour, span.end, webhook_id),
    )
    found = {date.fromisoformat(day): count for day, count in rows}
    for edge in span.edges:
        beyond = sum(count for _, _, count in _rows_of(connection, "alert", edge, webhook_id))
        if beyond:
            found[date.fromisoformat(edge[0][:10])] -= beyond
    return {day: count for day, count in found.items() if count}


def _last_days(
    connection: sqlite3.Connection, since: datetime | None, end: datetime, webhook_id: str | None
) -> dict[date, int]:
    """Alerts of each of the last 30 days of a period at most, including days without any."""
    last = end.astimezone(UTC).date()
    first = last - timedelta(days=29)
    if since is not None:
        first = max(since.astimezone(UTC).date(), first)
    found = count_by_day(connection, Span(first.isoformat(), codec.time_text(end)), webhook_id=webhook_id)
    days = (first + timedelta(days=offset) for offset in range((last - first).days + 1))
    return {day: found.get(day, 0) for day in days}


def _equity(connection: sqlite3.Connection, since: datetime | None, end: datetime) -> tuple[EquityMark, ...]:
    """The equity curve over at most 90 days."""
    earliest = end - timedelta(days=90)
    span = Span.of(max(since or earliest, earliest), end + timedelta(milliseconds=1))
    return equity.curve(connection, span, points=_POINTS)


# ---------------------------------------------------------------------------------------------------- profit and loss


def pnl_by_webhook(
    connection: sqlite3.Connection, *, since: datetime | None, until: datetime | None = None
) -> tuple[PnlPart, ...]:
    """Profit and loss of each webhook in a period, best first. An empty name: of orders that no webhook caused."""
    return divide_pnl(connection, _result_lines(connection, Span.of(since, until), None)).by_webhook


def divide_pnl(connection: sqlite3.Connection, lines: Sequence[ResultLine]) -> Pnl:
    """`Facts.lines` by day, webhook and market; a deleted webhook keeps the name that its last alert had."""
    return divide(lines, _webhook_names(connection, {line.webhook_id for line in lines}))


def _result_lines(connection: sqlite3.Connection, span: Span, webhook_id: str | None) -> list[ResultLine]:
    return [
        *fills.list_results(connection, span, webhook_id=webhook_id),
        *equity.list_funding(connection, span, webhook_id=webhook_id),
    ]


def _webhook_names(connection: sqlite3.Connection, webhook_ids: Iterable[str]) -> dict[str, str]:
    known = {one.id: one.name for one in webhooks.list_all(connection)} | {"": ""}
    for webhook_id in webhook_ids:
        if webhook_id not in known:
            row = connection.execute(
                "SELECT webhook_name FROM alerts WHERE webhook_id = ? ORDER BY received_at DESC LIMIT 1", (webhook_id,)
            ).fetchone()
            known[webhook_id] = f"{row[0] if row and row[0] else webhook_id} (deleted)"
    return known


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
    received, refused = alerts_of_day(connection, day)
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
        "alerts": received,
        "refused": refused,
        "orders": sum(orders.values()),
        "filled": orders.get("filled", 0),
        "realized_pnl": _cents(realized),
        "fees": _cents(fees),
        "funding": _cents(funding),
        "net_pnl": f"{net_of(realized, fees, funding):+.2f}",
        "by_webhook": _by_webhook(pnl_by_webhook(connection, since=began, until=ended)),
        "equity": "not known" if value is None else f"{value:.2f} USDC",
        "change": None if change is None else f"{change:+.2f}",
    }


def _by_webhook(parts: Iterable[PnlPart]) -> str:
    """`btc-trend +12.30, eth -4.10 USDC`: what each webhook that traded has earned, after fees and funding; the best first."""
    texts = [f"{part.name or 'by hand'} {part.net_pnl:+.2f}" for part in parts]
    return f"{', '.join(texts)} USDC" if texts else "no trades"


def alerts_of_day(connection: sqlite3.Connection, day: date) -> tuple[int, int]:
    """Alerts of a UTC day, and those of them that were refused or denied."""
    found = _counts(connection, "alert", day)
    return sum(found.values()), sum(count for status, count in found.items() if group_of(status) == "refused")


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
