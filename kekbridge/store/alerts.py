"""Stored alerts: find and search them, record response and stages, keep the headline status, remove old payloads.

Rows are written by projector.py only, except that retention removes old payloads. The headline status follows the alert's orders.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import msgspec

from kekbridge.errors import NotFound
from kekbridge.model import FIRST_PROTECTIVE_LEG, FIRST_RETRY_LEG, Order, OrderStatus, Verdict
from kekbridge.store import codec, settings
from kekbridge.store.codec import from_json, storable, to_json, verdicts_from_json, verdicts_to_json

NOTHING_TO_CLOSE: Final = "nothing_to_close"
# Alerts read when searching for a text: bounds the wait at the prompt.
LOOKED_THROUGH: Final = 25_000
# The alert has the status of the first of its orders in this list: open ones first, then failed ones.
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
# Of the table `alerts` as `a`: what `_from_row` reads.
_COLUMNS: Final = (
    "a.id, a.webhook_id, a.webhook_name, a.alert_id, a.identity, a.fingerprint, a.received_at, a.fired_at, a.remote, a.proof,"
    " a.payload, a.action, a.symbol, a.is_exit, a.status, a.code, a.error, a.field, a.verdicts, a.warnings, a.answer_status,"
    " a.answer, a.stages, a.updated_at"
)
_TEXT: Final = "instr(lower(a.payload || ' ' || coalesce(a.alert_id, '') || ' ' || coalesce(a.error, '')), ?) > 0"
_DONE_UNTIL: Final = "payloads_removed_until"
# The ellipsis marks an omission, as in a shortened message: such an alert cannot be replayed.
_REMOVED: Final = to_json({"removed": "… the text of old messages is not kept, see store.keep_payloads_days"})


class StoredAlert(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table."""

    #: Our id, a ULID.
    id: str
    webhook_id: str | None
    #: The webhook's name when the alert was received.
    webhook_name: str | None
    #: The sender's `alertId`.
    alert_id: str | None
    #: Makes a second alert a duplicate; None for one that was rate limited: it claims nothing.
    identity: str | None
    #: Hash of the content without timestamp and signature.
    fingerprint: str
    received_at: datetime
    #: The alert's own timestamp.
    fired_at: datetime | None
    #: The sender's address, and how it was authenticated.
    remote: str | None
    proof: str | None
    #: The message, redacted.
    payload: Mapping[str, Any]
    action: str | None
    symbol: str | None
    is_exit: bool
    #: `refused`, `denied`, `ignored`, `done` or `failed` (cancels), or the status of the order that matters most.
    status: str
    #: Why it was not admitted, or its order failed; `field` is the field of the message that is wrong.
    code: str | None
    error: str | None
    field: str | None
    verdicts: tuple[Verdict, ...]
    warnings: tuple[str, ...]
    #: HTTP status and body of the response; None until it is recorded.
    answer_status: int | None
    answer: Mapping[str, Any] | None
    #: Measured milliseconds since receipt, by stage.
    stages: Mapping[str, float]
    updated_at: datetime

    @property
    def counts_as_entry(self) -> bool:
        """It counts against the rate limits of entries (store/rate_limits.py): an entry was admitted, or denied by another limit."""
        return self.identity is not None and not self.is_exit and self.status != "refused"


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The result of `search`."""

    #: Newest last.
    alerts: tuple[StoredAlert, ...]
    #: Older alerts were not read; None if all were. Set only when searching for a text.
    looked_back_to: datetime | None = None


class Repeat(msgspec.Struct, frozen=True, kw_only=True):
    """A message that came again: suppressed as a duplicate, or refused since its content differs."""

    #: Of its row in the journal.
    sequence: int
    at: datetime
    #: `duplicate` or `refused`.
    status: str
    #: `duplicate` or `alert_id_reused`.
    code: str
    #: Address of the sender.
    remote: str
    #: Our id of the alert that came first, with the sender's `alertId`, its webhook, action and symbol.
    first_id: str
    alert_id: str | None
    first_at: datetime
    webhook_name: str
    action: str | None
    symbol: str | None

    @property
    def error(self) -> str:
        """One line for the trader."""
        first = f"{self.first_id[:13]} of {self.first_at:%H:%M:%S}"
        if self.status == "duplicate":
            return f"the same as {first}, from {self.remote}; nothing was done"
        return f"the alertId, time and market of {first} with other content, from {self.remote}; nothing was done"


_REPEATED: Final = {"alert_duplicate": ("duplicate", "duplicate"), "alert_conflict": ("refused", "alert_id_reused")}


def list_repeats(
    connection: sqlite3.Connection,
    *,
    webhook: str | None = None,
    status: str | None = None,
    code: str | None = None,
    symbol: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 50,
) -> tuple[Repeat, ...]:
    """The newest suppressed messages that match every filter given, oldest first. `webhook` is a name; `until` is exclusive."""
    kinds = [kind for kind, named in _REPEATED.items() if status in (None, named[0]) and code in (None, named[1])]
    filters = [
        ("j.at >= ?", codec.optional_time_text(since)),
        ("j.at < ?", codec.optional_time_text(until)),
        ("a.webhook_name = ?", webhook),
        ("a.symbol = ?", symbol),
    ]
    given = [(condition, value) for condition, value in filters if value is not None]
    rows = connection.execute(
        "SELECT j.sequence, j.at, j.kind, json_extract(j.data, '$.remote') AS remote, a.id, a.alert_id, a.received_at, a.webhook_name,"
        " a.action, a.symbol FROM journal j JOIN alerts a ON a.id = j.alert_id"
        " WHERE j.kind IN ('alert_duplicate', 'alert_conflict')"  # as in the index
        f" AND j.kind IN ({', '.join('?' * len(kinds))}) {''.join(f' AND {condition}' for condition, _ in given)}"
        " ORDER BY j.at DESC, j.sequence DESC LIMIT ?",
        (*kinds, *(value for _, value in given), limit),
    ).fetchall()
    return tuple(
        Repeat(
            sequence=row["sequence"],
            at=codec.parse_time(row["at"]),
            status=_REPEATED[row["kind"]][0],
            code=_REPEATED[row["kind"]][1],
            remote=row["remote"] or "unknown",
            first_id=row["id"],
            alert_id=row["alert_id"],
            first_at=codec.parse_time(row["received_at"]),
            webhook_name=row["webhook_name"],
            action=row["action"],
            symbol=row["symbol"],
        )
        for row in reversed(rows)
    )


def insert_all(connection: sqlite3.Connection, stored: Iterable[tuple[StoredAlert, str | None, str | None]]) -> None:
    """Insert new alerts, each with its redacted message (None: removed by retention) and its response, as JSON. Only for projector.py."""
    connection.executemany(
        "INSERT INTO alerts (id, webhook_id, webhook_name, alert_id, identity, fingerprint, received_at, fired_at, remote, proof,"
        " payload, action, symbol, is_exit, status, code, error, field, verdicts, warnings, answer_status, answer, stages, updated_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                alert.id,
                alert.webhook_id,
                alert.webhook_name,
                alert.alert_id,
                alert.identity,
                alert.fingerprint,
                codec.time_text(alert.received_at),
                codec.optional_time_text(alert.fired_at),
                alert.remote,
                alert.proof,
                _REMOVED if message is None else message,
                alert.action,
                alert.symbol,
                alert.is_exit,
                alert.status,
                alert.code,
                alert.error,
                alert.field,
                verdicts_to_json(alert.verdicts),
                to_json(alert.warnings),
                alert.answer_status,
                body,
                _stages_json(alert.stages),
                codec.time_text(alert.updated_at),
            )
            for alert, message, body in stored
        ],
    )


def taken_since(connection: sqlite3.Connection, since: datetime) -> tuple[tuple[StoredAlert, tuple[str, ...]], ...]:
    """The alerts received since a time that claim their identity, oldest first, each with the markets of its orders."""
    rows = connection.execute(
        f"SELECT {_COLUMNS}, (SELECT group_concat(DISTINCT o.symbol) FROM orders o WHERE o.alert_id = a.id) AS markets FROM alerts a"
        " WHERE a.received_at > ? AND a.identity IS NOT NULL AND a.status NOT IN ('refused', 'denied')"
        " ORDER BY a.received_at, a.id",
        (codec.time_text(since),),
    ).fetchall()
    return tuple((_from_row(row), tuple((row["markets"] or "").split(",")) if row["markets"] else ()) for row in rows)


def get(connection: sqlite3.Connection, alert_id: str) -> StoredAlert:
    """The alert with this id (ours). Raises NotFound."""
    row = connection.execute(f"SELECT {_COLUMNS} FROM alerts a WHERE a.id = ?", (alert_id,)).fetchone()
    if row is None:
        raise _not_found(alert_id)
    return _from_row(row)


def sender_of(connection: sqlite3.Connection, alert_id: str) -> tuple[str, datetime] | None:
    """The webhook's name, as it was then, and the time of receipt of an alert by our id; None if it is not known."""
    row = connection.execute("SELECT webhook_name, received_at FROM alerts WHERE id = ?", (alert_id,)).fetchone()
    return None if row is None else (row[0] or "", codec.parse_time(row[1]))


def find(connection: sqlite3.Connection, reference: str) -> StoredAlert:
    """An alert by our id, the sender's alertId, a client order id, or a unique prefix of our id. Raises NotFound.

    Several alerts can have one alertId (rate limited before, other webhooks): the newest that claimed its identity is returned.
    """
    text = storable(reference.strip())
    for where in (
        "a.id = ?1",
        "a.alert_id = ?1 ORDER BY a.identity IS NULL, a.received_at DESC, a.id DESC LIMIT 1",
        "a.id = (SELECT o.alert_id FROM orders o WHERE o.client_order_id = ?1)",
    ):
        row = connection.execute(f"SELECT {_COLUMNS} FROM alerts a WHERE {where}", (text,)).fetchone()
        if row is not None:
            return _from_row(row)
    prefix = text.upper()
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM alerts a WHERE a.id >= ? AND a.id < ? LIMIT 2",
        (prefix, prefix + "~"),
    ).fetchall()
    if len(rows) == 1 and prefix:
        return _from_row(rows[0])
    if rows and prefix:
        raise NotFound("not_found", f"{reference} matches several alerts; give more of its characters")
    raise _not_found(reference)


def set_response(
    connection: sqlite3.Connection,
    alert_id: str,
    *,
    status: int,
    body: str,
    stages: Mapping[str, float],
    now: datetime,
) -> None:
    """Record the response (HTTP status, body as JSON) and the milliseconds of each stage. Only for projector.py. Raises NotFound."""
    _require_one(
        connection.execute(
            "UPDATE alerts SET answer_status = ?, answer = ?, stages = ?, updated_at = ? WHERE id = ?",
            (status, body, _stages_json(stages), codec.time_text(now), alert_id),
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
    """Set how an alert without orders ended (a cancel, for instance). Raises NotFound."""
    _require_one(
        connection.execute(
            "UPDATE alerts SET status = ?, code = ?, error = ?, updated_at = ? WHERE id = ?",
            (status, code, None if error is None else storable(error), codec.time_text(now), alert_id),
        ),
        alert_id,
    )


class HeadlineOrder(msgspec.Struct, frozen=True):
    """What the headline needs of an order."""

    status: str
    code: str | None
    error: str | None
    leg: int
    purpose: str
    after_leg: int | None

    @classmethod
    def of(cls, order: Order) -> HeadlineOrder:
        return cls(order.status, order.code, order.error, order.leg, order.intent.purpose, order.intent.after_leg)


def headline(orders: Sequence[HeadlineOrder]) -> tuple[str, str | None, str | None] | None:
    """Status, code and error of the order that matters most; None if none counts.

    Only the orders that the alert asked for count: a stop that rests behind a filled entry does not make the alert unfinished, and a
    trailing stop that ended with its position does not make the alert canceled. Of an exit that was sent again the last try counts.
    """
    continued = {order.after_leg for order in orders if order.leg >= FIRST_RETRY_LEG}
    counted = [
        order
        for order in orders
        if (order.leg < FIRST_PROTECTIVE_LEG or order.leg >= FIRST_RETRY_LEG)
        and order.leg not in continued
        and not (order.purpose == "protect" and order.status == "canceled")
    ]
    if not counted:
        return None
    wanted = [order for order in counted if order.code != NOTHING_TO_CLOSE]
    if not wanted:
        return "ignored", NOTHING_TO_CLOSE, counted[0].error
    first = min(wanted, key=lambda order: _HEADLINE_ORDER.index(OrderStatus(order.status)))
    return first.status, first.code, first.error


def refresh_headline(connection: sqlite3.Connection, alert_id: str, *, now: datetime) -> None:
    """Copy the headline of an alert's orders to the alert. Only for projector.py, after an order changed."""
    rows = connection.execute(
        "SELECT status, code, error, leg, purpose, after_leg FROM orders WHERE alert_id = ? AND (leg < ? OR leg >= ?) ORDER BY leg",
        (alert_id, FIRST_PROTECTIVE_LEG, FIRST_RETRY_LEG),
    ).fetchall()
    found = headline([HeadlineOrder(*row) for row in rows])
    if found is not None:
        status, code, error = found
        set_status(connection, alert_id, status=status, code=code, error=error, now=now)


def remove_payloads(connection: sqlite3.Connection, *, before: datetime, now: datetime, limit: int = 500) -> int:
    """Remove the payloads of the oldest alerts received before a time, at most `limit`; returns how many had one."""
    start = str(settings.get_value(connection, _DONE_UNTIL) or "")
    rows = connection.execute(
        "SELECT id, received_at FROM alerts WHERE received_at >= ? AND received_at < ? AND payload <> ?"
        " ORDER BY received_at LIMIT ?",
        (start, codec.time_text(before), _REMOVED, limit),
    ).fetchall()
    connection.executemany("UPDATE alerts SET payload = ? WHERE id = ?", [(_REMOVED, row[0]) for row in rows])
    connection.executemany(
        "UPDATE journal SET message = NULL WHERE alert_id = ? AND message IS NOT NULL", [(row[0],) for row in rows]
    )
    if rows:
        settings.set_value(connection, _DONE_UNTIL, rows[-1][1], now=now)
    return len(rows)


def _stages_json(stages: Mapping[str, float]) -> str:
    """Durations are measurements, not money: the only floats in the database."""
    return json.dumps({name: round(milliseconds, 3) for name, milliseconds in stages.items()})


def _require_one(cursor: sqlite3.Cursor, alert_id: str) -> None:
    if cursor.rowcount != 1:
        raise _not_found(alert_id)


def _not_found(reference: str) -> NotFound:
    return NotFound("not_found", f"there is no alert {reference[:80]}; `kekbridge logs` lists the latest")


def _from_row(row: sqlite3.Row) -> StoredAlert:
    return StoredAlert(
        id=row["id"],
        webhook_id=row["webhook_id"],
        webhook_name=row["webhook_name"],
        alert_id=row["alert_id"],
        identity=row["identity"],
        fingerprint=row["fingerprint"],
        received_at=codec.parse_time(row["received_at"]),
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
        updated_at=codec.parse_time(row["updated_at"]),
    )


# -------------------------------------------------------------------------------------------------------------- search


@dataclass(frozen=True, slots=True)
class _SearchTerms:
    """The filters as stored values; None does not filter."""

    #: Several if a name was used again after a deletion.
    webhook_ids: tuple[str, ...] | None
    status: str | None
    code: str | None
    symbol: str | None
    #: Times of receipt, `until` exclusive.
    since: str
    until: str
    #: Time of receipt and id of an alert: only older ones.
    before: tuple[str, str] | None


def search(
    connection: sqlite3.Connection,
    *,
    webhook: str | None = None,
    status: str | None = None,
    code: str | None = None,
    symbol: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    before: StoredAlert | None = None,
    text: str | None = None,
    limit: int = 100,
    look_through: int = LOOKED_THROUGH,
) -> SearchResult:
    """The last `limit` alerts that match every filter given.

    `webhook` is a name or id; `before`: only alerts that come before this one in the list; `text` is searched in the payload, the alertId
    and the error; times are of receipt, `until` exclusive.
    A text is searched in the newest `look_through` alerts that match the other filters.
    """
    terms = _SearchTerms(
        webhook_ids=None if webhook is None else ids_of_webhook(connection, webhook),
        status=status,
        code=code,
        symbol=symbol,
        since=codec.optional_time_text(since) or "",
        until=codec.optional_time_text(until) or "~",
        before=None if before is None else (codec.time_text(before.received_at), before.id),
    )
    if terms.before is not None:
        terms = replace(terms, until=min(terms.until, f"{terms.before[0]}~"))
    found: list[StoredAlert] = []
    for count, row in enumerate(_matching_rows(connection, terms, text), start=1):
        if row["fits"]:
            found.append(_from_row(row))
            if len(found) >= limit:
                break
        if count >= look_through and text:
            return SearchResult(tuple(reversed(found)), codec.parse_time(row["received_at"]))
    return SearchResult(tuple(reversed(found)))


def newest_senders(connection: sqlite3.Connection, *, limit: int) -> tuple[tuple[str | None, str | None], ...]:
    """Address of the sender and its `alertId`, of the newest alerts."""
    rows = connection.execute("SELECT remote, alert_id FROM alerts ORDER BY received_at DESC LIMIT ?", (limit,))
    return tuple((remote, alert_id) for remote, alert_id in rows)


def ids_of_webhook(connection: sqlite3.Connection, name_or_id: str) -> tuple[str, ...]:
    """The webhook of this name or id; if it was deleted, those that had the name at their last alert."""
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


def _matching_rows(connection: sqlite3.Connection, terms: _SearchTerms, text: str | None) -> Iterator[sqlite3.Row]:
    """Alerts that match all filters but the text, newest first; `fits` is whether they contain the text."""
    fits, text_values = (_TEXT, (text.lower(),)) if text else ("1", ())
    where, values = _conditions(terms)
    for since, until in _spans(connection, terms):
        yield from connection.execute(
            f"SELECT {_COLUMNS}, {fits} AS fits FROM alerts a WHERE {where} AND a.received_at >= ? AND a.received_at < ?"
            " ORDER BY a.received_at DESC, a.id DESC",
            (*text_values, *values, since, until),
        )


def _conditions(terms: _SearchTerms) -> tuple[str, tuple[str, ...]]:
    """WHERE clause and values. With a symbol, its index must be used (it has the webhook, too): the plus excludes the webhook's index."""
    plus = "+" if terms.symbol or len(terms.webhook_ids or ()) > 1 else ""
    owners = terms.webhook_ids
    conditions: tuple[tuple[str, tuple[str, ...] | None], ...] = (
        ("a.symbol = ?", _parameter(terms.symbol)),
        (f"{plus}a.webhook_id IN ({', '.join('?' * len(owners or ()))})", owners),
        ("(+a.received_at, a.id) < (?, ?)", terms.before),
        ("+a.status = ?", _parameter(terms.status)),
        ("+a.code = ?", _parameter(terms.code)),
    )
    given = [(condition, values) for condition, values in conditions if values is not None]
    return " AND ".join(condition for condition, _ in given) or "TRUE", tuple(
        one for _, values in given for one in values
    )


def _parameter(value: str | None) -> tuple[str] | None:
    return None if value is None else (value,)


def _spans(connection: sqlite3.Connection, terms: _SearchTerms) -> Iterator[tuple[str, str]]:
    """Time spans to read, newest first: the whole period, or the hours in which alerts of the status and code were counted."""
    owners = terms.webhook_ids
    if terms.status is None and terms.code is None and len(owners or ()) <= 1:
        yield terms.since, terms.until
        return
    wanted = f"webhook_id IN ({', '.join('?' * len(owners))})" if owners is not None else "TRUE"
    hours = connection.execute(
        "SELECT DISTINCT hour FROM tallies WHERE kind = 'alert' AND hour >= ? AND hour <= ? AND count > 0"
        f" AND status = coalesce(?, status) AND code = coalesce(?, code) AND {wanted} ORDER BY hour DESC",
        (terms.since[:13], terms.until[:13], terms.status, terms.code, *(owners or ())),
    ).fetchall()
    for (hour,) in hours:
        yield max(hour, terms.since), min(hour + "~", terms.until)
