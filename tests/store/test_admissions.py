"""Admission: one alert, one verdict, all or nothing; duplicates, rate limits, and limits under concurrency."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import timedelta
from decimal import Decimal

import pytest
from msgspec.structs import replace

from kekbridge.model import UNCOMMITTED, OrderStatus, RateLimits, Usage, Verdict, client_order_id_of
from kekbridge.model.admission import Decision, NewAlert
from kekbridge.store import alerts, events, orders, reservations
from kekbridge.store.admissions import Admission, admit
from kekbridge.store.database import Database
from kekbridge.store.reservations import read_usage
from tests.store.factories import EXPIRES, NO_RATES, NOW, admitting, exit_intent, intent, new_alert


def take(
    connection: sqlite3.Connection, alert: NewAlert, *, rates: RateLimits = NO_RATES, is_exit: bool = False
) -> Admission:
    """Admit with one order, at the time of receipt."""
    decide = admitting(exit_intent() if is_exit else intent(), is_exit=is_exit)
    return admit(
        connection,
        alert,
        decide,
        rates=rates,
        now=alert.received_at,
        expires_at=alert.received_at + timedelta(seconds=60),
    )


def count(connection: sqlite3.Connection, table: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


# ---------------------------------------------------------------------------------------------------------- what is stored


def test_an_admitted_alert_is_stored_with_all_that_follows(connection: sqlite3.Connection) -> None:
    """Alert, verdicts, orders, reservations, totals and history come from one call, and read back as they were."""
    verdict = Verdict(rule="order_too_large", scope="webhook", passed=True, found="0.01", limit="1")
    alert = new_alert()
    decide = admitting(
        exit_intent(), intent(after_leg=0), verdicts=(verdict,), symbol="PERP_BTC_USDC", warnings=("late",)
    )
    admission = admit(connection, alert, decide, rates=NO_RATES, now=NOW, expires_at=EXPIRES)
    assert admission.kind == "admitted"
    assert admission.alert == alerts.get(connection, alert.id)
    assert (admission.alert.status, admission.alert.symbol) == ("queued", "PERP_BTC_USDC")
    assert (admission.alert.verdicts, admission.alert.warnings) == ((verdict,), ("late",))
    assert admission.orders == orders.of_alert(connection, alert.id)
    assert [order.client_order_id for order in admission.orders] == [
        client_order_id_of(alert.id, leg) for leg in (0, 1)
    ]
    assert {order.status for order in admission.orders} == {OrderStatus.QUEUED}
    assert {order.expires_at for order in admission.orders} == {EXPIRES}
    held = reservations.open_reservations(connection)
    assert [(one.quantity, one.is_entry) for one in held] == [(Decimal("-0.01"), False), (Decimal("0.01"), True)]
    usage = read_usage(connection, "hook", now=NOW)
    assert (usage.traded_today, usage.orders_today, usage.account_traded_today) == (Decimal(650), 1, Decimal(650))
    assert [event.kind for event in events.of_alert(connection, alert.id)] == ["alert_admitted"]


@pytest.mark.parametrize("status", ["denied", "refused", "ignored"])
def test_alert_that_is_not_admitted_is_stored_without_orders(connection: sqlite3.Connection, status: str) -> None:
    """Every request ends in one stored verdict; a refused one takes no room."""
    alert = new_alert()

    def decide(usage: Usage) -> Decision:
        return Decision(status=status, code="daily_limit", error="too much", field="quantity", intents=(intent(),))  # type: ignore[arg-type]

    admission = admit(connection, alert, decide, rates=NO_RATES, now=NOW, expires_at=EXPIRES)
    stored = alerts.get(connection, alert.id)
    assert admission.kind == stored.status == status
    assert (stored.code, stored.error, stored.field) == ("daily_limit", "too much", "quantity")
    assert admission.orders == ()
    assert count(connection, "orders") == count(connection, "reservations") == count(connection, "daily_usage") == 0


async def test_failed_admission_is_rolled_back(database: Database) -> None:
    """An order that cannot be stored rolls back its alert, the orders before it, its reservations and its events."""
    unstorable = admitting(intent(), intent(quantity=Decimal("NaN")))
    with pytest.raises(ValueError, match="finite"):
        await database.write(admit, new_alert(), unstorable, rates=NO_RATES, now=NOW, expires_at=EXPIRES)
    with database.snapshot() as connection:
        for table in ("alerts", "orders", "reservations", "daily_usage", "events"):
            assert count(connection, table) == 0, table


def test_text_that_utf_8_cannot_hold_is_stored_readably(connection: sqlite3.Connection) -> None:
    r"""A message may smuggle in half characters as `\ud800`; they must not make the alert unstorable (a 503 would repeat it)."""
    bad = "x\ud800y"
    alert = new_alert(alert_id=bad, identity=f"id:{bad}", symbol=bad, payload={"comment": bad, "n": [Decimal("1E-9")]})
    first = take(connection, alert)
    again = take(connection, replace(alert, id=new_alert().id))
    assert first.kind == "admitted"
    assert again.kind == "duplicate"
    stored = alerts.get(connection, alert.id)
    assert stored.alert_id == "x\\ud800y"
    assert stored.payload == {"comment": bad, "n": ["0.000000001"]}


# ------------------------------------------------------------------------------------------------------------- duplicates


def test_duplicate_gets_the_first_outcome(connection: sqlite3.Connection) -> None:
    """A resend creates no second order and is answered with the outcome of the first one, however much later."""
    alert = new_alert()
    first = take(connection, alert)
    alerts.set_response(connection, alert.id, status=200, answer={"status": "filled"}, stages={"stored": 1.5}, now=NOW)
    again = take(connection, replace(alert, id=new_alert().id, received_at=NOW + timedelta(days=400)))
    assert again.kind == "duplicate"
    assert again.alert.id == first.alert.id
    assert (again.alert.answer_status, again.alert.answer) == (200, {"status": "filled"})
    assert again.orders == first.orders
    assert count(connection, "alerts") == count(connection, "orders") == 1
    assert [event.kind for event in events.of_alert(connection, alert.id)] == ["alert_admitted", "alert_duplicate"]


def test_same_identity_with_other_content_is_a_conflict(connection: sqlite3.Connection) -> None:
    """A reused alertId is refused, never merged (409)."""
    alert = new_alert()
    take(connection, alert)
    again = take(connection, replace(alert, id=new_alert().id, fingerprint="other"))
    assert (again.kind, again.alert.id) == ("conflict", alert.id)
    assert count(connection, "orders") == 1


def test_identities_are_per_webhook(connection: sqlite3.Connection) -> None:
    """Two strategies may use the same alertIds."""
    alert = new_alert()
    take(connection, alert)
    assert take(connection, replace(alert, id=new_alert().id, webhook_id="other")).kind == "admitted"


@pytest.mark.parametrize(
    ("seconds", "kind"), [(0, "duplicate"), (59.999, "duplicate"), (60, "admitted"), (3600, "admitted")]
)
def test_without_identity_the_same_body_counts_once_within_its_window(
    connection: sqlite3.Connection, seconds: float, kind: str
) -> None:
    """A body without alertId and timestamp is a resend within 60 s of the first, and a new alert after that."""
    alert = new_alert(identity=None, window_s=60, alert_id=None)
    take(connection, alert)
    later = replace(alert, id=new_alert().id, received_at=NOW + timedelta(seconds=seconds))
    assert take(connection, later).kind == kind
    other = replace(later, id=new_alert().id, fingerprint="other")
    assert take(connection, other).kind == "admitted"


def test_window_starts_with_the_first_copy(connection: sqlite3.Connection) -> None:
    """A sender that repeats itself every 40 s must not be ignored for ever."""
    alert = new_alert(identity=None, window_s=60)
    kinds = [
        take(connection, replace(alert, id=new_alert().id, received_at=NOW + timedelta(seconds=seconds))).kind
        for seconds in (0, 40, 80, 120, 160)
    ]
    assert kinds == ["admitted", "duplicate", "admitted", "duplicate", "admitted"]


# ------------------------------------------------------------------------------------------------------------- rate limits


@pytest.mark.parametrize(
    ("rates", "length"),
    [
        (RateLimits(per_minute=3, per_hour=100, per_day=100), 60),
        (RateLimits(per_minute=100, per_hour=3, per_day=100), 3600),
        (RateLimits(per_minute=100, per_hour=100, per_day=3), 86_400),
    ],
)
def test_each_window_slides(connection: sqlite3.Connection, rates: RateLimits, length: int) -> None:
    """With room for three, a fourth is refused with the seconds until the oldest leaves the window; then it is admitted."""
    for offset in (0, 10, 20):
        assert take(connection, new_alert(received_at=NOW + timedelta(seconds=offset)), rates=rates).kind == "admitted"
    early = take(connection, new_alert(received_at=NOW + timedelta(seconds=30.5)), rates=rates)
    assert (early.kind, early.retry_after_s) == ("rate_limited", length - 30)
    assert early.orders == ()
    still = take(connection, new_alert(received_at=NOW + timedelta(seconds=length - 0.001)), rates=rates)
    assert (still.kind, still.retry_after_s) == ("rate_limited", 1)
    assert take(connection, new_alert(received_at=NOW + timedelta(seconds=length)), rates=rates).kind == "admitted"
    late = take(connection, new_alert(received_at=NOW + timedelta(seconds=length)), rates=rates)
    assert (late.kind, late.retry_after_s) == ("rate_limited", 10)


def test_exits_have_their_own_limit(connection: sqlite3.Connection) -> None:
    """An exit is never refused because entries used up their limit."""
    rates = RateLimits(per_minute=2, per_hour=100, per_day=100)
    kinds = [
        take(connection, new_alert(), rates=rates, is_exit=is_exit).kind
        for is_exit in (False, False, False, True, True, True)
    ]
    assert kinds == ["admitted", "admitted", "rate_limited", "admitted", "admitted", "rate_limited"]


def test_rate_limited_alert_claims_and_counts_nothing(connection: sqlite3.Connection) -> None:
    """The same alert may be sent again later and then succeeds; repeating it does not prolong the wait."""
    rates = RateLimits(per_minute=1, per_hour=100, per_day=100)
    take(connection, new_alert(), rates=rates)
    alert = new_alert(received_at=NOW + timedelta(seconds=1))
    for attempt in range(5):
        refused = take(connection, replace(alert, id=new_alert().id), rates=rates)
        assert (refused.kind, refused.retry_after_s, attempt) == ("rate_limited", 59, attempt)
        assert (refused.alert.status, refused.alert.code, refused.alert.identity) == ("refused", "rate_limited", None)
    taken = take(connection, replace(alert, id=new_alert().id, received_at=NOW + timedelta(seconds=60)), rates=rates)
    assert taken.kind == "admitted"
    assert count(connection, "alerts") == 7


def test_webhooks_have_separate_limits_and_denied_alerts_count(connection: sqlite3.Connection) -> None:
    """One noisy strategy does not block another; denied alerts are noise, too."""
    rates = RateLimits(per_minute=1, per_hour=100, per_day=100)

    def deny(usage: Usage) -> Decision:
        return Decision(status="denied", code="daily_limit")

    assert admit(connection, new_alert(), deny, rates=rates, now=NOW, expires_at=EXPIRES).kind == "denied"
    assert admit(connection, new_alert(), deny, rates=rates, now=NOW, expires_at=EXPIRES).kind == "rate_limited"
    assert take(connection, new_alert(webhook_id="other"), rates=rates).kind == "admitted"


# ----------------------------------------------------------------------------------------------------- under concurrency


async def test_200_alerts_at_once_with_room_for_10_admit_exactly_10(database: Database) -> None:
    """Every decision sees the reservations of all those before it, so a limit holds at every instant."""
    limit = Decimal(6500)

    def decide(usage: Usage) -> Decision:
        order = intent()
        if usage.account_traded_today + order.notional > limit:
            return Decision(status="denied", code="daily_limit")
        waiting = usage.commitments.get(order.symbol, UNCOMMITTED).open.entry_buys
        assert waiting * order.reference_price == usage.account_traded_today
        return Decision(status="admitted", intents=(order,))

    outcomes = await asyncio.gather(
        *(
            database.write(admit, new_alert(), decide, rates=NO_RATES, now=NOW, expires_at=EXPIRES, cooldown_s=0)
            for _ in range(200)
        )
    )
    kinds = [outcome.kind for outcome in outcomes]
    assert (kinds.count("admitted"), kinds.count("denied")) == (10, 190)
    assert [order.sequence for outcome in outcomes for order in outcome.orders] == list(range(1, 11))
    with database.snapshot() as connection:
        assert read_usage(connection, "hook", now=NOW).account_traded_today == limit
        assert events.verify(connection) is None


async def test_simultaneous_duplicates_create_one_order(database: Database) -> None:
    """Four copies in the same batch are one admission and three duplicates that refer to it."""
    alert = new_alert()
    copies = [replace(alert, id=new_alert().id) for _ in range(4)]
    outcomes = await asyncio.gather(
        *(database.write(admit, copy, admitting(), rates=NO_RATES, now=NOW, expires_at=EXPIRES) for copy in copies)
    )
    assert sorted(outcome.kind for outcome in outcomes) == ["admitted", "duplicate", "duplicate", "duplicate"]
    assert len({outcome.alert.id for outcome in outcomes}) == 1
    assert len({outcome.orders for outcome in outcomes}) == 1
