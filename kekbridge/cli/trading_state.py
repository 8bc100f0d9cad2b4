"""`kekbridge halt`, `exits-only` and `resume`: set the trading state.

A running daemon has applied it when the command returns: to the next alert and to every order that waits. It survives restarts and can
be set while no daemon runs.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kekbridge.cli.context import resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

if TYPE_CHECKING:
    from pathlib import Path

    from kekbridge.cli.context import CliContext
    from kekbridge.ops.operation import Operation

halt = typer.Typer(rich_markup_mode=None, add_completion=False)
exits_only = typer.Typer(rich_markup_mode=None, add_completion=False)
resume = typer.Typer(rich_markup_mode=None, add_completion=False)


class HeldExits(StrEnum):
    """What becomes of exits that a halt has held."""

    SEND = "send"
    DROP = "drop"


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

    Alerts are still stored and answered (422 trading_halted). Entries that wait are denied; exits that wait are held, and `resume` lists
    them. Open positions and their stops on the exchange are not touched.
    """
    from kekbridge.ops.trading_operations import BY_HAND, Halt

    _set_state(ctx, Halt(reason=reason or BY_HAND), data_dir=data_dir, config=config, as_json=as_json)


@exits_only.command(epilog=examples("kekbridge exits-only", 'kekbridge exits-only --reason "news at 14:30"'))
def set_exits_only(
    ctx: typer.Context,
    reason: Reason = "",
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Deny entries at once; exits still pass."""
    from kekbridge.ops.trading_operations import BY_HAND, ExitsOnly

    _set_state(ctx, ExitsOnly(reason=reason or BY_HAND), data_dir=data_dir, config=config, as_json=as_json)


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
    held: Annotated[
        HeldExits | None,
        typer.Option(
            "--held-exits",
            help="What becomes of exits that the halt has held; without it a terminal asks, and a script sends them.",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Resume trading after halt, exits-only or a limit.

    Exits that the halt has held are listed, and sent if you agree. A limit that is still exceeded closes its scope again: raise it, wait
    for its reset, or for a drawdown use --reset-peak.
    """
    from kekbridge.cli import render
    from kekbridge.cli.control import run_operation
    from kekbridge.ops.trading_operations import BY_HAND, Resume

    context = resolve_context(ctx, data_dir, config)
    if held is None and not as_json and sys.stdin is not None and sys.stdin.isatty():
        held = _ask_about_exits(context, webhook)
    held = held or HeldExits.SEND
    control = run_operation(
        context,
        Resume(reason=reason or BY_HAND, webhook=webhook, reset_peak=reset_peak, held_exits=held.value),
    )
    if as_json:
        render.as_json(control)
        return
    _list_exits(control["heldExits"], "sent now" if held is HeldExits.SEND else "dropped")
    render.line(_STATE_TEXTS["running"] if webhook is None else f"webhook {webhook} resumed: entries and exits pass")
    if reset_peak:
        peak = control["equityPeak"]
        render.note(
            "Equity is not known yet; its first value will be the peak."
            if peak is None
            else f"equity peak: {peak} USDC"
        )


def _ask_about_exits(context: CliContext, webhook: str | None) -> HeldExits | None:
    """List the exits that the halt has held, and ask what becomes of them; None without any. No answer is the default."""
    from kekbridge.cli.control import run_operation
    from kekbridge.errors import NotFound
    from kekbridge.ops.trading_operations import ListHeldExits

    try:
        waiting = run_operation(context, ListHeldExits(webhook=webhook))
    except NotFound:
        return None  # no data yet, or no such webhook: resuming says so
    if not waiting:
        return None
    _list_exits(waiting, "held")
    is_yes = typer.confirm("Send them now? With n they are dropped, Ctrl-C stays halted.", default=None, err=True)
    return HeldExits.SEND if is_yes else HeldExits.DROP


def _list_exits(found: list[dict[str, Any]], what: str) -> None:
    """One line for each exit that the halt has held."""
    from kekbridge.cli import render

    for each in found:
        render.line(
            f"exit {what}: {each['side'].lower()} {each['quantity']} {each['symbol']} (alert {each['alertId']})"
        )


_STATE_TEXTS = {
    "running": "trading resumed: entries and exits pass",
    "exits_only": "exits only: entries are denied until `kekbridge resume`",
    "halted": "halted: no order is sent until `kekbridge resume`; exits that wait are held",
}


def _set_state(
    ctx: typer.Context, operation: Operation, *, data_dir: Path | None, config: Path | None, as_json: bool
) -> None:
    from kekbridge.cli import render
    from kekbridge.cli.control import run_operation

    control = run_operation(resolve_context(ctx, data_dir, config), operation)
    if as_json:
        render.as_json(control)
    else:
        render.line(_STATE_TEXTS[control["state"]])
