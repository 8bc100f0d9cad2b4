"""Databases of earlier versions are counted and summed as if this version had recorded them."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import sqlite_utils
from sqlite_utils.migrations import Migrations

from kekbridge.model import OrderStatus
from kekbridge.model.orders import ExitKind, ExitStatus
from kekbridge.model.statistics import Report, build_report
from kekbridge.store import fills, order_lifecycle, protection, rejected_requests, reservations, statistics
from kekbridge.store.admissions import admit
from kekbridge.store.connections import FILE_NAME, prepare_file
from kekbridge.store.database import Database
from kekbridge.store.migrations import MIGRATIONS
from tests.store.factories import EXPIRES, NO_RATES, NOW, admitting, fill, intent, new_alert


def old_database(data_dir: Path) -> None:
    """The tables of the first version, empty."""
    prepare_file(data_dir / FILE_NAME, create=True)
    first = Migrations("kekbridge")
    name, statements = MIGRATIONS[0]

    @first(name=name)
    def make(db: sqlite_utils.Database) -> None:
        for statement in statements:
            assert isinstance(statement, str)
            db.conn.execute(statement)

    made = sqlite_utils.Database(data_dir / FILE_NAME, execute_plugins=False)
    first.apply(made)
    made.close()


def trade(database: Database) -> None:
    """An entry whose stop was hit, fills of two webhooks in two hours, a refused guess."""
    with database.transaction() as connection:
        admission = admit(
            connection, new_alert(), admitting(intent()), rates=NO_RATES, now=NOW, expires_at=EXPIRES
        )  # fmt: skip
        name = admission.orders[0].client_order_id
        order_lifecycle.claim(connection, name, now=NOW)
        entry = order_lifecycle.mark_accepted(connection, name, order_id="7", now=NOW)
        fills.record(connection, [fill(order_id="7")])
        later = fill(order_id="9", realized_pnl=Decimal("-1.25"), executed_at=NOW + timedelta(hours=2))
        fills.record(connection, [later])
        fills.record_exits(connection, [later], entry=entry)
        leg = ExitStatus(
            kind=ExitKind.STOP_LOSS,
            trigger_price=Decimal(60000),
            status=OrderStatus.ACCEPTED,
            executed_quantity=Decimal(0),
        )
        protection.record_exits(connection, entry, [leg], now=NOW)
        hit = ExitStatus(
            kind=ExitKind.STOP_LOSS,
            trigger_price=Decimal(60000),
            status=OrderStatus.FILLED,
            executed_quantity=Decimal(1),
        )
        protection.record_exits(connection, entry, [hit], now=NOW)
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
    old_database(tmp_path / "old")
    with new.snapshot() as source:
        copy = sqlite_utils.Database(tmp_path / "old" / FILE_NAME, execute_plugins=False)
        for table in ("alerts", "orders", "fills", "exits", "refusals", "events"):
            names = ", ".join(row[1] for row in copy.conn.execute(f"PRAGMA table_info({table})"))  # later ones are new
            rows = [tuple(row) for row in source.execute(f"SELECT {names} FROM {table}")]
            copy.conn.executemany(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(rows[0]))})", rows)
        copy.conn.commit()
        copy.close()
    new.close_now()
    old = Database.open(tmp_path / "old")
    brought = reckoned(old)
    old.close_now()
    assert brought == fresh
    every, late = brought
    assert (every.counts.refused, every.closing_orders, every.stop_hit_rate) == (3, 1, Decimal(1))
    assert (late.realized_pnl, late.counts.received, late.stop_hit_rate) == (Decimal("-1.25"), 0, None)


def test_open_orders_of_an_older_version_keep_their_room(tmp_path: Path) -> None:
    """Orders open during the migration are in the sums with their price, as if admitted with them."""
    database = Database.open(tmp_path)
    for symbol, price in (("PERP_BTC_USDC", "65000.5"), ("PERP_BTC_USDC", "9000"), ("PERP_ETH_USDC", "1800")):
        decide = admitting(intent(symbol=symbol, reference_price=Decimal(price)))
        with database.transaction() as connection:
            admission = admit(connection, new_alert(), decide, rates=NO_RATES, now=NOW, expires_at=EXPIRES)
            order_lifecycle.claim(connection, admission.orders[0].client_order_id, now=NOW)
            order_lifecycle.mark_accepted(connection, admission.orders[0].client_order_id, order_id="7", now=NOW)
    with database.transaction() as connection:
        known = reservations.open_commitments(connection)
        assert known["PERP_BTC_USDC"].price == Decimal("65000.5")
        for step in (
            "DROP TABLE commitments",
            "DROP INDEX reservations_price",
            "ALTER TABLE reservations DROP COLUMN price",
            "DELETE FROM _sqlite_migrations WHERE name = '0007_commitments'",
        ):
            connection.execute(step)
    database.close_now()
    again = Database.open(tmp_path)
    with again.snapshot() as connection:
        assert reservations.open_commitments(connection) == known
    again.close_now()


def test_rejected_requests_stay_counted_after_deletion(tmp_path: Path) -> None:
    """Old rows of unauthenticated requests are deleted; received = sum of the groups must not shrink by that."""
    database = Database.open(tmp_path / "data")
    trade(database)
    with database.transaction() as connection:
        connection.execute("DELETE FROM refusals")
    every, _ = reckoned(database)
    database.close_now()
    assert every.counts.by_code == {"api_key_unknown": 3}
