"""`kekbridge explain`: everything that happened to one alert, in order; or what a code means. Reads only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kekbridge import formatting
from kekbridge.cli.context import now, open_database, resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kekbridge.codes import Code
    from kekbridge.model import Fill, Verdict
    from kekbridge.model.orders import ExitStatus
    from kekbridge.reports.alert_report import AlertReport, OrderTimeline
    from kekbridge.store.alerts import StoredAlert

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "kekbridge explain 01KAN5V6Q2R8S      an id, or its start, as `logs` shows it",
        "kekbridge explain my-alert-17        an alertId, or a client order id",
        "kekbridge explain timestamp_stale    what a code means and how to fix it",
        "kekbridge explain --codes",
    )
)
def explain(
    ctx: typer.Context,
    alert: Annotated[
        str | None, typer.Argument(metavar="ALERT", help="An alert, an order or a code.", show_default=False)
    ] = None,
    codes: Annotated[bool, typer.Option("--codes", help="List every code with its meaning and fix.")] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Show everything that happened to one alert, or explain codes."""
    from kekbridge.codes import CODES
    from kekbridge.errors import ConfigError
    from kekbridge.reports import alert_report

    if codes:
        _print_codes(list(CODES.values()), as_json=as_json)
        return
    if alert is None:
        raise ConfigError("no alert given; name an id from `kekbridge logs`, or use --codes")
    if alert in CODES:
        _print_codes([CODES[alert]], as_json=as_json)
        return
    with open_database(resolve_context(ctx, data_dir, config)) as database, database.snapshot() as connection:
        report = alert_report.read(connection, alert)
    if as_json:
        _print_json(report)
    else:
        _print_report(report)


def _print_json(report: AlertReport) -> None:
    """Print one object: the alert, and its orders with requests, verdicts of the recheck and fills inside."""
    from kekbridge.cli import render
    from kekbridge.cli.orders import order_data

    legs = [
        order_data(one.order)
        | {
            "request": one.details.request,
            "signedAt": one.details.signed_at,
            "verdictsBeforeSending": formatting.jsonable(one.details.verdicts),
            "answers": formatting.jsonable(one.answers),
            "fills": formatting.jsonable(one.fills),
            "exits": formatting.jsonable(one.exits),
            "exitFills": formatting.jsonable(one.exit_fills),
            "slippage": formatting.jsonable(one.slippage),
        }
        for one in report.orders
    ]
    stages = {name: round(value, 3) for name, value in report.stages.items()}
    render.as_json(formatting.jsonable(report.alert) | {"stages": stages, "orders": legs, "events": report.events})


def _print_report(report: AlertReport) -> None:
    from kekbridge.cli import render

    alert = report.alert
    _print_alert(alert)
    if alert.verdicts:
        render.heading("rules at admission")
        print_verdicts(alert.verdicts)
    for one in report.orders:
        _print_order(one)
        _print_exits(one.exits, one.exit_fills)
        failed = [verdict for verdict in one.details.verdicts if not verdict.passed]
        if failed:
            render.heading("  rules at the recheck before sending")
            print_verdicts(failed)
    render.heading("latency in ms (received: since the alert fired; others: since it was received)")
    render.pairs([(stage, f"{value:.1f}") for stage, value in report.stages.items()], indent=2)
    if alert.answer is not None:
        render.heading(f"response: HTTP {alert.answer_status}")
        render.pairs(alert.answer.items(), indent=2)


def _print_alert(alert: StoredAlert) -> None:
    from kekbridge.cli import render
    from kekbridge.codes import CODES

    rows: list[tuple[str, object]] = [
        ("alert", alert.id),
        ("alertId", alert.alert_id),
        ("webhook", alert.webhook_name),
        ("received", f"{formatting.moment(alert.received_at)} UTC ({formatting.age(alert.received_at, now())})"),
        ("from", f"{formatting.plain(alert.remote)}, proof: {formatting.plain(alert.proof)}"),
    ]
    if alert.fired_at is not None:
        delay = formatting.duration(alert.received_at - alert.fired_at)
        rows.append(("fired", f"{formatting.moment(alert.fired_at)} UTC, {delay} before it was received"))
    rows += [("action", " ".join(part for part in (alert.action, alert.symbol) if part)), ("status", alert.status)]
    if alert.code:
        rows.append(("code", alert.code))
        known = CODES.get(alert.code)
        rows += [("why", alert.error or (known.meaning if known else None))]
        rows += [("fix", known.fix)] if known else []
    render.pairs(rows)
    for warning in alert.warnings:
        render.pairs([("warning", warning)])
    render.heading("message (credentials shortened)")
    render.pairs(alert.payload.items(), indent=2)


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Print a table of verdicts: the rule, the value it found, its limit, passed or denied."""
    from kekbridge.cli import render

    columns = [
        render.Column("  RULE"),
        render.Column("SCOPE"),
        render.Column("FOUND", shrinks=True),
        render.Column("LIMIT", shrinks=True),
        render.Column("VERDICT", is_status=True),
    ]
    render.table(
        columns,
        [
            (f"  {verdict.rule}", verdict.scope, verdict.found, verdict.limit, "passed" if verdict.passed else "denied")
            for verdict in verdicts
        ],
    )


def _print_order(timeline: OrderTimeline) -> None:
    from kekbridge.cli import render
    from kekbridge.cli.orders import order_text

    order = timeline.order
    intent = order.intent
    render.heading(f"order {order.leg + 1}: {order_text(order)} {intent.symbol}")
    rows: list[tuple[str, object]] = [
        ("status", order.status),
        ("client order id", order.client_order_id),
        ("order id", order.order_id),
        ("filled", f"{formatting.amount(order.executed_quantity)} at {formatting.amount(order.average_price)}"),
        ("fee (USDC)", order.fee),
        ("expected price", intent.reference_price),
    ]
    optional = [
        ("stop loss", intent.stop_loss),
        (
            "take profits",
            [
                f"{formatting.amount(one.quantity)} at {formatting.amount(one.trigger_price)}"
                for one in intent.take_profits
            ],
        ),
        ("realized P&L", order.realized_pnl or None),
        *((f"slippage vs {one.against}", f"{one.share * 100:+.3f} %") for one in timeline.slippage),
        ("attempts", order.attempt if order.attempt > 1 else None),
        ("code", order.code),
        ("why", order.error),
        ("request", timeline.details.request),
    ]
    render.pairs([*rows, *((name, value) for name, value in optional if value not in (None, "", []))], indent=2)
    for answer in timeline.answers:
        render.pairs(
            [(f"+{answer.ms:.0f} ms", f"{answer.what}: {answer.figures}" if answer.figures else answer.what)], indent=2
        )
    for fill in timeline.fills:
        maker = "maker" if fill.is_maker else "taker"
        text = f"{formatting.amount(fill.quantity)} at {formatting.amount(fill.price)}, fee {formatting.amount(fill.fee)} ({maker})"
        render.pairs([(f"fill {formatting.moment(fill.executed_at)}", text)], indent=2)


def _print_exits(legs: Sequence[ExitStatus], executions: Sequence[Fill]) -> None:
    """Print the stop loss and take-profit attached to the order, and their fills."""
    from kekbridge.cli import render

    if not legs and not executions:
        return
    render.heading("  attached exits")
    rows: list[tuple[str, object]] = []
    for leg in legs:
        if leg.trigger_price is None and not leg.executed_quantity:
            continue  # the exchange reports both of a pair, also the one not requested
        text = f"{leg.status}, trigger {formatting.amount(leg.trigger_price)}"
        if leg.executed_quantity:
            text += f", {formatting.amount(leg.executed_quantity)} at {formatting.amount(leg.average_price)}"
        rows.append((leg.kind.replace("_", " ").lower(), text))
    for fill in executions:
        text = f"{fill.side.lower()} {formatting.amount(fill.quantity)} at {formatting.amount(fill.price)}"
        rows.append((f"fill {formatting.moment(fill.executed_at)}", f"{text}, fee {formatting.amount(fill.fee)}"))
        if fill.realized_pnl is not None:
            rows.append(("realized P&L", formatting.amount(fill.realized_pnl)))
    render.pairs(rows, indent=4)


def _print_codes(codes: list[Code], *, as_json: bool) -> None:
    from kekbridge.cli import render

    if as_json:
        render.as_json(codes)
    elif len(codes) == 1:
        (code,) = codes
        render.pairs([("code", code.name), ("HTTP", code.status), ("meaning", code.meaning), ("fix", code.fix)])
    else:
        for code in codes:
            render.heading(code.name if code.status is None else f"{code.name} ({code.status})", gap=False)
            render.paragraph(f"{code.meaning} {code.fix}", indent=2)
