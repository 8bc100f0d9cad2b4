"""`kekbridge risk show`: every limit of the account and of each webhook, what is used of it, what is left, when it starts anew.

Reads what the daemon stored; the words are those of risk/limits.py, which the rules use too.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kekbridge.cli.context import now, opened, resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

app = typer.Typer(
    help="Show limits and their use.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    epilog=examples("kekbridge risk show", "kekbridge risk show --webhook btc-trend --json"),
)


@app.callback()
def group() -> None:
    """Show limits and their use."""


@app.command(epilog=examples("kekbridge risk show", "kekbridge risk show --webhook btc-trend --json"))
def show(
    context: typer.Context,
    webhook: Annotated[
        str | None,
        typer.Option("--webhook", metavar="NAME", help="This webhook, and the account.", show_default=False),
    ] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Show every limit that is set: what is used, what is left, and when it starts anew.

    Exits pass all of them. A scope that a limit closed takes exits only until the time shown, or until `kekbridge resume`.
    """
    from kekbridge.cli import render
    from kekbridge.reports import limits

    workspace = resolve_context(context, data_dir, config)
    with opened(workspace) as database, database.snapshot() as connection:
        shown = limits.read(connection, workspace.settings, webhook, at=now())
    if as_json:
        render.as_json(shown)
        return
    _print_account(shown)
    for scope in shown["scopes"]:
        _print_scope(scope)


def _print_account(shown: dict[str, Any]) -> None:
    from kekbridge.cli import render

    if shown["equity"] is None:
        render.note("No equity is known yet: start the bridge; loss, drawdown, leverage and positions show then.")
        return
    render.pairs(
        [
            ("equity", f"{render.amount(shown['equity'])} USDC, {render.age(shown['equityAt'], shown['at'])}"),
            ("peak", f"{shown['equityPeak']} USDC, deposits and withdrawals left out"),
        ]
    )


def _print_scope(scope: dict[str, Any]) -> None:
    from kekbridge.cli import render

    render.heading(scope["name"] if scope["scope"] == "account" else f"webhook {scope['name']}")
    if scope["state"].value != "running":
        render.pairs([(scope["state"].value, scope["reason"])], indent=2)
    if not scope["limits"]:
        render.paragraph("no limits", indent=2)
        return
    columns = [
        render.Column("  LIMIT"),
        render.Column("VALUE", justify="right", shrinks=True),
        render.Column("USED", justify="right"),
        render.Column("LEFT", justify="right"),
        render.Column("STARTS ANEW", shrinks=True),
    ]
    render.table(
        columns,
        [(f"  {line.name}", line.limit, line.used, line.left, line.resets) for line in scope["limits"]],
    )
