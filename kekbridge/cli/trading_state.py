"""`kekbridge halt`, `exits-only` and `resume`: set the trading state.

A running daemon has applied it when the command returns: to the next alert and to every order that waits. It survives restarts and can
be set while no daemon runs. The output names the bridge (cli/bridges.py).
"""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kekbridge.cli import filters
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

if TYPE_CHECKING:
    from pathlib import Path

    from kekbridge.cli.bridges import Bridge
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

    Alerts are still stored and answered (422 trading_halted). Entries that wait are denied, those that rest at the exchange are cancelled;
    exits that wait are held, and `resume` lists them. Open positions, their stops and resting exits at the exchange are not touched.
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
    """Deny entries at once; exits still pass.

    Entries that rest at the exchange are cancelled. What they have filled stays open, with its stop.
    """
    from kekbridge.ops.trading_operations import BY_HAND, ExitsOnly

    _set_state(ctx, ExitsOnly(reason=reason or BY_HAND), data_dir=data_dir, config=config, as_json=as_json)


@resume.command(
    epilog=examples("kekbridge resume", "kekbridge resume --webhook btc-trend", "kekbridge resume --reset-peak")
)
def set_running(
    ctx: typer.Context,
    reason: Reason = "",
    webhook: Annotated[str | None, filters.webhook_option("Only this webhook, closed by one of its limits.")] = None,
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
    from kekbridge.cli.bridges import find_bridge
    from kekbridge.cli.control import run_operation
    from kekbridge.ops.trading_operations import BY_HAND, Resume

    bridge = find_bridge(ctx, data_dir, config, may_ask=not as_json)
    if held is None and not as_json and sys.stdin is not None and sys.stdin.isatty():
        held = _ask_about_exits(bridge, webhook)
    held = held or HeldExits.SEND
    control = run_operation(
        bridge.context,
        Resume(reason=reason or BY_HAND, webhook=webhook, reset_peak=reset_peak, held_exits=held.value),
    )
    bridge = bridge.seen_now()
    if as_json:
        render.as_json(control | {"bridge": bridge.as_data()})
        return
    _list_exits(control["heldExits"], "sent now" if held is HeldExits.SEND else "dropped")
    if webhook is None:
        _print_state("running", bridge, ctx, config)
    else:
        render.line(f"webhook {webhook} resumed: {bridge.named()}")
    for limit in control["closesAgain"]:
        render.note(limit["text"])
    if reset_peak:
        peak = control["equityPeak"]
        render.note(
            "Equity is not known yet; its first value will be the peak."
            if peak is None
            else f"equity peak: {peak} USDC"
        )


def _ask_about_exits(bridge: Bridge, webhook: str | None) -> HeldExits | None:
    """List the exits that the halt has held, and ask what becomes of them; None without any. No answer is the default."""
    from kekbridge.cli.control import run_operation
    from kekbridge.errors import NotFound
    from kekbridge.ops.trading_operations import ListHeldExits

    try:
        waiting = run_operation(bridge.context, ListHeldExits(webhook=webhook))
    except NotFound:
        return None  # no such webhook: resuming says so
    if not waiting:
        return None
    _list_exits(waiting, "held")
    is_yes = typer.confirm("Send them now? n drops them, Ctrl-C leaves trading halted.", default=None, err=True)
    return HeldExits.SEND if is_yes else HeldExits.DROP


def _list_exits(found: list[dict[str, Any]], what: str) -> None:
    """One line for each exit that the halt has held."""
    from kekbridge.cli import render

    for each in found:
        render.line(
            f"exit {what}: {each['side'].lower()} {each['quantity']} {each['symbol']} (alert {each['alertId']})"
        )


# By state: what begins the line that names the bridge, how a bridge that does not run will start, and what the state means.
_STATE_TEXTS = {
    "running": ("resumed", "it will start trading", "Entries and exits pass."),
    "exits_only": ("exits only", "it will start with exits only", "Entries are denied until `kekbridge resume`."),
    "halted": (
        "halted",
        "it will start halted",
        "No order is sent until `kekbridge resume`; exits that wait are held. Open positions, their stops and exits are not touched.",
    ),
}


def _set_state(
    ctx: typer.Context, operation: Operation, *, data_dir: Path | None, config: Path | None, as_json: bool
) -> None:
    from kekbridge.cli import render
    from kekbridge.cli.bridges import find_bridge
    from kekbridge.cli.control import run_operation

    bridge = find_bridge(ctx, data_dir, config, may_ask=not as_json)
    control = run_operation(bridge.context, operation)
    bridge = bridge.seen_now()
    if as_json:
        render.as_json(control | {"bridge": bridge.as_data()})
    else:
        _print_state(control["state"], bridge, ctx, config)
        if resting := control.get("restingEntries"):
            what = "1 entry that rests" if resting == 1 else f"{resting} entries that rest"
            when = "now" if bridge.is_running else "when the bridge starts"
            render.note(f"Cancelled {when}: {what} at the exchange.")


def _print_state(state: str, bridge: Bridge, ctx: typer.Context, config: Path | None) -> None:
    """Print which bridge is in which state; on stderr what that means, and which other bridges it does not concern."""
    from kekbridge.cli import render
    from kekbridge.cli.bridges import note_others

    label, when_stopped, meaning = _STATE_TEXTS[state]
    render.line(f"{label}: {bridge.named(f'not running; {when_stopped}')}")
    render.note(meaning)
    for other in note_others(bridge, ctx, config):
        render.note(f"Another bridge runs and is not changed: {other}")
