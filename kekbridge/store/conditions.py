"""What holds for a while (the stream is down, a position has no stop): told once when it begins and once when it is over.

The state is stored, so that a restart tells nothing again. Each change is an event of the history in the same transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from kekbridge.store import codec, events, settings
from kekbridge.store.alerts import StoredAlert
from kekbridge.store.codec import from_json

_PREFIX: Final = "condition:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What holds: the event that told of it, when, and its figures as they were then."""

    kind: str
    since: datetime
    data: Mapping[str, Any]


def holding(connection: sqlite3.Connection) -> dict[str, Condition]:
    """The conditions that hold now, by name."""
    rows = connection.execute("SELECT key, value FROM settings WHERE key LIKE 'condition:%' ORDER BY key").fetchall()
    return {key.removeprefix(_PREFIX): _condition(from_json(value)) for key, value in rows}


def _condition(kept: Mapping[str, Any]) -> Condition:
    return Condition(kind=kept["kind"], since=codec.from_text(kept["since"]), data=kept.get("data", {}))


def begin(
    connection: sqlite3.Connection,
    name: str,
    kind: str,
    *,
    now: datetime,
    data: Mapping[str, object] | None = None,
    alert_id: str | None = None,
) -> bool:
    """Tell `kind` unless that very kind holds under this name already (another one, such as expiring before expired, does not count)."""
    known = settings.get_value(connection, _PREFIX + name)
    if known is not None and known["kind"] == kind:
        return False
    settings.set_value(
        connection, _PREFIX + name, {"kind": kind, "since": codec.to_text(now), "data": data or {}}, now=now
    )
    events.append(connection, kind, now=now, alert_id=alert_id, data=data)
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
    """Forget the condition, and tell `kind` (None: tell nothing); nothing happens when it does not hold."""
    forgotten = settings.remove(connection, _PREFIX + name)
    if forgotten and kind is not None:
        events.append(connection, kind, now=now, alert_id=alert_id, data=data)
    return forgotten


_MARK: Final = "drift: "


def note(connection: sqlite3.Connection, alert: StoredAlert, *, now: datetime) -> None:
    """Call it in the transaction that stores the alert. One that was refused, or is about no market, says nothing of a position."""
    if alert.symbol is None or alert.status in ("refused", "denied"):
        return
    name = f"drift:{alert.webhook_id}:{alert.symbol}"
    found = next((text for text in alert.warnings if text.startswith(_MARK)), None)
    data = {"webhook": alert.webhook_name, "symbol": alert.symbol}
    if found is None:
        end(connection, name, "position_in_step", now=now, data=data, alert_id=alert.id)
        return
    data["detail"] = found.removeprefix(_MARK)
    begin(connection, name, "position_drift", now=now, data=data, alert_id=alert.id)
