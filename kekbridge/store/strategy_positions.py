"""Strategy histories (model/strategy.py): one row per webhook and symbol, written in the transaction of each alert.

Stored, because a message that was overtaken may arrive after a restart. planning/strategy_position.py decides what follows from them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Final

from kekbridge.model import StrategyHistory, StrategyStep
from kekbridge.store import cache, codec
from kekbridge.store.codec import optional_decimal, optional_decimal_text, to_json

_TABLE: Final = "courses"


def of_webhook(connection: sqlite3.Connection, webhook_id: str) -> Mapping[str, StrategyHistory]:
    """The histories of a webhook by symbol."""
    return cache.get_or_load(connection, _TABLE, webhook_id, _read, webhook_id)


def _read(connection: sqlite3.Connection, webhook_id: str) -> Mapping[str, StrategyHistory]:
    rows = connection.execute("SELECT symbol, start, steps FROM courses WHERE webhook_id = ?", (webhook_id,))
    return {
        row["symbol"]: StrategyHistory(
            start=optional_decimal(row["start"]),
            steps=tuple(
                StrategyStep(
                    fired_at=codec.parse_time(fired_at),
                    before=None if before is None else Decimal(before),
                    now=Decimal(now),
                )
                for fired_at, before, now in json.loads(row["steps"])
            ),
        )
        for row in rows
    }


def save(
    connection: sqlite3.Connection, webhook_id: str, histories: Iterable[tuple[str, StrategyHistory]], *, now: datetime
) -> None:
    """Replace the histories of these symbols."""
    for symbol, history in histories:
        cache.invalidate(connection, _TABLE)
        steps = [
            (codec.time_text(step.fired_at), optional_decimal_text(step.before), str(step.now))
            for step in history.steps
        ]
        connection.execute(
            "INSERT OR REPLACE INTO courses (webhook_id, symbol, start, steps, updated_at) VALUES (?, ?, ?, ?, ?)",
            (webhook_id, symbol, optional_decimal_text(history.start), to_json(steps), codec.time_text(now)),
        )


def remove(connection: sqlite3.Connection, webhook_id: str) -> None:
    """Delete the histories of a webhook."""
    cache.invalidate(connection, _TABLE)
    connection.execute("DELETE FROM courses WHERE webhook_id = ?", (webhook_id,))
