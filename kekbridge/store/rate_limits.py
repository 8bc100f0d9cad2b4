"""Alert rate limits per webhook and over all webhooks, in any sliding minute, hour and day; checked and counted at admission.

Exact and cheap: only the time of the N-th newest counted alert is read. Exits have a limit of their own per webhook and none over all
webhooks, so that one strategy's noise never blocks another's exits (docs/internals/architecture.md section 1, promise 6).
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from kekbridge.model import RateLimits
from kekbridge.store import cache, codec

UNLIMITED: Final = RateLimits(per_minute=0, per_hour=0, per_day=0)
_FREE_ROOM: Final = "alerts"
_TIMES: Final = "entry_times"
_UNBOUNDED: Final = 1_000_000
_LONGEST: Final = timedelta(days=1)
_DELETED_AT_ONCE: Final = 2  # more than the one that each alert adds, so that the table never holds more than a day
_Counter = tuple[str, bool]  # webhook id and is_exit; empty for the entries of all webhooks
_ALL_ENTRIES: Final[_Counter] = ("", False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """A full window."""

    #: Seconds until there is room again.
    retry_after_s: int
    #: It is the limit over all webhooks, not the webhook's own.
    is_of_account: bool
    #: The limits that it belongs to.
    rates: RateLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class RateUse:
    """How much of one window is used, for display."""

    #: Length of the window in seconds.
    length_s: int
    #: Alerts allowed in it.
    limit: int
    #: Entries in the window now, and exits, which count apart.
    used: int
    exits: int = 0


@dataclass(frozen=True, slots=True)
class _FreeRoom:
    """How many more alerts fit into every window from `since` on: those already counted can only leave the windows."""

    rates: RateLimits
    since: datetime
    free: int


def find_excess(
    connection: sqlite3.Connection,
    webhook_id: str,
    *,
    rates: RateLimits,
    account_rates: RateLimits,
    is_exit: bool,
    now: datetime,
) -> Excess | None:
    """The full window that blocks this alert longest; None if every window has room."""
    own = _wait_s(
        connection, (webhook_id, is_exit), rates, now, partial(_nth_of_webhook, connection, webhook_id, is_exit)
    )
    of_all = 0 if is_exit else _wait_s(connection, _ALL_ENTRIES, account_rates, now, partial(_nth_of_all, connection))
    if own == of_all == 0:
        return None
    is_of_account = of_all > own
    return Excess(
        retry_after_s=max(own, of_all), is_of_account=is_of_account, rates=account_rates if is_of_account else rates
    )


def count_alert(connection: sqlite3.Connection, webhook_id: str, *, is_exit: bool, at: datetime) -> None:
    """Count an alert for its webhook and, unless it is an exit, for all webhooks. Call it where the alert is stored."""
    _use_one(connection, (webhook_id, is_exit))
    if not is_exit:
        count_entry(connection, at=at)


def count_entry(connection: sqlite3.Connection, *, at: datetime) -> None:
    """Count an entry for all webhooks.

    Rows are numbered in order of admission, so that the N-th newest is one lookup. Times never decrease, even if alerts are admitted in
    another order than they were received.
    """
    _use_one(connection, _ALL_ENTRIES)
    newest = max(codec.time_text(at), cache.get_or_load(connection, _TIMES, "newest", _newest))
    connection.execute("INSERT INTO entry_times (at) VALUES (?)", (newest,))
    cache.put(connection, _TIMES, "newest", newest)
    expired = codec.time_text(at - _LONGEST)
    if cache.get_or_load(connection, _TIMES, "oldest", _oldest) <= expired:
        connection.execute(
            "DELETE FROM entry_times WHERE number IN (SELECT number FROM entry_times ORDER BY number LIMIT ?) AND at <= ?",
            (_DELETED_AT_ONCE, expired),
        )
        cache.invalidate(connection, _TIMES, "oldest")


def use_of_webhook(
    connection: sqlite3.Connection, webhook_id: str, rates: RateLimits, now: datetime
) -> tuple[RateUse, ...]:
    """How much of each window of a webhook is used."""
    counted = (
        "SELECT count(*) FROM alerts WHERE webhook_id = ? AND is_exit = ? AND identity IS NOT NULL AND received_at > ?"
    )

    def used(opened: str, is_exit: int) -> int:
        return int(connection.execute(counted, (webhook_id, is_exit, opened)).fetchone()[0])

    return tuple(
        RateUse(length_s=length, limit=limit, used=used(opened, 0), exits=used(opened, 1))
        for limit, length, opened in _windows(rates, now)
    )


def use_of_account(connection: sqlite3.Connection, rates: RateLimits, now: datetime) -> tuple[RateUse, ...]:
    """How much of each window over all webhooks is used."""
    counted = "SELECT count(*) FROM entry_times WHERE at > ?"
    return tuple(
        RateUse(length_s=length, limit=limit, used=int(connection.execute(counted, (opened,)).fetchone()[0]))
        for limit, length, opened in _windows(rates, now)
    )


def _windows(rates: RateLimits, now: datetime) -> list[tuple[int, int, str]]:
    """Limit, length in seconds and start of each window that has a limit (0: none)."""
    pairs = ((rates.per_minute, 60), (rates.per_hour, 3600), (rates.per_day, 86_400))
    return [(limit, length, codec.time_text(now - timedelta(seconds=length))) for limit, length in pairs if limit > 0]


def _wait_s(
    connection: sqlite3.Connection,
    counter: _Counter,
    rates: RateLimits,
    now: datetime,
    nth_newest: Callable[[int, str], str | None],
) -> int:
    """Whole seconds until every window has room; 0 if there is room now.

    A window of N is full while it contains the N-th newest counted alert.
    """
    room: _FreeRoom | None = cache.get(connection, _FREE_ROOM, counter)
    if room is not None and room.free and room.rates == rates and room.since <= now:
        return 0
    windows = _windows(rates, now)
    free = min((_free(limit, opened, nth_newest) for limit, _, opened in windows), default=_UNBOUNDED)
    cache.put(connection, _FREE_ROOM, counter, _FreeRoom(rates, now, free))
    longest = 0.0
    for limit, length, opened in windows:
        at = None if free else nth_newest(limit, opened)
        if at is not None:
            longest = max(longest, (codec.parse_time(at) + timedelta(seconds=length) - now).total_seconds())
    return math.ceil(longest)


def _free(limit: int, opened: str, nth_newest: Callable[[int, str], str | None]) -> int:
    """A lower bound of how many more fit into a window, at least half of them, found in a few lookups; 0 if it is full."""
    if nth_newest(limit, opened) is not None:
        return 0
    free = limit
    while free > 1 and nth_newest(limit - free + 1, opened) is not None:
        free //= 2
    return free


def _use_one(connection: sqlite3.Connection, counter: _Counter) -> None:
    """Update the cached room after one alert was counted."""
    room: _FreeRoom | None = cache.get(connection, _FREE_ROOM, counter)
    if room is not None:
        cache.put(connection, _FREE_ROOM, counter, _FreeRoom(room.rates, room.since, max(room.free - 1, 0)))


def _nth_of_webhook(
    connection: sqlite3.Connection, webhook_id: str, is_exit: bool, nth: int, opened: str
) -> str | None:
    """Time of the webhook's n-th newest counted alert if it is within the window: the index is read no further."""
    row = connection.execute(
        "SELECT received_at FROM alerts WHERE webhook_id = ? AND is_exit = ? AND identity IS NOT NULL AND received_at > ?"
        " ORDER BY received_at DESC LIMIT 1 OFFSET ?",
        (webhook_id, int(is_exit), opened, nth - 1),
    ).fetchone()
    return None if row is None else str(row[0])


def _nth_of_all(connection: sqlite3.Connection, nth: int, opened: str) -> str | None:
    """Time of the n-th newest counted entry of all webhooks if it is within the window."""
    row = connection.execute(
        "SELECT at FROM entry_times WHERE number = (SELECT max(number) FROM entry_times) - ? AND at > ?",
        (nth - 1, opened),
    ).fetchone()
    return None if row is None else str(row[0])


def _newest(connection: sqlite3.Connection) -> str:
    row = connection.execute("SELECT at FROM entry_times ORDER BY number DESC LIMIT 1").fetchone()
    return "" if row is None else str(row[0])


def _oldest(connection: sqlite3.Connection) -> str:
    row = connection.execute("SELECT at FROM entry_times ORDER BY number LIMIT 1").fetchone()
    return "" if row is None else str(row[0])
