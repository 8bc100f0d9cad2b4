"""The overview: what needs attention, the trading state and its controls, equity, positions, open orders, limits and the last alerts."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple

import htpy as h
from aiohttp import web
from htpy import Node, Renderable

from kekbridge.admin.actions import TradingForms
from kekbridge.admin.alert_pages import alert_row, alert_table
from kekbridge.admin.charts import equity_chart
from kekbridge.admin.checklist import ChecklistForms
from kekbridge.admin.elements import button, closed_state, gain, gauge, moment_element, status, with_code
from kekbridge.admin.service import AdminService, alert_data, conditions_in_force
from kekbridge.admin.trading_pages import orders_table, positions_table
from kekbridge.admin.webhook_settings import page_words
from kekbridge.config import Settings
from kekbridge.formatting import to_jsonable, used_share
from kekbridge.model import EquityMark, Order, TradingState
from kekbridge.model.statistics import PnlPart, total_of
from kekbridge.reports import limits
from kekbridge.reports.condition_fixes import fix_of
from kekbridge.store import alerts, equity, fills, settings, statistics
from kekbridge.store import orders as order_rows
from kekbridge.store.alerts import StoredAlert
from kekbridge.store.codec import Span

_ALERTS: Final = 10
_OPEN_ORDERS: Final = 20
_SHOWN_FROM: Final = Decimal("0.5")
_CHART: Final = timedelta(days=7)
_POINTS: Final = 240


class OverviewPage:
    """Handler of the overview. `page` renders a whole page from a request, a title and contents."""

    def __init__(self, service: AdminService, page: Callable[..., web.Response], forms: TradingForms) -> None:
        self._service = service
        self._page = page
        self._forms = forms
        self._checklist = ChecklistForms(service, page)

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/", self._overview)
        self._checklist.register(router)

    async def _overview(self, request: web.Request) -> web.Response:
        service, now = self._service, self._service.clock()
        stored = await service.database.read(_read, service.settings, now=now)
        live = service.live()
        rows = [alert_row(to_jsonable(alert_data(one)), now) for one in stored.alerts]
        return self._page(
            request,
            "Overview",
            _live("problems", [_problem(one) for one in stored.conditions]),
            _live("state", _trading_state(request, live, stored.scopes)),
            _live("controls", self._forms.controls(request, stored.state)),
            _live("checklist", await self._checklist.card(request)),
            _live("tiles", h.div(class_="tiles")[_tiles(live["account"], stored)]),
            _live("equity", equity_chart(stored.equity, title="Equity, 7 days")),
            h.h2["Positions"],
            _live("positions", positions_table(live["account"])),
            h.h2["Open orders"],
            _live("orders", orders_table(stored.orders, now, empty="No open orders.")),
            h.h2["Limits"],
            _live("limits", _limits(stored.scopes)),
            h.h2["Last alerts"],
            _live("alerts", alert_table(rows, keys=[one.id for one in stored.alerts])),
            is_live=True,
        )


class _Stored(NamedTuple):
    """What the overview shows of the store."""

    #: Of the account.
    state: TradingState
    #: Limits with their use, of the account first (reports/limits.py), as JSON.
    scopes: Sequence[Mapping[str, Any]]
    conditions: Sequence[Mapping[str, Any]]
    #: Newest first, as the next one.
    alerts: Sequence[StoredAlert]
    orders: Sequence[Order]
    equity: Sequence[EquityMark]
    #: Since midnight UTC: P&L, alerts, refused alerts.
    pnl: PnlPart
    received: int
    refused: int


def _read(connection: sqlite3.Connection, configured: Settings, *, now: datetime) -> _Stored:
    """Everything by indexed look-ups: the page is loaded again with each change."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    received, refused = statistics.alerts_of_day(connection, now.date())
    today = Span.of(midnight)
    return _Stored(
        state=settings.trading_control(connection, now=now).state,
        scopes=to_jsonable(limits.read(connection, configured, at=now)["scopes"]),
        conditions=to_jsonable(conditions_in_force(connection)),
        alerts=alerts.search(connection, limit=_ALERTS).alerts[::-1],
        orders=order_rows.list_orders(connection, open_only=True, limit=_OPEN_ORDERS)[::-1],
        equity=equity.curve(connection, Span.of(now - _CHART), points=_POINTS),
        pnl=total_of((*fills.list_results(connection, today), *equity.list_funding(connection, today))),
        received=received,
        refused=refused,
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


def _trading_state(request: web.Request, live: Mapping[str, Any], scopes: Sequence[Mapping[str, Any]]) -> Renderable:
    """What may be traded now, why, and what ends a restriction; then whether the exchange is reached."""
    ready, is_live = live["ready"], live["exchange"]["streamLive"]
    detail = f": {ready['detail'] or 'reconciling with the exchange'}"
    closed = [scope for scope in scopes if scope["state"] != "running"]
    return h.div(class_="state banner")[
        h.p(class_="row")[
            status(scopes[0]["state"]),
            h.span(class_="good" if ready["ready"] else "bad")["ready" if ready["ready"] else f"not ready{detail}"],
            h.span(class_="good" if is_live else "bad")["stream connected" if is_live else "stream down"],
        ],
        [_closed(request, scope) for scope in closed],
    ]


def _closed(request: web.Request, scope: Mapping[str, Any]) -> Renderable:
    """A scope that does not accept everything: until when and why, and what opens it again."""
    name = "Account" if scope["scope"] == "account" else f"Webhook {scope['name']}"
    fix = page_words(scope["stateFix"])
    text = h.p[h.b[name], ": ", closed_state(scope), ". To open it: ", fix, "."]
    if scope["scope"] == "account":  # its button is among the controls
        return text
    named = h.input(type="hidden", name="webhook", value=scope["name"])
    return h.div(class_="closed")[text, button(request, "/trading/resume", "Resume entries", named)]


def _tiles(account: Mapping[str, Any] | None, stored: _Stored) -> list[Renderable]:
    account = account or {"value": None, "unrealizedPnl": None}
    paid = stored.pnl.fees + stored.pnl.funding
    shown: tuple[tuple[str, Node], ...] = (
        ("Account (USDC)", "-" if account["value"] is None else f"{Decimal(account['value']):,.2f}"),
        ("P&L today (UTC)", gain(stored.pnl.net_pnl)),
        ("Unrealized", gain(account["unrealizedPnl"] and Decimal(account["unrealizedPnl"]))),
        ("Fees and funding today", gain(-paid)),
        ("Alerts today", f"{stored.received:,}"),
        ("Refused today", f"{stored.refused:,}"),
    )
    return [h.div(class_="tile")[h.span[name], h.b[value]] for name, value in shown]


def _limits(scopes: Iterable[Mapping[str, Any]]) -> Renderable:
    """The used limits of the account, and those of webhooks that are half used; all of them are on the risk page."""
    bars = [
        gauge(
            one["name"] if scope["scope"] == "account" else f"{one['name']} ({scope['name']})",
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
