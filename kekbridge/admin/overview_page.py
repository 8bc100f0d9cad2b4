"""The overview: what needs attention, the trading state and its controls, equity, positions, open orders, limits and the last alerts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import htpy as h
from aiohttp import web
from htpy import Node, Renderable

from kekbridge.admin.actions import TradingForms
from kekbridge.admin.alert_pages import alert_row, alert_table
from kekbridge.admin.elements import curve, gain, gauge, moment_element, status, with_code
from kekbridge.admin.service import AdminService
from kekbridge.admin.trading_pages import orders_table, positions_table
from kekbridge.formatting import used_share
from kekbridge.model.statistics import Report
from kekbridge.reports.condition_fixes import fix_of
from kekbridge.store import orders as order_rows

_ALERTS: Final = 10
_OPEN_ORDERS: Final = 20
_SHOWN_FROM: Final = Decimal("0.5")
_CHART: Final = timedelta(days=7)


class OverviewPage:
    """Handler of the overview. `page` renders a whole page from a request, a title and contents."""

    def __init__(self, service: AdminService, page: Callable[..., web.Response], forms: TradingForms) -> None:
        self._service = service
        self._page = page
        self._forms = forms

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the route."""
        router.add_get("/", self._overview)

    async def _overview(self, request: web.Request) -> web.Response:
        service, now = self._service, self._service.clock()
        state = await service.state()
        today = await service.report(since=now.replace(hour=0, minute=0, second=0, microsecond=0))
        chart = await service.report(since=now - _CHART)
        orders = await service.database.read(order_rows.list_orders, open_only=True, limit=_OPEN_ORDERS)
        alerts = state["lastAlerts"][::-1][:_ALERTS]
        return self._page(
            request,
            "Overview",
            _live("problems", [_problem(one) for one in state["conditions"]]),
            _live("state", _trading_state(state)),
            _live("controls", self._forms.controls(request, state)),
            _live("tiles", h.div(class_="tiles")[_tiles(state, today)]),
            _live("equity", curve(chart.equity, label="Equity, 7 days")),
            h.h2["Positions"],
            _live("positions", positions_table(state["account"])),
            h.h2["Open orders"],
            _live("orders", orders_table(orders[::-1], now, empty="No open orders.")),
            h.h2["Limits"],
            _live("limits", _limits(state["limits"])),
            h.h2["Last alerts"],
            _live("alerts", alert_table((alert_row(one, now) for one in alerts), keys=[one["id"] for one in alerts])),
            is_live=True,
        )


def _live(name: str, *content: Node) -> Renderable:
    """A part of the page that the script updates in place."""
    return h.div(id=f"live-{name}", data_live=True)[content]


def _problem(one: Mapping[str, Any]) -> Renderable:
    """A condition in force: in the words of its notification, since when, and what to do."""
    since = moment_element(datetime.fromisoformat(one["since"]))
    kind = "problem" if one["severity"] == "failure" else "problem warning"
    fix = fix_of(one["event"])
    return h.div(class_=kind)[one["words"], h.small["Since ", since, ". ", with_code(fix)]]


def _trading_state(state: Mapping[str, Any]) -> Renderable:
    """What may be traded now, why, and what ends a restriction; then whether the exchange is reached."""
    trading, ready = state["trading"], state["ready"]
    is_live = state["exchange"]["streamLive"]
    detail = f": {ready['detail'] or 'reconciling with the exchange'}"
    closed = [scope for scope in state["limits"] if scope["state"] != "running"]
    return h.div(class_="state banner")[
        h.p(class_="row")[
            status(trading["state"]),
            status(state["mode"]),
            h.span(class_="good" if ready["ready"] else "bad")["ready" if ready["ready"] else f"not ready{detail}"],
            h.span(class_="good" if is_live else "bad")["stream live" if is_live else "stream down"],
        ],
        [_closed(scope) for scope in closed],
    ]


def _closed(scope: Mapping[str, Any]) -> Renderable:
    """A scope that does not accept everything: since when and why, and what opens it again."""
    name = "Account" if scope["scope"] == "account" else f"Webhook {scope['name']}"
    reason = f", {scope['reason']}" if scope["reason"] and scope["reason"] not in scope["stateText"] else ""
    return h.p[h.b[name], f": {scope['stateText']}{reason}. To open it: ", with_code(scope["stateFix"]), "."]


def _tiles(state: Mapping[str, Any], today: Report) -> list[Renderable]:
    account = state["account"] or {"value": None, "unrealizedPnl": None}
    shown: tuple[tuple[str, Node], ...] = (
        ("Account (USDC)", "-" if account["value"] is None else f"{Decimal(account['value']):,.2f}"),
        ("P&L today", gain(today.net_pnl)),
        ("Unrealized", gain(account["unrealizedPnl"] and Decimal(account["unrealizedPnl"]))),
        ("Fees and funding today", gain(-today.fees - (today.funding or Decimal(0)))),
        ("Alerts today", f"{today.counts.received:,}"),
        ("Refused today", f"{today.counts.refused:,}"),
    )
    return [h.div(class_="tile")[h.span[name], h.b[value]] for name, value in shown]


def _limits(scopes: Iterable[Mapping[str, Any]]) -> Renderable:
    """The used limits of the account, and those of webhooks that are half used; all of them are on the risk page."""
    bars = [
        gauge(
            one["name"] if scope["scope"] == "account" else f"{scope['name']}: {one['name']}",
            one["used"],
            one["limit"],
            used_share(one["used"], one["limit"]),
        )
        for scope in scopes
        for one in scope["limits"]
        if one["used"] and (scope["scope"] == "account" or (used_share(one["used"], one["limit"]) or 0) >= _SHOWN_FROM)
    ]
    if not bars:
        return h.p(class_="dim")["No limit with a use is set. ", h.a(href="/risk")["All limits"]]
    return h.fragment[h.div(class_="limits")[bars], h.p(class_="dim")[h.a(href="/risk")["All limits"]]]
