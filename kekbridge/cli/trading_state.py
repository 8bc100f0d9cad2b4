"""`kekbridge halt`, `exits-only` and `resume`: set the trading state in the store.

Every admission and every claim reads it there, so it applies from the next order on, survives restarts, and needs no daemon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kekbridge import formatting
from kekbridge.cli.context import now, open_database, resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

if TYPE_CHECKING:
    from kekbridge.model import TradingState

halt = typer.Typer(rich_markup_mode=None, add_completion=False)
exits_only = typer.Typer(rich_markup_mode=None, add_completion=False)
resume = typer.Typer(rich_markup_mode=None, add_completion=False)

Reason = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Reason, shown in the history.", show_default=False)
]


@halt.command(epilog=examples("kekbridge halt", 'kekbridge halt --reason "exchange incident"'))
def set_halted(
    ctx: typer.Context,
    reason: Reason = "",
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Stop all trading at once, including exits.

    Alerts are still stored and answered (422 trading_halted). Open positions and their stops on the exchange are not touched.
    """
    from kekbridge.model import TradingState

    _set_state(ctx, TradingState.HALTED, reason, data_dir=data_dir, config=config, as_json=as_json)


@exits_only.command(epilog=examples("kekbridge exits-only", 'kekbridge exits-only --reason "news at 14:30"'))
def set_exits_only(
    ctx: typer.Context,
    reason: Reason = "",
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Deny entries at once; exits still pass."""
    from kekbridge.model import TradingState

    _set_state(ctx, TradingState.EXITS_ONLY, reason, data_dir=data_dir, config=config, as_json=as_json)


@resume.command(
    epilog=examples("kekbridge resume", "kekbridge resume --webhook btc-trend", "kekbridge resume --reset-peak")
)
def set_running(
    ctx: typer.Context,
    reason: Reason = "",
    webhook: Annotated[
        str | None,
        typer.Option(
            "--webhook", metavar="NAME", help="Only this webhook, closed by one of its limits.", show_default=False
        ),
    ] = None,
    reset_peak: Annotated[
        bool, typer.Option("--reset-peak", help="Set the equity peak to the current equity: drawdown 0.")
    ] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Resume trading after halt, exits-only or a limit.

    A limit that is still exceeded closes its scope again: raise it, wait for its reset, or for a drawdown use --reset-peak.
    """
    from kekbridge.cli import render
    from kekbridge.model import TradingState
    from kekbridge.store import equity, settings, webhooks

    with (
        open_database(resolve_context(ctx, data_dir, config), create=True) as database,
        database.transaction() as connection,
    ):
        peak = equity.reset_peak(connection, by=_BY, now=now()) if reset_peak else None
        scope = settings.ACCOUNT if webhook is None else webhooks.find(connection, webhook).id
        if webhook is None:
            settings.resume_all(connection, reason=reason or "by hand", by=_BY, now=now())
        else:
            settings.set_trading_state(
                connection, TradingState.RUNNING, reason=reason or "by hand", by=_BY, now=now(), scope=scope
            )
        control = settings.trading_control(connection, now=now(), scope=scope)
    if as_json:
        render.as_json(formatting.to_jsonable(control) | ({"equityPeak": peak} if reset_peak else {}))
        return
    render.line(_STATE_TEXTS["running"] if webhook is None else f"webhook {webhook} resumed: entries and exits pass")
    if reset_peak:
        render.note(
            "Equity is not known yet; its first value will be the peak."
            if peak is None
            else f"equity peak: {peak} USDC"
        )


_BY = "command line"
_STATE_TEXTS = {
    "running": "trading resumed: entries and exits pass",
    "exits_only": "exits only: entries are denied until `kekbridge resume`",
    "halted": "halted: no order is sent until `kekbridge resume`",
}


def _set_state(
    ctx: typer.Context,
    state: TradingState,
    reason: str,
    *,
    data_dir: DataDir,
    config: ConfigFile,
    as_json: bool,
) -> None:
    from kekbridge.cli import render
    from kekbridge.store import settings

    context = resolve_context(ctx, data_dir, config)
    with open_database(context, create=True) as database, database.transaction() as connection:
        settings.set_trading_state(connection, state, reason=reason or "by hand", by=_BY, now=now())
        control = settings.trading_control(connection, now=now())
    if as_json:
        render.as_json(control)
    else:
        render.line(_STATE_TEXTS[state.value])
