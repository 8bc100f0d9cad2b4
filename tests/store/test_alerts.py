"""Stored alerts: find and search them, record the response, remove old payloads."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from typing import Any

import pytest

from kekbridge.errors import NotFound
from kekbridge.execution import transitions
from kekbridge.execution.admission import Admission
from kekbridge.execution.book import Book
from kekbridge.model import OrderStatus, RateLimits, Usage, WebhookSettings
from kekbridge.model.admission import Decision
from kekbridge.store import alerts, journal, orders, projector, webhooks
from kekbridge.store.alerts import StoredAlert
from tests.store.factories import NO_RATES, NOW, admitting, exit_intent, intent, new_alert
from tests.stored import bring, respond, store_alert


def take(book: Book, rates: RateLimits = NO_RATES, **changes: Any) -> Admission:
    return store_alert(book, new_alert(**changes), rates=rates)


def denying(usage: Usage) -> Decision:
    return Decision(status="denied", code="daily_limit")


def ids(found: tuple[StoredAlert, ...]) -> list[str]:
    return [alert.id for alert in found]


def test_alert_is_found_by_each_of_its_ids(connection: sqlite3.Connection, book: Book) -> None:
    """explain takes our id or a prefix of it in any case, the sender's alertId, or an order's client order id."""
    first = take(book, id="01KFAAAAAAAAAAAAAAAAAAAAAA", alert_id="tv-1")
    second = take(book, id="01KFBBBBBBBBBBBBBBBBBBBBBB", alert_id="tv-2")
    for reference in (
        first.alert.id,
        " tv-1 ",
        first.orders[0].client_order_id,
        "01KFA",
        "01kfa",
    ):
        assert alerts.find(connection, reference) == first.alert
    assert alerts.find(connection, "tv-2") == second.alert


def test_errors_for_references_without_one_match(connection: sqlite3.Connection, book: Book) -> None:
    """An ambiguous prefix asks for more characters, an unknown one points to the logs, an empty one matches nothing."""
    take(book, id="01KFAAAAAAAAAAAAAAAAAAAAAA")
    take(book, id="01KFABBBBBBBBBBBBBBBBBBBBB")
    with pytest.raises(NotFound, match="more of its characters"):
        alerts.find(connection, "01KFA")
    for reference in ("nothing", "", "%", "01KFZ"):
        with pytest.raises(NotFound, match="kekbridge logs"):
            alerts.find(connection, reference)
    with pytest.raises(NotFound):
        alerts.get(connection, "01KFA")


def test_alert_id_finds_the_admitted_alert(connection: sqlite3.Connection, book: Book) -> None:
    """After a 429 and a successful repeat, explain shows the success."""
    rates = RateLimits(per_minute=1)
    take(book, rates)
    take(book, rates, alert_id="again", identity="id:again")
    taken = take(book, alert_id="again", identity="id:again", received_at=NOW + timedelta(seconds=70))
    take(book, rates, alert_id="again", webhook_id="hook", identity="id:x", received_at=NOW + timedelta(seconds=71))
    assert alerts.find(connection, "again") == taken.alert


def test_suppressed_messages_are_listed_under_the_first(connection: sqlite3.Connection, book: Book) -> None:
    """Each duplicate and conflict, with its own time and sender; each filter of `kekbridge logs` applies."""
    first = take(book, symbol="PERP_BTC_USDC").alert
    other = take(book, webhook_name="other", symbol="PERP_ETH_USDC").alert
    for seconds, kind, alert in ((1, "duplicate", first), (2, "conflict", first), (3, "duplicate", other)):
        at = NOW + timedelta(seconds=seconds)
        data = {"remote": f"192.0.2.{seconds}", "webhook_id": "hook"}
        journal.append(connection, f"alert_{kind}", now=at, alert_id=alert.id, data=data)
    found = alerts.list_repeats(connection)
    assert [(each.first_id, each.status, each.code, each.remote) for each in found] == [
        (first.id, "duplicate", "duplicate", "192.0.2.1"),
        (first.id, "refused", "alert_id_reused", "192.0.2.2"),
        (other.id, "duplicate", "duplicate", "192.0.2.3"),
    ]
    assert "192.0.2.2" in found[1].error
    filters: list[tuple[dict[str, Any], list[int]]] = [
        ({"limit": 2}, [1, 2]),
        ({"webhook": "other"}, [2]),
        ({"symbol": "PERP_BTC_USDC"}, [0, 1]),
        ({"status": "duplicate"}, [0, 2]),
        ({"status": "filled"}, []),
        ({"code": "alert_id_reused"}, [1]),
        ({"since": NOW + timedelta(seconds=2)}, [1, 2]),
        ({"until": NOW + timedelta(seconds=2)}, [0]),
    ]
    for chosen, wanted in filters:
        assert alerts.list_repeats(connection, **chosen) == tuple(found[index] for index in wanted)


def test_each_filter_applies(connection: sqlite3.Connection, book: Book) -> None:
    """Each filter of `kekbridge logs`; the limit counts from the newest, which comes last."""
    first = take(book, symbol="AAA", payload={"comment": "Breakout 50%"}).alert
    second = take(
        book, symbol="BBB", webhook_id="w2", webhook_name="other", received_at=NOW + timedelta(minutes=1)
    ).alert
    third = take(book, RateLimits(per_minute=1), symbol="AAA", received_at=NOW + timedelta(seconds=30)).alert
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


def test_webhook_filter_covers_earlier_names(connection: sqlite3.Connection, book: Book) -> None:
    """After a rename its older alerts are listed with it; a deleted webhook's are found by the name it had."""
    made = webhooks.create(connection, webhook_id="w9", name="new", settings=WebhookSettings(), now=NOW)
    alert = take(book, webhook_id="w9", webhook_name="old").alert
    assert ids(alerts.search(connection, webhook="new").alerts) == [alert.id]
    webhooks.delete(connection, made.id, now=NOW)
    assert (
        ids(alerts.search(connection, webhook="old").alerts)
        == ids(alerts.search(connection, webhook="w9").alerts)
        == [alert.id]
    )


def test_denied_alert_always_has_a_code(connection: sqlite3.Connection, book: Book) -> None:
    """Failures are searched among the alerts with a code: a decision without one gets its status as code."""
    alert = new_alert()
    store_alert(book, alert, lambda usage: Decision(status="denied"))
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
    connection: sqlite3.Connection, book: Book, filters: dict[str, Any], index: str
) -> None:
    """A million alerts must neither be sorted nor read from their beginning to show the last hundred."""
    webhooks.create(connection, webhook_id="hook", name="main", settings=WebhookSettings(), now=NOW)
    take(book)
    store_alert(book, new_alert(), denying)
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    alerts.search(connection, **filters)
    connection.set_trace_callback(None)
    (listing,) = (statement for statement in statements if "FROM alerts a WHERE" in statement)
    plan = [row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {listing}")]
    assert f"USING INDEX {index} (" in plan[0]
    assert not any("TEMP B-TREE FOR ORDER BY" in detail for detail in plan)


def test_rare_status_is_searched_in_its_hours_only(connection: sqlite3.Connection, book: Book) -> None:
    """Of a long history only the hours are read in which such an alert was counted, and all filters apply in them."""
    moments = [NOW - timedelta(hours=hours) for hours in (300, 200, 100, 0)]
    for at in moments:
        take(book, received_at=at)
        store_alert(book, new_alert(received_at=at), denying)
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    found = alerts.search(connection, code="daily_limit", limit=2).alerts
    connection.set_trace_callback(None)
    assert [one.received_at for one in found] == moments[-2:]
    assert len([one for one in statements if "FROM alerts a WHERE" in one]) == 2
    after = moments[0] + timedelta(seconds=1)
    between = alerts.search(connection, status="denied", since=after, until=moments[3]).alerts
    assert [one.received_at for one in between] == moments[1:3]


def test_alerts_before_one_are_found_among_those_of_its_millisecond(connection: sqlite3.Connection, book: Book) -> None:
    """Pages neither repeat nor leave out an alert, whatever filters apply; each page is read from the end of an index."""
    for _ in range(5):
        take(book, received_at=NOW)
        store_alert(book, new_alert(received_at=NOW), denying)
    choices: tuple[dict[str, Any], ...] = ({}, {"status": "denied"}, {"symbol": "BTCUSDT.P"})
    for filters in choices:
        whole = [one.id for one in alerts.search(connection, **filters).alerts]
        seen: list[str] = []
        page = alerts.search(connection, limit=2, **filters).alerts
        while page:
            seen = [one.id for one in page] + seen
            statements: list[str] = []
            connection.set_trace_callback(statements.append)
            page = alerts.search(connection, before=page[0], limit=2, **filters).alerts
            connection.set_trace_callback(None)
            listing = next(statement for statement in statements if "FROM alerts a WHERE" in statement)
            plan = [row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {listing}")]
            assert "USING INDEX alerts_" in plan[0]
            assert not any("TEMP B-TREE FOR ORDER BY" in detail for detail in plan)
        assert seen == whole
        assert len(whole) >= 5


def test_text_search_is_bounded(connection: sqlite3.Connection, book: Book) -> None:
    """A text without recent match does not read the whole history; the result gives the time to continue from with `until`."""
    made = [
        take(book, received_at=NOW + timedelta(minutes=minute), payload={"comment": f"number {minute}"}).alert
        for minute in range(6)
    ]
    near = alerts.search(connection, text="number 5", limit=1, look_through=3)
    assert (near.alerts, near.looked_back_to) == ((made[5],), None)
    far = alerts.search(connection, text="number 1", look_through=3)
    assert (far.alerts, far.looked_back_to) == ((), made[3].received_at)
    further = alerts.search(connection, text="number 1", until=far.looked_back_to, look_through=3)
    assert further.alerts == (made[1],)


def test_response_and_stages_are_stored(connection: sqlite3.Connection, book: Book) -> None:
    """The exact response, and how long each stage took, to the microsecond."""
    alert = take(book).alert
    answer = {"success": True, "executedPrice": "65000.10", "timestamp": 1768473005000}
    respond(book, alert.id, status=202, body=answer, stages={"parsed": 0.1234567, "stored": 2})
    stored = alerts.get(connection, alert.id)
    assert (stored.answer_status, stored.answer) == (202, answer)
    assert stored.stages == {"parsed": 0.123, "stored": 2}
    with pytest.raises(NotFound):
        alerts.set_response(connection, "missing", status=200, body="{}", stages={}, now=NOW)
    with pytest.raises(NotFound):
        alerts.set_status(connection, "missing", status="done", now=NOW)


def test_late_response_does_not_change_the_status(connection: sqlite3.Connection, book: Book) -> None:
    """The response is recorded after the order moved on; it must not reset the alert's status."""
    admission = take(book)
    bring(book, admission.orders[0], OrderStatus.FILLED)
    respond(book, admission.alert.id, status=202, body={"status": "queued"})
    assert alerts.get(connection, admission.alert.id).status == "filled"


@pytest.mark.parametrize(
    ("steps", "headline"),
    [
        (("filled", "queued"), "queued"),
        (("filled", "denied"), "denied"),
        (("filled", "filled"), "filled"),
        (("unknown", "queued"), "unknown"),
        (("rejected", "denied"), "rejected"),
        (("nothing", "filled"), "filled"),
        (("nothing", "nothing"), "ignored"),
    ],
)
def test_alert_has_the_status_of_the_leg_that_matters_most(
    connection: sqlite3.Connection, book: Book, steps: tuple[str, str], headline: str
) -> None:
    """Open legs first, then failed ones; a close that had nothing to do is not a failure."""
    legs = store_alert(book, decide=admitting(exit_intent(), intent())).orders
    for leg, step in zip(legs, steps, strict=True):
        if step == "nothing":
            book.change(leg, transitions.denied(leg, code="nothing_to_close", error="flat", now=NOW), now=NOW)
        else:
            bring(book, leg, OrderStatus(step))
    alert = alerts.get(connection, legs[0].alert_id)
    assert alert.status == headline
    if headline == "rejected":
        assert (alert.code, alert.error) == ("order_rejected", "no")


def admitted(book: Book, days_old: int) -> str:
    return take(book, received_at=NOW - timedelta(days=days_old)).alert.id


def test_removing_payloads_changes_nothing_else(connection: sqlite3.Connection, book: Book) -> None:
    """In steps from the oldest; younger ones are kept; orders, history and hashes are untouched; repeating it removes none."""
    old = [admitted(book, days) for days in (120, 110, 100)]
    young = admitted(book, 10)
    before = [alerts.get(connection, name) for name in old]
    head = journal.head(connection)
    limit = NOW - timedelta(days=90)
    steps = [alerts.remove_payloads(connection, before=limit, now=NOW, limit=2) for _ in range(3)]
    assert steps == [2, 1, 0]
    for was in before:
        now = alerts.get(connection, was.id)
        assert set(now.payload) == {"removed"}
        assert (now.status, now.identity, now.fingerprint) == (was.status, was.identity, was.fingerprint)
        assert orders.of_alert(connection, was.id)
    assert alerts.get(connection, young).payload["symbol"] == "BTCUSDT.P"
    assert journal.head(connection) == head
    assert journal.verify(connection) is None


def test_a_removed_message_leaves_no_copy(connection: sqlite3.Connection, book: Book) -> None:
    """The text is in the journal, too: retention removes it there, and a rebuild of the tables does not bring it back."""
    secret = "a strategy of mine"  # what a trader may want to be gone
    take(book, received_at=NOW - timedelta(days=100), payload={"comment": secret})
    alerts.remove_payloads(connection, before=NOW - timedelta(days=90), now=NOW)
    projector.rebuild(connection)
    assert secret not in "\n".join(connection.iterdump())


def test_payloads_of_one_millisecond_are_all_removed(connection: sqlite3.Connection, book: Book) -> None:
    """A step that ends between alerts of the same time skips none of them."""
    for _ in range(5):
        admitted(book, 100)
    limit = NOW - timedelta(days=90)
    assert [alerts.remove_payloads(connection, before=limit, now=NOW, limit=2) for _ in range(4)] == [2, 2, 1, 0]
