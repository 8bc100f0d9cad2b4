"""The summary of a day: exact figures of that UTC day, told once."""

from __future__ import annotations

import sqlite3
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from kekbridge.model import AccountSnapshot, Flow
from kekbridge.model.admission import Decision
from kekbridge.model.notifications import render_notification
from kekbridge.risk.drawdown import follow_peak
from kekbridge.store import equity, events, fills, statistics
from kekbridge.store import equity as funding
from kekbridge.store.admissions import admit
from tests.store.made import EXPIRES, NO_RATES, NOW, admitting, draft, fill

DAY = date(2026, 1, 15)


def mark(connection: sqlite3.Connection, at: datetime, value: str, *flows: tuple[str, Flow]) -> None:
    snapshot = AccountSnapshot(
        taken_at=at,
        instruments={},
        marks={},
        positions={},
        account_value=Decimal(value),
        free_collateral=Decimal(value),
    )
    equity.record(connection, snapshot, flows, follow_peak, now=at)


def test_the_day_is_summed_to_the_cent_and_nothing_of_its_neighbours(connection: sqlite3.Connection) -> None:
    """Alerts, orders, fills and funding from midnight to midnight; a deposit is no gain."""
    for _ in range(3):
        admit(connection, draft(), admitting(), rates=NO_RATES, now=NOW, expires_at=EXPIRES)
    no = Decision(status="denied", code="max_order_size")
    admit(connection, draft(), lambda usage: no, rates=NO_RATES, now=NOW, expires_at=EXPIRES)
    midnight = datetime(2026, 1, 15, tzinfo=UTC)
    for at, pnl in ((midnight - timedelta(seconds=1), "500"), (midnight, "12.5"), (NOW, "-2.25")):
        fills.record(connection, [fill(realized_pnl=Decimal(pnl), fee=Decimal("0.5"), executed_at=at)])
    funding.add(connection, "PERP_BTC_USDC", NOW, Decimal("0.25"))
    funding.add(connection, "PERP_BTC_USDC", midnight + timedelta(days=1), Decimal(9))
    mark(connection, midnight - timedelta(minutes=1), "1000")
    mark(connection, NOW, "1509", ("deposit", Flow(NOW - timedelta(minutes=1), Decimal(500))))
    mark(connection, midnight + timedelta(days=1), "1600")
    assert statistics.figures(connection, DAY) == {
        "day": "2026-01-15",
        "alerts": 4,
        "refused": 1,
        "orders": 3,
        "filled": 0,
        "realized_pnl": "10.25",
        "fees": "1.00",
        "funding": "0.25",
        "net_pnl": "+9.00",
        "equity": "1509.00 USDC",
        "change": "+9.00",
    }


def test_a_day_is_told_once_and_in_words(connection: sqlite3.Connection) -> None:
    """A job that runs twice, or late, tells no day again; a day without anything is told, too: it says that the bridge lives."""
    assert statistics.tell(connection, DAY, now=NOW)
    assert not statistics.tell(connection, DAY, now=NOW)
    assert not statistics.tell(connection, DAY - timedelta(days=1), now=NOW)
    (event,) = events.list_events(connection)
    assert render_notification(event.kind, event.data) == (
        "info",
        "2026-01-15: 0 alerts (0 refused), 0 orders (0 filled), P&L +0.00 USDC after 0.00 fees and 0.00 funding,"
        " equity not known",
    )
