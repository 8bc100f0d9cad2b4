"""When each job of the daemon last ran, how it went and when it runs next: for `kekbridge jobs`, and for what a stopped daemon missed.

A job that keeps failing is told of in the history once, and once more when it works again.
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
    """`failures` in a row, 0 after a success; `error` of the last run; `runs` and `failed` count all; `last_at` None: never ran.

    `since` is when a daemon first knew the job.
    """

    name: str
    since: datetime
    last_at: datetime | None
    next_at: datetime | None
    took_ms: int
    runs: int
    failed: int
    failures: int
    error: str | None


def plan(connection: sqlite3.Connection, next_at: Mapping[str, datetime | None], *, now: datetime) -> None:
    """Note when each job of the timetable runs next; a job that is not in it any more is forgotten."""
    for run in list_runs(connection):
        if run.name not in next_at:
            settings.remove(connection, _PREFIX + run.name)
    for name, moment in next_at.items():
        kept = settings.get_value(connection, _PREFIX + name) or {}
        _keep(connection, name, kept, now=now, next_at=codec.optional_text(moment))


def record(
    connection: sqlite3.Connection,
    name: str,
    *,
    error: str | None,
    took_ms: int,
    next_at: datetime | None,
    now: datetime,
    told_after: int = 3,
) -> None:
    """Note a run. `told_after` failures in a row go into the history, once: one lost answer of the exchange is nobody's business."""
    kept = settings.get_value(connection, _PREFIX + name) or {}
    failures = 0 if error is None else 1 + int(kept.get("failures", 0))
    _keep(
        connection,
        name,
        kept,
        now=now,
        last_at=codec.to_text(now),
        next_at=codec.optional_text(next_at),
        took_ms=took_ms,
        runs=int(kept.get("runs", 0)) + 1,
        failed=int(kept.get("failed", 0)) + (error is not None),
        failures=failures,
        error=error,
    )
    if failures >= told_after:
        conditions.begin(connection, _PREFIX + name, "job_failed", now=now, data={"job": name, "error": error})
    elif error is None:
        conditions.end(connection, _PREFIX + name, "job_recovered", now=now, data={"job": name})


def list_runs(connection: sqlite3.Connection) -> tuple[JobRun, ...]:
    """Every job of the timetable, by name."""
    rows = connection.execute("SELECT key, updated_at FROM settings WHERE key LIKE 'job:%' ORDER BY key").fetchall()
    found = ((key, updated_at, settings.get_value(connection, key)) for key, updated_at in rows)
    return tuple(_run(key, updated_at, kept) for key, updated_at, kept in found if isinstance(kept, dict))


def _keep(
    connection: sqlite3.Connection, name: str, kept: Mapping[str, Any], *, now: datetime, **changed: object
) -> None:
    value = {"since": codec.to_text(now), **kept, **changed}
    settings.set_value(connection, _PREFIX + name, value, now=now)


def _run(key: str, updated_at: str, kept: Mapping[str, Any]) -> JobRun:
    last_at = codec.optional_time(kept.get("last_at"))
    return JobRun(
        name=key.removeprefix(_PREFIX),
        since=codec.from_text(kept.get("since", updated_at)),
        last_at=last_at,
        next_at=codec.optional_time(kept.get("next_at")),
        took_ms=int(kept.get("took_ms", 0)),
        runs=int(kept.get("runs", 0)),
        failed=int(kept.get("failed", 0)),
        failures=int(kept.get("failures", 0)),
        error=kept.get("error"),
    )
