"""Statistics of a period for the page, its CSV files and scripts."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from kekbridge.errors import NotFound
from kekbridge.model import EquityMark, OrderStatus, WebhookSettings
from kekbridge.model.admission import Decision
from kekbridge.reports import statistics
from kekbridge.reports.export import write_csv
from kekbridge.store import webhooks
from kekbridge.store.equity import _write as write_mark
from kekbridge.store.transaction import Connection
from tests.histories import memory_store
from tests.store.factories import NOW, intent
from tests.stored import accept, book_on, record_fill, report, respond, store_alert, store_order

SOON = NOW + timedelta(hours=1)


@pytest.fixture
def connection() -> Any:
    """A store with an alert filled 0.3 % worse than its price, one denied, a fill of nobody's, and two marks of equity."""
    store = memory_store()
    webhooks.create(store, webhook_id="hook", name="=trend", settings=WebhookSettings(), now=NOW)
    book = book_on(store)
    order = store_order(book, intent(signal_price=Decimal(65000)), OrderStatus.SUBMITTING)
    order = accept(book, order, order_id="7")
    record_fill(book, order, realized_pnl=Decimal("-1.25"), fee=Decimal("0.1"))
    report(book, order, OrderStatus.FILLED, Decimal("0.01"), average_price=Decimal(65195))
    respond(book, order.alert_id, stages={"stored": 1.5})
    store_alert(book, decide=lambda usage: Decision(status="denied", code="max_order_size"))
    record_fill(
        book,
        order_id="9",
        symbol="PERP_ETH_USDC",
        realized_pnl=Decimal("2.000000000000000000000000001"),
        fee=Decimal(0),
    )
    for number in range(2):
        write_mark(
            store, EquityMark(NOW + timedelta(minutes=number), Decimal(1000 - number), Decimal(0), Decimal(1000))
        )
    yield store
    store.close()


def csv_of(found: statistics.PeriodStatistics, table: str) -> str:
    out = io.StringIO()
    write_csv(found.rows(table), out)
    return out.getvalue()


def test_every_table_can_be_downloaded(connection: Connection) -> None:
    """Exact amounts, one header, names that a spreadsheet would run as a formula escaped."""
    found = statistics.read(connection, since=None, now=SOON)
    assert csv_of(found, "pnl").splitlines() == [
        "by,name,net_pnl,realized_pnl,fees,funding,closing_orders,wins",
        "day,2026-01-15,0.650000000000000000000000001,0.750000000000000000000000001,0.1,0,2,1",
        "webhook,,2.000000000000000000000000001,2.000000000000000000000000001,0,0,1,1",
        "webhook,'=trend,-1.35,-1.25,0.1,0,1,0",
        "market,PERP_ETH_USDC,2.000000000000000000000000001,2.000000000000000000000000001,0,0,1,1",
        "market,PERP_BTC_USDC,-1.35,-1.25,0.1,0,1,0",
    ]
    assert csv_of(found, "rejections").splitlines() == ["outcome,code,alerts", "denied,max_order_size,1"]
    assert "stored,1.0,2.0,1" in csv_of(found, "latency")
    assert csv_of(found, "slippage").splitlines()[1:] == ["signal,20.0,50.0,1", "mark,20.0,50.0,1"]
    assert csv_of(found, "alerts").splitlines() == ["day,alerts", "2026-01-15,2"]
    assert csv_of(found, "equity").splitlines()[-1] == "2026-01-15 10:31:05,999,1000"


def test_scripts_get_the_same_figures(connection: Connection) -> None:
    """The keys that `stats --json` adds are JSON with amounts as text; the divisions add up to the report's net."""
    found = statistics.read(connection, since=None, now=SOON)
    data = json.loads(json.dumps(found.as_json()))
    assert data["pnlByWebhook"][1] == {
        "name": "=trend",
        "realizedPnl": "-1.25",
        "fees": "0.1",
        "funding": "0",
        "closingOrders": 1,
        "wins": 0,
        "netPnl": "-1.35",
    }
    for name in ("pnlByDay", "pnlByWebhook", "pnlByMarket"):
        assert sum((Decimal(part["netPnl"]) for part in data[name]), Decimal(0)) == found.report.net_pnl
    assert data["reasons"] == [{"outcome": "denied", "code": "max_order_size", "count": 1}]
    assert data["latencyHistogram"]["stored"] == [{"low": 1.0, "high": 2.0, "count": 1}]


def test_a_period_and_a_webhook_narrow_everything(connection: Connection) -> None:
    """Before the first alert there is nothing; of one webhook no P&L of another; an unknown name is an error."""
    before = statistics.read(connection, since=None, until=NOW, now=SOON)
    assert not any((before.pnl.by_day, before.reasons, before.latency, before.alerts_by_day, before.equity))
    assert before.report.counts.received == 0
    own = statistics.read(connection, since=NOW, now=SOON, webhook="=trend")
    assert [part.name for part in own.pnl.by_market] == ["PERP_BTC_USDC"]
    with pytest.raises(NotFound):
        statistics.read(connection, since=None, now=SOON, webhook="none")
