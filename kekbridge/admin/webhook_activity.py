"""The tab Activity of a webhook: its alerts, P&L and latency of a period."""

from __future__ import annotations

from datetime import timedelta
from typing import Final
from urllib.parse import urlencode

import htpy as h
from aiohttp import web
from htpy import Node, Renderable

from kekbridge.admin.alert_pages import alert_row, alert_table
from kekbridge.admin.elements import gain, table
from kekbridge.admin.service import alert_data
from kekbridge.admin.statistics_page import alert_chart, latency_table, percent, pnl_chart
from kekbridge.admin.webhook_frame import WebhookFrame, path_of
from kekbridge.formatting import to_jsonable
from kekbridge.model import Webhook
from kekbridge.model.statistics import PnlPart, Report
from kekbridge.reports import statistics
from kekbridge.store import alerts

_PERIODS: Final = {"1": "24 hours", "7": "7 days", "30": "30 days", "all": "All"}
_USUAL: Final = "7"
_SHOWN: Final = 20


class ActivityTab:
    """Handler of the tab."""

    def __init__(self, frame: WebhookFrame) -> None:
        self._frame = frame

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the route."""
        router.add_get("/webhooks/{webhook}/activity", self._show)

    async def _show(self, request: web.Request) -> web.Response:
        webhook, service = await self._frame.webhook_of(request), self._frame.service
        chosen = request.query.get("days", _USUAL)
        chosen = chosen if chosen in _PERIODS else _USUAL
        now = service.clock()
        since = None if chosen == "all" else now - timedelta(days=int(chosen))
        period = await service.database.read(statistics.read, since=since, now=now, webhook=webhook.id)
        report = period.report
        found = await service.database.read(alerts.search, webhook=webhook.id, since=since, limit=_SHOWN)
        rows = [alert_row(to_jsonable(alert_data(one)), now) for one in reversed(found.alerts)]
        return self._frame.page(
            request,
            webhook,
            "activity",
            h.p(class_="row")[
                (
                    h.a(href=f"{path_of(webhook, 'activity')}?days={key}", class_="here" if key == chosen else None)[
                        name
                    ]
                    for key, name in _PERIODS.items()
                )
            ],
            h.section(id="activity", data_live=True)[
                h.div(class_="tiles")[(_tile(name, value) for name, value in figures(report, period.pnl.total))],
                h.div(class_="columns")[
                    pnl_chart(period),
                    alert_chart(period),
                ],
                h.h2["Latest alerts"],
                alert_table(rows),
                _log_link(webhook) if rows else None,
                h.h2["Refusals"] if report.counts.by_code else None,
                table(
                    ("Code", "Alerts"),
                    [(code, str(count)) for code, count in report.counts.by_code.items()],
                    empty="",
                    is_slim=True,
                )
                if report.counts.by_code
                else None,
                h.h2["Latency in milliseconds"],
                h.p(class_="dim")["received: since the alert fired; others: since it was received."],
                latency_table(report),
            ],
        )


def figures(report: Report, total: PnlPart) -> list[tuple[str, Node]]:
    """The main figures of one webhook by title. `total`: its profit and loss, with the funding of positions that it entered."""
    counts = report.counts
    return [
        ("Alerts", str(counts.received)),
        ("Success", percent(report.success_rate)),
        ("Orders filled", f"{counts.filled} of {counts.sent}"),
        ("Net P&L (USDC)", gain(total.net_pnl)),
        ("Fees (USDC)", f"{total.fees:,.2f}"),
        ("Win rate", percent(report.win_rate)),
        ("Stops hit", percent(report.stop_hit_rate)),
    ]


def _tile(name: str, value: Node) -> Renderable:
    return h.div(class_="tile")[h.span[name], h.b[value]]


def _log_link(webhook: Webhook) -> Renderable:
    return h.p[h.a(href=f"/log?{urlencode({'webhook': webhook.name})}")["All alerts of this webhook"]]
