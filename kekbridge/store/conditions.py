"""Lasting conditions (the stream is down, a position has no stop): one event when a condition begins and one when it ends.

Active conditions are stored, so that a restart does not repeat the event. Each event is written in the transaction of its change.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from kekbridge.store import codec, journal, settings
from kekbridge.store.alerts import StoredAlert
from kekbridge.store.codec import from_json

_PREFIX: Final = "condition:"
_DRIFT_WARNING: Final = "drift: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """An active condition."""

    #: Kind of the event that began it.
    kind: str
    since: datetime
    #: The event's figures.
    data: Mapping[str, Any]


def list_active(connection: sqlite3.Connection) -> dict[str, Condition]:
    """The active conditions by name."""
    rows = connection.execute("SELECT key, value FROM settings WHERE key LIKE 'condition:%' ORDER BY key").fetchall()
    return {key.removeprefix(_PREFIX): _condition(from_json(value)) for key, value in rows}


def begin(
    connection: sqlite3.Connection,
    name: str,
    kind: str,
    *,
    now: datetime,
    data: Mapping[str, object] | None = None,
    alert_id: str | None = None,
) -> bool:
    """Begin a condition and append the event `kind`; False if a condition of this name and kind is active already.

    One name can change its kind: expiring, then expired.
    """
    known = settings.get_value(connection, _PREFIX + name)
    if known is not None and known["kind"] == kind:
        return False
    settings.set_value(
        connection, _PREFIX + name, {"kind": kind, "since": codec.time_text(now), "data": data or {}}, now=now
    )
    journal.append(connection, kind, now=now, alert_id=alert_id, data=data)
    return True


def end(
    connection: sqlite3.Connection,
    name: str,
    kind: str | None,
    *,
    now: datetime,
    data: Mapping[str, object] | None = None,
    alert_id: str | None = None,
) -> bool:
    """End a condition and append the event `kind` (None: no event); False if it is not active."""
    was_active = settings.remove(connection, _PREFIX + name)
    if was_active and kind is not None:
        journal.append(connection, kind, now=now, alert_id=alert_id, data=data)
    return was_active


def has_drift(alert: StoredAlert) -> bool:
    """True if the alert's warnings say that account and strategy differ."""
    return any(text.startswith(_DRIFT_WARNING) for text in alert.warnings)


def drifting(connection: sqlite3.Connection) -> tuple[tuple[str, str], ...]:
    """Webhook id and symbol of every active condition that account and strategy differ."""
    rows = connection.execute("SELECT key FROM settings WHERE key LIKE ?", (f"{_PREFIX}drift:%",)).fetchall()
    names = (str(key).removeprefix(_PREFIX).split(":", 2) for (key,) in rows)
    return tuple((webhook_id, symbol) for _, webhook_id, symbol in names)


def record_drift(connection: sqlite3.Connection, alert: StoredAlert, *, now: datetime) -> None:
    """Begin or end the condition that account and strategy differ, from the alert's warnings. For a job of the writer.

    An alert that was refused or has no symbol says nothing about a position.
    """
    if alert.symbol is None or alert.status in ("refused", "denied"):
        return
    name = f"drift:{alert.webhook_id}:{alert.symbol}"
    warning = next((text for text in alert.warnings if text.startswith(_DRIFT_WARNING)), None)
    data = {"webhook": alert.webhook_name, "symbol": alert.symbol}
    if warning is None:
        end(connection, name, "position_in_step", now=now, data=data, alert_id=alert.id)
        return
    data["detail"] = warning.removeprefix(_DRIFT_WARNING)
    begin(connection, name, "position_drift", now=now, data=data, alert_id=alert.id)


def _condition(stored: Mapping[str, Any]) -> Condition:
    return Condition(kind=stored["kind"], since=codec.parse_time(stored["since"]), data=stored.get("data", {}))
