"""Web pages of the admin listener: overview, orders, positions, statistics and risk, rendered on the server.

Read-only; changes go through actions.py and webhook_pages.py. Charts are inline SVG, every button is a form.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from importlib.resources import files
from typing import Any, Final
from urllib.parse import urlencode

import htpy as h
from aiohttp import web
from htpy import Node, Renderable

from kekbridge.admin.actions import TradingForms
from kekbridge.admin.alert_pages import AlertPages, alert_row, alert_table
from kekbridge.admin.auth import SESSION
from kekbridge.admin.elements import bars, button, curve, form_key, gain, gauge, moment_element, pairs, status, table
from kekbridge.admin.service import AdminService
from kekbridge.admin.webhook_pages import WebhookPages
from kekbridge.formatting import market, money, position_side, used_share
from kekbridge.model.statistics import Report
from kekbridge.reports import limits
from kekbridge.store import orders as order_rows

_MENU: Final = (
    ("/", "Overview"),
    ("/log", "Log"),
    ("/orders", "Orders"),
    ("/positions", "Positions"),
    ("/stats", "Statistics"),
    ("/risk", "Risk"),
    ("/webhooks", "Webhooks"),
)
_ROWS: Final = 100
_REFRESH_S: Final = 15


class Pages:
    """All pages of one daemon."""

    def __init__(self, service: AdminService) -> None:
        self._service = service
        self._forms = TradingForms(service, self.page)
        self._parts = (self._forms, AlertPages(service, self.page), WebhookPages(service, self.page))
        own = files("kekbridge.admin")
        self._style, self._icon = (own.joinpath(name).read_text(encoding="utf-8") for name in ("style.css", "icon.svg"))

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes of every page."""
        router.add_get("/style.css", self._send_style)
        router.add_get("/icon.svg", self._send_icon)
        router.add_get("/", self._overview)
        router.add_get("/orders", self._orders)
        router.add_get("/positions", self._positions)
        router.add_get("/stats", self._stats)
        router.add_get("/risk", self._risk)
        for part in self._parts:
            part.register(router)

    # ------------------------------------------------------------------------------------------------------- frame

    def page(self, request: web.Request | None, title: str, *content: Node, is_live: bool = False) -> web.Response:
        """Render a page, with the menu if there is a request of a session. A live page reloads itself every 15 s."""
        session = None if request is None else request.get(SESSION)
        menu = None
        if request is not None:
            links = [
                h.a(href=path, class_="here" if _is_in(request.path, path) else None)[name] for path, name in _MENU
            ]
            log_out = None
            if session is not None:
                log_out = h.form(method="post", action="/logout")[form_key(request), h.button["Log out"]]
            menu = h.nav[h.b["kekbridge"], *links, log_out]
        document = h.html(lang="en")[
            h.head[
                h.meta(charset="utf-8"),
                h.meta(name="viewport", content="width=device-width, initial-scale=1"),
                h.title[f"{title} - kekbridge"],
                h.link(rel="stylesheet", href="/style.css"),
                h.link(rel="icon", href="/icon.svg", type="image/svg+xml"),
                h.meta(http_equiv="refresh", content=_REFRESH_S) if is_live else None,
            ],
            h.body[menu, h.main[h.h1[title], *content]],
        ]
        return web.Response(text=f"<!doctype html>{document}", content_type="text/html")

    def error(self, status_code: int, message: str, *, is_form: bool) -> web.Response:
        """Render an error page; `is_form`: the request was a form that changed nothing."""
        response = self.page(
            None,
            "Could not save" if is_form else "Error",
            h.p[message],
            h.p[h.a(href="/")["Back to the overview"]],
        )
        response.set_status(status_code)
        return response

    def login(self, error: str = "", *, status: int = 200) -> web.Response:
        """Render the login form, with what was wrong with the last attempt."""
        form = h.form(method="post", action="/login", class_="card")[
            h.label["Token", h.input(type="password", name="token", autofocus=True, autocomplete="off")],
            h.button["Log in"],
        ]
        hint = h.p(class_="dim")["Print it with: ", h.code["kekbridge web token"]]
        response = self.page(None, "kekbridge", h.p(class_="bad")[error] if error else None, form, hint)
        response.set_status(status)
        return response

    async def _send_style(self, request: web.Request) -> web.Response:
        return web.Response(text=self._style, content_type="text/css")

    async def _send_icon(self, request: web.Request) -> web.Response:
        return web.Response(text=self._icon, content_type="image/svg+xml")

    # ------------------------------------------------------------------------------------------------------- pages

    async def _overview(self, request: web.Request) -> web.Response:
        state = await self._service.state()
        found = await self._service.report(since=self._service.clock() - timedelta(days=7))
        return self.page(
            request,
            "Overview",
            _banner(state),
            self._forms.controls(request, state),
            h.div(class_="tiles")[_tiles(state, found)],
            h.div(class_="columns")[
                curve(found.equity, label="Equity, 7 days"),
                bars(list(found.alerts_per_day.items()), label="Alerts per day"),
            ],
            h.h2["Positions"],
            _positions_table(state),
            h.h2["Latest alerts"],
            alert_table(alert_row(one, self._service.clock()) for one in state["lastAlerts"][::-1][:10]),
            is_live=True,
        )

    async def _orders(self, request: web.Request) -> web.Response:
        found = await self._service.database.read(order_rows.list_orders, limit=_ROWS)
        rows = [
            (
                moment_element(one.created_at, self._service.clock()),
                h.a(href=f"/log/{one.alert_id}")[one.alert_id[:13]],
                market(one.intent.symbol),
                one.intent.side.value.lower(),
                one.intent.order_type.value.replace("_", " "),
                one.intent.quantity,
                one.executed_quantity,
                one.average_price,
                status(one.status),
                one.error or one.code,
                None if one.status.is_final else _cancel_button(request, one.client_order_id),
            )
            for one in reversed(found)
        ]
        titles = ("Time", "Alert", "Market", "Side", "Type", "Quantity", "Filled", "At", "Status", "Why", "")
        return self.page(request, "Orders", table(titles, rows, empty="No orders yet."))

    async def _positions(self, request: web.Request) -> web.Response:
        return self.page(request, "Positions", _positions_table(await self._service.state()))

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


def _banner(state: dict[str, Any]) -> Renderable:
    trading, ready = state["trading"], state["ready"]
    parts = [status(trading["state"]), status(state["mode"])]
    if trading["reason"] and trading["state"] != "running":
        parts.append(h.span[trading["reason"]])
    parts.append(
        h.span(class_="good" if ready["ready"] else "bad")[
            "ready" if ready["ready"] else f"not ready: {ready['detail'] or 'reconciling'}"
        ]
    )
    stream = state["exchange"]["streamLive"]
    parts.append(h.span(class_="good" if stream else "bad")["stream live" if stream else "stream down"])
    return h.fragment[h.p(class_="banner")[parts], [_condition(one) for one in state["conditions"]]]


def _condition(one: dict[str, Any]) -> Renderable:
    """A condition in force, in the words of its notification, and since when."""
    since = moment_element(datetime.fromisoformat(one["since"]))
    return h.p[h.span(class_="bad")[one["words"]], " since ", since]


def _tiles(state: dict[str, Any], found: Report) -> Renderable:
    account = state["account"] or {"value": None, "unrealizedPnl": None}
    shown = (
        ("Account (USDC)", "-" if account["value"] is None else f"{Decimal(account['value']):,.2f}"),
        ("Unrealized", gain(account["unrealizedPnl"] and Decimal(account["unrealizedPnl"]))),
        ("Net, 7 days", gain(found.net_pnl)),
        ("Alerts, 7 days", str(found.counts.received)),
        ("Success", _percent(found.success_rate)),
        ("Win rate", _percent(found.win_rate)),
    )
    return h.fragment[[h.div(class_="tile")[h.span[name], h.b[value]] for name, value in shown]]


def _cancel_button(request: web.Request, client_order_id: str) -> Renderable:
    order = h.input(type="hidden", name="order", value=client_order_id)
    return button(request, "/orders/cancel", "Cancel", order)


def _close_link(position: dict[str, Any]) -> Renderable:
    symbol, mode = position["symbol"], position["marginMode"]
    return h.a(href=f"/positions/close?{urlencode({'symbol': symbol, 'mode': mode})}")["Close…"]


def _positions_table(state: dict[str, Any]) -> Renderable:
    rows = [
        (
            market(one["symbol"]),
            position_side(Decimal(one["quantity"]), one["marginMode"]),
            abs(Decimal(one["quantity"])),
            round(Decimal(one["entry"]), 6),
            None if one["mark"] is None else Decimal(one["mark"]),
            gain(None if one["unrealizedPnl"] is None else Decimal(one["unrealizedPnl"])),
            None if one["liquidation"] is None else Decimal(one["liquidation"]),
            _close_link(one),
        )
        for one in (state["account"] or {"positions": []})["positions"]
    ]
    return table(
        ("Market", "Side", "Quantity", "Entry", "Mark", "P&L", "Liquidation", ""), rows, empty="No open positions."
    )


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


def _is_in(path: str, part: str) -> bool:
    """True if a page belongs to a menu entry."""
    return path == part or (part != "/" and path.startswith(f"{part}/"))
