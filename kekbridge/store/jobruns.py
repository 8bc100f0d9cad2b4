"""When each job of the daemon last ran and how it went: for `kekbridge jobs`, and told of in the history when one keeps failing."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from kekbridge.store import events, settings, times

_PREFIX: Final = "job:"
# One lost answer of the exchange is nobody's business; three in a row are.
_TOLD_AFTER: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRun:
    """`failures` in a row, 0 after a success; `error` of the last one; `every_s` between two runs."""

    name: str
    last_at: datetime
    every_s: float
    failures: int
    error: str | None


def record(connection: sqlite3.Connection, name: str, *, every_s: float, error: str | None, now: datetime) -> None:
    """Note a run; the third failure in a row goes into the history, once."""
    before = settings.get_value(connection, _PREFIX + name)
    failures = 0 if error is None else 1 + (int(before["failures"]) if isinstance(before, dict) else 0)
    kept = {"last_at": times.to_text(now), "every_s": str(every_s), "failures": failures, "error": error}
    settings.set_value(connection, _PREFIX + name, kept, now=now)
    if failures == _TOLD_AFTER:
        events.append(connection, "job_failed", now=now, data={"job": name, "error": error})


def list_runs(connection: sqlite3.Connection) -> tuple[JobRun, ...]:
    """The last run of every job that ever ran, by name."""
    found: list[JobRun] = []
    keys = connection.execute("SELECT key FROM settings WHERE key LIKE 'job:%' ORDER BY key").fetchall()
    for (key,) in keys:
        kept = settings.get_value(connection, key)
        if isinstance(kept, dict):
            found.append(
                JobRun(
                    name=key.removeprefix(_PREFIX),
                    last_at=times.from_text(kept["last_at"]),
                    every_s=float(kept["every_s"]),
                    failures=int(kept["failures"]),
                    error=kept["error"],
                )
            )
    return tuple(found)
