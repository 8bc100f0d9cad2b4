"""`kekbridge try`: buy the smallest size on paper through the running bridge, as an alert of TradingView does, and show the fill."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

import typer

from kekbridge import formatting
from kekbridge.cli import filters
from kekbridge.cli.context import now, resolve_context
from kekbridge.cli.control import run_operation
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=examples("kekbridge try", "kekbridge try --webhook btc-trend --json"))
def try_order(
    ctx: typer.Context,
    webhook: Annotated[
        str | None, filters.webhook_option("Send it to this webhook. Default: the first that is enabled.")
    ] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> int:
    """Buy the smallest size on paper, and show the fill.

    The order goes the whole way of an alert: signed, checked by the webhook's limits, placed at the paper exchange. Only in paper mode, and
    only while the bridge runs. Exit code 1 if it was not filled.
    """
    from kekbridge.cli import render
    from kekbridge.ops.webhook_operations import TryOrder

    sent = run_operation(resolve_context(ctx, data_dir, config), TryOrder(webhook=webhook))
    body = sent["body"]
    is_filled = body.get("status") == "filled"
    if as_json:
        render.as_json(
            {name: sent[name] for name in ("webhook", "symbol", "quantity", "httpStatus", "milliseconds")} | body
        )
        return 0 if is_filled else 1
    if is_filled:
        result = f"filled at {formatting.money(Decimal(str(body['executedPrice'])))}"
    else:
        result = ": ".join(str(body[name]) for name in ("status", "code", "error") if body.get(name))
    order = f"buy {sent['quantity']} {formatting.market(sent['symbol'])}"
    at = formatting.clock(now(), now(), None)
    render.line(f"{at}  {sent['webhook']}  {order}  {result}  {sent['milliseconds']} ms")
    reference = body.get("alertId") or "ALERT"
    render.note(f"What happened:  kekbridge explain {reference}")
    render.note("Positions:      kekbridge positions")
    return 0 if is_filled else 1
