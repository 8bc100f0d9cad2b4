"""`kekbridge halt`, `exits-only`, `resume`: what the daemon may do. Written to the store, where every admission and every claim reads it.

So it holds from the next order on, survives restarts, and works while no daemon runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kekbridge.cli.context import now, opened, resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

if TYPE_CHECKING:
    from kekbridge.model import TradingState

halt = typer.Typer(rich_markup_mode=None, add_completion=False)
exits_only = typer.Typer(rich_markup_mode=None, add_completion=False)
resume = typer.Typer(rich_markup_mode=None, add_completion=False)

Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; shown in the history.", show_default=False)]


@halt.command(epilog=examples("kekbridge halt", 'kekbridge halt --reason "exchange incident"'))
def set_halted(
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
def set_exits_only(
    context: typer.Context,
    reason: Reason = "",
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Refuse entries at once; exits still pass."""
    from kekbridge.model import TradingState

    _set(context, TradingState.EXITS_ONLY, reason, data_dir=data_dir, config=config, as_json=as_json)


@resume.command(
    epilog=examples("kekbridge resume", "kekbridge resume --webhook btc-trend", "kekbridge resume --reset-peak")
)
def set_running(
    context: typer.Context,
    reason: Reason = "",
    webhook: Annotated[
        str | None,
        typer.Option(
            "--webhook", metavar="NAME", help="This webhook only, closed by one of its limits.", show_default=False
        ),
    ] = None,
    reset_peak: Annotated[
        bool, typer.Option("--reset-peak", help="Let the equity peak be today's equity, so that the drawdown is zero.")
    ] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Trade again after halt or exits-only.

    Also after a limit that closed the account or a webhook.

    A limit that is still exceeded closes its scope again: raise it, wait for its reset, or for a drawdown use --reset-peak.
    """
    from kekbridge.cli import render
    from kekbridge.model import TradingState
    from kekbridge.store import equity, settings, webhooks

    why = reason or "by hand"
    with (
        opened(resolve_context(context, data_dir, config), create=True) as database,
        database.transaction() as connection,
    ):
        peak = equity.reset_peak(connection, by=_BY, now=now()) if reset_peak else None
        scope = settings.ACCOUNT if webhook is None else webhooks.find(connection, webhook).id
        if webhook is None:
            settings.resume_all(connection, reason=why, by=_BY, now=now())
        else:
            settings.set_trading_state(connection, TradingState.RUNNING, reason=why, by=_BY, now=now(), scope=scope)
        control = settings.trading_control(connection, now=now(), scope=scope)
    if as_json:
        render.as_json(render.to_jsonable(control) | ({"equityPeak": peak} if reset_peak else {}))
        return
    render.line(_WORDS["running"] if webhook is None else f"webhook {webhook}: entries and exits pass")
    if reset_peak:
        render.note(
            "No equity is known yet: the peak starts with the first." if peak is None else f"equity peak: {peak} USDC"
        )


_BY = "command line"
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

    workspace = resolve_context(context, data_dir, config)
    with opened(workspace, create=True) as database, database.transaction() as connection:
        settings.set_trading_state(connection, state, reason=reason or "by hand", by=_BY, now=now())
        control = settings.trading_control(connection, now=now())
    if as_json:
        render.as_json(control)
    else:
        render.line(_WORDS[state.value])
