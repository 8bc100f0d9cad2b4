"""`kekbridge jobs`: what the daemon does by the clock, when it last did, and whether it worked. Reads only."""

from __future__ import annotations

from datetime import timedelta

import typer

from kekbridge.cli.options import ConfigFile, DataDir, Json, examples
from kekbridge.cli.workspace import find_workspace, opened

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=examples("kekbridge jobs", "kekbridge jobs --json | jq '.[] | select(.failures > 0)'"))
def jobs(context: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """List what runs by the clock: last run, next run, failures in a row."""
    from kekbridge.cli import render
    from kekbridge.store import jobruns
    from kekbridge.store.lock import DaemonLock

    workspace = find_workspace(context, data_dir, config)
    is_running = DaemonLock.holder(workspace.data_dir) is not None
    with opened(workspace) as database, database.snapshot() as connection:
        found = jobruns.list_runs(connection)
    rows = [
        {
            "name": run.name,
            "lastAt": run.last_at,
            "nextAt": run.last_at + timedelta(seconds=run.every_s) if is_running else None,
            "failures": run.failures,
            "error": run.error,
        }
        for run in found
    ]
    if as_json:
        render.as_json(rows)
        return
    if not rows:
        render.note("No job has run yet: they run while `kekbridge serve` does.")
        return
    columns = [render.Column(title) for title in ("JOB", "LAST (UTC)", "NEXT (UTC)")]
    columns += [render.Column("FAILURES", justify="right"), render.Column("ERROR", shrinks=True)]
    render.table(columns, [tuple(row.values()) for row in rows])
