"""Web pages of the admin listener: overview, orders, positions, statistics and risk, rendered on the server.

Read-only; changes go through actions.py and webhook_pages.py. No scripts: charts are inline SVG, every button is a form.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from importlib.resources import files
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from kekbridge.admin.actions import TradingForms, button, form_key
from kekbridge.admin.alert_pages import AlertPages, alert_row, alert_table
from kekbridge.admin.auth import SESSION
from kekbridge.admin.html import Markup, bars, curve, gain, gauge, h, join, pairs, status, table
from kekbridge.admin.service import AdminService
from kekbridge.admin.webhook_pages import WebhookPages
from kekbridge.formatting import clock, market, moment, money, position_side, used_share
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

    def page(self, request: web.Request | None, title: str, *content: object, is_live: bool = False) -> web.Response:
        """Render a page, with the menu if there is a request of a session. A live page reloads itself every 15 s."""
        session = None if request is None else request.get(SESSION)
        menu = None
        if request is not None:
            links = [
                h("a", name, href=path, class_="here" if _is_in(request.path, path) else None) for path, name in _MENU
            ]
            log_out = None
            if session is not None:
                log_out = h("form", form_key(request), h("button", "Log out"), method="post", action="/logout")
            menu = h("nav", h("b", "kekbridge"), *links, log_out)
        document = h(
            "html",
            h(
                "head",
                h("meta", charset="utf-8"),
                h("meta", name="viewport", content="width=device-width, initial-scale=1"),
                h("title", f"{title} - kekbridge"),
                h("link", rel="stylesheet", href="/style.css"),
                h("link", rel="icon", href="/icon.svg", type="image/svg+xml"),
                h("meta", http_equiv="refresh", content=_REFRESH_S) if is_live else None,
            ),
            h("body", menu, h("main", h("h1", title), *content)),
            lang="en",
        )
        return web.Response(text=f"<!doctype html>{document}", content_type="text/html")

    def error(self, status_code: int, message: str, *, is_form: bool) -> web.Response:
        """Render an error page; `is_form`: the request was a form that changed nothing."""
        response = self.page(
            None,
            "Could not save" if is_form else "Error",
            h("p", message),
            h("p", h("a", "Back to the overview", href="/")),
        )
        response.set_status(status_code)
        return response

    def login(self, error: str = "", *, status: int = 200) -> web.Response:
        """Render the login form, with what was wrong with the last attempt."""
        form = h(
            "form",
            h("label", "Token", h("input", type="password", name="token", autofocus=True, autocomplete="off")),
            h("button", "Log in"),
            method="post",
            action="/login",
            class_="card",
        )
        hint = h("p", "Print it with: ", h("code", "kekbridge web token"), class_="dim")
        response = self.page(None, "kekbridge", h("p", error, class_="bad") if error else None, form, hint)
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
            h("div", _tiles(state, found), class_="tiles"),
            h(
                "div",
                curve(found.equity, label="Equity, 7 days"),
                bars(list(found.alerts_per_day.items()), label="Alerts per day"),
                class_="columns",
            ),
            h("h2", "Positions"),
            _positions_table(state),
            h("h2", "Latest alerts"),
            alert_table(alert_row(one, self._service.clock()) for one in state["lastAlerts"][::-1][:10]),
            is_live=True,
        )

    async def _orders(self, request: web.Request) -> web.Response:
        found = await self._service.database.read(order_rows.list_orders, limit=_ROWS)
        rows = [
            (
                clock(one.created_at, self._service.clock()),
                h("a", one.alert_id[:13], href=f"/log/{one.alert_id}"),
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
        titles = ("Time (UTC)", "Alert", "Market", "Side", "Type", "Quantity", "Filled", "At", "Status", "Why", "")
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
            h("a", name, href=f"/stats?days={key}", class_="here" if key == chosen else None)
            for key, name in periods.items()
        ]
        times = [
            (stage, *(f"{value:.1f}" for value in (one.mean, one.p50, one.p95, one.p99)), one.count)
            for stage, one in found.latency_ms.items()
        ]
        return self.page(
            request,
            "Statistics",
            h("p", *links, class_="row"),
            h(
                "div",
                h("section", h("h2", "Alerts and orders"), pairs(_count_pairs(found))),
                h("section", h("h2", "Money (USDC)"), pairs(_money_pairs(found))),
                class_="columns",
            ),
            h(
                "div",
                curve(found.equity, label="Equity"),
                bars(list(found.alerts_per_day.items()), label="Alerts per day"),
                class_="columns",
            ),
            h("h2", "Latency in milliseconds"),
            h("p", "received: since the alert fired; others: since it was received.", class_="dim"),
            table(
                ("Stage", "Mean", "p50", "p95", "p99", "Alerts"), times, empty="No alerts in this period.", is_slim=True
            ),
        )

    async def _risk(self, request: web.Request) -> web.Response:
        shown = await self._service.database.read(limits.read, self._service.settings, at=self._service.clock())
        parts: list[object] = []
        for scope in shown["scopes"]:
            title = "Account" if scope["scope"] == "account" else f"Webhook {scope['name']}"
            parts.append(h("h2", title, " ", status(scope["state"])))
            if scope["reason"]:
                parts.append(h("p", scope["reason"]))
            if scope["scope"] != "account" and scope["state"] != "running":
                named = h("input", type="hidden", name="webhook", value=scope["name"])
                parts.append(button(request, "/trading/resume", "Resume entries", named))
            used = [
                gauge(one.name, one.used, one.limit, used_share(one.used, one.limit))
                for one in scope["limits"]
                if one.used
            ]
            parts.append(h("div", *used, class_="limits"))
            parts.append(pairs([(one.name, one.limit) for one in scope["limits"] if not one.used]))
        if shown["equityPeak"] is not None:
            peak = money(Decimal(str(shown["equityPeak"])))
            reset = h("a", "Reset…", href="/confirm/reset-peak", class_="button")
            parts.append(h("p", f"Equity peak that drawdowns are measured from: {peak} USDC ", reset, class_="row"))
        return self.page(request, "Risk", *parts)


def _banner(state: dict[str, Any]) -> Markup:
    trading, ready = state["trading"], state["ready"]
    parts = [status(trading["state"]), status(state["mode"])]
    if trading["reason"] and trading["state"] != "running":
        parts.append(h("span", trading["reason"]))
    parts.append(
        h(
            "span",
            "ready" if ready["ready"] else f"not ready: {ready['detail'] or 'reconciling'}",
            class_="good" if ready["ready"] else "bad",
        )
    )
    stream = state["exchange"]["streamLive"]
    parts.append(h("span", "stream live" if stream else "stream down", class_="good" if stream else "bad"))
    return join((h("p", *parts, class_="banner"), *(_condition(one) for one in state["conditions"])))


def _condition(one: dict[str, Any]) -> Markup:
    """A condition in force, in the words of its notification, and since when."""
    since = datetime.fromisoformat(one["since"])
    return h("p", h("span", one["words"], class_="bad"), f" since {moment(since)} UTC")


def _tiles(state: dict[str, Any], found: Report) -> Markup:
    account = state["account"] or {"value": None, "unrealizedPnl": None}
    shown = (
        ("Account (USDC)", "-" if account["value"] is None else f"{Decimal(account['value']):,.2f}"),
        ("Unrealized", gain(account["unrealizedPnl"] and Decimal(account["unrealizedPnl"]))),
        ("Net, 7 days", gain(found.net_pnl)),
        ("Alerts, 7 days", str(found.counts.received)),
        ("Success", _percent(found.success_rate)),
        ("Win rate", _percent(found.win_rate)),
    )
    return join(h("div", h("span", name), h("b", value), class_="tile") for name, value in shown)


def _cancel_button(request: web.Request, client_order_id: str) -> Markup:
    order = h("input", type="hidden", name="order", value=client_order_id)
    return button(request, "/orders/cancel", "Cancel", order)


def _close_link(position: dict[str, Any]) -> Markup:
    symbol, mode = position["symbol"], position["marginMode"]
    return h("a", "Close…", href=f"/positions/close?{urlencode({'symbol': symbol, 'mode': mode})}")


def _positions_table(state: dict[str, Any]) -> Markup:
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
