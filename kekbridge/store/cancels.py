"""Cancel steps of alerts: stored with the alert, carried out by canceling.py, so that a crash between the two forgets nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from kekbridge.model import CancelRequest
from kekbridge.store import alerts, codec, events


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCancel:
    """One cancel step that is still to be done."""

    alert_id: str
    step: int
    wish: CancelRequest
    created_at: datetime


def queue(connection: sqlite3.Connection, alert_id: str, wishes: Iterable[CancelRequest], *, now: datetime) -> None:
    """Store the cancel steps of an alert that is being admitted."""
    for step, wish in enumerate(wishes):
        connection.execute(
            "INSERT INTO cancels (alert_id, step, symbol, comment, state, created_at) VALUES (?, ?, ?, ?, 'queued', ?)",
            (alert_id, step, wish.symbol, wish.comment, codec.to_text(now)),
        )


def waiting(connection: sqlite3.Connection) -> tuple[StoredCancel, ...]:
    """Cancel steps not done yet, oldest first."""
    rows = connection.execute(
        "SELECT alert_id, step, symbol, comment, created_at FROM cancels WHERE state = 'queued' ORDER BY created_at, step"
    )
    return tuple(
        StoredCancel(
            alert_id=alert_id,
            step=step,
            wish=CancelRequest(symbol=symbol, comment=comment),
            created_at=codec.from_text(created_at),
        )
        for alert_id, step, symbol, comment, created_at in rows
    )


def finish(
    connection: sqlite3.Connection, cancel: StoredCancel, *, canceled: int, error: str | None, now: datetime
) -> None:
    """Record how a cancel step ended, with the alert's headline and the history."""
    state = "done" if error is None else "failed"
    connection.execute(
        "UPDATE cancels SET state = ?, canceled = ?, error = ?, finished_at = ? WHERE alert_id = ? AND step = ?",
        (state, canceled, error, codec.to_text(now), cancel.alert_id, cancel.step),
    )
    has_orders = connection.execute("SELECT 1 FROM orders WHERE alert_id = ? LIMIT 1", (cancel.alert_id,)).fetchone()
    if has_orders is None:
        code = None if error is None else "cancel_failed"
        alerts.set_status(connection, cancel.alert_id, status=state, code=code, error=error, now=now)
    data = {"symbol": cancel.wish.symbol, "comment": cancel.wish.comment, "canceled": canceled, "error": error}
    events.append(connection, f"cancel_{state}", now=now, alert_id=cancel.alert_id, data=data)


def ours_to_cancel(connection: sqlite3.Connection, wish: CancelRequest, *, before: datetime) -> tuple[str, ...]:
    """Client order ids of our open orders that a cancel admitted at `before` means: its symbol, its comment, older than it.

    Exits that protect an open position are no orders of their own here (they belong to a filled entry), and protective orders are
    left out: a cancel must not leave a position without its stop.
    """
    rows = connection.execute(
        "SELECT o.client_order_id FROM orders o JOIN alerts a ON a.id = o.alert_id"
        " WHERE o.finished_at IS NULL AND o.purpose <> 'protect' AND o.created_at <= ?1"
        " AND (?2 IS NULL OR o.symbol = ?2) AND (?3 IS NULL OR json_extract(a.payload, '$.comment') = ?3)"
        " ORDER BY o.sequence",
        (codec.to_text(before), wish.symbol, wish.comment),
    )
    return tuple(row[0] for row in rows)
