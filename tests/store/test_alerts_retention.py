"""Retention: old text goes, what it led to stays, and the history's chain is whole afterwards."""

from __future__ import annotations

import sqlite3
from datetime import timedelta

from kekbridge.store import alerts, events
from kekbridge.store import orders as order_rows
from kekbridge.store.admissions import admit
from kekbridge.store.alerts import remove_payloads
from tests.store.made import EXPIRES, NO_RATES, NOW, admitting, draft


def admitted(connection: sqlite3.Connection, days_old: int) -> str:
    made = draft(received_at=NOW - timedelta(days=days_old))
    return admit(connection, made, admitting(), rates=NO_RATES, now=NOW, expires_at=EXPIRES).alert.id


def test_old_messages_lose_their_text_and_nothing_else(connection: sqlite3.Connection) -> None:
    """In steps from the oldest; younger ones keep theirs; orders, history and its hashes are untouched; the same again finds none."""
    old = [admitted(connection, days) for days in (120, 110, 100)]
    young = admitted(connection, 10)
    before = [alerts.get(connection, name) for name in old]
    head = events.head(connection)
    limit = NOW - timedelta(days=90)
    steps = [remove_payloads(connection, before=limit, now=NOW, limit=2) for _ in range(3)]
    assert steps == [2, 1, 0]
    for was in before:
        now = alerts.get(connection, was.id)
        assert set(now.payload) == {"removed"}
        assert (now.status, now.identity, now.fingerprint) == (was.status, was.identity, was.fingerprint)
        assert order_rows.of_alert(connection, was.id)
    assert alerts.get(connection, young).payload["symbol"] == "BTCUSDT.P"
    assert events.head(connection) == head
    assert events.verify(connection) is None


def test_alerts_of_one_millisecond_are_all_found(connection: sqlite3.Connection) -> None:
    """A step that ends between alerts of the same time leaves none of them behind."""
    for _ in range(5):
        admitted(connection, 100)
    limit = NOW - timedelta(days=90)
    assert [remove_payloads(connection, before=limit, now=NOW, limit=2) for _ in range(4)] == [2, 2, 1, 0]
