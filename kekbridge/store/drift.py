"""Tells once when a strategy and the account hold different positions, and once when they agree again.

What is a difference is decided when the alert is translated (alerts/moves.py) and stands among its warnings.
"""

from __future__ import annotations

import sqlite3
from datetime import datetime
from typing import Final

from kekbridge.store import conditions
from kekbridge.store.alerts import StoredAlert

_MARK: Final = "drift: "


def note(connection: sqlite3.Connection, alert: StoredAlert, *, now: datetime) -> None:
    """Call it in the transaction that stores the alert. One that was refused, or is about no market, says nothing of a position."""
    if alert.symbol is None or alert.status in ("refused", "denied"):
        return
    name = f"drift:{alert.webhook_id}:{alert.symbol}"
    found = next((text for text in alert.warnings if text.startswith(_MARK)), None)
    data = {"webhook": alert.webhook_name, "symbol": alert.symbol}
    if found is None:
        conditions.end(connection, name, "position_in_step", now=now, data=data, alert_id=alert.id)
        return
    data["detail"] = found.removeprefix(_MARK)
    conditions.begin(connection, name, "position_drift", now=now, data=data, alert_id=alert.id)
