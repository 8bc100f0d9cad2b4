"""What holds for a while (the stream is down, a position has no stop): told once when it begins and once when it is over.

The state is stored, so that a restart tells nothing again. Each change is an event of the history in the same transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from kekbridge.store import events, settings, times

_PREFIX: Final = "condition:"


def holding(connection: sqlite3.Connection) -> dict[str, tuple[str, datetime]]:
    """The conditions that hold now, by name: the event that told of each, and when."""
    rows = connection.execute(
        "SELECT key, json_extract(value, '$.kind'), json_extract(value, '$.since') FROM settings WHERE key LIKE 'condition:%'"
    )
    return {key.removeprefix(_PREFIX): (kind, times.from_text(since)) for key, kind, since in rows}


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
    settings.set_value(connection, _PREFIX + name, {"kind": kind, "since": times.to_text(now)}, now=now)
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
    forgotten = connection.execute("DELETE FROM settings WHERE key = ?", (_PREFIX + name,)).rowcount
    if forgotten and kind is not None:
        events.append(connection, kind, now=now, alert_id=alert_id, data=data)
    return bool(forgotten)
