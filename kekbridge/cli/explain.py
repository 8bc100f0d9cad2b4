"""`kekbridge explain`: everything that happened to one alert, in order; or what a code means. Reads only."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Annotated

import typer

from kekbridge import formatting
from kekbridge.cli import filters
from kekbridge.cli.context import now, open_database, resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, Utc, examples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kekbridge.codes import Code
    from kekbridge.model import Verdict
    from kekbridge.reports.alert_report import Section

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "kekbridge explain 01KAN5V6Q2R8S      an id, or its start, as `logs` shows it",
        "kekbridge explain my-alert-17        an alertId, or a client order id",
        "kekbridge explain timestamp_stale    what a code means and how to fix it",
        "kekbridge explain orderly:-1105      the same for a code of the exchange",
        "kekbridge explain --codes",
    )
)
def explain(
    ctx: typer.Context,
    alert: Annotated[
        str | None,
        typer.Argument(
            metavar="ALERT",
            help="An alert, an order or a code.",
            show_default=False,
            autocompletion=filters.complete_alerts_and_codes,
        ),
    ] = None,
    codes: Annotated[bool, typer.Option("--codes", help="List every code with its meaning and fix.")] = False,
    utc: Utc = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Show everything that happened to one alert, or explain codes."""
    from kekbridge.cli import render
    from kekbridge.codes import CODES, find
    from kekbridge.errors import ConfigError, NotFound
    from kekbridge.reports import alert_report

    if codes:
        _print_codes(list(CODES.values()), as_json=as_json)
        return
    if alert is None:
        raise ConfigError("no alert given; name an id from `kekbridge logs`, or use --codes")
    if (known := find(alert.strip())) is not None:
        _print_codes([known], as_json=as_json)
        return
    try:
        with open_database(resolve_context(ctx, data_dir, config)) as database, database.snapshot() as connection:
            report = alert_report.read(connection, alert)
    except NotFound as error:
        code = formatting.did_you_mean(alert, CODES, otherwise="")
        raise NotFound(error.code, f"there is no alert {alert[:40]}; {code}" if code else error.message) from None
    if as_json:
        from kekbridge.ops.queries import story_data

        render.as_json(story_data(report))
        return
    for section in report.sections(now(), UTC if utc else None):
        _print_section(section, has_heading=section.kind != "alert")


def _print_section(section: Section, *, has_heading: bool = True) -> None:
    """Print one section; nothing if it is empty."""
    from kekbridge.cli import render

    if not section.rows:
        return
    if has_heading:
        render.heading(section.title)
    if section.kind == "replies":  # details can be long, and pairs do not wrap in a pipe
        render.pairs(
            ((str(after), f"{event}: {details}" if details else event) for after, event, details in section.rows),
            indent=2,
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
        render.table(columns, [(f"  {formatting.to_text(first)}", *others) for first, *others in section.rows])
    else:
        render.pairs(((str(name), value) for name, value in section.rows), indent=2 if has_heading else 0)


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Print a table of verdicts: the rule, the value it found, its limit, passed or denied."""
    from kekbridge.reports.alert_report import verdict_section

    _print_section(verdict_section("rules", "Rules", verdicts), has_heading=False)


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
