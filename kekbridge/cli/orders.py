"""`kekbridge orders` and `kekbridge positions`: stored orders, and open positions as the daemon last saw them. Reads only."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kekbridge import formatting, parsing
from kekbridge.cli import filters
from kekbridge.cli.context import is_running, now, open_database, resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, Utc, examples
from kekbridge.ops import known_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, tzinfo
    from decimal import Decimal

    from kekbridge.cli.render import Line
    from kekbridge.model import Order, Position
    from kekbridge.model.orders import ExitStatus

orders = typer.Typer(rich_markup_mode=None, add_completion=False)
positions = typer.Typer(rich_markup_mode=None, add_completion=False)


def _option(metavar: str, help_text: str, complete: filters.Completer | None = None) -> Any:
    return typer.Option(metavar=metavar, help=help_text, show_default=False, autocompletion=complete)


@orders.command(
    epilog=examples(
        "kekbridge orders",
        "kekbridge orders --open --symbol BTC",
        "kekbridge orders --since 24h --json | jq '.[] | {symbol, averagePrice}'",
    )
)
def list_orders(
    ctx: typer.Context,
    only_open: Annotated[bool, typer.Option("--open", help="Only open orders.")] = False,
    symbol: Annotated[str | None, _option("BTC", "Only this market.", filters.complete_symbols)] = None,
    webhook: Annotated[str | None, _option("NAME", "Only this webhook.", filters.complete_webhooks)] = None,
    status: Annotated[
        str | None,
        _option("STATUS", "queued, submitting, unknown, accepted, filled …", filters.complete_order_statuses),
    ] = None,
    since: Annotated[str | None, _option("TIME", "Start: 2h or 7d (ago), or 2026-11-22T16:00.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="Show the newest N.")] = 50,
    utc: Utc = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """List orders, newest last.

    Shows the order, the filled quantity and price, and the reason if it was not filled.
    """
    from kekbridge.cli import render
    from kekbridge.ops.queries import order_with_exits
    from kekbridge.store import orders as order_rows
    from kekbridge.store import protection
    from kekbridge.webhooks.registry import price_ticks

    zone = UTC if utc else None
    with open_database(resolve_context(ctx, data_dir, config)) as database, database.snapshot() as connection:
        listed = order_rows.list_orders(
            connection,
            webhook=known_names.webhook(connection, webhook),
            status=known_names.order_status(status),
            symbol=known_names.symbol(connection, symbol),
            since=None if since is None else parsing.instant("--since", since, now(), zone),
            open_only=only_open,
            limit=limit,
        )
        ticks = price_ticks(connection)
        if as_json:
            render.as_json([order_with_exits(connection, order) for order in listed])
            return
        legs = {order.client_order_id: protection.exits_of(connection, order.client_order_id) for order in listed}
    if not listed:
        is_filtered = any((symbol, webhook, status, since))
        none = "No orders match." if is_filtered else "No orders yet. `kekbridge logs` shows the alerts received."
        render.note("No open orders." if only_open and not is_filtered else none)
        return
    titles = {
        f"TIME ({formatting.zone_name(now(), zone)})": 8,
        "ALERT": 13,
        "MARKET": 4,
        "ORDER": 10,
        "FILLED": 6,
        "STATUS": 6,
    }
    rows = [_order_line(order, legs[order.client_order_id], ticks, zone) for order in listed]
    render.lines(titles, rows, drops=("ALERT", "FILLED", next(iter(titles))))


@positions.command(epilog=examples("kekbridge positions", "kekbridge positions --json"))
def list_positions(
    ctx: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False
) -> None:
    """List open positions as the bridge last saw them.

    SEEN is how long ago the bridge last asked the exchange for them, whether or not they had changed.
    """
    from kekbridge.cli import render
    from kekbridge.ops import queries
    from kekbridge.store import positions as stored
    from kekbridge.webhooks.registry import price_ticks

    context = resolve_context(ctx, data_dir, config)
    with open_database(context) as database, database.snapshot() as connection:
        if as_json:
            render.as_json(queries.list_positions(connection))
            return
        held = [position for position in stored.list_all(connection) if position.quantity != 0]
        seen_at, ticks = stored.seen_at(connection), price_ticks(connection)
    if not held:
        render.note("No open positions.")
    else:
        columns = [
            render.Column("MARKET"),
            render.Column("SIDE"),
            render.Column("QUANTITY", justify="right"),
            render.Column("ENTRY", justify="right", drop=4),
            render.Column("MARK", justify="right", drop=3),
            render.Column("P&L (USDC)", justify="right"),
            render.Column("LIQUIDATION", justify="right", drop=2),
            render.Column("SEEN", justify="right", drop=1),
        ]
        render.table(columns, [_position_row(position, seen_at, ticks.get(position.symbol)) for position in held])
    if not is_running(context):
        render.note("The bridge is not running; these are the positions that it last saw.")


def _order_line(order: Order, legs: Sequence[ExitStatus], ticks: Mapping[str, Decimal], zone: tzinfo | None) -> Line:
    from kekbridge.cli import render
    from kekbridge.reports.alert_report import describe_order

    filled = formatting.amount(order.executed_quantity)
    if order.average_price is not None:
        filled += f" at {formatting.price(order.average_price, ticks.get(order.intent.symbol))}"
    cells = (
        formatting.clock(order.created_at, now(), zone),
        formatting.short_id(order.alert_id),
        formatting.market(order.intent.symbol),
        describe_order(order),
        filled,
        order.status,
    )
    details = [": ".join(part for part in (order.code, order.error) if part)]
    details += [f"{leg.kind.replace('_', ' ').lower()} {leg.status}" for leg in legs]
    return render.Line(cells, ", ".join(filter(None, details)))


def _position_row(position: Position, seen_at: datetime | None, tick: Decimal | None) -> tuple[object, ...]:
    return (
        formatting.market(position.symbol),
        formatting.position_side(position.quantity, position.margin_mode),
        abs(position.quantity),
        formatting.price(position.average_open_price, tick),
        formatting.price(position.mark_price, tick),
        formatting.pnl(position.unrealized_pnl),
        formatting.price(position.liquidation_price, tick),
        None if seen_at is None else formatting.age(seen_at, now()),
    )
