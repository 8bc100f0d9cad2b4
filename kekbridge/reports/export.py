"""Everything that happened as rows, for a spreadsheet or a tax program: alerts, orders, fills, P&L by day. Reads one consistent picture.

Amounts stay exact decimal text, times UTC text. Cells that a spreadsheet would take for a formula are disarmed in CSV.
"""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import IO, Any, Final

from kekbridge.store import codec

# What each export selects: (query, column of the time that `since` and `until` compare with).
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
# A cell that begins so is run as a formula by spreadsheets; an alert's text may come from anybody who holds a key.
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
    """Write rows as CSV with a header (RFC 4180, LF line ends); returns how many. Nothing at all is written for no row."""
    writer: csv.DictWriter[str] | None = None
    count = 0
    for row in found:
        if writer is None:
            writer = csv.DictWriter(out, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow({name: _disarmed(value) for name, value in row.items()})
        count += 1
    return count


def write_json(found: Iterator[dict[str, Any]], out: IO[str]) -> int:
    """Write rows as one JSON array, one object a line, without holding them all in memory; returns how many."""
    count = 0
    for row in found:
        out.write(("[\n" if count == 0 else ",\n") + json.dumps(_camel(row)))
        count += 1
    out.write("[]\n" if count == 0 else "\n]\n")
    return count


def _camel(row: Mapping[str, Any]) -> dict[str, Any]:
    return {first + "".join(part.capitalize() for part in rest): value for (first, *rest), value in _split(row)}


def _split(row: Mapping[str, Any]) -> Iterator[tuple[list[str], Any]]:
    for name, value in row.items():
        yield name.split("_"), value


def _disarmed(value: Any) -> Any:
    """An apostrophe before what is no number and would be run as a formula."""
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    try:
        Decimal(value)
    except ArithmeticError:
        return f"'{value}"
    return value
