"""Fills a stopped daemon's database with alerts and orders of the past: copies of those it has, under names of their own."""

from __future__ import annotations

import sqlite3
from pathlib import Path


def fill(path: Path, count: int) -> None:
    """Add `count` finished alerts, each with its order, as if they had come before all others."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "CREATE TEMP TABLE numbers AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " SELECT i, printf('01A%023d', i) AS id FROM n",
            (count,),
        )
        received = "strftime('%Y-%m-%dT%H:%M:%S.000000Z', 1700000000 + n.i, 'unixepoch')"
        _copy(
            connection,
            "alerts",
            {"id": "n.id", "alert_id": "n.id", "identity": "'id:' || n.id", "received_at": received},
        )
        names = {"client_order_id": "'kb-' || n.id", "alert_id": "n.id", "order_id": "n.id", "sequence": None}
        _copy(connection, "orders", names)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()


def _copy(connection: sqlite3.Connection, table: str, changed: dict[str, str | None]) -> None:
    columns = [
        row[1] for row in connection.execute(f"PRAGMA table_info({table})") if changed.get(row[1], "") is not None
    ]
    values = [changed.get(name) or f"t.{name}" for name in columns]
    done = " WHERE finished_at IS NOT NULL" if table == "orders" else " WHERE status = 'filled'"
    added = connection.execute(
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)}"
        f" FROM numbers n, (SELECT * FROM {table}{done} LIMIT 1) t"
    ).rowcount
    if not added:
        raise AssertionError(f"{table} has no finished row to copy")
