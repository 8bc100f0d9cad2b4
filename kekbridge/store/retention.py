"""Removes the text of old messages. What they led to (verdicts, orders, answers) and the hash-chained history stay as they are.

Done in small steps, each its own transaction, from where the last one ended: no alert waits behind it.
"""

from __future__ import annotations

import sqlite3
from datetime import datetime
from typing import Final

from kekbridge.store import settings, times
from kekbridge.store.codec import to_json

_DONE_UNTIL: Final = "payloads_removed_until"
# The dots mark what was left out, as they do where a message was shortened: such a one is not replayed.
_REMOVED: Final = to_json({"removed": "… the text of old messages is not kept, see store.keep_payloads_days"})


def remove_payloads(connection: sqlite3.Connection, *, before: datetime, now: datetime, limit: int = 500) -> int:
    """Remove the payloads of the oldest alerts received before a time, at most `limit`; returns how many had one."""
    start = str(settings.get_value(connection, _DONE_UNTIL) or "")
    rows = connection.execute(
        "SELECT id, received_at FROM alerts WHERE received_at >= ? AND received_at < ? AND payload <> ?"
        " ORDER BY received_at LIMIT ?",
        (start, times.to_text(before), _REMOVED, limit),
    ).fetchall()
    connection.executemany("UPDATE alerts SET payload = ? WHERE id = ?", [(_REMOVED, row[0]) for row in rows])
    if rows:
        settings.set_value(connection, _DONE_UNTIL, rows[-1][1], now=now)
    return len(rows)
