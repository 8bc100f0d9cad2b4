"""`kekbridge orders` and `kekbridge positions`: what was ordered, and what is held as the daemon last saw it. Reads only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kekbridge import parsing
from kekbridge.cli.context import now, opened, resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kekbridge.cli.render import Line
    from kekbridge.model import Order, Position
    from kekbridge.model.orders import ExitStatus

orders = typer.Typer(rich_markup_mode=None, add_completion=False)
positions = typer.Typer(rich_markup_mode=None, add_completion=False)


def _option(metavar: str, help_text: str) -> Any:
    return typer.Option(metavar=metavar, help=help_text, show_default=False)


@orders.command(
    epilog=examples(
        "kekbridge orders",
        "kekbridge orders --open --symbol BTC",
        "kekbridge orders --since 24h --json | jq '.[] | {symbol, status, averagePrice}'",
    )
)
def list_orders(
    context: typer.Context,
    only_open: Annotated[bool, typer.Option("--open", help="Only those that are not finished.")] = False,
    symbol: Annotated[str | None, _option("BTC", "Of this market only.")] = None,
    webhook: Annotated[str | None, _option("NAME", "Of this webhook only.")] = None,
    status: Annotated[str | None, _option("STATUS", "queued, submitting, unknown, accepted, filled, …")] = None,
    since: Annotated[str | None, _option("TIME", "From then on: 2h, 7d, or 2026-11-22T16:00 (UTC).")] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="The newest N.")] = 50,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """List orders, newest last.

    What was asked, what was filled at which price, and why not if it was not.
    """
    from kekbridge.cli import render
    from kekbridge.store import orders as order_rows
    from kekbridge.store import protection
    from kekbridge.webhooks.registry import perp_symbol

    with opened(resolve_context(context, data_dir, config)) as database, database.snapshot() as connection:
        found = order_rows.list_orders(
            connection,
            webhook=webhook,
            status=status,
            symbol=None if symbol is None else perp_symbol(symbol, "--symbol"),
            since=None if since is None else parsing.instant("--since", since, now()),
            open_only=only_open,
            limit=limit,
        )
        legs = {order.client_order_id: protection.of_order(connection, order.client_order_id) for order in found}
    if as_json:
        render.as_json(
            [order_data(order) | {"exits": render.to_jsonable(legs[order.client_order_id])} for order in found]
        )
        return
    if not found:
        render.note("No open order." if only_open else "No order yet. `kekbridge logs` shows what came in.")
        return
    titles = {"TIME (UTC)": 8, "ALERT": 13, "MARKET": 4, "ORDER": 10, "FILLED": 6, "STATUS": 6}
    render.lines(titles, [_order_line(order, legs[order.client_order_id]) for order in found])


@positions.command(epilog=examples("kekbridge positions", "kekbridge positions --json"))
def list_positions(
    context: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False
) -> None:
    """List open positions as the bridge last saw them.

    SEEN says how long ago that was; the daemon looks every `exchange.refresh_s` seconds and after every fill.
    """
    from kekbridge.cli import render
    from kekbridge.store import positions as stored
    from kekbridge.store.lock import DaemonLock

    workspace = resolve_context(context, data_dir, config)
    with opened(workspace) as database, database.snapshot() as connection:
        found = [position for position in stored.list_all(connection) if position.quantity != 0]
    if as_json:
        render.as_json([position_data(position) for position in found])
        return
    if not found:
        render.note("No open position.")
    else:
        columns = [
            render.Column("MARKET"),
            render.Column("SIDE"),
            render.Column("QUANTITY", justify="right"),
            render.Column("ENTRY", justify="right"),
            render.Column("MARK", justify="right"),
            render.Column("PNL (USDC)", justify="right"),
            render.Column("LIQUIDATION", justify="right"),
            render.Column("SEEN", justify="right"),
        ]
        render.table(columns, [_position_row(position) for position in found])
    if DaemonLock.holder(workspace.data_dir) is None:
        render.note("The bridge is not running: this is what it saw last.")


def order_data(order: Order) -> dict[str, Any]:
    """An order for scripts: its own fields and those of its intent side by side."""
    from kekbridge.cli import render

    shown: dict[str, Any] = render.to_jsonable(order)
    intent = shown.pop("intent")
    return shown | {key: value for key, value in intent.items() if key not in shown}


def position_data(position: Position) -> dict[str, Any]:
    """A position for scripts, with the gain or loss at the mark."""
    from kekbridge.cli import render

    shown: dict[str, Any] = render.to_jsonable(position)
    return shown | {"unrealizedPnl": render.to_jsonable(position.unrealized_pnl)}


def _order_line(order: Order, legs: Sequence[ExitStatus]) -> Line:
    from kekbridge.cli import render
    from kekbridge.reports.alert_report import describe_order

    filled = render.amount(order.executed_quantity)
    if order.average_price is not None:
        filled += f" at {render.amount(order.average_price)}"
    cells = (
        render.clock(order.created_at, now()),
        render.short_id(order.alert_id),
        render.market(order.intent.symbol),
        describe_order(order),
        filled,
        order.status,
    )
    details = [": ".join(part for part in (order.code, order.error) if part)]
    details += [f"{leg.kind.replace('_', ' ').lower()} {leg.status}" for leg in legs]
    return render.Line(cells, ", ".join(filter(None, details)))


def _position_row(position: Position) -> tuple[object, ...]:
    from kekbridge.cli import render

    pnl = position.unrealized_pnl
    return (
        render.market(position.symbol),
        "long" if position.quantity > 0 else "short",
        abs(position.quantity),
        position.average_open_price,
        position.mark_price,
        None if pnl is None else f"{pnl:+.2f}",
        position.liquidation_price,
        None if position.updated_at is None else render.age(position.updated_at, now()),
    )
