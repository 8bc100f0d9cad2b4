"""`kekbridge halt`, `exits-only`, `resume`: what the daemon may do. Written to the store, where every admission and every claim reads it.

So it holds from the next order on, survives restarts, and works while no daemon runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kekbridge.cli.options import ConfigFile, DataDir, Json, examples
from kekbridge.cli.workspace import find_workspace, now, opened

if TYPE_CHECKING:
    from kekbridge.model import TradingState

halt = typer.Typer(rich_markup_mode=None, add_completion=False)
exits_only = typer.Typer(rich_markup_mode=None, add_completion=False)
resume = typer.Typer(rich_markup_mode=None, add_completion=False)

Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; shown in the history.", show_default=False)]


@halt.command(epilog=examples("kekbridge halt", 'kekbridge halt --reason "exchange incident"'))
def stop_all(
    context: typer.Context,
    reason: Reason = "",
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Stop all trading at once, exits too.

    Alerts are still stored and answered (422 trading_halted). Open positions and their stops at the exchange stay as they are.
    """
    from kekbridge.model import TradingState

    _set(context, TradingState.HALTED, reason, data_dir=data_dir, config=config, as_json=as_json)


@exits_only.command(epilog=examples("kekbridge exits-only", 'kekbridge exits-only --reason "news at 14:30"'))
def refuse_entries(
    context: typer.Context,
    reason: Reason = "",
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Refuse entries at once; exits still pass."""
    from kekbridge.model import TradingState

    _set(context, TradingState.EXITS_ONLY, reason, data_dir=data_dir, config=config, as_json=as_json)


@resume.command(epilog=examples("kekbridge resume"))
def trade_again(
    context: typer.Context,
    reason: Reason = "",
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Trade again after halt or exits-only."""
    from kekbridge.model import TradingState

    _set(context, TradingState.RUNNING, reason, data_dir=data_dir, config=config, as_json=as_json)


_WORDS = {
    "running": "trading: entries and exits pass",
    "exits_only": "exits only: entries are refused until `kekbridge resume`",
    "halted": "halted: no order is sent until `kekbridge resume`",
}


def _set(
    context: typer.Context,
    state: TradingState,
    reason: str,
    *,
    data_dir: DataDir,
    config: ConfigFile,
    as_json: bool,
) -> None:
    from kekbridge.cli import render
    from kekbridge.store import settings

    workspace = find_workspace(context, data_dir, config)
    with opened(workspace, create=True) as database, database.transaction() as connection:
        settings.set_trading_state(connection, state, reason=reason or "by hand", by="command line", now=now())
        control = settings.trading_control(connection, now=now())
    if as_json:
        render.as_json(control)
    else:
        render.line(_WORDS[state.value])
