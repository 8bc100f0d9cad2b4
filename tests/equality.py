"""What must be equal: the tables and a rebuild from the journal; the daemon's book and one loaded from the store."""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from kekbridge.execution.book import Book
from kekbridge.execution.load_book import load_book
from kekbridge.model import RateLimits
from kekbridge.store import codec, journal, projector, webhooks
from kekbridge.store.codec import EXACT
from kekbridge.store.connections import FILE_NAME
from kekbridge.store.database import Database

_BESIDE = ("", "-wal", "-shm")
_AMOUNT = re.compile(r"-?[0-9]+(\.[0-9]+)?")
# Seconds after the present at which uses of the limits are compared: cool-downs and windows end in between.
_LOOKS_S = (0, 1, 30, 59, 61, 600, 3599, 3601, 86_399)


def table_rows(connection: sqlite3.Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Every row that the projector writes, by table and sorted; a tally or an hour's results of nothing count as none."""
    found = {
        table: sorted((tuple(map(_value, row)) for row in connection.execute(f"SELECT * FROM {table}")), key=repr)
        for table in projector.TABLES
    }
    found["tallies"] = [row for row in found["tallies"] if row[-1]]
    # A fill that is written together with its owner leaves no hour without one; written before it, that hour's sums end at zero.
    for table in ("results", "day_results"):
        found[table] = [row for row in found[table] if any(row[3:])]
    states = connection.execute("SELECT * FROM settings WHERE key LIKE 'trading_state:%'")
    return found | {"trading states": sorted(tuple(row) for row in states)}


def _value(stored: Any) -> Any:
    """What a column says: 0.10 and 0.1 are the same amount."""
    is_amount = isinstance(stored, str) and _AMOUNT.fullmatch(stored)
    return Decimal(stored).normalize(EXACT) if is_amount else stored


def book_contents(
    connection: sqlite3.Connection, book: Book, *, account_rates: RateLimits, now: datetime
) -> dict[str, Any]:
    """All that decisions at `now` and later can take from a book, for every webhook of the store."""
    yesterday = codec.day_of(now - timedelta(days=1))
    contents = dict(book.comparable())
    days = contents["days"]
    assert isinstance(days, Mapping)
    contents["days"] = {key: totals for key, totals in days.items() if key[1] >= yesterday}
    queued = sorted(book.queued.values(), key=lambda order: order.sequence)
    for webhook in webhooks.list_all(connection):
        rates, cooldown_s = webhook.settings.rates, webhook.settings.limits.cooldown_s or 0
        for number, order in enumerate(order for order in queued if order.webhook_id == webhook.id):
            contents[f"recheck of queued order {number} of {webhook.name}"] = book.usage(
                webhook.id, now=now, cooldown_s=cooldown_s, excluding=order
            )
        for seconds in _LOOKS_S:
            at = now + timedelta(seconds=seconds)
            contents[f"usage of {webhook.name} after {seconds} s"] = book.usage(
                webhook.id, now=at, cooldown_s=cooldown_s
            )
            contents[f"excess of {webhook.name} after {seconds} s"] = book.rates.find_excess(
                webhook.id, rates=rates, account_rates=account_rates, now=at
            )
    return contents


def loaded_contents(connection: sqlite3.Connection, *, account_rates: RateLimits, now: datetime) -> dict[str, Any]:
    """`book_contents` of a book that is loaded from the store, as a start does."""
    book = Book()
    load_book(connection, book, account_rates=account_rates, now=now)
    return book_contents(connection, book, account_rates=account_rates, now=now)


def assert_rebuilt_equal(
    data_dir: Path, *, account_rates: RateLimits | None = None, now: datetime | None = None
) -> None:
    """Rebuild the tables of a stopped daemon from its journal, on a copy: the chain is whole, and rows and book stay what they were.

    For a journal that is complete: a database from before the journal keeps older rows in its tables only.
    """
    rates, now = account_rates or RateLimits(), now or datetime.now(UTC)
    with tempfile.TemporaryDirectory() as directory:
        for suffix in _BESIDE:
            file = data_dir / (FILE_NAME + suffix)
            if file.exists():
                shutil.copy2(file, directory)
        database = Database.open(Path(directory), create=False)
        try:
            with database.transaction() as connection:
                assert journal.verify(connection) is None
                rows = table_rows(connection)
                contents = loaded_contents(connection, account_rates=rates, now=now)
                projector.rebuild(connection)
                assert_same(table_rows(connection), rows)
                assert_same(loaded_contents(connection, account_rates=rates, now=now), contents)
        finally:
            database.close_now()


def assert_same(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compare part by part, so that a difference is shown in a few lines."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if isinstance(value, list):
            extra, missing = (
                [one for one in a if one not in b] for a, b in ((found[name], value), (value, found[name]))
            )
            assert (extra, missing) == ([], []), f"{name}: found {extra}, expected {missing}"
        assert found[name] == value, name
