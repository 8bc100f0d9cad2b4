"""`kekbridge jobs`: what the daemon does by the clock, when it last did, and whether it worked. Reads only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from kekbridge.cli.context import now, opened, resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

if TYPE_CHECKING:
    from kekbridge.store.job_runs import JobRun

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=examples("kekbridge jobs", "kekbridge jobs --json | jq '.[] | select(.failures > 0)'"))
def jobs(context: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """List what runs by the clock: last run and how long it took, next run, runs and failures."""
    from dataclasses import replace

    from kekbridge.cli import render
    from kekbridge.store import job_runs
    from kekbridge.store.lock import DaemonLock

    workspace = resolve_context(context, data_dir, config)
    is_running = DaemonLock.holder(workspace.data_dir) is not None
    with opened(workspace) as database, database.snapshot() as connection:
        runs = job_runs.list_runs(connection)
    found = runs if is_running else tuple(replace(run, next_at=None) for run in runs)
    if as_json:
        render.as_json(found)
        return
    if not found:
        render.note("No job has run yet: they run while `kekbridge serve` does.")
        return
    columns = [render.Column("JOB")]
    columns += [render.Column(title, justify="right") for title in ("LAST", "TOOK", "NEXT", "RUNS", "FAILED")]
    columns.append(render.Column("ERROR", shrinks=True))
    render.table(columns, [_row(run) for run in found])


def _row(run: JobRun) -> tuple[object, ...]:
    from kekbridge.cli import render

    times = [None if moment is None else render.age(moment, now()) for moment in (run.last_at, run.next_at)]
    took = None if run.last_at is None else render.duration(run.took_ms / 1000)
    failed = f"{run.failed}, {run.failures} in a row" if run.failures else run.failed
    return run.name, times[0], took, times[1], run.runs, failed, run.error
