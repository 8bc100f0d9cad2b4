"""`kekbridge close` and `kekbridge cancel`: close one position, cancel one order, by hand.

While a bridge runs, it does it. Without one the command calls the exchange itself, under the bridge's lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kekbridge import formatting
from kekbridge.cli.options import ConfigFile, DataDir, Json, Yes, examples

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kekbridge.cli.bridges import Bridge
    from kekbridge.model import MarginMode
    from kekbridge.ops.trading_operations import Close

close = typer.Typer(rich_markup_mode=None, add_completion=False)
cancel = typer.Typer(rich_markup_mode=None, add_completion=False)

NOT_DONE = 1
_BEYOND_DEADLINE_S = 20.0


@close.command(
    epilog=examples(
        "kekbridge close BTC",
        "kekbridge close BTC --share 50 --yes",
        "kekbridge close ETH --quantity 0.5 --margin-mode isolated --json --yes",
        "kekbridge close BTC --dry-run",
    )
)
def close_position(
    ctx: typer.Context,
    market: Annotated[str, typer.Argument(metavar="MARKET", help="The base (BTC), or the chart's ticker.")],
    quantity: Annotated[
        str | None,
        typer.Option(metavar="COINS", help="Close this much, at most all of it.", show_default=False),
    ] = None,
    share: Annotated[
        str | None,
        typer.Option(metavar="PERCENT", help="Close this share of the position, such as 50.", show_default=False),
    ] = None,
    margin_mode: Annotated[
        str | None,
        typer.Option(
            "--margin-mode",
            metavar="cross|isolated",
            help="Which position, if both are open. Default: both.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the orders that would be sent.")] = False,
    deadline: Annotated[
        int, typer.Option(metavar="SECONDS", min=1, max=3600, help="Give up after this many seconds.")
    ] = 30,
    yes: Yes = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> int:
    """Close the position of one market, or a part of it.

    Sends market orders, also for positions opened elsewhere and while trading is halted. Entries of the market that were not sent yet end
    with a close of the whole position; later alerts trade as before. A running bridge takes away the stop and take-profits of a closed
    position. Exit code 1 if it is not closed within the deadline.
    """
    from kekbridge import parsing
    from kekbridge.cli import render
    from kekbridge.cli.control import run_operation
    from kekbridge.ops.trading_operations import Close

    operation = Close(
        symbol=market,
        quantity=None if quantity is None else parsing.number("--quantity", quantity),
        share=None if share is None else parsing.number("--share", share.removesuffix("%")),
        margin_mode=None if margin_mode is None else _margin_mode(margin_mode),
        dry_run=dry_run,
        deadline_s=deadline,
    )
    bridge = _find(ctx, data_dir, config, as_json=as_json)
    if not (yes or dry_run):
        render.note(bridge.named())
        symbol = _market(bridge, market)
        typer.confirm(f"{_describe(operation, symbol)} with market orders?", abort=True, err=True)
    result = run_operation(bridge.context, operation, answer_within_s=operation.deadline_s + _BEYOND_DEADLINE_S)
    if not as_json and result.get("limitedTo") is not None:  # missing from a bridge of an earlier version
        base = formatting.market(result["symbol"])
        render.note(f"At most the position: {result['limitedTo']} of {formatting.amount(operation.quantity)} {base}.")
    _print_close(result, bridge, as_json=as_json)
    return 0 if result["closed"] or (dry_run and result["orders"]) else NOT_DONE


@cancel.command(epilog=examples("kekbridge cancel 01KB3Q7T", "kekbridge cancel kb-3Q7T5V9W2X4Y6Z8A0B1C2D3E00 --json"))
def cancel_order(
    ctx: typer.Context,
    order: Annotated[
        str,
        typer.Argument(
            metavar="ORDER", help="Client order id, the exchange's id, the id of its alert, or the beginning of one."
        ),
    ],
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> int:
    """Cancel one open order.

    Also one that waits to be sent, or was placed elsewhere. The stop of an open position is refused: close the position instead. Exit
    code 1 if the order was not canceled.
    """
    from kekbridge.cli import render
    from kekbridge.cli.control import run_operation
    from kekbridge.ops.trading_operations import Cancel

    bridge = _find(ctx, data_dir, config, as_json=as_json)
    result = run_operation(bridge.context, Cancel(order=order))
    bridge = bridge.seen_now()
    if as_json:
        render.as_json(result | {"bridge": bridge.as_data()})
    else:
        name = result["clientOrderId"] or result["orderId"]
        what = f"{result['side'].lower()} {result['quantity']} {formatting.market(result['symbol'])} ({name})"
        trouble = formatting.to_text(result["error"])
        render.line(
            f"canceled: {bridge.named()}: {what}"
            if result["canceled"]
            else f"NOT canceled: {bridge.named()}: {what} is {result['status']}; {trouble}"
        )
    return 0 if result["canceled"] else NOT_DONE


def _find(ctx: typer.Context, data_dir: Path | None, config: Path | None, *, as_json: bool) -> Bridge:
    """The bridge that the command acts on, as for `halt`; nothing is logged but errors."""
    from kekbridge import log
    from kekbridge.cli.bridges import find_bridge

    bridge = find_bridge(ctx, data_dir, config, may_ask=not as_json)
    if not bridge.is_running and bridge.settings_error is not None:  # they say which account it is, and where
        raise bridge.settings_error
    log.configure("error", bridge.context.settings.log.format)
    return bridge


def _margin_mode(text: str) -> MarginMode:
    from kekbridge.errors import ConfigError
    from kekbridge.model import MarginMode

    try:
        return MarginMode(text.strip().upper())
    except ValueError:
        raise ConfigError(f"--margin-mode: found {text[:40]!r}, expected cross or isolated") from None


def _market(bridge: Bridge, text: str) -> str:
    """The market as it is asked about. Raises NotFound and ConfigError beside a bridge, which knows every market.

    Without one, the list is that of its last run: a note says what is not in it, and the exchange decides.
    """
    from kekbridge.cli import render
    from kekbridge.cli.control import run_operation
    from kekbridge.errors import KekbridgeError
    from kekbridge.ops.trading_operations import FindMarket

    try:
        return str(run_operation(bridge.context, FindMarket(symbol=text))["symbol"])
    except KekbridgeError as error:
        if bridge.is_running and error.message.startswith("symbol: "):
            raise
        render.note(error.message)
        return text


def _describe(operation: Close, symbol: str) -> str:
    """What the operator is asked to confirm: `Close 50% of the isolated BTC position`."""
    part = "the whole"
    if operation.quantity is not None:
        part = f"{operation.quantity} of the"
    elif operation.share is not None:
        part = f"{operation.share}% of the"
    mode = "" if operation.margin_mode is None else f" {operation.margin_mode.lower()}"
    return f"Close {part}{mode} {formatting.market(symbol)} position"


# ---------------------------------------------------------------------------------------------------------------- printing


def _print_close(result: Mapping[str, Any], bridge: Bridge, *, as_json: bool) -> None:
    from kekbridge.cli import render
    from kekbridge.cli.flatten import note_dust, position_left

    bridge = bridge.seen_now()
    if as_json:
        render.as_json({**result, "bridge": bridge.as_data()})
        return
    for order in result["orders"]:
        render.note(_order_line(order))
    note_dust(result["dust"])
    _note_entries(result)
    if result["dryRun"]:
        render.line(result["trouble"] or "dry run: nothing was sent")
        return
    left = ", ".join(position_left(one) for one in result["positionsLeft"])
    if result["closed"]:
        what = f"still open: {left}" if left else f"{formatting.market(result['symbol'])} is flat"
        render.line(f"closed: {bridge.named()}: {what}")
    else:
        trouble = formatting.to_text(result["trouble"])
        render.line(f"NOT closed: {bridge.named()}: {left or 'nothing'} is still open; {trouble}")


def _note_entries(result: Mapping[str, Any]) -> None:
    """What became of entries that would open the position again."""
    from kekbridge.cli import render

    base = formatting.market(result["symbol"])
    if ended := result["entriesEnded"]:
        render.note(
            f"Ended before they were sent: {formatting.counted(len(ended), f'{base} entry', f'{base} entries')}."
        )
    if left := result["entriesLeft"]:
        orders = formatting.counted(left, f"{base} entry", f"{base} entries")
        render.note(
            f"May still open a position: {orders} at the exchange; see `kekbridge orders --open --symbol {base}`."
        )


def _order_line(order: Mapping[str, Any]) -> str:
    mode = " isolated" if order["marginMode"] == "ISOLATED" else ""
    line = f"{order['side'].lower()} {order['quantity']} {formatting.market(order['symbol'])}{mode}: {order['status']}"
    if order["averagePrice"] is not None:
        line += f" at {order['averagePrice']}"
    return line
