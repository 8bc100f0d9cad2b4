"""Last and next run of each job, for `kekbridge jobs` and to catch up on runs missed while the daemon was stopped.

A job that keeps failing gets one event in the history, and one more when it works again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from kekbridge.store import codec, conditions, settings

_PREFIX: Final = "job:"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRun:
    """State of one job."""

    #: As in `kekbridge jobs`.
    name: str
    #: When the job was first scheduled.
    since: datetime
    #: None: it has not run yet.
    last_at: datetime | None
    #: None: not scheduled.
    next_at: datetime | None
    #: Duration of the last run in milliseconds.
    took_ms: int
    #: All runs, and those that failed.
    runs: int
    failed: int
    #: Failures in a row; 0 after a success.
    failures: int
    #: Of the last run; None if it succeeded.
    error: str | None


def save_schedule(connection: sqlite3.Connection, next_at: Mapping[str, datetime | None], *, now: datetime) -> None:
    """Save when each job runs next; jobs that are not in `next_at` are removed."""
    for run in list_runs(connection):
        if run.name not in next_at:
            settings.remove(connection, _PREFIX + run.name)
    for name, moment in next_at.items():
        stored = settings.get_value(connection, _PREFIX + name) or {}
        _save(connection, name, stored, now=now, next_at=codec.optional_time_text(moment))


def record_run(
    connection: sqlite3.Connection,
    name: str,
    *,
    error: str | None,
    took_ms: int,
    next_at: datetime | None,
    now: datetime,
    report_after: int = 3,
) -> None:
    """Record a run. After `report_after` failures in a row one event is appended: a single lost response is not worth one."""
    stored = settings.get_value(connection, _PREFIX + name) or {}
    failures = 0 if error is None else 1 + int(stored.get("failures", 0))
    _save(
        connection,
        name,
        stored,
        now=now,
        last_at=codec.time_text(now),
        next_at=codec.optional_time_text(next_at),
        took_ms=took_ms,
        runs=int(stored.get("runs", 0)) + 1,
        failed=int(stored.get("failed", 0)) + (error is not None),
        failures=failures,
        error=error,
    )
    if failures >= report_after:
        conditions.begin(connection, _PREFIX + name, "job_failed", now=now, data={"job": name, "error": error})
    elif error is None:
        conditions.end(connection, _PREFIX + name, "job_recovered", now=now, data={"job": name})


def list_runs(connection: sqlite3.Connection) -> tuple[JobRun, ...]:
    """Every scheduled job, by name."""
    rows = connection.execute("SELECT key, updated_at FROM settings WHERE key LIKE 'job:%' ORDER BY key").fetchall()
    found = ((key, updated_at, settings.get_value(connection, key)) for key, updated_at in rows)
    return tuple(_run(key, updated_at, stored) for key, updated_at, stored in found if isinstance(stored, dict))


def _save(
    connection: sqlite3.Connection, name: str, stored: Mapping[str, Any], *, now: datetime, **changed: object
) -> None:
    value = {"since": codec.time_text(now), **stored, **changed}
    settings.set_value(connection, _PREFIX + name, value, now=now)


def _run(key: str, updated_at: str, stored: Mapping[str, Any]) -> JobRun:
    last_at = codec.optional_time(stored.get("last_at"))
    return JobRun(
        name=key.removeprefix(_PREFIX),
        since=codec.parse_time(stored.get("since", updated_at)),
        last_at=last_at,
        next_at=codec.optional_time(stored.get("next_at")),
        took_ms=int(stored.get("took_ms", 0)),
        runs=int(stored.get("runs", 0)),
        failed=int(stored.get("failed", 0)),
        failures=int(stored.get("failures", 0)),
        error=stored.get("error"),
    )
