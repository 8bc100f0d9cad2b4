"""Stored alerts: read for answers, logs and explanations, and completed with what was answered.

Rows are made by admission.py only. The headline status of an alert follows its orders; orders.py keeps it so.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from kekbridge.errors import NotFound
from kekbridge.model import FIRST_PROTECTIVE_LEG, OrderStatus, Verdict
from kekbridge.store import codec, settings
from kekbridge.store.codec import from_json, storable, to_json, verdicts_from_json, verdicts_to_json

NOTHING_TO_CLOSE: Final = "nothing_to_close"
# Of several orders the one that matters most gives the alert its status: what is open first, then what went wrong.
_HEADLINE_ORDER: Final = (
    OrderStatus.UNKNOWN,
    OrderStatus.SUBMITTING,
    OrderStatus.QUEUED,
    OrderStatus.PARTIALLY_FILLED,
    OrderStatus.ACCEPTED,
    OrderStatus.REJECTED,
    OrderStatus.DENIED,
    OrderStatus.EXPIRED,
    OrderStatus.CANCELED,
    OrderStatus.FILLED,
)
# Of the table under the name `a`: what `from_row` reads.
COLUMNS: Final = (
    "a.id, a.webhook_id, a.webhook_name, a.alert_id, a.identity, a.fingerprint, a.received_at, a.fired_at, a.remote, a.proof,"
    " a.payload, a.action, a.symbol, a.is_exit, a.status, a.code, a.error, a.field, a.verdicts, a.warnings, a.answer_status,"
    " a.answer, a.stages, a.updated_at"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAlert:
    """One alert as it is on disk. `identity` is None when it was rate limited and so claims nothing; `stages` are milliseconds."""

    id: str
    webhook_id: str | None
    webhook_name: str | None
    alert_id: str | None
    identity: str | None
    fingerprint: str
    received_at: datetime
    fired_at: datetime | None
    remote: str | None
    proof: str | None
    payload: Mapping[str, Any]
    action: str | None
    symbol: str | None
    is_exit: bool
    status: str
    code: str | None
    error: str | None
    field: str | None
    verdicts: tuple[Verdict, ...]
    warnings: tuple[str, ...]
    answer_status: int | None
    answer: Mapping[str, Any] | None
    stages: Mapping[str, float]
    updated_at: datetime


def insert(connection: sqlite3.Connection, alert: StoredAlert) -> None:
    """Write a new alert; its answer comes later."""
    connection.execute(
        "INSERT INTO alerts (id, webhook_id, webhook_name, alert_id, identity, fingerprint, received_at, fired_at, remote, proof,"
        " payload, action, symbol, is_exit, status, code, error, field, verdicts, warnings, updated_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            alert.id,
            alert.webhook_id,
            alert.webhook_name,
            alert.alert_id,
            alert.identity,
            alert.fingerprint,
            codec.to_text(alert.received_at),
            codec.optional_text(alert.fired_at),
            alert.remote,
            alert.proof,
            to_json(alert.payload),
            alert.action,
            alert.symbol,
            alert.is_exit,
            alert.status,
            alert.code,
            alert.error,
            alert.field,
            verdicts_to_json(alert.verdicts),
            to_json(alert.warnings),
            codec.to_text(alert.updated_at),
        ),
    )


def get(connection: sqlite3.Connection, alert_id: str) -> StoredAlert:
    """The alert with this id of ours. Raises NotFound."""
    row = connection.execute(f"SELECT {COLUMNS} FROM alerts a WHERE a.id = ?", (alert_id,)).fetchone()
    if row is None:
        raise _not_found(alert_id)
    return from_row(row)


def find(connection: sqlite3.Connection, reference: str) -> StoredAlert:
    """An alert by our id, the sender's alertId, a client order id, or the unique beginning of our id. Raises NotFound.

    A sender's alertId may stand for several (a rate-limited one before, another webhook): the newest that was taken is meant.
    """
    text = storable(reference.strip())
    for where in (
        "a.id = ?1",
        "a.alert_id = ?1 ORDER BY a.identity IS NULL, a.received_at DESC, a.id DESC LIMIT 1",
        "a.id = (SELECT o.alert_id FROM orders o WHERE o.client_order_id = ?1)",
    ):
        row = connection.execute(f"SELECT {COLUMNS} FROM alerts a WHERE {where}", (text,)).fetchone()
        if row is not None:
            return from_row(row)
    prefix = text.upper()
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM alerts a WHERE a.id >= ? AND a.id < ? LIMIT 2",
        (prefix, prefix + "~"),
    ).fetchall()
    if len(rows) == 1 and prefix:
        return from_row(rows[0])
    if rows and prefix:
        raise NotFound("not_found", f"{reference} is the beginning of several alerts; give more of its characters")
    raise _not_found(reference)


def set_answer(
    connection: sqlite3.Connection,
    alert_id: str,
    *,
    status: int,
    answer: Mapping[str, object],
    stages: Mapping[str, float],
    now: datetime,
) -> None:
    """Note what the sender was told (HTTP status and body) and how many milliseconds each stage took. Raises NotFound."""
    _one(
        connection.execute(
            "UPDATE alerts SET answer_status = ?, answer = ?, stages = json_patch(stages, ?), updated_at = ? WHERE id = ?",
            (status, to_json(answer), _stages_json(stages), codec.to_text(now), alert_id),
        ),
        alert_id,
    )


def set_stages(connection: sqlite3.Connection, alert_id: str, stages: Mapping[str, float], *, now: datetime) -> None:
    """Add measured stages (milliseconds since receipt) to those known. Raises NotFound."""
    _one(
        connection.execute(
            "UPDATE alerts SET stages = json_patch(stages, ?), updated_at = ? WHERE id = ?",
            (_stages_json(stages), codec.to_text(now), alert_id),
        ),
        alert_id,
    )


def set_status(
    connection: sqlite3.Connection,
    alert_id: str,
    *,
    status: str,
    code: str | None = None,
    error: str | None = None,
    now: datetime,
) -> None:
    """Say how an alert without orders of its own ended (a cancel, for instance). Raises NotFound."""
    _one(
        connection.execute(
            "UPDATE alerts SET status = ?, code = ?, error = ?, updated_at = ? WHERE id = ?",
            (status, code, None if error is None else storable(error), codec.to_text(now), alert_id),
        ),
        alert_id,
    )


def refresh_headline(connection: sqlite3.Connection, alert_id: str, *, now: datetime) -> None:
    """Make the alert's status, code and error those of its order that matters most; call it after an order changed.

    Only the orders that the alert asked for: a stop that waits behind a filled entry does not make the alert unfinished, and a trailing
    stop that went with its position does not make the alert canceled.
    """
    rows = connection.execute(
        "SELECT status, code, error FROM orders WHERE alert_id = ? AND leg < ?"
        " AND NOT (purpose = 'protect' AND status = 'canceled')",
        (alert_id, FIRST_PROTECTIVE_LEG),
    ).fetchall()
    if not rows:
        return
    wanted = [row for row in rows if row["code"] != NOTHING_TO_CLOSE]
    if wanted:
        status, code, error = min(wanted, key=lambda row: _HEADLINE_ORDER.index(OrderStatus(row["status"])))
    else:
        status, code, error = "ignored", NOTHING_TO_CLOSE, rows[0]["error"]
    set_status(connection, alert_id, status=status, code=code, error=error, now=now)


def _stages_json(stages: Mapping[str, float]) -> str:
    """Durations are measurements, not money: the one place where floats are stored, as plain JSON numbers."""
    return json.dumps({name: round(milliseconds, 3) for name, milliseconds in stages.items()})


def _one(cursor: sqlite3.Cursor, alert_id: str) -> None:
    if cursor.rowcount != 1:
        raise _not_found(alert_id)


def _not_found(reference: str) -> NotFound:
    return NotFound("not_found", f"there is no alert {reference[:80]}; `kekbridge logs` lists the latest")


def from_row(row: sqlite3.Row) -> StoredAlert:
    """The alert of a row that has COLUMNS."""
    return StoredAlert(
        id=row["id"],
        webhook_id=row["webhook_id"],
        webhook_name=row["webhook_name"],
        alert_id=row["alert_id"],
        identity=row["identity"],
        fingerprint=row["fingerprint"],
        received_at=codec.from_text(row["received_at"]),
        fired_at=codec.optional_time(row["fired_at"]),
        remote=row["remote"],
        proof=row["proof"],
        payload=from_json(row["payload"]),
        action=row["action"],
        symbol=row["symbol"],
        is_exit=bool(row["is_exit"]),
        status=row["status"],
        code=row["code"],
        error=row["error"],
        field=row["field"],
        verdicts=verdicts_from_json(row["verdicts"]),
        warnings=tuple(json.loads(row["warnings"])),
        answer_status=row["answer_status"],
        answer=None if row["answer"] is None else from_json(row["answer"]),
        stages=json.loads(row["stages"]),
        updated_at=codec.from_text(row["updated_at"]),
    )


_DONE_UNTIL: Final = "payloads_removed_until"
# The dots mark what was left out, as they do where a message was shortened: such a one is not replayed.
_REMOVED: Final = to_json({"removed": "… the text of old messages is not kept, see store.keep_payloads_days"})


def remove_payloads(connection: sqlite3.Connection, *, before: datetime, now: datetime, limit: int = 500) -> int:
    """Remove the payloads of the oldest alerts received before a time, at most `limit`; returns how many had one."""
    start = str(settings.get_value(connection, _DONE_UNTIL) or "")
    rows = connection.execute(
        "SELECT id, received_at FROM alerts WHERE received_at >= ? AND received_at < ? AND payload <> ?"
        " ORDER BY received_at LIMIT ?",
        (start, codec.to_text(before), _REMOVED, limit),
    ).fetchall()
    connection.executemany("UPDATE alerts SET payload = ? WHERE id = ?", [(_REMOVED, row[0]) for row in rows])
    if rows:
        settings.set_value(connection, _DONE_UNTIL, rows[-1][1], now=now)
    return len(rows)


# Alerts read for a text; more would take longer than a person at a prompt likes to wait.
LOOKED_THROUGH: Final = 25_000
_TEXT: Final = "instr(lower(a.payload || ' ' || coalesce(a.alert_id, '') || ' ' || coalesce(a.error, '')), ?) > 0"


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Alerts, newest last. `looked_back_to`: older ones were not looked through, which only a text can be the reason of."""

    alerts: tuple[StoredAlert, ...]
    looked_back_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class _SearchTerms:
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
) -> SearchResult:
    """The last `limit` alerts that fit every filter given.

    `webhook` is a name or id; `text` is looked for in the payload, the alertId and the error; times are of receipt, `until` exclusive.
    A text is looked for in the newest `look_through` alerts that fit the rest.
    """
    question = _SearchTerms(
        webhook_ids=None if webhook is None else _ids_of(connection, webhook),
        status=status,
        code=code,
        symbol=symbol,
        since=codec.optional_text(since) or "",
        until=codec.optional_text(until) or "~",
    )
    found: list[StoredAlert] = []
    for looked, row in enumerate(_rows(connection, question, text), start=1):
        if row["fits"]:
            found.append(from_row(row))
            if len(found) >= limit:
                break
        if looked >= look_through and text:
            return SearchResult(tuple(reversed(found)), codec.from_text(row["received_at"]))
    return SearchResult(tuple(reversed(found)))


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


def _rows(connection: sqlite3.Connection, question: _SearchTerms, text: str | None) -> Iterator[sqlite3.Row]:
    """Alerts that fit all but the text, newest first, each with `fits` for the text."""
    fits, told = (_TEXT, (text.lower(),)) if text else ("1", ())
    where, values = _conditions(question)
    for since, until in _spans(connection, question):
        yield from connection.execute(
            f"SELECT {COLUMNS}, {fits} AS fits FROM alerts a WHERE {where} AND a.received_at >= ? AND a.received_at < ?"
            " ORDER BY a.received_at DESC, a.id DESC",
            (*told, *values, since, until),
        )


def _conditions(question: _SearchTerms) -> tuple[str, tuple[str, ...]]:
    """With a symbol its index leads (the plus keeps the webhook's out of the choice), which knows the webhook, too."""
    plus = "+" if question.symbol or len(question.webhook_ids or ()) > 1 else ""
    owners = question.webhook_ids
    conditions: tuple[tuple[str, tuple[str, ...] | None], ...] = (
        ("a.symbol = ?", _parameter(question.symbol)),
        (f"{plus}a.webhook_id IN ({', '.join('?' * len(owners or ()))})", owners),
        ("+a.status = ?", _parameter(question.status)),
        ("+a.code = ?", _parameter(question.code)),
    )
    given = [(condition, values) for condition, values in conditions if values is not None]
    return " AND ".join(condition for condition, _ in given) or "TRUE", tuple(
        one for _, values in given for one in values
    )


def _parameter(value: str | None) -> tuple[str] | None:
    return None if value is None else (value,)


def _spans(connection: sqlite3.Connection, question: _SearchTerms) -> Iterator[tuple[str, str]]:
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
