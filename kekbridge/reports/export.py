"""Export alerts, orders, fills or daily P&L as CSV or JSON rows, for spreadsheets and tax software. Read-only.

Amounts are exact decimal text, times UTC text. CSV cells that a spreadsheet would run as a formula are escaped.
"""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import IO, Any, Final

from kekbridge.formatting import camel
from kekbridge.store import codec

# By kind of export: its query, and the time column that `since` and `until` filter.
QUERIES: Final[Mapping[str, tuple[str, str]]] = {
    "alerts": (
        "SELECT id, received_at, fired_at, webhook_name AS webhook, alert_id, remote, action, symbol, status, code, error,"
        " answer_status, payload FROM alerts",
        "received_at",
    ),
    "orders": (
        "SELECT client_order_id, order_id, alert_id, webhook_id, created_at, submitted_at, accepted_at, finished_at, symbol, side,"
        " order_type, purpose, quantity, limit_price, trigger_price, stop_loss, reduce_only, status, executed_quantity, average_price,"
        " fee, realized_pnl, code, error FROM orders",
        "created_at",
    ),
    "fills": (
        "SELECT trade_id, executed_at, order_id, client_order_id, exit_of, webhook_id, symbol, side, price, quantity, fee, realized_pnl,"
        " is_maker FROM fills",
        "executed_at",
    ),
}
KINDS: Final = (*QUERIES, "pnl")
# Spreadsheets run cells that begin like this as formulas, and an alert's text comes from outside.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def rows(
    connection: sqlite3.Connection, kind: str, *, since: datetime | None = None, until: datetime | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of an export, oldest first; `until` is excluded."""
    if kind == "pnl":
        yield from _by_day(connection, since, until)
        return
    query, column = QUERIES[kind]
    found = connection.execute(
        f"{query} WHERE {column} >= ? AND {column} < ? ORDER BY {column}",
        (codec.optional_time_text(since) or "", codec.optional_time_text(until) or "~"),
    )
    for row in found:
        yield dict(row)


def _by_day(connection: sqlite3.Connection, since: datetime | None, until: datetime | None) -> Iterator[dict[str, Any]]:
    """Realized P&L and fees by UTC day and market, summed exactly from the fills; `realized_pnl` is the exchange's, before fees."""
    days: dict[tuple[str, str], dict[str, Any]] = {}
    for fill in rows(connection, "fills", since=since, until=until):
        key = (str(fill["executed_at"])[:10], str(fill["symbol"]))
        day = days.setdefault(
            key,
            {
                "day": key[0],
                "symbol": key[1],
                "fills": 0,
                "notional": Decimal(0),
                "fee": Decimal(0),
                "realized_pnl": Decimal(0),
            },
        )
        day["fills"] += 1
        day["notional"] += Decimal(fill["price"]) * Decimal(fill["quantity"])
        day["fee"] += Decimal(fill["fee"])
        day["realized_pnl"] += Decimal(fill["realized_pnl"] or 0)
    for key in sorted(days):
        day = days[key]
        net = day["realized_pnl"] - day["fee"]
        yield {name: format(value, "f") if isinstance(value, Decimal) else value for name, value in day.items()} | {
            "net": format(net, "f")
        }


def write_csv(found: Iterator[dict[str, Any]], out: IO[str]) -> int:
    """Write rows as CSV with a header (RFC 4180, LF line ends); return their number. Without rows nothing is written."""
    writer: csv.DictWriter[str] | None = None
    count = 0
    for row in found:
        if writer is None:
            writer = csv.DictWriter(out, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow({name: _escape_formula(value) for name, value in row.items()})
        count += 1
    return count


def write_json(found: Iterator[dict[str, Any]], out: IO[str]) -> int:
    """Stream rows as one JSON array, one object per line; return their number."""
    count = 0
    for row in found:
        out.write(("[\n" if count == 0 else ",\n") + json.dumps({camel(name): value for name, value in row.items()}))
        count += 1
    out.write("[]\n" if count == 0 else "\n]\n")
    return count


def _escape_formula(value: Any) -> Any:
    """Prefix an apostrophe to text that would run as a formula; numbers are unchanged."""
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    try:
        Decimal(value)
    except ArithmeticError:
        return f"'{value}"
    return value
