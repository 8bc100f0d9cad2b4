"""`kekbridge risk show`: every limit of the account and of each webhook, what is used and left, and when it resets.

Reads what the daemon stored; names and units come from risk/limits.py, which the rules use too.
"""

from __future__ import annotations

from datetime import UTC
from typing import Annotated, Any

import typer

from kekbridge import formatting
from kekbridge.cli import filters
from kekbridge.cli.context import now, open_database, resolve_context, settings_in_force
from kekbridge.cli.groups import CommandGroup
from kekbridge.cli.options import ConfigFile, DataDir, Json, Utc, examples

app = typer.Typer(
    cls=CommandGroup,
    help="Show limits and how much of each is used.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    epilog=examples("kekbridge risk show", "kekbridge risk show --webhook btc-trend --json"),
)


@app.callback()
def group() -> None:
    """Show limits and how much of each is used."""


@app.command(epilog=examples("kekbridge risk show", "kekbridge risk show --webhook btc-trend --json"))
def show(
    ctx: typer.Context,
    webhook: Annotated[str | None, filters.webhook_option("Only the account and this webhook.")] = None,
    utc: Utc = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Show every limit that is set.

    USED and LEFT are the current usage, RESETS when it starts at zero again. Limits never block exits. A scope closed by a limit accepts
    only exits until the time shown, or until `kekbridge resume`.
    """
    from kekbridge.cli import render
    from kekbridge.reports import limits

    context = resolve_context(ctx, data_dir, config)
    with open_database(context) as database, database.snapshot() as connection:
        usage = limits.read(connection, settings_in_force(context), webhook, at=now(), zone=UTC if utc else None)
    if as_json:
        render.as_json(usage)
        return
    _print_account(usage)
    for scope in usage["scopes"]:
        _print_scope(scope)


def _print_account(usage: dict[str, Any]) -> None:
    from kekbridge.cli import render

    if usage["equity"] is None:
        render.note("Equity is not known yet. Start the bridge to see loss, drawdown, leverage and positions.")
        return
    render.pairs(
        [
            ("equity", f"{formatting.amount(usage['equity'])} USDC, {formatting.age(usage['equityAt'], usage['at'])}"),
            ("peak", f"{usage['equityPeak']} USDC, adjusted for deposits and withdrawals"),
        ]
    )


def _print_scope(scope: dict[str, Any]) -> None:
    from kekbridge.cli import render

    render.heading(scope["name"] if scope["scope"] == "account" else f"webhook {scope['name']}")
    if scope["state"].value != "running":
        render.pairs([("state", scope["stateText"]), ("fix", scope["stateFix"])], indent=2)
    if not scope["limits"]:
        render.paragraph("no limits", indent=2)
        return
    columns = [
        render.Column("  LIMIT"),
        render.Column("VALUE", justify="right", shrinks=True),
        render.Column("USED", justify="right"),
        render.Column("LEFT", justify="right", drop=2),
        render.Column("RESETS", shrinks=True, drop=1),
    ]
    render.table(
        columns,
        [(f"  {line.name}", line.limit, line.used, line.left, line.resets) for line in scope["limits"]],
    )
