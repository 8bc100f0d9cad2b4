"""`kekbridge explain`: the whole story of one alert, in the order it happened; or what a code means. Reads only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kekbridge.cli.context import now, opened, resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kekbridge.codes import Code
    from kekbridge.model import Verdict
    from kekbridge.reports.alert_report import AlertReport, Section

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
        report = alert_report.read(connection, alert)
    if as_json:
        _print_json(report)
        return
    for section in report.sections(now()):
        _print(section, has_heading=section.kind != "alert")


def _print_json(report: AlertReport) -> None:
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
        for one in report.orders
    ]
    stages = {name: round(value, 3) for name, value in report.stages.items()}
    render.as_json(render.to_jsonable(report.alert) | {"stages": stages, "orders": legs, "events": report.events})


def _print(section: Section, *, has_heading: bool = True) -> None:
    """Print one section; nothing if it is empty."""
    from kekbridge.cli import render

    if not section.rows:
        return
    if has_heading:
        render.heading(section.title)
    if section.kind == "replies":  # details can be long, and pairs never wrap in a pipe
        render.pairs(
            ((str(after), f"{what}: {details}" if details else what) for after, what, details in section.rows), indent=2
        )
    elif section.columns:
        titles = [title.upper() for title in section.columns]
        columns = [
            render.Column(
                f"  {title}" if title == titles[0] else title,
                shrinks=title in ("FOUND", "LIMIT"),
                is_status=title in ("STATUS", "VERDICT"),
            )
            for title in titles
        ]
        render.table(columns, [(f"  {render.to_text(first)}", *others) for first, *others in section.rows])
    else:
        render.pairs(((str(name), value) for name, value in section.rows), indent=2 if has_heading else 0)


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Print a table of what every rule found, its limit, and whether it passed."""
    from kekbridge.reports.alert_report import verdict_section

    _print(verdict_section("rules", "Rules", verdicts), has_heading=False)


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
