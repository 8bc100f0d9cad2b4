"""`kekbridge flatten`: halt trading, cancel every order, close every position, and look until the account is flat.

It talks to the exchange itself, so that it works when the daemon is down or stuck. The halt stays: `kekbridge resume` ends it.
"""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kekbridge.cli.context import CliContext, mode_in_force, now, opened, resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

if TYPE_CHECKING:
    from kekbridge.execution.flatten import FlattenResult
    from kekbridge.store.database import Database

flatten = typer.Typer(rich_markup_mode=None, add_completion=False)

NOT_FLAT = 1


@flatten.command(epilog=examples("kekbridge flatten", "kekbridge flatten --yes --deadline 60 --json"))
def flatten_account(
    context: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    deadline: Annotated[
        int, typer.Option(metavar="SECONDS", min=1, max=3600, help="Give up after so many seconds.")
    ] = 30,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> int:
    """Halt, cancel every order, close every position.

    Of the whole account, also what was made elsewhere. Looks until the account is flat; exit code 1 when it is not within
    the deadline. Trading stays halted until `kekbridge resume`.
    """
    import asyncio

    from kekbridge import log

    workspace = resolve_context(context, data_dir, config)
    log.configure("error", workspace.settings.log.format)
    if not yes:
        question = (
            "Halt trading, cancel every order and close every position of the account, also those made elsewhere?"
        )
        typer.confirm(question, abort=True, err=True)
    with opened(workspace, create=True) as database:
        _halt(database)
        result = asyncio.run(_run(workspace, database, deadline))
    _print(result, as_json=as_json)
    return 0 if result.is_flat else NOT_FLAT


def _halt(database: Database) -> None:
    """Halt first, or a queued entry would open again what is closed here. A full disk must not stand in the way of closing."""
    from kekbridge.cli import render
    from kekbridge.errors import StoreUnavailable
    from kekbridge.model import TradingState
    from kekbridge.store import settings

    try:
        with database.transaction() as connection:
            settings.set_trading_state(connection, TradingState.HALTED, reason="flatten", by="command line", now=now())
    except StoreUnavailable as error:
        render.note(f"Trading could not be halted ({error.message}); stop the daemon. Closing all the same.")


async def _run(workspace: CliContext, database: Database, deadline: int) -> FlattenResult:
    from contextlib import AsyncExitStack

    from kekbridge.cli import render
    from kekbridge.daemon import resources
    from kekbridge.execution.flatten import flatten as make_flat
    from kekbridge.store import daemon_addresses
    from kekbridge.vault import open_vault

    settings = workspace.settings.model_copy(update={"mode": mode_in_force(workspace, database)})
    ask = getpass.getpass if sys.stdin is not None and sys.stdin.isatty() else None
    vault = open_vault(settings.vault, workspace.data_dir, settings.mode, ask=ask)
    with database.snapshot() as connection:
        address = daemon_addresses.exchange_address(connection, settings)
    async with AsyncExitStack() as stack:
        exchange = resources.exchange_client(settings, vault, address, now)
        stack.push_async_callback(exchange.close)
        await exchange.start()
        return await make_flat(exchange, clock=now, deadline_s=deadline, tell=render.note)


def _print(result: FlattenResult, *, as_json: bool) -> None:
    from kekbridge.cli import render
    from kekbridge.cli.orders import position_data

    if as_json:
        told: dict[str, Any] = {
            "flat": result.is_flat,
            "positionsClosed": result.positions_closed,
            "ordersLeft": result.orders_left,
            "positionsLeft": [position_data(position) for position in result.positions_left],
            "isolatedPositions": [position_data(position) for position in result.isolated],
            "trouble": result.trouble,
        }
        render.as_json(told)
        return
    for position in result.isolated:
        render.note(f"Isolated position {position.symbol} {position.quantity} is left: close it in the front end.")
    if result.is_flat:
        render.line(f"flat: {result.positions_closed} positions closed, no order left; halted until `kekbridge resume`")
        return
    left = ", ".join(f"{position.symbol} {position.quantity}" for position in result.positions_left) or "no position"
    render.line(f"NOT flat: {left} and {result.orders_left} orders left; {render.to_text(result.trouble)}")
