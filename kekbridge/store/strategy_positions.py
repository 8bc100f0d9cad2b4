"""Strategy histories (model/strategy.py): one row per webhook and symbol, written in the transaction of each alert.

Stored, because a message that was overtaken may arrive after a restart. planning/strategy_position.py decides what follows from them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from datetime import datetime

from kekbridge.model import StrategyHistory
from kekbridge.store import codec
from kekbridge.store.codec import optional_decimal, optional_decimal_text, to_json
from kekbridge.store.facts import steps_data, steps_from


def read_all(connection: sqlite3.Connection) -> dict[str, dict[str, StrategyHistory]]:
    """Every history, by webhook id and symbol."""
    found: dict[str, dict[str, StrategyHistory]] = {}
    for webhook_id, symbol, start, steps in connection.execute("SELECT webhook_id, symbol, start, steps FROM courses"):
        history = StrategyHistory(start=optional_decimal(start), steps=steps_from(json.loads(steps)))
        found.setdefault(webhook_id, {})[symbol] = history
    return found


def save(
    connection: sqlite3.Connection, webhook_id: str, histories: Iterable[tuple[str, StrategyHistory]], *, now: datetime
) -> None:
    """Replace the histories of these symbols. Only for projector.py."""
    for symbol, history in histories:
        connection.execute(
            "INSERT OR REPLACE INTO courses (webhook_id, symbol, start, steps, updated_at) VALUES (?, ?, ?, ?, ?)",
            (
                webhook_id,
                symbol,
                optional_decimal_text(history.start),
                to_json(steps_data(history.steps)),
                codec.time_text(now),
            ),
        )


def remove(connection: sqlite3.Connection, webhook_id: str) -> None:
    """Delete the histories of a webhook."""
    connection.execute("DELETE FROM courses WHERE webhook_id = ?", (webhook_id,))
