"""All web pages of the admin listener, rendered on the server; risk is here.

Read-only; changes go through actions.py and webhook_pages.py. Charts are inline SVG, every button is a form.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import htpy as h
from aiohttp import web
from htpy import Node

from kekbridge.admin.actions import TradingForms
from kekbridge.admin.alert_detail import AlertDetailPage
from kekbridge.admin.alert_pages import AlertPages
from kekbridge.admin.document_pages import DocumentPages
from kekbridge.admin.elements import button, closed_state, gauge, pairs, status
from kekbridge.admin.history_pages import HistoryPages
from kekbridge.admin.key_pages import KeyPages
from kekbridge.admin.notification_pages import NotificationPages
from kekbridge.admin.overview_page import OverviewPage
from kekbridge.admin.service import AdminService
from kekbridge.admin.statistics_page import StatisticsPage
from kekbridge.admin.system_pages import SystemPages
from kekbridge.admin.trading_pages import TradingPages
from kekbridge.admin.webhook_pages import WebhookPages
from kekbridge.admin.webhook_settings import page_words
from kekbridge.formatting import used_share
from kekbridge.model import TradingState
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
            AlertDetailPage(service, page),
            StatisticsPage(service, page),
            WebhookPages(service, page),
            KeyPages(service, page),
            NotificationPages(service, page),
            HistoryPages(service, page),
            SystemPages(service, page),
            DocumentPages(page),
        )

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes of every page."""
        router.add_get("/risk", self._risk)
        for part in self._parts:
            part.register(router)

    # ------------------------------------------------------------------------------------------------------- pages

    async def _risk(self, request: web.Request) -> web.Response:
        shown = await self._service.database.read(limits.read, self._service.settings, at=self._service.clock())
        parts: list[Node] = []
        for scope in shown["scopes"]:
            title = "Account" if scope["scope"] == "account" else f"Webhook {scope['name']}"
            parts.append(h.h2[title, " ", status(scope["state"])])
            if scope["state"] != TradingState.RUNNING:
                fix = page_words(scope["stateFix"])
                parts.append(h.p[closed_state(scope), ". To open it: ", fix, "."])
            if scope["scope"] != "account" and scope["state"] != "running":
                named = h.input(type="hidden", name="webhook", value=scope["name"])
                parts.append(button(request, "/trading/resume", "Resume entries", named))
            used = [
                gauge(one.name, one.used, one.limit, used_share(one.used, one.limit))
                for one in scope["limits"]
                if one.used
            ]
            parts.append(h.div(class_="limits")[used])
            unused = [(one.name[:1].upper() + one.name[1:], one.limit) for one in scope["limits"] if not one.used]
            parts.append(pairs(unused))
            if scope["scope"] == "account" and shown["equityPeak"] is not None:
                peak = f"{Decimal(str(shown['equityPeak'])):,.2f}"
                reset = h.a(href="/confirm/reset-peak", class_="button")["Reset…"]
                parts.append(h.p(class_="row")[f"Equity peak that drawdowns are measured from: {peak} USDC ", reset])
        return self.page(request, "Risk", *parts)
