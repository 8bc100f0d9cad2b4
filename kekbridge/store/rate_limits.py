"""How many alerts a webhook, and all of them together, may send in any sliding minute, hour and day: read and counted while admitting.

Exact and cheap: the question is only when the N-th newest counted alert arrived. Exits have an allowance of their own at their webhook, and
none over all webhooks: one strategy's noise never keeps another from closing (docs/internals/architecture.md section 1, promise 6).
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
_ROOMS: Final = "alerts"
_TIMES: Final = "entry_times"
_ANY_NUMBER: Final = 1_000_000
_LONGEST: Final = timedelta(days=1)
_FORGOTTEN_AT_ONCE: Final = 2  # more than one comes in with each alert, so the table never outgrows a day


# A webhook's entries or exits, or the entries of all webhooks.
_Whose = tuple[str, bool]
_OF_ALL: Final[_Whose] = ("", False)


@dataclass(frozen=True, slots=True)
class _Room:
    """From a moment on so many more fit into every window of these rates: what is in them can only leave."""

    rates: RateLimits
    since: datetime
    free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """A full window: how many seconds until there is room again, and whose it is."""

    retry_after_s: int
    is_of_account: bool
    rates: RateLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class RateUse:
    """One window for a person: at most `limit` alerts in `length_s` seconds, `used` in the last ones."""

    length_s: int
    limit: int
    used: int
    exits: int = 0


def find_excess(
    connection: sqlite3.Connection,
    webhook_id: str,
    *,
    rates: RateLimits,
    account_rates: RateLimits,
    is_exit: bool,
    now: datetime,
) -> Excess | None:
    """The full window that keeps this alert out longest, or None when every window has room now."""
    own = _wait_s(
        connection, (webhook_id, is_exit), rates, now, partial(_nth_of_webhook, connection, webhook_id, is_exit)
    )
    of_all = 0 if is_exit else _wait_s(connection, _OF_ALL, account_rates, now, partial(_nth_of_all, connection))
    if own == of_all == 0:
        return None
    is_of_account = of_all > own
    return Excess(
        retry_after_s=max(own, of_all), is_of_account=is_of_account, rates=account_rates if is_of_account else rates
    )


def count(connection: sqlite3.Connection, webhook_id: str, *, is_exit: bool, at: datetime) -> None:
    """Count an alert against its webhook's allowance and, unless it is an exit, that of all webhooks; call it where the alert is stored."""
    _fill(connection, (webhook_id, is_exit))
    if not is_exit:
        count_entry(connection, at=at)


def count_entry(connection: sqlite3.Connection, *, at: datetime) -> None:
    """Count an alert that is no exit against all webhooks' allowance.

    Numbered in the order of admission, so that the N-th newest is one look-up however many there are. Times never go back in it, even
    where two alerts are admitted in another order than they came in.
    """
    _fill(connection, _OF_ALL)
    newest = max(codec.to_text(at), cache.get_or_load(connection, _TIMES, "newest", _newest))
    connection.execute("INSERT INTO entry_times (at) VALUES (?)", (newest,))
    cache.put(connection, _TIMES, "newest", newest)
    left = codec.to_text(at - _LONGEST)
    if cache.get_or_load(connection, _TIMES, "oldest", _oldest) <= left:
        connection.execute(
            "DELETE FROM entry_times WHERE number IN (SELECT number FROM entry_times ORDER BY number LIMIT ?) AND at <= ?",
            (_FORGOTTEN_AT_ONCE, left),
        )
        cache.invalidate(connection, _TIMES, "oldest")


def _newest(connection: sqlite3.Connection) -> str:
    row = connection.execute("SELECT at FROM entry_times ORDER BY number DESC LIMIT 1").fetchone()
    return "" if row is None else str(row[0])


def _oldest(connection: sqlite3.Connection) -> str:
    row = connection.execute("SELECT at FROM entry_times ORDER BY number LIMIT 1").fetchone()
    return "" if row is None else str(row[0])


def use_of_webhook(
    connection: sqlite3.Connection, webhook_id: str, rates: RateLimits, now: datetime
) -> tuple[RateUse, ...]:
    """How much of each of a webhook's windows is used."""
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
    """How much of each window of all webhooks together is used."""
    counted = "SELECT count(*) FROM entry_times WHERE at > ?"
    return tuple(
        RateUse(length_s=length, limit=limit, used=int(connection.execute(counted, (opened,)).fetchone()[0]))
        for limit, length, opened in _windows(rates, now)
    )


def _windows(rates: RateLimits, now: datetime) -> list[tuple[int, int, str]]:
    """Limit, length in seconds and opening time of each window that has a limit; 0 is none."""
    pairs = ((rates.per_minute, 60), (rates.per_hour, 3600), (rates.per_day, 86_400))
    return [(limit, length, codec.to_text(now - timedelta(seconds=length))) for limit, length in pairs if limit > 0]


def _wait_s(
    connection: sqlite3.Connection,
    whose: _Whose,
    rates: RateLimits,
    now: datetime,
    nth_newest: Callable[[int, str], str | None],
) -> int:
    """Whole seconds until every window has room again; 0 when there is room now.

    A window of N is full when the N-th newest counted alert still lies in it, and has room when that one leaves.
    """
    room: _Room | None = cache.get(connection, _ROOMS, whose)
    if room is not None and room.free and room.rates == rates and room.since <= now:
        return 0
    windows = _windows(rates, now)
    free = min((_free(limit, opened, nth_newest) for limit, _, opened in windows), default=_ANY_NUMBER)
    cache.put(connection, _ROOMS, whose, _Room(rates, now, free))
    longest = 0.0
    for limit, length, opened in windows:
        at = None if free else nth_newest(limit, opened)
        if at is not None:
            longest = max(longest, (codec.from_text(at) + timedelta(seconds=length) - now).total_seconds())
    return math.ceil(longest)


def _free(limit: int, opened: str, nth_newest: Callable[[int, str], str | None]) -> int:
    """So many more are sure to fit into a window: at least half of what does, found in a few looks; 0 when it is full."""
    if nth_newest(limit, opened) is not None:
        return 0
    free = limit
    while free > 1 and nth_newest(limit - free + 1, opened) is not None:
        free //= 2
    return free


def _fill(connection: sqlite3.Connection, whose: _Whose) -> None:
    """One more was counted."""
    room: _Room | None = cache.get(connection, _ROOMS, whose)
    if room is not None:
        cache.put(connection, _ROOMS, whose, _Room(room.rates, room.since, max(room.free - 1, 0)))


def _nth_of_webhook(
    connection: sqlite3.Connection, webhook_id: str, is_exit: bool, nth: int, opened: str
) -> str | None:
    """When the n-th newest counted alert of a webhook came, if within the window: the index is read no further than that."""
    row = connection.execute(
        "SELECT received_at FROM alerts WHERE webhook_id = ? AND is_exit = ? AND identity IS NOT NULL AND received_at > ?"
        " ORDER BY received_at DESC LIMIT 1 OFFSET ?",
        (webhook_id, int(is_exit), opened, nth - 1),
    ).fetchone()
    return None if row is None else str(row[0])


def _nth_of_all(connection: sqlite3.Connection, nth: int, opened: str) -> str | None:
    """When the n-th newest counted alert of all webhooks came, if within the window."""
    row = connection.execute(
        "SELECT at FROM entry_times WHERE number = (SELECT max(number) FROM entry_times) - ? AND at > ?",
        (nth - 1, opened),
    ).fetchone()
    return None if row is None else str(row[0])
