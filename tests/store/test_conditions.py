"""Conditions: one event when they begin and one when they end, also across a restart."""

from __future__ import annotations

import sqlite3
from typing import Any

from kekbridge.execution.book import Book
from kekbridge.model.admission import Decision
from kekbridge.store import conditions, journal
from tests.store.factories import NOW, admitting, new_alert
from tests.stored import store_alert


def kinds(connection: sqlite3.Connection) -> list[str]:
    return [event.kind for event in journal.list_events(connection)]


def test_condition_has_one_event_until_it_ends(connection: sqlite3.Connection) -> None:
    """Checking every minute appends one event; after the end a new one can begin."""
    for _ in range(3):
        conditions.begin(connection, "stream", "stream_down", now=NOW, data={"lasting": "1 min"})
    known = conditions.Condition(kind="stream_down", since=NOW, data={"lasting": "1 min"})
    assert conditions.list_active(connection) == {"stream": known}
    assert conditions.end(connection, "stream", "stream_back", now=NOW)
    assert not conditions.end(connection, "stream", "stream_back", now=NOW)
    assert conditions.begin(connection, "stream", "stream_down", now=NOW)
    assert kinds(connection) == ["stream_down", "stream_back", "stream_down"]


def test_condition_that_gets_worse_has_another_event(connection: sqlite3.Connection) -> None:
    """Expiring and then expired are two events of one condition with one end; conditions of other names are independent."""
    for kind in ("key_expiring", "key_expiring", "key_expired", "key_expired"):
        conditions.begin(connection, "key", kind, now=NOW)
    conditions.begin(connection, "certificate", "certificate_expired", now=NOW)
    conditions.end(connection, "key", None, now=NOW)
    assert kinds(connection) == ["key_expiring", "key_expired", "certificate_expired"]
    assert list(conditions.list_active(connection)) == ["certificate"]


DRIFT = ("drift: the strategy held 1 BTC before this alert, the account 0; only its own step counts",)


def happen(
    connection: sqlite3.Connection, book: Book, *warnings: str, status: Any = "admitted", **changes: Any
) -> None:
    decide = (
        admitting(warnings=warnings)
        if status == "admitted"
        else lambda usage: Decision(status=status, warnings=warnings)
    )
    conditions.record_drift(connection, store_alert(book, new_alert(**changes), decide).alert, now=NOW)


def drift_events(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    kinds = ("position_drift", "position_in_step")
    return [(event.kind, str(event.data["symbol"])) for event in journal.latest(connection, kinds=kinds)]


def test_drift_has_one_event_when_it_begins_and_ends(connection: sqlite3.Connection, book: Book) -> None:
    """Ten alerts that find the same difference append one event; the first alert that finds none appends the other."""
    happen(connection, book)
    for _ in range(3):
        happen(connection, book, *DRIFT)
    happen(connection, book, *DRIFT, symbol="ETHUSDT.P")
    happen(connection, book, "something else")
    happen(connection, book)
    found = drift_events(connection)
    assert found == [
        ("position_drift", "BTCUSDT.P"),
        ("position_drift", "ETHUSDT.P"),
        ("position_in_step", "BTCUSDT.P"),
    ]
    (first, *_) = journal.latest(connection, kinds=["position_drift"])
    assert str(first.data["detail"]).startswith("the strategy held 1 BTC")


def test_refused_alerts_do_not_change_drift(connection: sqlite3.Connection, book: Book) -> None:
    """An alert that was not followed neither begins nor ends a drift; nor does one of another webhook."""
    happen(connection, book, *DRIFT)
    happen(connection, book, status="refused")
    happen(connection, book, status="denied")
    happen(connection, book, webhook_id="other")
    happen(connection, book, symbol=None, status="ignored")
    assert drift_events(connection) == [("position_drift", "BTCUSDT.P")]


def test_drifting_lists_what_is_active(connection: sqlite3.Connection, book: Book) -> None:
    """A daemon reads it once, so that an alert without a warning costs no write."""
    assert conditions.drifting(connection) == ()
    happen(connection, book, *DRIFT)
    happen(connection, book, *DRIFT, symbol="ETHUSDT.P", webhook_id="other")
    assert conditions.drifting(connection) == (("hook", "BTCUSDT.P"), ("other", "ETHUSDT.P"))
    happen(connection, book)
    assert conditions.drifting(connection) == (("other", "ETHUSDT.P"),)
