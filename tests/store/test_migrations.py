"""Databases of earlier versions: counted and summed as if this version had recorded them, with their history, orders and identities."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
from collections.abc import Iterable
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import sqlite_utils
from sqlite_utils.migrations import Migrations

from kekbridge import __version__
from kekbridge.errors import ConfigError
from kekbridge.execution import transitions
from kekbridge.execution.book import Book
from kekbridge.execution.load_book import load_recent
from kekbridge.model import Order, OrderStatus, OrderType, StrategyHistory, TradingState
from kekbridge.model.orders import ExitKind, ExitStatus
from kekbridge.model.statistics import Report, build_report
from kekbridge.store import alerts, codec, journal, orders, projector, rejected_requests, settings, statistics
from kekbridge.store.codec import to_json
from kekbridge.store.connections import FILE_NAME, connect, copies_before_migration, prepare_file
from kekbridge.store.database import Database
from kekbridge.store.migrations import MIGRATIONS
from tests.store.factories import NOW, admitting, exit_intent, fill, intent, new_alert
from tests.stored import accept, book_on, bring, record_fill, report, store_alert, store_order

FIRST = [MIGRATIONS[0][0]]
BEFORE_THE_JOURNAL = [name for name, _ in MIGRATIONS if name < "0008"]
#: What the old tables held of today's; the history is copied with hashes of its time.
KEPT = (
    "webhooks",
    "alerts",
    "orders",
    "fills",
    "exits",
    "protections",
    "cancels",
    "courses",
    "daily_usage",
    "refusals",
    "settings",
)


def old_database(data_dir: Path, names: Iterable[str]) -> None:
    """The tables of an earlier version, made by its migrations, empty."""
    path = data_dir / FILE_NAME
    prepare_file(path, create=True)
    migrations = Migrations("kekbridge")
    with closing(connect(path)) as connection:
        for name, steps in MIGRATIONS:
            if name not in names:
                continue

            @migrations(name=name)
            def run(db: sqlite_utils.Database, steps: object = steps) -> None:
                assert isinstance(steps, tuple)
                for step in steps:
                    if isinstance(step, str):
                        db.conn.execute(step)
                    else:
                        step(connection)

        migrations.apply(sqlite_utils.Database(connection, execute_plugins=False))


def copy_rows(source: sqlite3.Connection, data_dir: Path, tables: Iterable[str]) -> None:
    """Copy what a database holds into the tables of an older one; columns that it does not have are left out."""
    with closing(connect(data_dir / FILE_NAME)) as copy:
        copy.execute("BEGIN")
        known = {name for (name,) in copy.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        copy.execute("PRAGMA defer_foreign_keys = ON")
        for table in tables:
            if table in known:
                names = [row[1] for row in copy.execute(f"PRAGMA table_info({table})")]
                for row in source.execute(f"SELECT {', '.join(names)} FROM {table}"):
                    values = ", ".join("?" * len(names))
                    copy.execute(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({values})", tuple(row))
        previous = journal.GENESIS
        for row in source.execute("SELECT sequence, at, kind, alert_id, client_order_id, data FROM journal"):
            digest = hashlib.sha256((previous + to_json(list(row))).encode()).hexdigest()
            copy.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, previous, digest))
            previous = digest
        copy.execute("COMMIT")


def trade(database: Database) -> None:
    """An entry whose stop was hit, fills of two webhooks in two hours, a refused guess."""
    with database.transaction() as connection:
        book = book_on(connection)
        entry = accept(book, store_order(book, status=OrderStatus.SUBMITTING), order_id="7")
        record_fill(book, entry)
        later = fill(order_id="9", realized_pnl=Decimal("-1.25"), executed_at=NOW + timedelta(hours=2))
        book.record_fill(later, order=None)
        book.record_exit(later, entry=entry)
        for status, executed in ((OrderStatus.ACCEPTED, 0), (OrderStatus.FILLED, 1)):
            leg = ExitStatus(
                kind=ExitKind.STOP_LOSS,
                trigger_price=Decimal(60000),
                status=status,
                executed_quantity=Decimal(executed),
            )
            book.record_exits(entry, (leg,), now=NOW)
        for _ in range(3):
            rejected_requests.record(connection, remote="192.0.2.9", code="api_key_unknown", error="no", now=NOW)


def reckoned(database: Database) -> tuple[Report, Report]:
    with database.snapshot() as connection:
        every, late = (
            build_report(statistics.gather_facts(connection, since=since, now=NOW + timedelta(hours=3)))
            for since in (None, NOW + timedelta(hours=1, minutes=5))
        )
    return every, late


def test_first_version_gives_the_same_statistics(tmp_path: Path) -> None:
    """Rows of 0001 migrated to the newest tables give the same statistics as rows recorded with them."""
    new = Database.open(tmp_path / "new")
    trade(new)
    fresh = reckoned(new)
    old_database(tmp_path / "old", FIRST)
    with new.snapshot() as source:
        copy_rows(source, tmp_path / "old", ("alerts", "orders", "fills", "exits", "refusals"))
    new.close_now()
    old = Database.open(tmp_path / "old")
    brought = reckoned(old)
    old.close_now()
    assert brought == fresh
    every, late = brought
    assert (every.counts.refused, every.closing_orders, every.stop_hit_rate) == (3, 1, Decimal(1))
    assert (late.realized_pnl, late.counts.received, late.stop_hit_rate) == (Decimal("-1.25"), 0, None)


def test_rejected_requests_stay_counted_after_deletion(tmp_path: Path) -> None:
    """Old rows of unauthenticated requests are deleted; received = sum of the groups must not shrink by that."""
    database = Database.open(tmp_path / "data")
    trade(database)
    with database.transaction() as connection:
        connection.execute("DELETE FROM refusals")
    every, _ = reckoned(database)
    database.close_now()
    assert every.counts.by_code == {"api_key_unknown": 3}


# --------------------------------------------------------------------------------------------------------- the journal (0008)

HISTORY = StrategyHistory(start=Decimal("0.5"), steps=())


@pytest.fixture
def open_orders() -> list[Order]:
    """The unfinished orders of the old database, filled by `old`."""
    return []


@pytest.fixture
def old(tmp_path: Path, open_orders: list[Order]) -> Database:
    """A database of the version before the journal, with an order in every state, opened by this version."""
    new = Database.open(tmp_path / "new")
    with new.transaction() as connection:
        book = book_on(connection)
        for status in OrderStatus:
            limit = intent(order_type=OrderType.LIMIT, limit_price=Decimal(64000))
            store_order(book, limit, status, alert_id=f"tv-{status}", identity=f"id:{status}", fired_at=NOW)
        store_alert(
            book, new_alert(), admitting(exit_intent(), intent(after_leg=0), strategy_histories=(("X", HISTORY),))
        )
        store_alert(book, new_alert(id="01KFWINDOW", identity=None, window_s=60, fingerprint="same", alert_id=None))
        settings.set_trading_state(connection, TradingState.EXITS_ONLY, reason="r", by="b", now=NOW, scope="other")
        settings.set_value(connection, settings.EQUITY_PEAK, Decimal("1000.5"), now=NOW)
        open_orders += book.orders.values()
    old_database(tmp_path / "old", BEFORE_THE_JOURNAL)
    with new.snapshot() as source:
        copy_rows(source, tmp_path / "old", KEPT)
    new.close_now()
    with closing(connect(tmp_path / "old" / FILE_NAME)) as before:
        for order in open_orders:
            before.execute(
                "INSERT INTO reservations VALUES (?, 'hook', ?, '0.01', '650', 1, 0, '00000065000')",
                (order.client_order_id, order.intent.symbol),
            )
        before.execute("INSERT INTO entry_times (at) VALUES ('2026-01-15T10:30:05.000Z')")
    return Database.open(tmp_path / "old")


def test_chain_is_whole_across_the_migration(old: Database) -> None:
    """The old history stays as it was, what is appended continues it, and a change of an old row is still found."""
    with old.transaction() as connection:
        before, hash_before = journal.head(connection)
        assert before > 20
        assert journal.verify(connection) is None
        store_order(book_on(connection), status=OrderStatus.FILLED)
        assert journal.verify(connection) is None
        assert journal.hash_at(connection, before) == hash_before
        connection.execute("UPDATE journal SET kind = 'x' WHERE sequence = 5")
        assert journal.verify(connection) == 5
    old.close_now()


def test_old_rows_are_not_projected(old: Database) -> None:
    """They were written with their tables: nothing is counted twice, and no old row is read as one of this version."""
    with old.snapshot() as connection:
        assert projector.position(connection) == journal.head(connection)[0]
        assert len(alerts.search(connection).alerts) == len(OrderStatus) + 2
    old.close_now()


def test_open_orders_are_in_the_book(old: Database, open_orders: list[Order]) -> None:
    """With their room, their legs and the day's totals, and they go on from where they were."""
    with old.transaction() as connection:
        book = book_on(connection)
        assert list(book.orders.values()) == open_orders
        fresh = Book()
        for order in open_orders:
            fresh.add(order)
        assert book.commitments == fresh.commitments
        assert book.equity_peak == Decimal("1000.5")
        assert book.usage("hook", now=NOW).strategy_histories == {"X": HISTORY}
        assert book.control("other", now=NOW).state is TradingState.EXITS_ONLY
        day = book.day("hook", "2026-01-15")
        assert (
            day.orders == sum(order.is_entry for order in orders.list_orders(connection)) - 3
        )  # never reached the exchange
        for order in open_orders:
            if order.status is OrderStatus.QUEUED:
                bring(book, order, OrderStatus.FILLED)
            else:
                report(book, order, OrderStatus.FILLED, order.intent.quantity)
        assert orders.unfinished(connection) == ()
        assert book_on(connection).comparable() == book.comparable()
        assert book.commitments == {}
        assert {alert.status for alert in alerts.search(connection).alerts} >= {"filled", "denied", "rejected"}
    old.close_now()


def test_identities_of_old_alerts_are_still_duplicates(old: Database) -> None:
    """A resend after the upgrade is the alert of before, with or without an identity of its own."""
    with old.snapshot() as connection:
        for status in OrderStatus:
            stored = alerts.find(connection, f"tv-{status}")
            identity = f"id:{status}@{codec.time_text(NOW)}@{stored.symbol}"
            assert journal.find_identity(connection, "hook", identity) == stored.id
            assert journal.find_identity(connection, "other", identity) is None
        for seconds, wanted in ((1, "01KFWINDOW"), (59, "01KFWINDOW"), (60, None)):
            received = NOW + timedelta(seconds=seconds)
            recent = load_recent(connection, now=received)
            assert recent.find("hook", "same", markets=["BTCUSDT.P"], now=received, window_s=60) == wanted
    old.close_now()


def test_late_news_of_an_old_order_is_recorded(old: Database) -> None:
    """An order that was closed as unknown by the old version turns up after the upgrade."""
    with old.transaction() as connection:
        book = book_on(connection)
        order = alerts_order(connection, "tv-unknown")
        closed = book.change(order, transitions.closed_unknown(order, reason="not found", now=NOW), now=NOW)
        back = report(book, closed, OrderStatus.PARTIALLY_FILLED, Decimal("0.004"))
        assert orders.get(connection, order.client_order_id) == back == book.orders[order.client_order_id]
        assert journal.verify(connection) is None
    old.close_now()


def alerts_order(connection: sqlite3.Connection, reference: str) -> Order:
    return orders.of_alert(connection, alerts.find(connection, reference).id)[0]


def test_before_a_migration_a_copy_is_kept_for_the_way_back(tmp_path: Path) -> None:
    """Of what an earlier version has used, once: a new database and one that is up to date have none, older copies go."""
    Database.open(tmp_path, create=True).close_now()
    assert copies_before_migration(tmp_path) == []
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    old_database(earlier, BEFORE_THE_JOURNAL)
    forgotten = earlier / "before-migration-0002.db"
    forgotten.write_bytes(b"")
    os.utime(forgotten, (0, 0))
    for _ in range(2):
        Database.open(earlier, create=False).close_now()
    (copy,) = copies_before_migration(earlier)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with closing(sqlite3.connect(copy)) as connection:
        applied = [row[0] for row in connection.execute("SELECT name FROM _sqlite_migrations ORDER BY id")]
    assert applied == BEFORE_THE_JOURNAL


@pytest.mark.parametrize("migrated_by", [None, "9.1.0"])
def test_a_database_of_a_newer_version_is_refused_with_the_way_back(tmp_path: Path, migrated_by: str | None) -> None:
    """One line says which version it belongs to, and which file brings back this version's data; nothing is changed."""
    Database.open(tmp_path).close_now()
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as raw, raw:
        assert raw.execute("SELECT value FROM settings WHERE key = 'migrated_by'").fetchone() == (f'"{__version__}"',)
        raw.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('kekbridge', '9999_later', '')"
        )
        if migrated_by is not None:
            raw.execute("UPDATE settings SET value = ? WHERE key = 'migrated_by'", (f'"{migrated_by}"',))

    def refusal() -> str:
        with pytest.raises(ConfigError) as refused:
            Database.open(tmp_path)
        assert "\n" not in refused.value.message
        return refused.value.message

    whose = "a newer kekbridge" if migrated_by is None else "kekbridge 9.1.0"
    assert f"belongs to {whose} (migration 9999_later is unknown to {__version__}): use that version, or" in refusal()
    assert refusal().endswith(f"restore a backup of {__version__} with `kekbridge restore FILE --data-dir {tmp_path}`")
    backup = tmp_path / "backups" / f"before-upgrade-from-{__version__}-0a1b2c3d.zip"
    backup.parent.mkdir()
    backup.touch()
    assert f"`kekbridge restore {backup} --data-dir {tmp_path}`" in refusal()
    copy = tmp_path / "before-migration-9999_later.db"
    copy.touch()
    assert f"the data of before its upgrade with `kekbridge restore {copy} --data-dir {tmp_path}`" in refusal()
