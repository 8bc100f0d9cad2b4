"""Fill a stopped daemon's database with past alerts, orders, fills and rows of the journal: copies of its own under other ids."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from kekbridge.store import fills
from tests.system.harness import wait_until

# One alert in DENIED_EACH was denied, one in RARE_EACH is for a rarely traded market.
DENIED_EACH = 20
RARE_EACH = 1000
RARE = "PERP_DOGE_USDC"


def fill(path: Path, count: int) -> None:
    """Add `count` finished alerts with their orders, fills and rows of the journal, a second apart.

    The last one is 25 hours old, so that all rate windows are empty: the cost of a full one depends on its limit, not on the history.
    """
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "CREATE TEMP TABLE numbers AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " SELECT i, printf('01A%023d', i) AS id,"
            " strftime('%Y-%m-%dT%H:%M:%S.000Z', unixepoch() - 90000 - ? + i, 'unixepoch') AS at FROM n",
            (count, count),
        )
        alert = {
            "id": "n.id",
            "alert_id": "n.id",
            "identity": "'id:' || n.id",
            "received_at": "n.at",
            "fired_at": "n.at",
        }
        denied = f"n.i % {DENIED_EACH} = 0"
        alert |= {
            "symbol": f"iif(n.i % {RARE_EACH} = 7, '{RARE}', t.symbol)",
            "status": f"iif({denied}, 'denied', t.status)",
            "code": f"iif({denied}, 'daily_limit', NULL)",
        }
        _copy(connection, "alerts", alert, of="status = 'filled'")
        moments = dict.fromkeys(("created_at", "submitted_at", "accepted_at", "finished_at"), "n.at")
        order = {"client_order_id": "'kb-' || n.id", "alert_id": "n.id", "order_id": "n.id", "sequence": None} | moments
        traded = f"NOT {denied}"
        _copy(connection, "orders", order, of="status = 'filled'", which=traded)
        trade = {"trade_id": "n.id", "client_order_id": "'kb-' || n.id", "order_id": "n.id", "executed_at": "n.at"}
        won = {"realized_pnl": "CAST(n.i % 7 - 3 AS TEXT)"}
        _copy(connection, "fills", trade | won, of="client_order_id IS NOT NULL", which=traded)
        happened = {"sequence": None, "at": "n.at", "alert_id": "n.id", "client_order_id": "'kb-' || n.id"}
        for kind in ("alert_admitted", "order_accepted", "fill", "order_filled"):
            claimed = {"identity": "'id:' || n.id"} if kind == "alert_admitted" else {}
            _copy(connection, "journal", happened | claimed, of=f"kind = '{kind}'", which=traded)
        connection.execute("UPDATE projection SET sequence = (SELECT max(sequence) FROM journal)")
        fills.rebuild_results(connection)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()


def wait_for_original(path: Path) -> None:
    """Wait until the store has a filled alert to copy: the exchange has its order before its fill is stored."""

    def is_filled() -> bool:
        with closing(sqlite3.connect(path, timeout=10)) as connection:
            return connection.execute("SELECT 1 FROM alerts WHERE status = 'filled'").fetchone() is not None

    wait_until(is_filled, what="a filled alert")


def _copy(
    connection: sqlite3.Connection, table: str, changed: Mapping[str, str | None], *, of: str, which: str = "TRUE"
) -> None:
    """Copy the first row that matches `of`, once for each number that matches `which`; `changed` maps columns to SQL."""
    columns = [
        row[1] for row in connection.execute(f"PRAGMA table_info({table})") if changed.get(row[1], "") is not None
    ]
    values = [changed.get(name) or f"t.{name}" for name in columns]
    added = connection.execute(
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)}"
        f" FROM numbers n, (SELECT * FROM {table} WHERE {of} LIMIT 1) t WHERE {which}"
    ).rowcount
    if not added:
        raise AssertionError(f"{table} has no row where {of} to copy")
