"""`kekbridge stats`: what came in, how fast and how well it was carried out, and what it won or lost. Reads only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kekbridge import parsing
from kekbridge.cli.context import now, opened, resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

if TYPE_CHECKING:
    from decimal import Decimal

    from kekbridge.model.statistics import Report, Slippage

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_ALL = "all"
_BARS = 56


@app.command(
    epilog=examples(
        "kekbridge stats",
        "kekbridge stats --since 24h --webhook btc-trend",
        "kekbridge stats --since all --json | jq .netPnl",
    )
)
def stats(
    context: typer.Context,
    since: Annotated[str, typer.Option(metavar="TIME", help="24h, 7d, 2026-11-22 (UTC), or all.")] = "7d",
    webhook: Annotated[
        str | None, typer.Option("--webhook", metavar="NAME", help="Of this webhook only.", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Count alerts and orders, and sum what they won or lost.

    Every alert received is in exactly one group: refused, duplicate, expired, done, unknown or waiting. Profit and loss, fees and funding
    are the exchange's own records, summed exactly. Latencies and slippage are of the newest 2000 alerts and orders of the time chosen.
    """
    from kekbridge.cli import render
    from kekbridge.model.statistics import report
    from kekbridge.reports import limits as limitbook
    from kekbridge.store import statistics

    workspace = resolve_context(context, data_dir, config)
    start = None if since == _ALL else parsing.instant("--since", since, now())
    with opened(workspace) as database, database.snapshot() as connection:
        found = report(statistics.gather(connection, since=start, now=now(), webhook=webhook))
        limits = limitbook.read(connection, workspace.settings, webhook, at=now())["scopes"]
    if as_json:
        render.as_json(render.to_jsonable(found) | {"limits": limits})
        return
    _print(found, is_of_webhook=webhook is not None)
    used = [line for scope in limits for line in _used(scope)]
    if used:
        render.heading("limits used")
        render.pairs(used, indent=2)


def _print(found: Report, *, is_of_webhook: bool) -> None:
    from kekbridge.cli import render
    from kekbridge.model.statistics import sparkline

    counts = found.counts
    render.heading(f"since {render.moment(found.since)} UTC" if found.since else "since the beginning", gap=False)
    groups = ("done", "refused", "duplicate", "expired", "unknown", "waiting")
    parts = ", ".join(f"{getattr(counts, name)} {name}" for name in groups)
    rows: list[tuple[str, object]] = [
        ("alerts", f"{counts.received} received = {parts}"),
        ("success", f"{rate(found.success_rate)}, errors {rate(found.error_rate)}"),
    ]
    if counts.by_code:
        rows.append(("refused by", ", ".join(f"{code} {count}" for code, count in counts.by_code.items())))
    days = list(found.alerts_per_day.values())
    rows.append(("alerts a day", f"{sparkline(days, _BARS)}  most {max(days, default=0)}"))
    render.pairs(rows, indent=2)
    render.heading("orders")
    render.pairs(
        [
            ("orders", f"{counts.orders} made, {counts.sent} sent, {counts.filled} filled, {counts.rejected} rejected"),
            ("fill rate", rate(found.fill_rate)),
            ("slippage", f"{_slippage(found.slippage_signal)} against the alert's price"),
            ("", f"{_slippage(found.slippage_mark)} against the mark"),
            ("stop losses", f"{rate(found.stop_hit_rate)} hit, of the stops that are over"),
        ],
        indent=2,
    )
    render.heading("money (USDC)")
    render.pairs(_money(found, is_of_webhook=is_of_webhook), indent=2)
    if found.latency_ms:
        render.heading("milliseconds (received: since fired; others: since received)")
        columns = [render.Column("  STAGE"), *(render.Column(title, justify="right") for title in _TIMES)]
        render.table(
            columns,
            [
                (f"  {stage}", *(f"{value:.1f}" for value in (one.mean, one.p50, one.p95, one.p99)), one.count)
                for stage, one in found.latency_ms.items()
            ],
        )


_TIMES = ("MEAN", "P50", "P95", "P99", "ALERTS")


def _money(found: Report, *, is_of_webhook: bool) -> list[tuple[str, object]]:
    from kekbridge.formatting import money
    from kekbridge.model.statistics import sparkline

    rows: list[tuple[str, object]] = [("realized", money(found.realized_pnl)), ("fees", money(found.fees))]
    if not is_of_webhook:
        rows += [
            ("funding", money(found.funding)),
            ("net", money(found.net_pnl)),
            ("unrealized", money(found.unrealized_pnl)),
            ("account", money(found.account_value)),
            ("leverage used", "-" if found.leverage is None else f"{found.leverage:.2f}"),
        ]
    rows.append(("win rate", f"{rate(found.win_rate)} of {found.closing_orders} orders that closed something"))
    curve = [value for _, value in found.equity]
    if len(curve) > 1 and not is_of_webhook:
        rows.append(("equity", f"{sparkline(curve, _BARS)}  {min(curve):.2f} to {max(curve):.2f}"))
    return rows


def rate(value: Decimal | None) -> str:
    """`97.5 %`, or a dash where there was nothing."""
    return "-" if value is None else f"{value * 100:.1f} %"


def _slippage(found: Slippage | None) -> str:
    if found is None:
        return "-"
    return f"mean {found.mean * 100:+.3f} %, worst {found.worst * 100:+.3f} %"


def _used(scope: dict[str, Any]) -> list[tuple[str, object]]:
    """The lines of a scope that are used up step by step."""
    return [
        (f"{scope['name']}: {line.name}", f"{line.used} of {line.limit}")
        for line in scope["limits"]
        if line.used not in (None, "")
    ]
