"""`kekbridge export`: alerts, orders, fills or P&L by day as CSV or JSON on stdout. Reads only."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

import typer

from kekbridge import parsing
from kekbridge.cli.context import now, open_database, resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

app = typer.Typer(rich_markup_mode=None, add_completion=False)


def _time_option(help_text: str) -> Any:
    return typer.Option(metavar="TIME", help=help_text, show_default=False)


@app.command(
    epilog=examples(
        "kekbridge export fills > fills.csv",
        "kekbridge export pnl --since 2026-01-01 --until 2027-01-01 > 2026.csv",
        "kekbridge export orders --format json | jq length",
    )
)
def export(
    ctx: typer.Context,
    what: Annotated[
        Literal["alerts", "orders", "fills", "pnl"],
        typer.Argument(help="What to export; pnl is one row per day and market."),
    ],
    form: Annotated[Literal["csv", "json"], typer.Option("--format", help="Output format.")] = "csv",
    since: Annotated[str | None, _time_option("Start: 7d (ago), or 2026-01-01 (UTC).")] = None,
    until: Annotated[str | None, _time_option("End, excluded; as --since.")] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Write alerts, orders, fills or P&L as CSV or JSON.

    Amounts are exact decimals, times UTC. P&L is summed from the fills: realized as reported by the exchange, fees, and the net of both.
    """
    from kekbridge.cli import render
    from kekbridge.reports import export as exporting

    start = None if since is None else parsing.instant("--since", since, now())
    end = None if until is None else parsing.instant("--until", until, now())
    with open_database(resolve_context(ctx, data_dir, config)) as database, database.snapshot() as connection:
        rows = exporting.rows(connection, what, since=start, until=end)
        is_json = as_json or form == "json"
        count = (exporting.write_json if is_json else exporting.write_csv)(rows, sys.stdout)
    if count == 0:
        render.note("No rows in that period.")
