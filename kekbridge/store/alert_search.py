"""Finding stored alerts by what is known of them, newest first, in a time that does not grow with the history.

Each question is answered from an index: symbol and webhook have one, status and code are found through the hours that `tallies` has
counted any in. A free text has none (it would cost every alert a write): it is looked for in the newest LOOKED_THROUGH alerts.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from kekbridge.store import alerts, times
from kekbridge.store.alerts import StoredAlert

# Alerts read for a text; more would take longer than a person at a prompt likes to wait.
LOOKED_THROUGH: Final = 25_000
_TEXT: Final = "instr(lower(a.payload || ' ' || coalesce(a.alert_id, '') || ' ' || coalesce(a.error, '')), ?) > 0"


@dataclass(frozen=True, slots=True)
class Found:
    """Alerts, newest last. `looked_back_to`: older ones were not looked through, which only a text can be the reason of."""

    alerts: tuple[StoredAlert, ...]
    looked_back_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Question:
    """The filters as stored values; None asks nothing."""

    webhook_ids: tuple[str, ...] | None  # several when a name was used again after a deletion
    status: str | None
    code: str | None
    symbol: str | None
    since: str
    until: str


def search(
    connection: sqlite3.Connection,
    *,
    webhook: str | None = None,
    status: str | None = None,
    code: str | None = None,
    symbol: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    text: str | None = None,
    limit: int = 100,
    look_through: int = LOOKED_THROUGH,
) -> Found:
    """The last `limit` alerts that fit every filter given.

    `webhook` is a name or id; `text` is looked for in the payload, the alertId and the error; times are of receipt, `until` exclusive.
    A text is looked for in the newest `look_through` alerts that fit the rest.
    """
    question = _Question(
        webhook_ids=None if webhook is None else _ids_of(connection, webhook),
        status=status,
        code=code,
        symbol=symbol,
        since=times.optional_text(since) or "",
        until=times.optional_text(until) or "~",
    )
    found: list[StoredAlert] = []
    for looked, row in enumerate(_rows(connection, question, text), start=1):
        if row["fits"]:
            found.append(alerts.from_row(row))
            if len(found) >= limit:
                break
        if looked >= look_through and text:
            return Found(tuple(reversed(found)), times.from_text(row["received_at"]))
    return Found(tuple(reversed(found)))


def _ids_of(connection: sqlite3.Connection, name_or_id: str) -> tuple[str, ...]:
    """The webhook of this name or id; when there is none any more, those that had the name at their last alert."""
    row = connection.execute(
        "SELECT id FROM webhooks WHERE name = ?1 OR id = ?1 ORDER BY name <> ?1", (name_or_id,)
    ).fetchone()
    if row is not None:
        return (row[0],)
    rows = connection.execute(
        "SELECT owner FROM (SELECT DISTINCT webhook_id AS owner FROM tallies WHERE kind = 'alert') WHERE ?1 IN (owner,"
        " (SELECT a.webhook_name FROM alerts a WHERE a.webhook_id = owner ORDER BY a.received_at DESC LIMIT 1))",
        (name_or_id,),
    )
    return tuple(identifier for (identifier,) in rows)


def _rows(connection: sqlite3.Connection, question: _Question, text: str | None) -> Iterator[sqlite3.Row]:
    """Alerts that fit all but the text, newest first, each with `fits` for the text."""
    fits, told = (_TEXT, (text.lower(),)) if text else ("1", ())
    where, values = _conditions(question)
    for since, until in _spans(connection, question):
        yield from connection.execute(
            f"SELECT {alerts.COLUMNS}, {fits} AS fits FROM alerts a WHERE {where} AND a.received_at >= ? AND a.received_at < ?"
            " ORDER BY a.received_at DESC, a.id DESC",
            (*told, *values, since, until),
        )


def _conditions(question: _Question) -> tuple[str, tuple[str, ...]]:
    """With a symbol its index leads (the plus keeps the webhook's out of the choice), which knows the webhook, too."""
    plus = "+" if question.symbol or len(question.webhook_ids or ()) > 1 else ""
    owners = question.webhook_ids
    conditions: tuple[tuple[str, tuple[str, ...] | None], ...] = (
        ("a.symbol = ?", _one(question.symbol)),
        (f"{plus}a.webhook_id IN ({', '.join('?' * len(owners or ()))})", owners),
        ("+a.status = ?", _one(question.status)),
        ("+a.code = ?", _one(question.code)),
    )
    given = [(condition, values) for condition, values in conditions if values is not None]
    return " AND ".join(condition for condition, _ in given) or "TRUE", tuple(
        one for _, values in given for one in values
    )


def _one(value: str | None) -> tuple[str] | None:
    return None if value is None else (value,)


def _spans(connection: sqlite3.Connection, question: _Question) -> Iterator[tuple[str, str]]:
    """Where to look, newest first: everywhere, or hour by hour where alerts of the status and code were counted."""
    owners = question.webhook_ids
    if question.status is None and question.code is None and len(owners or ()) <= 1:
        yield question.since, question.until
        return
    wanted = f"webhook_id IN ({', '.join('?' * len(owners))})" if owners is not None else "TRUE"
    hours = connection.execute(
        "SELECT DISTINCT hour FROM tallies WHERE kind = 'alert' AND hour >= ? AND hour <= ? AND count > 0"
        f" AND status = coalesce(?, status) AND code = coalesce(?, code) AND {wanted} ORDER BY hour DESC",
        (question.since[:13], question.until[:13], question.status, question.code, *(owners or ())),
    ).fetchall()
    for (hour,) in hours:
        yield max(hour, question.since), min(hour + "~", question.until)
