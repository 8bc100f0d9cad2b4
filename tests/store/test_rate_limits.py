"""The rate limit over all webhooks: exact, for entries only, under concurrency, and on an old database."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kekbridge.model import RateLimits, Usage
from kekbridge.model.admission import Decision, NewAlert
from kekbridge.store import rate_limits
from kekbridge.store.admissions import Admission, admit, preview
from kekbridge.store.connections import connect
from kekbridge.store.database import Database
from tests.store.factories import EXPIRES, NO_RATES, NOW, admitting, exit_intent, intent, new_alert

TWO_A_MINUTE = RateLimits(per_minute=2, per_hour=0, per_day=0)


def take(
    connection: sqlite3.Connection,
    alert: NewAlert,
    *,
    rates: RateLimits = NO_RATES,
    account_rates: RateLimits = NO_RATES,
    is_exit: bool = False,
) -> Admission:
    """Admit with one order, at the time of receipt."""
    return admit(
        connection,
        alert,
        admitting(exit_intent() if is_exit else intent(), is_exit=is_exit),
        rates=rates,
        account_rates=account_rates,
        now=alert.received_at,
        expires_at=alert.received_at + timedelta(seconds=60),
    )


@pytest.mark.parametrize(
    ("rates", "length"),
    [
        (RateLimits(per_minute=3, per_hour=100, per_day=100), 60),
        (RateLimits(per_minute=0, per_hour=3, per_day=100), 3600),
        (RateLimits(per_minute=100, per_hour=0, per_day=3), 86_400),
    ],
)
def test_all_webhooks_share_each_window(connection: sqlite3.Connection, rates: RateLimits, length: int) -> None:
    """With room for three, a fourth is refused for any webhook, with the seconds until the oldest leaves the window."""
    for offset, webhook in ((0, "one"), (10, "two"), (20, "three")):
        alert = new_alert(received_at=NOW + timedelta(seconds=offset), webhook_id=webhook)
        assert take(connection, alert, account_rates=rates).kind == "admitted"
    early = new_alert(received_at=NOW + timedelta(seconds=30.5), webhook_id="four")
    refused = take(connection, early, account_rates=rates)
    assert (refused.kind, refused.retry_after_s, refused.orders) == ("rate_limited", length - 30, ())
    assert "all webhooks together" in (refused.alert.error or "")
    assert "risk.rate_per_minute" in (refused.alert.error or "")
    later = replace(early, id=new_alert().id, received_at=NOW + timedelta(seconds=length))
    assert take(connection, later, account_rates=rates).kind == "admitted"


def test_exits_neither_count_nor_wait(connection: sqlite3.Connection) -> None:
    """Promise 6: an exit passes whatever other strategies send, and exits use up nothing of the entries' limit."""
    kinds = [
        take(connection, new_alert(), account_rates=TWO_A_MINUTE, is_exit=is_exit).kind
        for is_exit in (True, True, True, False, False, False, True)
    ]
    assert kinds == ["admitted"] * 5 + ["rate_limited", "admitted"]


def test_refused_alert_claims_and_uses_nothing(connection: sqlite3.Connection) -> None:
    """The same alert may succeed later; repeating it does not prolong the wait; a duplicate is still recognised."""
    first = new_alert()
    take(connection, first, account_rates=TWO_A_MINUTE)
    take(connection, new_alert(), account_rates=TWO_A_MINUTE)
    alert = new_alert(received_at=NOW + timedelta(seconds=1))
    for _ in range(5):
        refused = take(connection, replace(alert, id=new_alert().id), account_rates=TWO_A_MINUTE)
        assert (refused.kind, refused.retry_after_s, refused.alert.identity) == ("rate_limited", 59, None)
    assert take(connection, replace(first, id=new_alert().id), account_rates=TWO_A_MINUTE).kind == "duplicate"
    again = replace(alert, id=new_alert().id, received_at=NOW + timedelta(seconds=60))
    assert take(connection, again, account_rates=TWO_A_MINUTE).kind == "admitted"


def test_longer_wait_is_returned(connection: sqlite3.Connection) -> None:
    """If both limits are exhausted, the sender gets the time when both have room, and which limit it is."""
    for offset in (0, 30):
        take(connection, new_alert(received_at=NOW + timedelta(seconds=offset)), account_rates=TWO_A_MINUTE)
    own = RateLimits(per_minute=0, per_hour=1, per_day=0)
    alert = new_alert(received_at=NOW + timedelta(seconds=40))
    refused = take(connection, alert, rates=own, account_rates=TWO_A_MINUTE)
    assert refused.retry_after_s == 3590
    assert "than the webhook allows" in (refused.alert.error or "")


def test_alert_without_identity_is_not_counted(connection: sqlite3.Connection) -> None:
    """A stale alert may be sent again and succeed: it is not counted. A denied one is."""

    def decide(usage: Usage) -> Decision:
        return Decision(status="refused", code="timestamp_stale", claims_identity=False)

    def deny(usage: Usage) -> Decision:
        return Decision(status="denied", code="daily_limit")

    for judge in (decide, deny):
        admit(connection, new_alert(), judge, rates=NO_RATES, account_rates=TWO_A_MINUTE, now=NOW, expires_at=EXPIRES)
    (use,) = rate_limits.use_of_account(connection, TWO_A_MINUTE, NOW)
    assert (use.length_s, use.limit, use.used) == (60, 2, 1)


def test_preview_gives_the_same_result_and_uses_nothing(connection: sqlite3.Connection) -> None:
    """A dry run is limited as the alert itself would be."""
    for _ in range(2):
        assert (
            preview(connection, new_alert(), admitting(), rates=NO_RATES, account_rates=TWO_A_MINUTE, now=NOW).kind
            == "admitted"
        )
        take(connection, new_alert(), account_rates=TWO_A_MINUTE)
    seen = preview(connection, new_alert(), admitting(), rates=NO_RATES, account_rates=TWO_A_MINUTE, now=NOW)
    assert (seen.kind, seen.retry_after_s) == ("rate_limited", 60)


async def test_200_at_once_from_many_webhooks_admit_exactly_the_limit(database: Database) -> None:
    """Alerts are counted in the transaction that stores them: no two alerts both see the last room."""
    rates = RateLimits(per_minute=17, per_hour=0, per_day=0)
    outcomes = await asyncio.gather(
        *(
            database.write(
                admit,
                new_alert(webhook_id=f"hook-{number % 20}"),
                admitting(),
                rates=NO_RATES,
                account_rates=rates,
                now=NOW,
                expires_at=EXPIRES,
            )
            for number in range(200)
        )
    )
    kinds = [outcome.kind for outcome in outcomes]
    assert (kinds.count("admitted"), kinds.count("rate_limited")) == (17, 183)


@given(
    offsets=st.lists(st.integers(0, 200), max_size=60).map(sorted),
    minute=st.integers(0, 6),
    hour=st.integers(0, 12),
)
def test_result_equals_a_plain_recount(offsets: list[int], minute: int, hour: int) -> None:
    """For any times of arrival: admitted exactly when fewer than the limit were admitted within each window before."""
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE entry_times (number INTEGER PRIMARY KEY, at TEXT NOT NULL) STRICT")
    connection.execute("CREATE TABLE alerts (webhook_id, is_exit, identity, received_at)")
    rates = RateLimits(per_minute=minute, per_hour=hour, per_day=0)
    taken: list[int] = []
    for offset in offsets:
        now = NOW + timedelta(seconds=offset * 20)
        excess = rate_limits.find_excess(
            connection, "hook", rates=rate_limits.UNLIMITED, account_rates=rates, is_exit=False, now=now
        )
        fits = all(
            limit == 0 or sum(1 for one in taken if (offset - one) * 20 < length) < limit
            for limit, length in ((minute, 60), (hour, 3600))
        )
        assert (excess is None) == fits
        if fits:
            taken.append(offset)
            rate_limits.count_entry(connection, at=now)
    connection.close()


def test_rows_outside_every_window_are_deleted(connection: sqlite3.Connection) -> None:
    """Days of alerts leave one day's rows, whose numbers have no gap."""
    for hour in range(24 * 5):
        rate_limits.count_entry(connection, at=NOW + timedelta(hours=hour))
    kept = [number for (number,) in connection.execute("SELECT number FROM entry_times ORDER BY number")]
    assert kept == list(range(kept[0], kept[0] + 24))


def test_times_never_decrease(connection: sqlite3.Connection) -> None:
    """Alerts admitted in another order than received, or a clock set back, open no window early."""
    for second in (30, 10):
        take(connection, new_alert(received_at=NOW + timedelta(seconds=second)), account_rates=TWO_A_MINUTE)
    refused = take(connection, new_alert(received_at=NOW + timedelta(seconds=71)), account_rates=TWO_A_MINUTE)
    assert (refused.kind, refused.retry_after_s) == ("rate_limited", 19)


def test_lookup_cost_is_constant(database: Database) -> None:
    """The N-th newest is found by row number: SQLite steps over as many rows for 60,000 alerts as for ten."""
    with database.transaction() as connection:
        connection.executemany("INSERT INTO entry_times (at) VALUES (?)", [("2026-01-15T10:30:00.000Z",)] * 60_000)
    connection = connect(database.path, read_only=True)
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection.set_progress_handler(count, 10)
    rates = RateLimits(per_minute=600, per_hour=6_000, per_day=60_000)
    excess = rate_limits.find_excess(
        connection, "hook", rates=rate_limits.UNLIMITED, account_rates=rates, is_exit=False, now=NOW
    )
    connection.close()
    assert excess is not None
    assert steps < 30
