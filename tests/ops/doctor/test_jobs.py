"""Scheduled work: an old backup, a failing job, a missing or ending alert and a missing channel are each a line with its fix."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kekbridge.config import Settings, Vault, load_settings
from kekbridge.model import Mode, WebhookSettings
from kekbridge.model.check import Check
from kekbridge.ops import backup
from kekbridge.ops.doctor import jobs
from kekbridge.ops.notifier import NOTIFY_URLS
from kekbridge.store import conditions, job_runs, read_positions, webhooks
from kekbridge.store.database import Database
from kekbridge.store.read_positions import RecordKind
from kekbridge.vault import open_vault
from tests.fresh_database import open_database
from tests.store.factories import NOW


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(tmp_path)
    yield opened
    opened.close_now()


def run_checks(database: Database, path: Path, **overrides: Any) -> dict[str, Check]:
    named = {name.replace("__", "."): value for name, value in overrides.items()}
    settings = load_settings(environment={}, overrides={"mode": "live", **named})
    with database.snapshot() as connection:
        return {check.name: check for check in jobs.checks(connection, settings, path, NOW)}


def record_backup(database: Database, made_at: datetime) -> None:
    with database.transaction() as connection:
        backup.record(connection, made_at)


def test_backup_age_and_directory(database: Database, tmp_path: Path) -> None:
    """No backup, or an old one, is a warning with the schedule; backups on the data's disk are a warning."""
    assert run_checks(database, tmp_path)["backup"].level == "warning"
    assert "nightly at 03:30 UTC into" in run_checks(database, tmp_path)["backup"].text
    record_backup(database, NOW - timedelta(days=3))
    assert run_checks(database, tmp_path)["backup"].level == "warning"
    record_backup(database, NOW - timedelta(hours=9))
    found = run_checks(database, tmp_path, backup__nightly=False)
    assert (found["backup"].level, found["backup"].text) == ("ok", "last one 9 h ago; no nightly backup")
    assert "backup place" not in found
    assert run_checks(database, tmp_path)["backup place"].level == "warning"
    assert "backup place" not in run_checks(database, tmp_path, backup__dir="/mnt/other")


def test_failing_jobs_are_named(database: Database, tmp_path: Path) -> None:
    """Each with its error; if none fails, one line has their number."""

    def ran(connection: sqlite3.Connection, error: str | None) -> None:
        job_runs.record_run(connection, "equity", error=error, took_ms=1, next_at=None, now=NOW)

    with database.transaction() as connection:
        ran(connection, "no answer")
    assert run_checks(database, tmp_path)["job"].text == "equity failed 1 time in a row: no answer"
    with database.transaction() as connection:
        ran(connection, None)
    assert run_checks(database, tmp_path)["jobs"].text == "1 scheduled, none failing"


def test_incomplete_records_are_named(database: Database, tmp_path: Path) -> None:
    """A kind that is behind the others or was never read, and how many orders lack a fill; one line if nothing is missing."""
    assert {"records", "fills"} & run_checks(database, tmp_path).keys() == set()
    with database.transaction() as connection:
        for kind in set(RecordKind) - {RecordKind.FUNDING}:
            read_positions.move(connection, kind, NOW)
    assert run_checks(database, tmp_path)["records"].text == "funding of the account: not read completely yet"
    with database.transaction() as connection:
        read_positions.move(connection, RecordKind.FUNDING, NOW - timedelta(hours=1))
    found = run_checks(database, tmp_path)["records"]
    assert (found.level, found.text) == (
        "warning",
        "funding of the account: read completely up to 2026-01-15 09:30 UTC only",
    )
    with database.transaction() as connection:
        read_positions.move(connection, RecordKind.FUNDING, NOW - timedelta(minutes=2))
    found = run_checks(database, tmp_path)["records"]
    assert (found.level, found.text) == ("ok", "fills and account complete up to 2026-01-15 10:28 UTC")
    with database.transaction() as connection:
        connection.execute("PRAGMA defer_foreign_keys = ON")
        connection.execute("INSERT INTO incomplete_orders VALUES ('kb-1', 'own')")
        checks = {each.name: each for each in jobs.checks(connection, load_settings(environment={}), tmp_path, NOW)}
        connection.execute("DELETE FROM incomplete_orders")
    assert checks["fills"].text == "1 order lacks a fill: P&L and daily loss are not complete"


@pytest.mark.parametrize(("days", "level"), [(30, "ok"), (3, "warning"), (-1, "broken")])
def test_expiring_and_missing_alerts(database: Database, tmp_path: Path, days: int, level: str) -> None:
    """By the configured end date; a missing alert shows until one is received; disabled webhooks are not checked."""
    expecting = WebhookSettings(expect_alert_every_s=3600, alert_expires_at=NOW + timedelta(days=days))
    with database.transaction() as connection:
        webhooks.create(connection, webhook_id="hook", name="trend", settings=expecting, now=NOW)
    assert run_checks(database, tmp_path)["alerts"].level == level
    with database.transaction() as connection:
        webhooks.change_settings(connection, "hook", replace(expecting, alert_expires_at=None), now=NOW)
        conditions.begin(connection, "heartbeat:hook", "heartbeat_missed", now=NOW - timedelta(hours=2))
    assert run_checks(database, tmp_path)["alerts"].text == "trend: no alert for more than 1 h (since 2 h ago)"
    with database.transaction() as connection:
        webhooks.disable(connection, "hook", now=NOW)
    assert "alerts" not in run_checks(database, tmp_path)


def test_missing_channels_are_a_warning_in_live_mode(tmp_path: Path) -> None:
    """Channels are shown by kind and fingerprint only."""
    vault = open_vault(Vault(backend="key_file"), tmp_path, Mode.PAPER)
    live = Settings(mode=Mode.LIVE)
    assert [check.level for check in jobs.channels(live, vault)] == ["warning"]
    assert [check.level for check in jobs.channels(Settings(), vault)] == ["ok"]
    vault.set(NOTIFY_URLS, b"json://127.0.0.1/TOKEN")
    (found,) = jobs.channels(live, vault)
    assert found.level == "ok"
    assert "TOKEN" not in found.text
    assert list(jobs.channels(live, None)) == []
