"""`kekbridge flatten`: halt trading, cancel entries, close every position, cancel what is left, and verify that the account is flat.

A running bridge does it. If none answers, the command calls the exchange itself, so that it works when the daemon is down (then under its
lock) or stuck. Trading stays halted until `kekbridge resume`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kekbridge import formatting
from kekbridge.cli.context import CliContext
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kekbridge.cli.bridges import Bridge

flatten = typer.Typer(rich_markup_mode=None, add_completion=False)

NOT_FLAT = 1
_BEYOND_DEADLINE_S = 10.0
# In an emergency a bridge that does not answer is not waited for longer.
_ANSWER_WITHIN_S = 2.0
_RETRY_EVERY_S = 0.1


@flatten.command(epilog=examples("kekbridge flatten", "kekbridge flatten --yes --deadline 60 --json"))
def flatten_account(
    ctx: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    deadline: Annotated[
        int, typer.Option(metavar="SECONDS", min=1, max=3600, help="Give up after this many seconds.")
    ] = 30,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> int:
    """Halt, cancel every order, close every position.

    This covers the whole account, including isolated positions and what was opened elsewhere. Stops stay until their position is closed.
    Exit code 1 if the account is not flat within the deadline. Trading stays halted until `kekbridge resume`.
    """
    from kekbridge import log
    from kekbridge.cli import render
    from kekbridge.cli.bridges import find_bridge

    bridge = find_bridge(ctx, data_dir, config, may_ask=not as_json)
    context = bridge.context
    log.configure("error", context.settings.log.format)
    if not yes:
        render.note(bridge.named())
        question = "Halt trading, cancel every order and close every position of the account, including those opened elsewhere?"
        typer.confirm(question, abort=True, err=True)
    result = _flatten(bridge, deadline)
    _print_result(result, bridge, as_json=as_json)
    return 0 if result["flat"] else NOT_FLAT


def _flatten(bridge: Bridge, deadline: int) -> Any:
    """Have the running bridge do it, or do it here: without a bridge, or beside one that does not answer or could not."""
    from kekbridge.cli import render
    from kekbridge.cli.control import BridgeUnavailable, OperationFailed, run_beside_hung_bridge, run_operation
    from kekbridge.ops.trading_operations import Flatten
    from kekbridge.store.lock import lock_owner

    context, operation = bridge.context, Flatten(deadline_s=deadline)
    if not bridge.is_running and bridge.settings_error is not None:  # they say which account it is, and where
        raise bridge.settings_error
    if _is_hung(context):
        _halt(context)
    else:
        try:
            return run_operation(
                context, operation, start_within_s=_ANSWER_WITHIN_S, answer_within_s=deadline + _BEYOND_DEADLINE_S
            )
        except (BridgeUnavailable, OperationFailed) as error:
            render.note(f"The bridge could not do it ({error.message}). Closing positions from here.")
    if bridge.settings_error is not None:
        raise bridge.settings_error
    if lock_owner(context.data_dir) is None:  # it has ended
        return run_operation(context, operation, start_within_s=_ANSWER_WITHIN_S)
    return run_beside_hung_bridge(context, operation)


def _is_hung(context: CliContext) -> bool:
    """True if a bridge holds the lock and does not answer."""
    import time

    from kekbridge.cli.control import daemon_status
    from kekbridge.store.lock import lock_owner

    give_up_at = time.monotonic() + _ANSWER_WITHIN_S
    while daemon_status(context) is None:
        owner = lock_owner(context.data_dir)
        if owner is None or not owner.is_daemon:
            return False
        if time.monotonic() >= give_up_at:
            return True
        time.sleep(_RETRY_EVERY_S)
    return False


def _halt(context: CliContext) -> None:
    """Ask a bridge that hangs to halt: it does so first when it goes on, or a queued entry would reopen what is closed here."""
    from kekbridge.cli import render
    from kekbridge.cli.control import run_operation
    from kekbridge.errors import KekbridgeError
    from kekbridge.ops.trading_operations import Halt

    try:
        run_operation(
            context, Halt(reason="flatten"), start_within_s=_ANSWER_WITHIN_S, answer_within_s=_ANSWER_WITHIN_S
        )
    except KekbridgeError as error:
        render.note(f"Could not halt trading ({error.message}); stop the daemon. Closing positions anyway.")


def _print_result(result: dict[str, Any], bridge: Bridge, *, as_json: bool) -> None:
    from kekbridge.cli import render

    if as_json:
        render.as_json(result | {"bridge": bridge.as_data()})
        return
    note_dust(result["dust"])
    if result["flat"]:
        what = "flat except for dust" if result["dust"] else "flat"
        closed = formatting.counted(result["positionsClosed"], "position")
        halted = "halted until `kekbridge resume`" if result["halted"] else "trading is NOT halted: stop the bridge"
        render.line(f"{what}: {bridge.named()}: {closed} closed, no open orders; {halted}")
        return
    left = ", ".join(position_left(one) for one in result["positionsLeft"]) or "no positions"
    orders = formatting.counted(result["ordersLeft"], "order")
    trouble = formatting.to_text(result["trouble"])
    render.line(f"NOT flat: {bridge.named()}: still open are {left} and {orders}; {trouble}")


def note_dust(parts: Sequence[Mapping[str, Any]]) -> None:
    """Name what stays open because no order can be that small."""
    from kekbridge.cli import render

    for dust in parts:
        mode = " isolated" if dust["marginMode"] == "ISOLATED" else ""
        render.note(
            f"{dust['symbol']}{mode} {dust['quantity']} stays open: it is below the exchange's smallest order, {dust['minimum']}."
        )


def position_left(position: Mapping[str, Any]) -> str:
    """An open position in words: `PERP_BTC_USDC isolated 0.5`."""
    mode = " isolated" if position["marginMode"] == "ISOLATED" else ""
    return f"{position['symbol']}{mode} {position['quantity']}"
