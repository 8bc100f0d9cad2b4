"""Web page of the statistics of any period, with its CSV files, from what `kekbridge stats` reads. Read-only."""

from __future__ import annotations

import io
import re
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Final
from urllib.parse import urlencode

import htpy as h
from aiohttp import web
from htpy import Node, Renderable

from kekbridge import parsing
from kekbridge.admin.axes import gather_days
from kekbridge.admin.charts import Bar, bar_chart, equity_chart, histogram, row_chart
from kekbridge.admin.elements import gain, pairs, select, table
from kekbridge.admin.service import AdminService
from kekbridge.errors import ConfigError, NotFound
from kekbridge.formatting import market, pnl
from kekbridge.model.statistics import Bin, PnlPart, Report, Slippage
from kekbridge.reports import statistics
from kekbridge.reports.export import write_csv
from kekbridge.reports.statistics import PeriodStatistics
from kekbridge.store import webhooks

_PERIODS: Final = {"1": "24 hours", "7": "7 days", "30": "30 days", "all": "All"}
_USUAL: Final = "7"
# Bars of a chart by day at most; longer periods are shown by week, month or year.
_MOST_BARS: Final = 62
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_NOBODYS: Final = "no webhook"


@dataclass(frozen=True, slots=True)
class _Period:
    """What the range picker asks for."""

    since: datetime | None
    until: datetime | None
    #: Name; None: all.
    webhook: str | None
    #: The query that leads here, without empty fields.
    query: dict[str, str]

    @classmethod
    def of(cls, request: web.Request, now: datetime) -> _Period:
        """Read the query. Raises ConfigError for a time that cannot be read, or an end before the beginning."""
        query = {name: request.query.get(name, "").strip() for name in ("days", "from", "to", "webhook")}
        query = {name: text for name, text in query.items() if text}
        webhook = query.get("webhook")
        if "from" in query or "to" in query:
            query.pop("days", None)
            since = parsing.instant("From", query["from"], now) if "from" in query else None
            until = _end(query["to"], now) if "to" in query else None
            if since is not None and until is not None and until <= since:
                raise ConfigError(f"To: found {query['to']!r}, expected a time after From ({query['from']})")
            return cls(since, until, webhook, query)
        days = query.get("days", _USUAL)
        if days not in _PERIODS:
            raise ConfigError(f"days: found {days[:20]!r}, expected one of {', '.join(_PERIODS)}")
        return cls(None if days == "all" else now - timedelta(days=int(days)), None, webhook, {**query, "days": days})


def _end(text: str, now: datetime) -> datetime:
    """The end of a period: a date includes its day."""
    at = parsing.instant("To", text, now)
    return at + timedelta(days=1) if _DATE.fullmatch(text) else at


class StatisticsPage:
    """Handlers of the page and its files. `page` renders a whole page from a title and contents."""

    def __init__(self, service: AdminService, page: Callable[..., web.Response]) -> None:
        self._service = service
        self._page = page

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/stats", self._show)
        router.add_get("/stats/{table}.csv", self._send_csv)

    async def _show(self, request: web.Request) -> web.Response:
        now = self._service.clock()
        names = await self._service.database.read(_webhook_names)
        try:
            period = _Period.of(request, now)
            content = await self._service.database.read(_render, period, now)
        except (ConfigError, NotFound) as error:
            problem = h.p(class_="bad", role="alert")[error.message]
            return self._page(request, "Statistics", _picker(request.query, names), problem, status=422)
        return self._page(request, "Statistics", _picker(period.query, names), content)

    async def _send_csv(self, request: web.Request) -> web.Response:
        name = request.match_info["table"]
        if name not in statistics.TABLES:
            raise web.HTTPNotFound
        now = self._service.clock()
        out = io.StringIO()
        found = await self._service.database.read(_read, _Period.of(request, now), now)
        write_csv(found.rows(name), out)
        return web.Response(
            text=out.getvalue(),
            content_type="text/csv",
            charset="utf-8",
            headers={"Content-Disposition": f'attachment; filename="kekbridge-{name}.csv"'},
        )


def _read(connection: sqlite3.Connection, period: _Period, now: datetime) -> PeriodStatistics:
    return statistics.read(connection, since=period.since, until=period.until, webhook=period.webhook, now=now)


def _render(connection: sqlite3.Connection, period: _Period, now: datetime) -> Node:
    """The page's contents as finished markup, made on the reader's thread: that many charts must not hold up an alert."""
    return h.fragment[_content(period, _read(connection, period, now))].__html__()


def _webhook_names(connection: sqlite3.Connection) -> list[str]:
    return [one.name for one in webhooks.list_all(connection)]


# ------------------------------------------------------------------------------------------------------------ contents


def _picker(query: Mapping[str, str], names: list[str]) -> Renderable:
    """Links to usual periods, and a form for any other."""
    webhook = query.get("webhook", "")
    chosen = query.get("days", "" if query.get("from") or query.get("to") else _USUAL)
    kept = {"webhook": webhook} if webhook else {}
    links = [
        h.a(
            href=f"/stats?{urlencode({'days': key} | kept)}",
            class_="button here" if key == chosen else "button",
            aria_current="page" if key == chosen else None,
        )[name]
        for key, name in _PERIODS.items()
    ]
    hooks = dict.fromkeys([*names, *([webhook] if webhook else [])])
    return h.div(class_="period")[
        h.p(class_="row")[links],
        h.form(method="get", action="/stats", class_="row")[
            h.label["From (UTC)", h.input(type="date", name="from", value=query.get("from", ""))],
            h.label["To, included", h.input(type="date", name="to", value=query.get("to", ""))],
            h.label["Webhook", select("webhook", webhook, [("", "all"), *((name, name) for name in hooks)])],
            h.button["Show"],
        ],
    ]


def _content(period: _Period, found: PeriodStatistics) -> list[Node]:
    def heading(title: str, name: str) -> Renderable:
        link = f"/stats/{name}.csv?{urlencode(period.query)}"
        return h.h2(class_="row")[
            title, h.a(href=link, class_="csv", aria_label=f"{title} as CSV", download=True)["CSV"]
        ]

    account = None
    if period.webhook is None:
        account = [heading("Account", "equity"), equity_chart(found.equity, title="Equity")]
    return [
        h.div(class_="tiles")[_tiles(found)],
        account,
        heading("Profit and loss", "pnl"),
        pnl_chart(found),
        h.div(class_="columns")[
            _pnl_rows(found.pnl.by_webhook, "P&L by webhook", "webhooks"),
            _pnl_rows(found.pnl.by_market, "P&L by market", "markets"),
        ],
        heading("Alerts and orders", "rejections"),
        h.div(class_="columns")[alert_chart(found), _reasons(found)],
        h.div(class_="columns")[
            _rates(found.report),
            h.section[pairs(_count_pairs(found.report))],
        ],
        heading("Latency", "latency"),
        h.p(class_="dim")["Newest 2000 alerts; received: since the alert fired, others: since it was received."],
        h.div(class_="small-charts")[[_latency(found, stage, bins) for stage, bins in found.latency.items()]],
        latency_table(found.report),
        heading("Slippage", "slippage"),
        h.p(class_="dim")[
            "Newest 2000 market orders, in basis points (1 bp = 0.01 %); positive is worse than expected."
        ],
        h.div(class_="columns")[
            _slippage(found.slippage_signal, found.report.slippage_signal, "Against the alert's price", "signal"),
            _slippage(found.slippage_mark, found.report.slippage_mark, "Against the mark price", "mark"),
        ],
    ]


def _tiles(found: PeriodStatistics) -> list[Renderable]:
    report, total = found.report, found.pnl.total
    shown: tuple[tuple[str, Node], ...] = (
        ("Net P&L (USDC)", gain(total.net_pnl)),
        ("Realized", gain(total.realized_pnl)),
        ("Fees", f"{total.fees:,.2f}"),
        ("Funding paid", f"{total.funding:,.2f}"),
        ("Win rate", percent(report.win_rate)),
        ("Alerts", f"{report.counts.received:,}"),
        ("Orders filled", percent(report.fill_rate)),
    )
    return [h.div(class_="tile")[h.span[name], h.b[value]] for name, value in shown]


def pnl_chart(found: PeriodStatistics) -> Renderable:
    """Net P&L by day, or by week, month or year of a long period."""
    days = {date.fromisoformat(part.name): part.net_pnl for part in found.pnl.by_day}
    unit, sums = gather_days(days, most=_MOST_BARS)
    bars = [Bar(_day_name(day, unit), value, pnl(value)) for day, value in sums]
    won = sum(1 for value in days.values() if value > 0)
    note = f"{won} of {len(days)} days with a gain; after fees and funding, UTC days" if days else ""
    return bar_chart(
        bars,
        title=f"Net P&L by {unit} (USDC)",
        name="pnl-days",
        titles=(unit.capitalize(), "Net P&L (USDC)"),
        note=note,
        is_gain=True,
    )


def _day_name(day: date, unit: str) -> str:
    return {"day": f"{day:%m-%d}", "week": f"{day:%m-%d}", "month": f"{day:%Y-%m}", "year": f"{day:%Y}"}[unit]


def _pnl_rows(parts: tuple[PnlPart, ...], title: str, name: str) -> Renderable:
    bars = [Bar(market(part.name) if part.name else _NOBODYS, part.net_pnl, _pnl_text(part)) for part in parts]
    return row_chart(
        bars, title=title, name=name, titles=(title.rpartition(" ")[2].capitalize(), "Net P&L"), is_gain=True
    )


def _pnl_text(part: PnlPart) -> str:
    closed = "" if part.win_rate is None else f", {percent(part.win_rate)} of {part.closing_orders} won"
    return f"{pnl(part.net_pnl)}{closed}"


def alert_chart(found: PeriodStatistics) -> Renderable:
    """Alerts by day, or by week, month or year of a long period."""
    unit, sums = gather_days({day: Decimal(count) for day, count in found.alerts_by_day.items()}, most=_MOST_BARS)
    bars = [Bar(_day_name(day, unit), value, f"{value:,f}") for day, value in sums]
    return bar_chart(bars, title=f"Alerts by {unit}", name="alerts", titles=(unit.capitalize(), "Alerts"))


def _reasons(found: PeriodStatistics) -> Renderable:
    bars = [
        Bar(one.code if one.code == one.outcome else f"{one.outcome}: {one.code}", Decimal(one.count), f"{one.count:,}")
        for one in found.reasons
    ]
    return row_chart(bars, title="Alerts that came to nothing", name="reasons", titles=("Reason", "Alerts"), most=8)


def _rates(report: Report) -> Renderable:
    rates = (
        ("Alerts done", report.success_rate),
        ("Orders filled", report.fill_rate),
        ("Entries closed by their stop", report.stop_hit_rate),
        ("Closing orders with a gain", report.win_rate),
    )
    bars = [Bar(name, rate * 100, percent(rate)) for name, rate in rates if rate is not None]
    return row_chart(bars, title="Rates in percent", name="rates", titles=("Rate", "Percent"))


def latency_table(report: Report) -> Renderable:
    """Mean and percentiles of each stage."""
    rows = [
        (stage, *(f"{value:,.1f}" for value in (one.mean, one.p50, one.p95, one.p99)), one.count)
        for stage, one in report.latency_ms.items()
    ]
    titles = ("Stage", "Mean (ms)", "p50", "p95", "p99", "Alerts")
    return table(titles, rows, empty="No alerts in this period.", is_slim=True)


def _latency(found: PeriodStatistics, stage: str, bins: tuple[Bin, ...]) -> Renderable:
    one = found.report.latency_ms[stage]
    note = f"half within {one.p50:,.1f} ms, 95 % within {one.p95:,.1f} ms"
    return histogram(bins, title=stage.capitalize(), name=f"latency-{stage}", unit="ms", note=note)


def _slippage(bins: tuple[Bin, ...], summary: Slippage | None, title: str, name: str) -> Renderable:
    note = ""
    if summary is not None:
        mean, worst = summary.mean * 10_000, summary.worst * 10_000
        note = f"mean {mean:+.1f} bp, worst {worst:+.1f} bp, {summary.count} orders"
    return histogram(bins, title=title, name=f"slippage-{name}", unit="bp", note=note)


def _count_pairs(report: Report) -> list[tuple[str, object]]:
    counts = report.counts
    names = ("received", "done", "refused", "duplicate", "expired", "unknown", "waiting")
    return [
        *((name.capitalize(), f"{getattr(counts, name):,}") for name in names),
        ("Orders", f"{counts.sent:,} sent, {counts.filled:,} filled, {counts.rejected:,} rejected"),
        ("Unrealized", None if report.unrealized_pnl is None else f"{report.unrealized_pnl:,.2f}"),
        ("Leverage used", None if report.leverage is None else f"{report.leverage:.2f}"),
    ]


def percent(value: Decimal | None) -> str:
    """A fraction as `97.5 %`; None is a dash."""
    return "-" if value is None else f"{value * 100:.1f} %"
