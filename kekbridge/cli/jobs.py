"""`kekbridge jobs`: the daemon's scheduled jobs, when they ran and whether they succeeded; run one now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kekbridge import formatting
from kekbridge.cli.context import is_running, now, open_database, resolve_context
from kekbridge.cli.groups import CommandGroup
from kekbridge.cli.options import ConfigFile, DataDir, GlobalOptions, Json, examples

if TYPE_CHECKING:
    from kekbridge.store.job_runs import JobRun

app = typer.Typer(cls=CommandGroup, rich_markup_mode=None, add_completion=False)


@app.callback(
    invoke_without_command=True,
    epilog=examples(
        "kekbridge jobs",
        "kekbridge jobs --json | jq '.[] | select(.failures > 0)'",
        "kekbridge jobs run backup",
    ),
)
def jobs(ctx: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """List the daemon's scheduled jobs: last run, next run, failures; run one."""
    if ctx.invoked_subcommand is not None:
        given = ctx.obj if isinstance(ctx.obj, GlobalOptions) else GlobalOptions()
        ctx.obj = GlobalOptions(data_dir=data_dir or given.data_dir, config=config or given.config)
        return
    from dataclasses import replace

    from kekbridge.cli import render
    from kekbridge.store import job_runs

    context = resolve_context(ctx, data_dir, config)
    with open_database(context) as database, database.snapshot() as connection:
        runs = job_runs.list_runs(connection)
    if not is_running(context):
        runs = tuple(replace(run, next_at=None) for run in runs)
    if as_json:
        render.as_json(runs)
        return
    if not runs:
        render.note("No job has run yet; jobs run while `kekbridge serve` does.")
        return
    columns = [render.Column("JOB")]
    drops = {"LAST": 0, "TOOK": 1, "NEXT": 3, "RUNS": 2, "FAILED": 0}
    columns += [render.Column(title, justify="right", drop=drop) for title, drop in drops.items()]
    columns.append(render.Column("ERROR", shrinks=True))
    render.table(columns, [_row(run) for run in runs])


@app.command("run", epilog=examples("kekbridge jobs run backup", "kekbridge jobs run reconcile --json"))
def run_now(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB", help="A job as `kekbridge jobs` lists it.", show_default=False)],
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> int:
    """Run a job now, in the running bridge, and wait for it. Exit code 1 if it failed."""
    from kekbridge.cli import render
    from kekbridge.cli.control import run_operation
    from kekbridge.ops.trading_operations import RunJob

    run: dict[str, Any] = run_operation(resolve_context(ctx, data_dir, config), RunJob(job=job))
    if as_json:
        render.as_json(run)
    elif run["error"]:
        render.line(f"{run['name']} failed: {formatting.to_text(run['error'])}")
    else:
        render.line(f"{run['name']} took {formatting.duration(run['tookMs'] / 1000)}")
    return 1 if run["error"] else 0


def _row(run: JobRun) -> tuple[object, ...]:
    times = [None if moment is None else formatting.age(moment, now()) for moment in (run.last_at, run.next_at)]
    took = None if run.last_at is None else formatting.duration(run.took_ms / 1000)
    failed = f"{run.failed}, {run.failures} in a row" if run.failures else run.failed
    return run.name, times[0], took, times[1], run.runs, failed, run.error
