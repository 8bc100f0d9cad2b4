"""`kekbridge risk show`: every limit of the account and of each webhook, what is used of it, what is left, when it starts anew.

Reads what the daemon stored; the words are those of risk/limits.py, which the rules use too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kekbridge.cli.options import ConfigFile, DataDir, Json, examples
from kekbridge.cli.workspace import Workspace, find_workspace, now, opened

if TYPE_CHECKING:
    import sqlite3

    from kekbridge.model import AccountSnapshot, EquityMark, Limits

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

    workspace = find_workspace(context, data_dir, config)
    with opened(workspace) as database, database.snapshot() as connection:
        shown = _book(connection, workspace, webhook)
    if as_json:
        render.as_json(shown)
        return
    _print_account(shown)
    for scope in shown["scopes"]:
        _print_scope(scope)


def _book(connection: sqlite3.Connection, workspace: Workspace, only: str | None) -> dict[str, Any]:
    """The account's state and the lines of every scope. Raises NotFound for a webhook that does not exist."""
    from kekbridge.risk.limits import account_limits
    from kekbridge.store import equity, settings
    from kekbridge.store import webhooks as stored

    at = now()
    mark = equity.latest(connection)
    account = _account(connection, mark)
    chosen = (stored.find(connection, only),) if only else stored.list_all(connection)
    of_account = account_limits(**workspace.settings.risk.model_dump())
    scopes = [_scope(connection, "account", settings.ACCOUNT, of_account, account)]
    scopes += [_scope(connection, one.name, one.id, one.settings.limits, account) for one in chosen]
    return {
        "at": at,
        "equity": None if mark is None else mark.value,
        "equityPeak": settings.get_value(connection, settings.EQUITY_PEAK),
        "equityAt": None if mark is None else mark.at,
        "scopes": scopes,
    }


def _scope(
    connection: sqlite3.Connection, name: str, key: str, limits: Limits, account: AccountSnapshot | None
) -> dict[str, Any]:
    from kekbridge.risk.limits import describe_usage
    from kekbridge.store import settings
    from kekbridge.store.usage import read_usage

    usage = read_usage(connection, key, now=now(), cooldown_s=0)
    control = settings.trading_control(connection, now=now(), scope=key)
    kind = "account" if key == settings.ACCOUNT else "webhook"
    return {
        "scope": kind,
        "name": name,
        "state": control.state,
        "reason": control.reason,
        "until": control.until,
        "limits": describe_usage(limits, usage, now(), scope=kind, snapshot=account),
    }


def _account(connection: sqlite3.Connection, mark: EquityMark | None) -> AccountSnapshot | None:
    """The account as last stored: its value with the last mark, its positions with theirs. None before the first mark."""
    from kekbridge.model import AccountSnapshot, MarginMode
    from kekbridge.store import positions

    if mark is None:
        return None
    held = positions.list_all(connection)
    return AccountSnapshot(
        taken_at=mark.at,
        instruments={},
        marks={},
        positions={one.symbol: one for one in held if one.margin_mode is MarginMode.CROSS},
        account_value=mark.value,
        free_collateral=mark.value,
        other_positions=tuple(one for one in held if one.margin_mode is not MarginMode.CROSS),
    )


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
