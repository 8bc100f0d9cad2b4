"""Checks of scheduled work: backups, jobs, expected alerts, notification channels. Read-only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from kekbridge.config import Settings
from kekbridge.formatting import age, duration
from kekbridge.model import Mode
from kekbridge.model.check import Check
from kekbridge.ops.backup import LAST_BACKUP, directory_of
from kekbridge.ops.notifier import NOTIFY_URLS, channels_of
from kekbridge.ops.watches import ENDS_SOON, late_records, orders_lacking_fills
from kekbridge.store import codec, conditions, job_runs, read_positions, webhooks
from kekbridge.store import settings as stored_settings
from kekbridge.vault import OpenVault

_BACKUP_AGE: Final = timedelta(days=2)


def checks(connection: sqlite3.Connection, settings: Settings, data_dir: Path, now: datetime) -> list[Check]:
    """Check backups, jobs and expected alerts, as stored."""
    return [
        *_backup(connection, settings, data_dir, now),
        *_jobs(connection),
        *_expected(connection, now),
        *_records(connection, settings),
    ]


def _backup(connection: sqlite3.Connection, settings: Settings, data_dir: Path, now: datetime) -> Iterable[Check]:
    last = stored_settings.get_value(connection, LAST_BACKUP)
    at = codec.optional_time(last) if isinstance(last, str) else None
    configured = settings.backup
    plan = (
        f"nightly at {configured.at} UTC into {directory_of(configured, data_dir)}"
        if configured.nightly
        else "no nightly backup"
    )
    if at is None or now - at > _BACKUP_AGE:
        level: Any = "ok" if settings.mode is Mode.PAPER else "warning"
        text = "no backup yet" if at is None else f"the last backup is from {at:%Y-%m-%d}"
        fix = "let the daemon run at night" if configured.nightly else "set backup.nightly = true"
        yield Check("backup", level, f"{text}; {plan}", f"`kekbridge backup FILE`, or {fix}")
    else:
        yield Check("backup", "ok", f"last one {age(at, now)}; {plan}")
    if configured.nightly and not configured.dir and settings.mode is Mode.LIVE:
        text = "nightly backups are on the same disk as the data and are lost with it"
        yield Check("backup place", "warning", text, "name a directory on another disk in backup.dir")


def _jobs(connection: sqlite3.Connection) -> Iterable[Check]:
    runs = job_runs.list_runs(connection)
    failing = [run for run in runs if run.failures]
    for run in failing:
        text = f"{run.name} failed {run.failures} {'time' if run.failures == 1 else 'times'} in a row: {run.error}"
        yield Check("job", "warning", text, "see `kekbridge jobs` and the log")
    if runs and not failing:
        yield Check("jobs", "ok", f"{len(runs)} scheduled, none failing")


def _expected(connection: sqlite3.Connection, now: datetime) -> Iterable[Check]:
    holding = conditions.list_active(connection)
    for webhook in webhooks.list_all(connection):
        if not webhook.enabled:
            continue
        missed = holding.get(f"heartbeat:{webhook.id}")
        if missed is not None:
            every = duration(webhook.settings.expect_alert_every_s or 0)
            text = f"{webhook.name}: no alert for more than {every} (since {age(missed.since, now)})"
            yield Check("alerts", "warning", text, "check that the alert is still active at TradingView")
        ends_at = webhook.settings.alert_expires_at
        if ends_at is None:
            continue
        fix = f"renew it there, then `kekbridge webhook edit {webhook.name} --alert-expires 60d`"
        if ends_at <= now:
            yield Check("alerts", "broken", f"{webhook.name}: its alert ended at TradingView {age(ends_at, now)}", fix)
        elif ends_at - now <= ENDS_SOON:
            yield Check("alerts", "warning", f"{webhook.name}: its alert ends at TradingView {age(ends_at, now)}", fix)
        else:
            yield Check("alerts", "ok", f"{webhook.name}: its alert ends at TradingView {age(ends_at, now)}")


def _records(connection: sqlite3.Connection, settings: Settings) -> Iterable[Check]:
    """What P&L and limits follow from: fills of every order, and the account's records."""
    found = read_positions.read_all(connection)
    if not found:
        return  # no daemon has read any yet
    missing = orders_lacking_fills(connection)
    late = late_records(connection, max(found.values()), reconcile_every_s=settings.queue.reconcile_every_s)
    if missing is not None:
        text, fix = (
            f"{missing}: P&L and daily loss are not complete",
            "compare with the exchange's trades if it goes on",
        )
        yield Check("fills", "warning", text, f"the daemon looks for it; {fix}")
    for text in late:
        yield Check("records", "warning", text, "the daemon tries again every minute; see `kekbridge jobs` and the log")
    if missing is None and not late:
        yield Check("records", "ok", f"fills and account complete up to {min(found.values()):%Y-%m-%d %H:%M} UTC")


def channels(settings: Settings, vault: OpenVault | None) -> Iterable[Check]:
    """Check that there is a notification channel."""
    if vault is None:
        return
    found = channels_of(vault.get(NOTIFY_URLS))
    if found:
        yield Check("notify", "ok", ", ".join(channel.name for channel in found))
        return
    level: Any = "ok" if settings.mode is Mode.PAPER else "warning"
    yield Check("notify", level, "no channel: fills, limits and errors are not sent to you", "`kekbridge notify add`")
