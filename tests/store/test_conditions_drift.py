"""Drift: told once per webhook and market until an alert finds both in step; refused alerts say nothing of it."""

from __future__ import annotations

import sqlite3
from typing import Any

from kekbridge.model.admission import Decision
from kekbridge.store import events
from kekbridge.store.admissions import admit
from tests.store.made import EXPIRES, NO_RATES, NOW, admitting, draft

DRIFT = ("drift: the strategy held 1 BTC before this alert, the account 0; only its own step counts",)


def happen(connection: sqlite3.Connection, *warnings: str, status: Any = "admitted", **changes: Any) -> None:
    decide = (
        admitting(warnings=warnings)
        if status == "admitted"
        else lambda usage: Decision(status=status, warnings=warnings)
    )
    admit(connection, draft(**changes), decide, rates=NO_RATES, now=NOW, expires_at=EXPIRES)


def told(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    kinds = ("position_drift", "position_in_step")
    return [(event.kind, str(event.data["symbol"])) for event in events.latest(connection, kinds=kinds)]


def test_drift_is_told_when_it_begins_and_when_it_is_over(connection: sqlite3.Connection) -> None:
    """Ten alerts that find the same difference are one message; the alert that finds none is the other."""
    happen(connection)
    for _ in range(3):
        happen(connection, *DRIFT)
    happen(connection, *DRIFT, symbol="ETHUSDT.P")
    happen(connection, "something else")
    happen(connection)
    found = told(connection)
    assert found == [
        ("position_drift", "BTCUSDT.P"),
        ("position_drift", "ETHUSDT.P"),
        ("position_in_step", "BTCUSDT.P"),
    ]
    (first, *_) = events.latest(connection, kinds=["position_drift"])
    assert str(first.data["detail"]).startswith("the strategy held 1 BTC")


def test_what_was_refused_says_nothing_of_positions(connection: sqlite3.Connection) -> None:
    """An alert that was not followed neither begins nor ends a drift; nor does one of another webhook."""
    happen(connection, *DRIFT)
    happen(connection, status="refused")
    happen(connection, status="denied")
    happen(connection, webhook_id="other")
    happen(connection, symbol=None, status="ignored")
    assert told(connection) == [("position_drift", "BTCUSDT.P")]
