"""Stored alerts: find and search them, record the response, remove old payloads."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from kekbridge.errors import NotFound
from kekbridge.model import RateLimits, Usage, WebhookSettings
from kekbridge.model.admission import Decision
from kekbridge.store import alerts, events, orders, webhooks
from kekbridge.store.admissions import Admission, admit
from kekbridge.store.alerts import StoredAlert
from tests.store.factories import EXPIRES, NO_RATES, NOW, admitting, new_alert


def take(connection: sqlite3.Connection, rates: RateLimits = NO_RATES, **changes: Any) -> Admission:
    alert = new_alert(**changes)
    return admit(connection, alert, admitting(), rates=rates, now=alert.received_at, expires_at=EXPIRES)


def denying(usage: Usage) -> Decision:
    return Decision(status="denied", code="daily_limit")


def ids(found: tuple[StoredAlert, ...]) -> list[str]:
    return [alert.id for alert in found]


def test_alert_is_found_by_each_of_its_ids(connection: sqlite3.Connection) -> None:
    """explain takes our id or a prefix of it in any case, the sender's alertId, or an order's client order id."""
    first = take(connection, id="01KFAAAAAAAAAAAAAAAAAAAAAA", alert_id="tv-1")
    second = take(connection, id="01KFBBBBBBBBBBBBBBBBBBBBBB", alert_id="tv-2")
    for reference in (
        first.alert.id,
        " tv-1 ",
        first.orders[0].client_order_id,
        "01KFA",
        "01kfa",
    ):
        assert alerts.find(connection, reference) == first.alert
    assert alerts.find(connection, "tv-2") == second.alert


def test_errors_for_references_without_one_match(connection: sqlite3.Connection) -> None:
    """An ambiguous prefix asks for more characters, an unknown one points to the logs, an empty one matches nothing."""
    take(connection, id="01KFAAAAAAAAAAAAAAAAAAAAAA")
    take(connection, id="01KFABBBBBBBBBBBBBBBBBBBBB")
    with pytest.raises(NotFound, match="more of its characters"):
        alerts.find(connection, "01KFA")
    for reference in ("nothing", "", "%", "01KFZ"):
        with pytest.raises(NotFound, match="kekbridge logs"):
            alerts.find(connection, reference)
    with pytest.raises(NotFound):
        alerts.get(connection, "01KFA")


def test_alert_id_finds_the_admitted_alert(connection: sqlite3.Connection) -> None:
    """After a 429 and a successful repeat, explain shows the success."""
    rates = RateLimits(per_minute=1)
    take(connection, rates)
    take(connection, rates, alert_id="again", identity="id:again")
    taken = take(connection, alert_id="again", identity="id:again", received_at=NOW + timedelta(seconds=70))
    take(
        connection, rates, alert_id="again", webhook_id="hook", identity="id:x", received_at=NOW + timedelta(seconds=71)
    )
    assert alerts.find(connection, "again") == taken.alert


def test_each_filter_applies(connection: sqlite3.Connection) -> None:
    """Each filter of `kekbridge logs`; the limit counts from the newest, which comes last."""
    first = take(connection, symbol="AAA", payload={"comment": "Breakout 50%"}).alert
    second = take(
        connection, symbol="BBB", webhook_id="w2", webhook_name="other", received_at=NOW + timedelta(minutes=1)
    ).alert
    third = take(connection, RateLimits(per_minute=1), symbol="AAA", received_at=NOW + timedelta(seconds=30)).alert
    everything = alerts.search(connection).alerts
    assert ids(everything) == [first.id, third.id, second.id]
    assert everything == (first, third, second)
    assert ids(alerts.search(connection, limit=2).alerts) == [third.id, second.id]
    assert ids(alerts.search(connection, webhook="other").alerts) == [second.id]
    assert ids(alerts.search(connection, webhook="w2").alerts) == [second.id]
    assert ids(alerts.search(connection, status="refused").alerts) == [third.id]
    assert ids(alerts.search(connection, code="rate_limited").alerts) == [third.id]
    assert ids(alerts.search(connection, symbol="AAA").alerts) == [first.id, third.id]
    assert ids(alerts.search(connection, since=NOW + timedelta(seconds=30)).alerts) == [third.id, second.id]
    assert ids(alerts.search(connection, until=NOW + timedelta(seconds=30)).alerts) == [first.id]
    assert ids(alerts.search(connection, text="breakout 50%").alerts) == [first.id]
    assert ids(alerts.search(connection, text="RAISE --rate").alerts) == [third.id]
    assert ids(alerts.search(connection, text=str(second.alert_id)).alerts) == [second.id]
    assert alerts.search(connection, text="5_%").alerts == ()


def test_webhook_filter_covers_earlier_names(connection: sqlite3.Connection) -> None:
    """After a rename its older alerts are listed with it; a deleted webhook's are found by the name it had."""
    made = webhooks.create(connection, webhook_id="w9", name="new", settings=WebhookSettings(), now=NOW)
    alert = take(connection, webhook_id="w9", webhook_name="old").alert
    assert ids(alerts.search(connection, webhook="new").alerts) == [alert.id]
    webhooks.delete(connection, made.id, now=NOW)
    assert (
        ids(alerts.search(connection, webhook="old").alerts)
        == ids(alerts.search(connection, webhook="w9").alerts)
        == [alert.id]
    )


def test_denied_alert_always_has_a_code(connection: sqlite3.Connection) -> None:
    """Failures are searched among the alerts with a code: a decision without one gets its status as code."""
    alert = new_alert()
    admit(connection, alert, lambda usage: Decision(status="denied"), rates=NO_RATES, now=NOW, expires_at=EXPIRES)
    assert [one.code for one in alerts.search(connection, status="denied").alerts] == ["denied"]


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ({}, "alerts_received"),
        ({"webhook": "hook"}, "alerts_webhook"),
        ({"webhook": "hook", "status": "denied"}, "alerts_webhook"),
        ({"status": "denied"}, "alerts_received"),
        ({"code": "daily_limit"}, "alerts_trouble"),
        ({"since": NOW}, "alerts_received"),
        ({"text": "breakout"}, "alerts_received"),
        ({"symbol": "BTCUSDT.P"}, "alerts_symbol"),
        ({"symbol": "BTCUSDT.P", "webhook": "hook", "text": "breakout"}, "alerts_symbol"),
    ],
)
def test_latest_alerts_are_read_from_the_end_of_an_index(
    connection: sqlite3.Connection, filters: dict[str, Any], index: str
) -> None:
    """A million alerts must neither be sorted nor read from their beginning to show the last hundred."""
    webhooks.create(connection, webhook_id="hook", name="main", settings=WebhookSettings(), now=NOW)
    take(connection)
    admit(connection, new_alert(), denying, rates=NO_RATES, now=NOW, expires_at=EXPIRES)
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    alerts.search(connection, **filters)
    connection.set_trace_callback(None)
    (listing,) = (statement for statement in statements if "FROM alerts a WHERE" in statement)
    plan = [row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {listing}")]
    assert f"USING INDEX {index} (" in plan[0]
    assert not any("TEMP B-TREE FOR ORDER BY" in detail for detail in plan)


def test_rare_status_is_searched_in_its_hours_only(connection: sqlite3.Connection) -> None:
    """Of a long history only the hours are read in which such an alert was counted, and all filters apply in them."""
    moments = [NOW - timedelta(hours=hours) for hours in (300, 200, 100, 0)]
    for at in moments:
        take(connection, received_at=at)
        admit(connection, new_alert(received_at=at), denying, rates=NO_RATES, now=at, expires_at=EXPIRES)
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    found = alerts.search(connection, code="daily_limit", limit=2).alerts
    connection.set_trace_callback(None)
    assert [one.received_at for one in found] == moments[-2:]
    assert len([one for one in statements if "FROM alerts a WHERE" in one]) == 2
    after = moments[0] + timedelta(seconds=1)
    between = alerts.search(connection, status="denied", since=after, until=moments[3]).alerts
    assert [one.received_at for one in between] == moments[1:3]


def test_text_search_is_bounded(connection: sqlite3.Connection) -> None:
    """A text without recent match does not read the whole history; the result gives the time to continue from with `until`."""
    made = [
        take(connection, received_at=NOW + timedelta(minutes=minute), payload={"comment": f"number {minute}"}).alert
        for minute in range(6)
    ]
    near = alerts.search(connection, text="number 5", limit=1, look_through=3)
    assert (near.alerts, near.looked_back_to) == ((made[5],), None)
    far = alerts.search(connection, text="number 1", look_through=3)
    assert (far.alerts, far.looked_back_to) == ((), made[3].received_at)
    further = alerts.search(connection, text="number 1", until=far.looked_back_to, look_through=3)
    assert further.alerts == (made[1],)


def test_response_and_stages_are_stored(connection: sqlite3.Connection) -> None:
    """The exact response, and how long each stage took; later stages add to earlier ones."""
    alert = take(connection).alert
    answer = {"success": True, "executedPrice": Decimal("65000.10"), "timestamp": 1768473005000}
    alerts.set_response(
        connection, alert.id, status=202, answer=answer, stages={"parsed": 0.1234567, "stored": 2}, now=NOW
    )
    later = {"stored": 3.5, "filled": 40.25}
    alerts.set_response(connection, alert.id, status=202, answer=answer, stages=later, now=NOW)
    stored = alerts.get(connection, alert.id)
    assert stored.answer_status == 202
    assert stored.answer == {"success": True, "executedPrice": "65000.10", "timestamp": 1768473005000}
    assert stored.stages == {"parsed": 0.123, "stored": 3.5, "filled": 40.25}
    with pytest.raises(NotFound):
        alerts.set_response(connection, "missing", status=200, answer={}, stages={}, now=NOW)
    with pytest.raises(NotFound):
        alerts.set_status(connection, "missing", status="done", now=NOW)


def test_late_response_does_not_change_the_status(connection: sqlite3.Connection) -> None:
    """The response is recorded after the order moved on; it must not reset the alert's status."""
    alert = take(connection).alert
    alerts.set_status(connection, alert.id, status="filled", now=NOW)
    alerts.set_response(connection, alert.id, status=202, answer={"status": "queued"}, stages={}, now=NOW)
    assert alerts.get(connection, alert.id).status == "filled"


def admitted(connection: sqlite3.Connection, days_old: int) -> str:
    made = new_alert(received_at=NOW - timedelta(days=days_old))
    return admit(connection, made, admitting(), rates=NO_RATES, now=NOW, expires_at=EXPIRES).alert.id


def test_removing_payloads_changes_nothing_else(connection: sqlite3.Connection) -> None:
    """In steps from the oldest; younger ones are kept; orders, history and hashes are untouched; repeating it removes none."""
    old = [admitted(connection, days) for days in (120, 110, 100)]
    young = admitted(connection, 10)
    before = [alerts.get(connection, name) for name in old]
    head = events.head(connection)
    limit = NOW - timedelta(days=90)
    steps = [alerts.remove_payloads(connection, before=limit, now=NOW, limit=2) for _ in range(3)]
    assert steps == [2, 1, 0]
    for was in before:
        now = alerts.get(connection, was.id)
        assert set(now.payload) == {"removed"}
        assert (now.status, now.identity, now.fingerprint) == (was.status, was.identity, was.fingerprint)
        assert orders.of_alert(connection, was.id)
    assert alerts.get(connection, young).payload["symbol"] == "BTCUSDT.P"
    assert events.head(connection) == head
    assert events.verify(connection) is None


def test_payloads_of_one_millisecond_are_all_removed(connection: sqlite3.Connection) -> None:
    """A step that ends between alerts of the same time skips none of them."""
    for _ in range(5):
        admitted(connection, 100)
    limit = NOW - timedelta(days=90)
    assert [alerts.remove_payloads(connection, before=limit, now=NOW, limit=2) for _ in range(4)] == [2, 2, 1, 0]
