"""`kekbridge explain`: the whole story of one alert, in the order it happened; or what a code means. Reads only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kekbridge.cli.context import now, opened, resolve_context
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
        "kekbridge explain 01KAN5V6Q2R8S        the id (or its beginning) that `kekbridge logs` shows",
        "kekbridge explain my-alert-17          the alertId of the message; a client order id does, too",
        "kekbridge explain timestamp_stale      what a code means and how to fix it",
        "kekbridge explain --codes",
    )
)
def explain(
    context: typer.Context,
    alert: Annotated[
        str | None, typer.Argument(metavar="ALERT", help="An alert, an order, or a code.", show_default=False)
    ] = None,
    codes: Annotated[bool, typer.Option("--codes", help="List every code with its meaning and its fix.")] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Tell the whole story of one alert, or list every code."""
    from kekbridge.codes import CODES
    from kekbridge.errors import ConfigError
    from kekbridge.reports import alert_report

    if codes:
        _print_codes(list(CODES.values()), as_json=as_json)
        return
    if alert is None:
        raise ConfigError("no alert is named; give the id that `kekbridge logs` shows, or --codes")
    if alert in CODES:
        _print_codes([CODES[alert]], as_json=as_json)
        return
    with opened(resolve_context(context, data_dir, config)) as database, database.snapshot() as connection:
        told = alert_report.read(connection, alert)
    _print_json(told) if as_json else _print(told)


def _print_json(told: AlertReport) -> None:
    """One object: the alert's fields, and its orders with their requests, second verdicts and fills inside."""
    from kekbridge.cli import render
    from kekbridge.cli.orders import order_data

    legs = [
        order_data(one.order)
        | {
            "request": one.details.request,
            "signedAt": one.details.signed_at,
            "verdictsBeforeSending": render.to_jsonable(one.details.verdicts),
            "answers": render.to_jsonable(one.answers),
            "fills": render.to_jsonable(one.fills),
            "exits": render.to_jsonable(one.exits),
            "exitFills": render.to_jsonable(one.exit_fills),
            "slippage": render.to_jsonable(one.slippage),
        }
        for one in told.orders
    ]
    stages = {name: round(value, 3) for name, value in told.stages.items()}
    render.as_json(render.to_jsonable(told.alert) | {"stages": stages, "orders": legs, "events": told.events})


def _print(told: AlertReport) -> None:
    from kekbridge.cli import render

    alert = told.alert
    _print_alert(alert)
    if alert.verdicts:
        render.heading("rules at admission")
        print_verdicts(alert.verdicts)
    for one in told.orders:
        _print_order(one)
        _print_exits(one.exits, one.exit_fills)
        failed = [verdict for verdict in one.details.verdicts if not verdict.passed]
        if failed:
            render.heading("  rules right before sending")
            print_verdicts(failed)
    render.heading("milliseconds (received: after it fired; others: after it was received)")
    render.pairs([(stage, f"{value:.1f}") for stage, value in told.stages.items()], indent=2)
    if alert.answer is not None:
        render.heading(f"answered with HTTP {alert.answer_status}")
        render.pairs(alert.answer.items(), indent=2)


def _print_alert(alert: StoredAlert) -> None:
    from kekbridge.cli import render
    from kekbridge.codes import CODES

    rows: list[tuple[str, object]] = [
        ("alert", alert.id),
        ("alertId", alert.alert_id),
        ("webhook", alert.webhook_name),
        ("received", f"{render.moment(alert.received_at)} UTC ({render.age(alert.received_at, now())})"),
        ("from", f"{render.to_text(alert.remote)}, proof: {render.to_text(alert.proof)}"),
    ]
    if alert.fired_at is not None:
        delay = render.duration(alert.received_at - alert.fired_at)
        rows.append(("fired", f"{render.moment(alert.fired_at)} UTC, {delay} before it was received"))
    rows += [("says", " ".join(part for part in (alert.action, alert.symbol) if part)), ("status", alert.status)]
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
    """A table of what every rule found, its limit, and whether it passed."""
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


def _print_order(told: OrderTimeline) -> None:
    from kekbridge.cli import render
    from kekbridge.cli.orders import order_words

    order = told.order
    intent = order.intent
    render.heading(f"order {order.leg + 1}: {order_words(order)} {intent.symbol}")
    rows: list[tuple[str, object]] = [
        ("status", order.status),
        ("client order id", order.client_order_id),
        ("order id", order.order_id),
        ("filled", f"{render.amount(order.executed_quantity)} at {render.amount(order.average_price)}"),
        ("fee (USDC)", order.fee),
        ("expected price", intent.reference_price),
    ]
    optional = [
        ("stop loss", intent.stop_loss),
        (
            "take profits",
            [f"{render.amount(one.quantity)} at {render.amount(one.trigger_price)}" for one in intent.take_profits],
        ),
        ("realized P&L", order.realized_pnl or None),
        *((f"to the {one.against}", f"{one.share * 100:+.3f} % (slippage)") for one in told.slippage),
        ("attempts", order.attempt if order.attempt > 1 else None),
        ("code", order.code),
        ("why", order.error),
        ("request", told.details.request),
    ]
    render.pairs([*rows, *((name, value) for name, value in optional if value not in (None, "", []))], indent=2)
    for answer in told.answers:
        render.pairs(
            [(f"+{answer.ms:.0f} ms", f"{answer.what}: {answer.figures}" if answer.figures else answer.what)], indent=2
        )
    for fill in told.fills:
        maker = "maker" if fill.is_maker else "taker"
        words = (
            f"{render.amount(fill.quantity)} at {render.amount(fill.price)}, fee {render.amount(fill.fee)} ({maker})"
        )
        render.pairs([(f"fill {render.moment(fill.executed_at)}", words)], indent=2)


def _print_exits(legs: Sequence[ExitStatus], executions: Sequence[Fill]) -> None:
    """What became of the stop loss and take-profit that travelled with the order, and what the exchange traded for them."""
    from kekbridge.cli import render

    if not legs and not executions:
        return
    render.heading("  exits at the exchange")
    rows: list[tuple[str, object]] = []
    for leg in legs:
        if leg.trigger_price is None and not leg.executed_quantity:
            continue  # the exchange always names both of a pair
        words = f"{leg.status}, trigger {render.amount(leg.trigger_price)}"
        if leg.executed_quantity:
            words += f", {render.amount(leg.executed_quantity)} at {render.amount(leg.average_price)}"
        rows.append((leg.kind.replace("_", " ").lower(), words))
    for fill in executions:
        words = f"{fill.side.lower()} {render.amount(fill.quantity)} at {render.amount(fill.price)}"
        rows.append((f"fill {render.moment(fill.executed_at)}", f"{words}, fee {render.amount(fill.fee)}"))
        if fill.realized_pnl is not None:
            rows.append(("realized P&L", render.amount(fill.realized_pnl)))
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
