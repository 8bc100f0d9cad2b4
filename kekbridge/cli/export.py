"""`kekbridge export`: alerts, orders, fills or P&L by day as CSV or JSON on stdout. Reads only."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

import typer

from kekbridge import parsing
from kekbridge.cli.context import now, opened, resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

app = typer.Typer(rich_markup_mode=None, add_completion=False)


def _time(help_text: str) -> Any:
    return typer.Option(metavar="TIME", help=help_text, show_default=False)


@app.command(
    epilog=examples(
        "kekbridge export fills > fills.csv",
        "kekbridge export pnl --since 2026-01-01 --until 2027-01-01 > 2026.csv",
        "kekbridge export orders --format json | jq length",
    )
)
def export(
    context: typer.Context,
    what: Annotated[
        Literal["alerts", "orders", "fills", "pnl"], typer.Argument(help="Which rows; pnl is by day and market.")
    ],
    form: Annotated[Literal["csv", "json"], typer.Option("--format", help="How they are written.")] = "csv",
    since: Annotated[str | None, _time("From then on: 7d, or 2026-01-01 (UTC).")] = None,
    until: Annotated[str | None, _time("Before then.")] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Write alerts, orders, fills or P&L as CSV or JSON.

    Amounts are exact decimals, times UTC. P&L is summed from the fills: realized as the exchange told it, fees, and the net of both.
    """
    from kekbridge.cli import render
    from kekbridge.reports import export as exporting

    began = None if since is None else parsing.instant("--since", since, now())
    ended = None if until is None else parsing.instant("--until", until, now())
    with opened(resolve_context(context, data_dir, config)) as database, database.snapshot() as connection:
        found = exporting.rows(connection, what, since=began, until=ended)
        is_json = as_json or form == "json"
        count = (exporting.write_json if is_json else exporting.write_csv)(found, sys.stdout)
    if count == 0:
        render.note("Nothing in that time.")
