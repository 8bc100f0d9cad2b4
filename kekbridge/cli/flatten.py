"""`kekbridge flatten`: halt trading, cancel every order, close every position, and verify that the account is flat.

It calls the exchange itself, so that it works when the daemon is down or stuck. Trading stays halted until `kekbridge resume`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kekbridge import formatting
from kekbridge.cli.context import CliContext, mode_in_force, now, open_database, open_vault, resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

if TYPE_CHECKING:
    from kekbridge.execution.flatten import FlattenResult
    from kekbridge.store.database import Database

flatten = typer.Typer(rich_markup_mode=None, add_completion=False)

NOT_FLAT = 1


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

    context = resolve_context(ctx, data_dir, config)
    log.configure("error", context.settings.log.format)
    if not yes:
        question = "Halt trading, cancel every order and close every position of the account, including those opened elsewhere?"
        typer.confirm(question, abort=True, err=True)
    with open_database(context, create=True) as database:
        _halt(database)
        result = asyncio.run(_run(context, database, deadline))
    _print_result(result, as_json=as_json)
    return 0 if result.is_flat else NOT_FLAT


def _halt(database: Database) -> None:
    """Halt first: a queued entry would reopen what is closed here. A full disk must not prevent closing."""
    from kekbridge.cli import render
    from kekbridge.errors import StoreUnavailable
    from kekbridge.model import TradingState
    from kekbridge.store import settings

    try:
        with database.transaction() as connection:
            settings.set_trading_state(connection, TradingState.HALTED, reason="flatten", by="command line", now=now())
    except StoreUnavailable as error:
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


def _print_result(result: FlattenResult, *, as_json: bool) -> None:
    from kekbridge.cli import render
    from kekbridge.cli.orders import position_data

    if as_json:
        data: dict[str, Any] = {
            "flat": result.is_flat,
            "positionsClosed": result.positions_closed,
            "ordersLeft": result.orders_left,
            "positionsLeft": [position_data(position) for position in result.positions_left],
            "isolatedPositions": [position_data(position) for position in result.isolated],
            "trouble": result.error,
        }
        render.as_json(data)
        return
    for position in result.isolated:
        render.note(
            f"Isolated position {position.symbol} {position.quantity} is still open; close it on the exchange's website."
        )
    if result.is_flat:
        render.line(
            f"flat: {result.positions_closed} positions closed, no open orders; halted until `kekbridge resume`"
        )
        return
    left = ", ".join(f"{position.symbol} {position.quantity}" for position in result.positions_left) or "no positions"
    render.line(f"NOT flat: {left} and {result.orders_left} orders are still open; {formatting.to_text(result.error)}")
