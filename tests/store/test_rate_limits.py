"""Use of the rate limits as the tables say: what reports show, and what a daemon's start counts on with."""

from __future__ import annotations

import sqlite3
from datetime import timedelta

from kekbridge.execution.book import Book
from kekbridge.model import RateLimits, Usage
from kekbridge.model.admission import Decision
from kekbridge.store import rate_limits
from kekbridge.store.rate_limits import RateUse
from tests.store.factories import NOW, admitting, exit_intent, new_alert
from tests.stored import store_alert

TWO_A_MINUTE = RateLimits(per_minute=2, per_hour=0, per_day=0)


def test_refused_alert_is_not_counted(connection: sqlite3.Connection, book: Book) -> None:
    """A stale alert may be sent again and succeed, and one with a wrong symbol never became an entry. A denied one is counted."""

    def misread(usage: Usage) -> Decision:
        return Decision(status="refused", code="symbol_unknown")

    def refuse(usage: Usage) -> Decision:
        return Decision(status="refused", code="timestamp_stale", is_counted=False)

    def deny(usage: Usage) -> Decision:
        return Decision(status="denied", code="daily_limit")

    for decide in (refuse, misread, deny):
        store_alert(book, decide=decide)
    assert len(book.rates._times["hook"]) == 1
    (use,) = rate_limits.use_of_account(connection, TWO_A_MINUTE, NOW)
    assert (use.length_s, use.limit, use.used) == (60, 2, 1)
    found = rate_limits.newest_times(connection, "hook", since=NOW - timedelta(1), limit=9)
    assert found == [NOW]


def test_rate_limited_alert_is_not_counted(connection: sqlite3.Connection, book: Book) -> None:
    """Repeating a refused alert does not prolong the wait."""
    kinds = [store_alert(book, rates=RateLimits(per_minute=1)).kind for _ in range(4)]
    assert kinds == ["admitted", "rate_limited", "rate_limited", "rate_limited"]
    (use,) = rate_limits.use_of_account(connection, TWO_A_MINUTE, NOW)
    assert use.used == 1


def test_use_is_shown_by_window(connection: sqlite3.Connection, book: Book) -> None:
    """Each window that has a limit, with entries and exits of one webhook, and entries only over all."""
    for seconds, webhook_id, is_exit in ((0, "hook", False), (70, "hook", True), (80, "hook", False), (90, "b", False)):
        alert = new_alert(received_at=NOW + timedelta(seconds=seconds), webhook_id=webhook_id)
        store_alert(book, alert, admitting(exit_intent(), is_exit=True) if is_exit else admitting())
    later = NOW + timedelta(seconds=100)
    rates = RateLimits(per_minute=5, per_hour=6, per_day=0)
    assert rate_limits.use_of_webhook(connection, "hook", rates, later) == (
        RateUse(length_s=60, limit=5, used=1, exits=1),
        RateUse(length_s=3600, limit=6, used=2, exits=1),
    )
    assert rate_limits.use_of_account(connection, rates, later) == (
        RateUse(length_s=60, limit=5, used=2),
        RateUse(length_s=3600, limit=6, used=3),
    )


def test_newest_times_are_read_oldest_first(connection: sqlite3.Connection, book: Book) -> None:
    """A start counts on with the newest that the largest window can need: the entries of a webhook, and of all."""
    for seconds in (0, 10, 20):
        for webhook_id in ("hook", "other"):
            store_alert(book, new_alert(received_at=NOW + timedelta(seconds=seconds), webhook_id=webhook_id))
    store_alert(book, new_alert(received_at=NOW + timedelta(seconds=30)), admitting(exit_intent(), is_exit=True))

    def at(*seconds: int) -> list[object]:
        return [NOW + timedelta(seconds=each) for each in seconds]

    def newest(*, since_s: int = -1, limit: int = 9) -> list[object]:
        since = NOW + timedelta(seconds=since_s)
        return list(rate_limits.newest_times(connection, "hook", since=since, limit=limit))

    assert newest() == at(0, 10, 20)
    assert newest(limit=2) == at(10, 20)
    assert newest(since_s=0) == at(10, 20)
    assert rate_limits.newest_entries(connection, since=NOW, limit=3) == at(10, 20, 20)
