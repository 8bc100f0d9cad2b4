"""All web pages of the admin listener, rendered on the server; statistics and risk are here.

Read-only; changes go through actions.py and webhook_pages.py. Charts are inline SVG, every button is a form.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import htpy as h
from aiohttp import web
from htpy import Node

from kekbridge.admin.actions import TradingForms
from kekbridge.admin.alert_pages import AlertPages
from kekbridge.admin.elements import bars, button, curve, gauge, pairs, status, table
from kekbridge.admin.history_pages import HistoryPages
from kekbridge.admin.key_pages import KeyPages
from kekbridge.admin.notification_pages import NotificationPages
from kekbridge.admin.overview_page import OverviewPage
from kekbridge.admin.service import AdminService
from kekbridge.admin.system_pages import SystemPages
from kekbridge.admin.trading_pages import TradingPages
from kekbridge.admin.webhook_pages import WebhookPages
from kekbridge.formatting import money, used_share
from kekbridge.model.statistics import Report
from kekbridge.reports import limits


class Pages:
    """All pages of one daemon."""

    def __init__(self, service: AdminService, page: Callable[..., web.Response]) -> None:
        """`page` renders a whole page from a request, a title and contents (frame.py)."""
        self._service = service
        self.page = page
        forms = TradingForms(service, page)
        self._parts = (
            forms,
            OverviewPage(service, page, forms),
            TradingPages(service, page),
            AlertPages(service, page),
            WebhookPages(service, page),
            KeyPages(service, page),
            NotificationPages(service, page),
            HistoryPages(service, page),
            SystemPages(service, page),
        )

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes of every page."""
        router.add_get("/stats", self._stats)
        router.add_get("/risk", self._risk)
        for part in self._parts:
            part.register(router)

    # ------------------------------------------------------------------------------------------------------- pages

    async def _stats(self, request: web.Request) -> web.Response:
        periods = {"1": "24 hours", "7": "7 days", "30": "30 days", "all": "All"}
        chosen = request.query.get("days", "7")
        chosen = chosen if chosen in periods else "7"
        since = None if chosen == "all" else self._service.clock() - timedelta(days=int(chosen))
        found = await self._service.report(since=since)
        links = [
            h.a(href=f"/stats?days={key}", class_="here" if key == chosen else None)[name]
            for key, name in periods.items()
        ]
        times = [
            (stage, *(f"{value:.1f}" for value in (one.mean, one.p50, one.p95, one.p99)), one.count)
            for stage, one in found.latency_ms.items()
        ]
        return self.page(
            request,
            "Statistics",
            h.p(class_="row")[links],
            h.div(class_="columns")[
                h.section[h.h2["Alerts and orders"], pairs(_count_pairs(found))],
                h.section[h.h2["Money (USDC)"], pairs(_money_pairs(found))],
            ],
            h.div(class_="columns")[
                curve(found.equity, label="Equity"), bars(list(found.alerts_per_day.items()), label="Alerts per day")
            ],
            h.h2["Latency in milliseconds"],
            h.p(class_="dim")["received: since the alert fired; others: since it was received."],
            table(
                ("Stage", "Mean", "p50", "p95", "p99", "Alerts"), times, empty="No alerts in this period.", is_slim=True
            ),
        )

    async def _risk(self, request: web.Request) -> web.Response:
        shown = await self._service.database.read(limits.read, self._service.settings, at=self._service.clock())
        parts: list[Node] = []
        for scope in shown["scopes"]:
            title = "Account" if scope["scope"] == "account" else f"Webhook {scope['name']}"
            parts.append(h.h2[title, " ", status(scope["state"])])
            if scope["reason"]:
                parts.append(h.p[scope["reason"]])
            if scope["scope"] != "account" and scope["state"] != "running":
                named = h.input(type="hidden", name="webhook", value=scope["name"])
                parts.append(button(request, "/trading/resume", "Resume entries", named))
            used = [
                gauge(one.name, one.used, one.limit, used_share(one.used, one.limit))
                for one in scope["limits"]
                if one.used
            ]
            parts.append(h.div(class_="limits")[used])
            parts.append(pairs([(one.name, one.limit) for one in scope["limits"] if not one.used]))
        if shown["equityPeak"] is not None:
            peak = money(Decimal(str(shown["equityPeak"])))
            reset = h.a(href="/confirm/reset-peak", class_="button")["Reset…"]
            parts.append(h.p(class_="row")[f"Equity peak that drawdowns are measured from: {peak} USDC ", reset])
        return self.page(request, "Risk", *parts)


def _count_pairs(found: Report) -> list[tuple[str, Any]]:
    counts = found.counts
    names = ("received", "done", "refused", "duplicate", "expired", "unknown", "waiting")
    rows: list[tuple[str, Any]] = [(name.capitalize(), str(getattr(counts, name))) for name in names]
    rows += [
        ("Refusals by code", ", ".join(f"{code} {count}" for code, count in counts.by_code.items())),
        ("Success", _percent(found.success_rate)),
        ("Orders", f"{counts.sent} sent, {counts.filled} filled, {counts.rejected} rejected"),
        ("Fill rate", _percent(found.fill_rate)),
    ]
    for name, one in (("Slippage to signal", found.slippage_signal), ("Slippage to mark", found.slippage_mark)):
        rows.append((name, None if one is None else f"mean {one.mean * 100:+.3f} %, worst {one.worst * 100:+.3f} %"))
    return rows


def _money_pairs(found: Report) -> list[tuple[str, Any]]:
    return [
        ("Realized", money(found.realized_pnl)),
        ("Fees", money(found.fees)),
        ("Funding", money(found.funding)),
        ("Net", money(found.net_pnl)),
        ("Unrealized", money(found.unrealized_pnl)),
        ("Account", money(found.account_value)),
        ("Leverage used", None if found.leverage is None else f"{found.leverage:.2f}"),
        ("Win rate", f"{_percent(found.win_rate)} of {found.closing_orders} closing orders"),
        ("Stops hit", _percent(found.stop_hit_rate)),
    ]


def _percent(value: Decimal | None) -> str:
    return "-" if value is None else f"{value * 100:.1f} %"
