"""`kekbridge flatten`: halt trading, cancel every order, close every position, and verify that the account is flat.

A running bridge does it. If none answers, the command calls the exchange itself, so that it works when the daemon is down or stuck. Trading
stays halted until `kekbridge resume`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kekbridge import formatting
from kekbridge.cli.context import CliContext, mode_in_force, now, open_database, open_vault
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

if TYPE_CHECKING:
    from kekbridge.cli.bridges import Bridge
    from kekbridge.execution.flatten import FlattenResult
    from kekbridge.store.database import Database

flatten = typer.Typer(rich_markup_mode=None, add_completion=False)

NOT_FLAT = 1
_BEYOND_DEADLINE_S = 10.0
# In an emergency a bridge that does not answer is not waited for longer.
_HALT_WITHIN_S = 2.0


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

    This covers the whole account, including orders and positions opened elsewhere. Exit code 1 if the account is not flat within the
    deadline. Trading stays halted until `kekbridge resume`.
    """
    import asyncio

    from kekbridge import log
    from kekbridge.cli import render
    from kekbridge.cli.bridges import find_bridge
    from kekbridge.ops.trading_operations import flatten_data

    bridge = find_bridge(ctx, data_dir, config, may_ask=not as_json)
    context = bridge.context
    log.configure("error", context.settings.log.format)
    if not yes:
        render.note(bridge.named())
        question = "Halt trading, cancel every order and close every position of the account, including those opened elsewhere?"
        typer.confirm(question, abort=True, err=True)
    result = _by_the_bridge(context, deadline)
    if result is None:
        if bridge.settings_error is not None:  # they say which account it is, and where
            raise bridge.settings_error
        with open_database(context) as database:
            _halt(context)
            result = formatting.to_jsonable(flatten_data(asyncio.run(_run(context, database, deadline))))
    _print_result(result, bridge, as_json=as_json)
    return 0 if result["flat"] else NOT_FLAT


def _by_the_bridge(context: CliContext, deadline: int) -> dict[str, Any] | None:
    """Let the running bridge do it; None if none answers, or if it cannot."""
    from kekbridge.cli import render
    from kekbridge.cli.control import daemon_status, run_operation
    from kekbridge.errors import KekbridgeError
    from kekbridge.ops.trading_operations import Flatten

    if daemon_status(context) is None:
        return None
    try:
        result: dict[str, Any] = run_operation(
            context, Flatten(deadline_s=deadline), start_within_s=0.0, answer_within_s=deadline + _BEYOND_DEADLINE_S
        )
    except KekbridgeError as error:
        render.note(f"The bridge could not do it ({error.message}). Closing positions from here.")
        return None
    return result


def _halt(context: CliContext) -> None:
    """Halt first: a queued entry would reopen what is closed here. A stuck bridge or a full disk must not prevent closing."""
    from kekbridge.cli import render
    from kekbridge.cli.control import run_operation
    from kekbridge.errors import KekbridgeError
    from kekbridge.ops.trading_operations import Halt

    try:
        run_operation(context, Halt(reason="flatten"), start_within_s=_HALT_WITHIN_S, answer_within_s=_HALT_WITHIN_S)
    except KekbridgeError as error:
        render.note(f"Could not halt trading ({error.message}); stop the daemon. Closing positions anyway.")


async def _run(context: CliContext, database: Database, deadline: int) -> FlattenResult:
    from contextlib import AsyncExitStack

    from kekbridge.cli import render
    from kekbridge.daemon import resources
    from kekbridge.execution import flatten as execution
    from kekbridge.store import daemon_addresses

    settings = context.settings.model_copy(update={"mode": mode_in_force(context, database)})
    vault = open_vault(context, settings.mode)
    with database.snapshot() as connection:
        address = daemon_addresses.exchange_address(connection, settings)
    async with AsyncExitStack() as stack:
        exchange = resources.exchange_client(settings, vault, address, now)
        stack.push_async_callback(exchange.close)
        await exchange.start()
        return await execution.flatten(exchange, clock=now, deadline_s=deadline, on_progress=render.note)


def _print_result(result: dict[str, Any], bridge: Bridge, *, as_json: bool) -> None:
    from kekbridge.cli import render

    if as_json:
        render.as_json(result | {"bridge": bridge.as_data()})
        return
    for position in result["isolatedPositions"]:
        render.note(
            f"Isolated position {position['symbol']} {position['quantity']} is still open; close it on the exchange's website."
        )
    if result["flat"]:
        closed = formatting.counted(result["positionsClosed"], "position")
        render.line(f"flat: {bridge.named()}: {closed} closed, no open orders; halted until `kekbridge resume`")
        return
    left = ", ".join(f"{one['symbol']} {one['quantity']}" for one in result["positionsLeft"]) or "no positions"
    orders = formatting.counted(result["ordersLeft"], "order")
    trouble = formatting.to_text(result["trouble"])
    render.line(f"NOT flat: {bridge.named()}: still open are {left} and {orders}; {trouble}")
