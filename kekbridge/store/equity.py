"""Equity marks with their peak, transfers, and funding payments: the basis of drawdown, equity curve and net P&L.

The peak is stored with each mark, and in the settings for admissions to read. Its computation is in risk/drawdown.py.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from kekbridge.model import ZERO, AccountSnapshot, EquityMark, Flow
from kekbridge.store import codec, journal, settings
from kekbridge.store.codec import decimal_text

if TYPE_CHECKING:
    from kekbridge.model.statistics import ResultLine

# The exchange may report a transfer late: the peaks of marks younger than this are recomputed with each new mark.
_SETTLED_AFTER: Final = timedelta(minutes=10)
_RESET_AT: Final = "equity_peak_reset_at"
FundingKey = tuple[str, str, str]
FollowPeak = Callable[
    [EquityMark, Decimal | None, Sequence[tuple[datetime, Decimal]], Sequence[Flow]], tuple[EquityMark, ...]
]


def latest(connection: sqlite3.Connection) -> EquityMark | None:
    """The newest mark; None if there is none yet."""
    return _one(connection, "ORDER BY at DESC LIMIT 1", ())


def list_marks(
    connection: sqlite3.Connection, *, since: datetime, until: datetime | None = None
) -> tuple[EquityMark, ...]:
    """Marks from `since` (before `until`), oldest first: the equity curve."""
    return _select(
        connection,
        "WHERE at >= ? AND at < ? ORDER BY at",
        (codec.time_text(since), codec.optional_time_text(until) or "~"),
    )


def last_before(connection: sqlite3.Connection, moment: datetime) -> EquityMark | None:
    """The newest mark before a time; None if there is none."""
    return _one(connection, "WHERE at < ? ORDER BY at DESC LIMIT 1", (codec.time_text(moment),))


def record(
    connection: sqlite3.Connection,
    snapshot: AccountSnapshot,
    follow_peak: FollowPeak,
    *,
    now: datetime,
) -> EquityMark:
    """Store a mark of the snapshot, recompute the peak with the stored transfers, and return the mark.

    `follow_peak` is the function of risk/drawdown.py, passed in because the store does not import risk rules.
    """
    value = snapshot.account_value
    base = _base(connection, now)
    if base is None:
        peaks: tuple[EquityMark, ...] = (EquityMark(now, value, Decimal(0), value),)
    else:
        younger = _select(
            connection, "WHERE at > ? AND at < ? ORDER BY at", (codec.time_text(base.at), codec.time_text(now))
        )
        values = [*((mark.at, mark.value) for mark in younger), (now, value)]
        peaks = follow_peak(base, _value_before(connection, base), values, _flows_since(connection, base.at))
    for peak in peaks:
        _write(connection, peak)
    settings.set_value(connection, settings.EQUITY_PEAK, peaks[-1].peak, now=now)
    return peaks[-1]


def reset_peak(connection: sqlite3.Connection, *, by: str, now: datetime) -> Decimal | None:
    """Set the peak to the current equity, so that drawdown restarts at zero. Returns the new peak, None if there is no mark yet."""
    newest = latest(connection)
    if newest is None:
        return None
    before = settings.get_value(connection, settings.EQUITY_PEAK)
    settings.set_value(connection, settings.EQUITY_PEAK, newest.value, now=now)
    settings.set_value(connection, _RESET_AT, codec.time_text(newest.at), now=now)
    _write(connection, EquityMark(newest.at, newest.value, newest.flow, newest.value))
    journal.append(connection, "equity_peak_reset", now=now, data={"by": by, "from": before, "to": newest.value})
    return newest.value


def store_funding(connection: sqlite3.Connection, data: Mapping[str, Any]) -> None:
    """Store what a row `funding` says. Only for projector.py."""
    connection.execute(
        "INSERT OR REPLACE INTO funding (symbol, margin_mode, at, fee, webhook_id) VALUES (?, ?, ?, ?, ?)",
        (data["symbol"], data["margin_mode"], data["at"], data["fee"], data["webhook_id"]),
    )


def known_funding(connection: sqlite3.Connection, *, since: datetime) -> frozenset[FundingKey]:
    """Symbol, margin mode and time (as stored) of every payment stored since a time."""
    rows = connection.execute("SELECT symbol, margin_mode, at FROM funding WHERE at >= ?", (codec.time_text(since),))
    return frozenset((symbol, mode, at) for symbol, mode, at in rows)


def store_transfer(connection: sqlite3.Connection, data: Mapping[str, Any]) -> None:
    """Store what a row `transfer` says. Only for projector.py."""
    connection.execute(
        "INSERT OR REPLACE INTO transfers (id, at, amount) VALUES (?, ?, ?)",
        (data["id"], data["booked_at"], data["amount"]),
    )


def known_transfers(connection: sqlite3.Connection, *, since: datetime) -> Mapping[str, Flow]:
    """The transfers booked since a time, by the exchange's id."""
    rows = connection.execute("SELECT id, at, amount FROM transfers WHERE at >= ?", (codec.time_text(since),))
    return {name: Flow(codec.parse_time(at), Decimal(amount)) for name, at, amount in rows}


def list_funding(
    connection: sqlite3.Connection, span: codec.Span, *, webhook_id: str | None = None
) -> list[ResultLine]:
    """Funding paid in a period by UTC day, webhook id (empty: of none) and market, of all webhooks or of one; lines add up."""
    from kekbridge.model.statistics import ResultLine  # late: the alert path needs none of it

    rows = connection.execute(
        "SELECT substr(at, 1, 10), coalesce(webhook_id, ''), symbol, fee FROM funding WHERE at >= ?1 AND at < ?2"
        " AND (?3 IS NULL OR webhook_id = ?3)",
        (*span, webhook_id),
    )
    return [ResultLine(day, owner, symbol, ZERO, ZERO, Decimal(fee), 0, 0) for day, owner, symbol, fee in rows]


def curve(connection: sqlite3.Connection, span: codec.Span, *, points: int) -> tuple[EquityMark, ...]:
    """The equity curve of a period: the last mark of each of `points` equal intervals that has one, oldest first.

    One lookup per point, however long the period.
    """
    ends = connection.execute(
        "SELECT (SELECT at FROM equity_marks WHERE at >= ?1 AND at < ?2 ORDER BY at LIMIT 1),"
        " (SELECT at FROM equity_marks WHERE at >= ?1 AND at < ?2 ORDER BY at DESC LIMIT 1)",
        span,
    ).fetchone()
    if ends[0] is None:
        return ()
    first, last = map(codec.parse_time, ends)
    found: dict[datetime, EquityMark] = {}
    for part in range(points):
        end = first + (last - first) * (part + 1) / points
        mark = _one(connection, "WHERE at <= ? ORDER BY at DESC LIMIT 1", (max(codec.time_text(end), ends[0]),))
        if mark is not None:
            found[mark.at] = mark
    return tuple(found.values())


def _base(connection: sqlite3.Connection, now: datetime) -> EquityMark | None:
    """The newest settled mark since the last reset, else the first mark since then."""
    reset_at = settings.get_value(connection, _RESET_AT) or ""
    settled = codec.time_text(now - _SETTLED_AFTER)
    found = _one(connection, "WHERE at >= ? AND at <= ? ORDER BY at DESC LIMIT 1", (reset_at, settled))
    return found or _one(connection, "WHERE at >= ? AND at < ? ORDER BY at LIMIT 1", (reset_at, codec.time_text(now)))


def _value_before(connection: sqlite3.Connection, base: EquityMark) -> Decimal | None:
    before = last_before(connection, base.at)
    return None if before is None else before.value


def _flows_since(connection: sqlite3.Connection, at: datetime) -> list[Flow]:
    rows = connection.execute(
        "SELECT at, amount FROM transfers WHERE at >= ? ORDER BY at", (codec.time_text(at - _SETTLED_AFTER),)
    )
    return [Flow(codec.parse_time(moment), Decimal(amount)) for moment, amount in rows]


def _write(connection: sqlite3.Connection, peak: EquityMark) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO equity_marks (at, account_value, flow, peak) VALUES (?, ?, ?, ?)",
        (codec.time_text(peak.at), decimal_text(peak.value), decimal_text(peak.flow), decimal_text(peak.peak)),
    )


def _one(connection: sqlite3.Connection, rest: str, values: tuple[object, ...]) -> EquityMark | None:
    return next(iter(_select(connection, rest, values)), None)


def _select(connection: sqlite3.Connection, rest: str, values: tuple[object, ...]) -> tuple[EquityMark, ...]:
    rows = connection.execute(f"SELECT at, account_value, flow, peak FROM equity_marks {rest}", values)
    return tuple(
        EquityMark(codec.parse_time(at), Decimal(value), Decimal(flow), Decimal(peak)) for at, value, flow, peak in rows
    )
