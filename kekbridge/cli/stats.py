"""`kekbridge stats`: counts of alerts and orders, latency, slippage, and profit and loss. Reads only."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kekbridge import formatting, parsing
from kekbridge.cli import filters
from kekbridge.cli.context import now, open_database, resolve_context, settings_in_force
from kekbridge.cli.options import ConfigFile, DataDir, Json, Utc, examples

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import tzinfo
    from decimal import Decimal

    from kekbridge.model.statistics import PnlPart, Report, Slippage
    from kekbridge.reports.statistics import PeriodStatistics

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_ALL = "all"
_SPARKLINE_WIDTH = 56


@app.command(
    epilog=examples(
        "kekbridge stats",
        "kekbridge stats --since 24h --webhook btc-trend",
        "kekbridge stats --since all --json | jq .netPnl",
    )
)
def stats(
    ctx: typer.Context,
    since: Annotated[str, typer.Option(metavar="TIME", help="Start: 24h or 7d (ago), 2026-11-22, or all.")] = "7d",
    webhook: Annotated[str | None, filters.webhook_option("Only this webhook.")] = None,
    utc: Utc = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Count alerts and orders, and sum profit and loss.

    Every alert received is in exactly one group: done, refused, duplicate, expired, unknown or waiting. Profit and loss, fees and funding
    are exact sums of the exchange's own records. Latency and slippage cover the newest 2000 alerts and orders of the period.
    """
    from kekbridge.cli import render
    from kekbridge.ops import queries
    from kekbridge.reports import limits as limit_report
    from kekbridge.reports import statistics

    context, zone = resolve_context(ctx, data_dir, config), UTC if utc else None
    start = None if since == _ALL else parsing.instant("--since", since, now(), zone)
    with open_database(context) as database, database.snapshot() as connection:
        if as_json:
            render.as_json(
                queries.statistics_of(connection, settings_in_force(context), since=start, webhook=webhook, now=now())
            )
            return
        found = statistics.read(connection, since=start, now=now(), webhook=webhook)
        limits = limit_report.read(connection, settings_in_force(context), webhook, at=now())["scopes"]
    _print_report(found, zone, is_for_webhook=webhook is not None)
    used = [line for scope in limits for line in _limit_usage(scope)]
    if used:
        render.heading("limits used")
        render.pairs(used, indent=2)


def _print_report(found: PeriodStatistics, zone: tzinfo | None, *, is_for_webhook: bool) -> None:
    from kekbridge.cli import render
    from kekbridge.model.statistics import sparkline

    totals, counts = found.report, found.report.counts
    start = "all time"
    if totals.since is not None:
        start = f"since {formatting.moment(totals.since, zone)} {formatting.zone_name(totals.since, zone)}"
    render.heading(start, gap=False)
    groups = ("done", "refused", "duplicate", "expired", "unknown", "waiting")
    parts = ", ".join(f"{getattr(counts, name)} {name}" for name in groups)
    rows: list[tuple[str, object]] = [
        ("alerts", f"{counts.received} received = {parts}"),
        ("success", f"{rate(totals.success_rate)}, errors {rate(totals.error_rate)}"),
    ]
    if counts.by_code:
        rows.append(("refused with", ", ".join(f"{code} {count}" for code, count in counts.by_code.items())))
    days = list(totals.alerts_per_day.values())
    rows.append(("alerts per day", f"{sparkline(days, _SPARKLINE_WIDTH)}  max {max(days, default=0)}"))
    render.pairs(rows, indent=2)
    render.heading("orders")
    render.pairs(
        [
            (
                "orders",
                f"{counts.orders} created, {counts.sent} sent, {counts.filled} filled, {counts.rejected} rejected",
            ),
            ("fill rate", rate(totals.fill_rate)),
            ("slippage", f"{_slippage(totals.slippage_signal)} vs the alert's price"),
            ("", f"{_slippage(totals.slippage_mark)} vs the mark price"),
            ("stop losses", f"{rate(totals.stop_hit_rate)} of finished stops were hit"),
        ],
        indent=2,
    )
    render.heading("money (USDC)")
    render.pairs(_money(totals, is_for_webhook=is_for_webhook), indent=2)
    for title, division in (("webhook", found.pnl.by_webhook), ("market", found.pnl.by_market)):
        if len(division) > 1:
            render.heading(f"P&L by {title} (USDC)")
            _print_parts(title, division)
    if totals.latency_ms:
        render.heading("latency in ms (received: since the alert fired; others: since it was received)")
        columns = [render.Column("  STAGE"), *(render.Column(title, justify="right") for title in _LATENCY_TITLES)]
        render.table(
            columns,
            [
                (f"  {stage}", *(f"{value:.1f}" for value in (one.mean, one.p50, one.p95, one.p99)), one.count)
                for stage, one in totals.latency_ms.items()
            ],
        )


def _print_parts(title: str, parts: Sequence[PnlPart]) -> None:
    from kekbridge.cli import render

    names = ("NET", "REALIZED", "FEES", "FUNDING", "WON")
    render.table(
        [render.Column(f"  {title.upper()}"), *(render.Column(name, justify="right") for name in names)],
        [
            (
                f"  {formatting.market(one.name) if one.name else 'none'}",
                *(formatting.pnl(amount) for amount in (one.net_pnl, one.realized_pnl)),
                *(formatting.cents(amount) for amount in (one.fees, one.funding)),
                "-" if one.win_rate is None else f"{rate(one.win_rate)} of {one.closing_orders}",
            )
            for one in parts
        ],
    )


_LATENCY_TITLES = ("MEAN", "P50", "P95", "P99", "ALERTS")


def _money(totals: Report, *, is_for_webhook: bool) -> list[tuple[str, object]]:
    from kekbridge.formatting import cents, pnl
    from kekbridge.model.statistics import sparkline

    rows: list[tuple[str, object]] = [("realized", pnl(totals.realized_pnl)), ("fees", cents(totals.fees))]
    if not is_for_webhook:
        rows += [
            ("funding", cents(totals.funding)),
            ("net", pnl(totals.net_pnl)),
            ("unrealized", pnl(totals.unrealized_pnl)),
            ("account", cents(totals.account_value)),
            ("leverage used", "-" if totals.leverage is None else f"{totals.leverage:.2f}"),
        ]
    rows.append(("win rate", f"{rate(totals.win_rate)} of {totals.closing_orders} closing orders"))
    curve = [value for _, value in totals.equity]
    if len(curve) > 1 and not is_for_webhook:
        rows.append(("equity", f"{sparkline(curve, _SPARKLINE_WIDTH)}  {min(curve):.2f} to {max(curve):.2f}"))
    return rows


def rate(value: Decimal | None) -> str:
    """Format a fraction as `97.5 %`, None as a dash."""
    return "-" if value is None else f"{value * 100:.1f} %"


def _slippage(slippage: Slippage | None) -> str:
    if slippage is None:
        return "-"
    return f"mean {slippage.mean * 100:+.3f} %, worst {slippage.worst * 100:+.3f} %"


def _limit_usage(scope: dict[str, Any]) -> list[tuple[str, object]]:
    """Return the limits of a scope that have a usage, as name and text."""
    return [
        (f"{scope['name']}: {line.name}", f"{line.used} of {line.limit}")
        for line in scope["limits"]
        if line.used not in (None, "")
    ]
