"""Cancel steps of alerts, stored with the alert and executed by execution/canceller.py, so that a crash in between loses none."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from kekbridge.model import CancelRequest, Order
from kekbridge.store import alerts, codec, orders
from kekbridge.store.facts import plain_entry
from kekbridge.store.journal import Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCancel:
    """A cancel step to be executed."""

    #: Our id of the alert, and the step's number within it.
    alert_id: str
    step: int
    request: CancelRequest
    created_at: datetime


def queue(connection: sqlite3.Connection, alert_id: str, requests: Iterable[CancelRequest], *, now: datetime) -> None:
    """Store the cancel steps of an alert that is being admitted."""
    for step, request in enumerate(requests):
        connection.execute(
            "INSERT INTO cancels (alert_id, step, symbol, comment, state, created_at) VALUES (?, ?, ?, ?, 'queued', ?)",
            (alert_id, step, request.symbol, request.comment, codec.time_text(now)),
        )


def list_queued(connection: sqlite3.Connection) -> tuple[StoredCancel, ...]:
    """Cancel steps not executed yet, oldest first."""
    rows = connection.execute(
        "SELECT alert_id, step, symbol, comment, created_at FROM cancels WHERE state = 'queued' ORDER BY created_at, step"
    )
    return tuple(
        StoredCancel(
            alert_id=alert_id,
            step=step,
            request=CancelRequest(symbol=symbol, comment=comment),
            created_at=codec.parse_time(created_at),
        )
        for alert_id, step, symbol, comment, created_at in rows
    )


def end_entry(cancel: StoredCancel, *, canceled: int, error: str | None, now: datetime) -> Entry:
    """The journal's row of how a cancel step ended: `canceled` orders, or `error`."""
    data = {
        "symbol": cancel.request.symbol,
        "comment": cancel.request.comment,
        "canceled": canceled,
        "error": error,
        "step": cancel.step,
    }
    kind = "cancel_done" if error is None else "cancel_failed"
    return plain_entry(kind, at=now, alert_id=cancel.alert_id, data=data)


def store_end(connection: sqlite3.Connection, alert_id: str, data: Mapping[str, Any], *, now: datetime) -> None:
    """Write how a cancel step ended, and the status of its alert if it has no orders. Only for projector.py."""
    error = data["error"]
    state = "done" if error is None else "failed"
    connection.execute(
        "UPDATE cancels SET state = ?, canceled = ?, error = ?, finished_at = ? WHERE alert_id = ? AND step = ?",
        (state, data["canceled"], error, codec.time_text(now), alert_id, data["step"]),
    )
    has_orders = connection.execute("SELECT 1 FROM orders WHERE alert_id = ? LIMIT 1", (alert_id,)).fetchone()
    if has_orders is None:
        failed = connection.execute(
            "SELECT 'failed', 'cancel_failed', error FROM cancels WHERE alert_id = ? AND state = 'failed' ORDER BY step LIMIT 1",
            (alert_id,),
        ).fetchone()
        # Else code and error stay: they say why the steps after the cancels were left out, if they were.
        kept = connection.execute("SELECT 'done', code, error FROM alerts WHERE id = ?", (alert_id,)).fetchone()
        status, code, error = failed or kept or ("done", None, None)
        alerts.set_status(connection, alert_id, status=status, code=code, error=error, now=now)


_COVERED: Final = (
    " o.created_at <= ?1 AND o.alert_id <> ?2"
    " AND (?3 IS NULL OR o.symbol = ?3) AND (?4 IS NULL OR json_extract(a.payload, '$.comment') = ?4) ORDER BY o.sequence"
)


def open_orders(connection: sqlite3.Connection, cancel: StoredCancel) -> tuple[str, ...]:
    """Client order ids of the open orders that a cancel step covers: its symbol, its comment, of alerts older than its own.

    Of every webhook; what kind of order may be cancelled is `Order.ends_by_cancel`.
    """
    return tuple(order.client_order_id for order in _covered(connection, cancel, "o.finished_at IS NULL"))


def ended_orders(connection: sqlite3.Connection, cancel: StoredCancel) -> tuple[Order, ...]:
    """The orders that a cancel step, or a later one, was the first to cover, and that have ended."""
    return _covered(connection, cancel, "o.cancel_requested_at >= ?1 AND o.finished_at IS NOT NULL")


def _covered(connection: sqlite3.Connection, cancel: StoredCancel, state: str) -> tuple[Order, ...]:
    rows = connection.execute(
        f"SELECT {orders.COLUMNS} FROM orders o JOIN alerts a ON a.id = o.alert_id WHERE {state} AND {_COVERED}",
        _covered_values(cancel),
    )
    found = (orders.order_from(row) for row in rows)
    return tuple(order for order in found if order.ends_by_cancel)


def _covered_values(cancel: StoredCancel) -> tuple[str | None, ...]:
    return (codec.time_text(cancel.created_at), cancel.alert_id, cancel.request.symbol, cancel.request.comment)
