"""`kekbridge paper`: run only the paper exchange, for any Orderly client. Its key is public and worthless."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kekbridge import parsing
from kekbridge.cli.context import CliContext, own_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

if TYPE_CHECKING:
    from pathlib import Path

    from kekbridge.paper.settings import PaperSettings

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "kekbridge paper --data-dir ./venue --prices static",
        "kekbridge paper --port 9090 --json      address and key as one line of JSON",
        "KEKBRIDGE_EXCHANGE_BASE_URL=http://127.0.0.1:9090 kekbridge serve",
    )
)
def paper(
    ctx: typer.Context,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=65535,
            help="Port on 127.0.0.1; 0 picks a free one. Default: paper.port.",
            show_default=False,
        ),
    ] = None,
    prices: Annotated[
        Literal["live", "static"] | None,
        typer.Option(help="Orderly's live prices, or fixed ones. Default: paper.prices.", show_default=False),
    ] = None,
    balance: Annotated[
        str | None,
        typer.Option(
            metavar="USDC", help="Initial balance of a new account. Default: paper.balance.", show_default=False
        ),
    ] = None,
    rate_limits: Annotated[
        bool | None,
        typer.Option(
            "--rate-limits/--no-rate-limits",
            help="Enforce rate limits, as the real exchange does.",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Run only the paper exchange, for any Orderly client.

    It serves Orderly's paths, signatures, filters and streams on this machine. Prints its address and the account's key, then runs
    until Ctrl-C or SIGTERM. State is kept in the data directory.
    """
    import asyncio

    context = own_context(
        ctx,
        data_dir,
        config,
        {
            "paper.port": port,
            "paper.prices": prices,
            "paper.balance": None if balance is None else parsing.number("--balance", balance),
            "paper.rate_limits": rate_limits,
        },
    )
    asyncio.run(_run(context, as_json=as_json))


async def _run(context: CliContext, *, as_json: bool) -> None:
    """Listen, announce the address, and run until a signal."""
    import asyncio
    import signal

    from kekbridge import log
    from kekbridge.errors import ConfigError
    from kekbridge.paper.server import PaperExchange

    log.configure(context.settings.log.level, context.settings.log.format)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    directory = context.data_dir / "paper"  # where `serve` keeps the same account
    exchange = PaperExchange(directory, settings=_settings(context))
    try:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            base_url = await exchange.start("127.0.0.1", context.settings.paper.port)
        except OSError as error:
            raise ConfigError(
                f"the paper exchange cannot start on port {context.settings.paper.port} with data in {directory}: "
                f"{error.strerror}; use another --port (0 picks a free one) or --data-dir"
            ) from None
        _announce(base_url, directory, as_json=as_json)
        await stopped.wait()
    finally:
        await exchange.close()


def _settings(context: CliContext) -> PaperSettings:
    from kekbridge.paper.settings import PaperSettings

    paper = context.settings.paper
    return PaperSettings(prices=paper.prices, balance=Decimal(paper.balance), rate_limits=paper.rate_limits)


def _announce(base_url: str, data_dir: Path, *, as_json: bool) -> None:
    """Print address and key, as one line of JSON or as text; flushed, since the caller waits for it."""
    import sys

    from kekbridge.cli import render
    from kekbridge.paper.settings import PAPER_ACCOUNT_ID, PAPER_ORDERLY_KEY, PAPER_ORDERLY_SECRET

    identity = {
        "base_url": base_url,
        "account_id": PAPER_ACCOUNT_ID,
        "orderly_key": PAPER_ORDERLY_KEY,
        "orderly_secret": PAPER_ORDERLY_SECRET,
    }
    if as_json:
        render.as_json(identity)
    else:
        render.pairs([("paper exchange", base_url), ("data directory", str(data_dir)), *list(identity.items())[1:]])
        render.line("")
        render.line(
            f"Set a price:       curl -s {base_url}/paper/prices -H 'Content-Type: application/json'"
            """ -d '{"PERP_BTC_USDC":"65000"}'"""
        )
        render.line(f"Show its journal:  curl -s {base_url}/paper/journal")
        render.line("Ready. Press Ctrl-C to stop.")
    sys.stdout.flush()
