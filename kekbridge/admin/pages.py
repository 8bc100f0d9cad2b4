"""The pages of the admin listener: what is, as HTML made on the server. Reads only; forms.py changes things.

No script at all: charts are inline SVG, and every lever is a form.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from importlib.resources import files
from typing import Any, Final

from aiohttp import web

from kekbridge import limitbook
from kekbridge.admin.access import SESSION
from kekbridge.admin.desk import Desk
from kekbridge.admin.forms import Forms, form_key
from kekbridge.admin.html import Markup, bars, curve, gauge, h, join, status, table
from kekbridge.codes import CODES
from kekbridge.stats import Report
from kekbridge.store import alert_search, alerts, fills, orders
from kekbridge.wording import amount, clean, market, moment

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


class Pages:
    """All pages over one desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._forms = Forms(desk, self.page)
        self._style = files("kekbridge.admin").joinpath("style.css").read_text(encoding="utf-8")

    def register(self, router: web.UrlDispatcher) -> None:
        router.add_get("/style.css", self._send_style)
        router.add_get("/", self._overview)
        router.add_get("/log", self._log)
        router.add_get("/log/{alert}", self._alert)
        router.add_get("/orders", self._orders)
        router.add_get("/positions", self._positions)
        router.add_get("/stats", self._stats)
        router.add_get("/risk", self._risk)
        self._forms.register(router)

    # ------------------------------------------------------------------------------------------------------- frame

    def page(self, request: web.Request | None, title: str, *content: object) -> web.Response:
        """A whole page with the menu; without it for those who are not logged in."""
        session = None if request is None else request.get(SESSION)
        menu = None
        if request is not None:
            links = [h("a", name, href=path, class_="here" if request.path == path else None) for path, name in _MENU]
            leave = None
            if session is not None:
                leave = h("form", form_key(request), h("button", "Log out"), method="post", action="/logout")
            menu = h("nav", *links, leave)
        document = h(
            "html",
            h(
                "head",
                h("meta", charset="utf-8"),
                h("meta", name="viewport", content="width=device-width, initial-scale=1"),
                h("title", f"{title} - kekbridge"),
                h("link", rel="stylesheet", href="/style.css"),
            ),
            h("body", menu, h("main", h("h1", title), *content)),
            lang="en",
        )
        return web.Response(text=f"<!doctype html>{document}", content_type="text/html")

    def complaint(self, status_code: int, message: str) -> web.Response:
        response = self.page(None, "Not done", h("p", message), h("p", h("a", "Back to the overview", href="/")))
        response.set_status(status_code)
        return response

    def login(self, trouble: str = "", *, status: int = 200) -> web.Response:
        form = h(
            "form",
            h("label", "Token", h("input", type="password", name="token", autofocus=True, autocomplete="off")),
            h("button", "Log in"),
            method="post",
            action="/login",
            class_="card",
        )
        hint = h("p", "Print it with: ", h("code", "kekbridge dashboard --token"), class_="dim")
        response = self.page(None, "kekbridge", h("p", trouble, class_="bad") if trouble else None, form, hint)
        response.set_status(status)
        return response

    async def _send_style(self, request: web.Request) -> web.Response:
        return web.Response(text=self._style, content_type="text/css")

    # ------------------------------------------------------------------------------------------------------- pages

    async def _overview(self, request: web.Request) -> web.Response:
        state = await self._desk.state()
        found = await self._desk.report(since=self._desk.clock() - timedelta(days=7))
        return self.page(
            request,
            "Overview",
            _banner(state),
            self._forms.levers(request, state),
            h("div", _tiles(state, found), class_="tiles"),
            curve(found.equity, label="Equity, 7 days"),
            bars(list(found.alerts_per_day.items()), label="Alerts"),
            h("h2", "Positions"),
            _positions_table(state),
            h("h2", "Last alerts"),
            _alerts_table(state["lastAlerts"][::-1][:10]),
        )

    async def _log(self, request: web.Request) -> web.Response:
        asked = {name: request.query.get(name, "").strip() or None for name in ("webhook", "status", "code", "text")}
        found = await self._desk.database.read(alert_search.list_alerts, limit=_ROWS, **asked)  # type: ignore[arg-type]
        fields = [h("label", name, h("input", name=name, value=value or "")) for name, value in asked.items()]
        rows = [
            {
                "id": one.id,
                "receivedAt": moment(one.received_at),
                "webhook": one.webhook_name,
                "action": one.action,
                "symbol": one.symbol,
                "status": one.status,
                "code": one.code,
                "error": one.error,
            }
            for one in reversed(found)
        ]
        search = h("form", *fields, h("button", "Filter"), method="get", action="/log", class_="row")
        return self.page(request, "Log", search, _alerts_table(rows))

    async def _alert(self, request: web.Request) -> web.Response:
        database = self._desk.database
        found = await database.read(alerts.find, request.match_info["alert"])
        legs = await database.read(orders.of_alert, found.id)
        code = CODES.get(found.code or "")
        head = [
            ("Alert", found.id),
            ("Sender's id", found.alert_id),
            ("Webhook", found.webhook_name),
            ("Received", f"{moment(found.received_at)} UTC from {clean(found.remote)}, proof {clean(found.proof)}"),
            ("Fired", moment(found.fired_at)),
            ("Status", status(found.status)),
            ("Code", found.code),
            ("Why", found.error or (code.meaning if code else None)),
            ("Fix", code.fix if code else None),
        ]
        parts: list[object] = [_pairs(head), h("h2", "Message"), _pairs(list(found.payload.items()))]
        verdicts = [
            (one.rule, one.scope, one.found, one.limit, status("passed" if one.passed else "denied"))
            for one in found.verdicts
        ]
        parts += [
            h("h2", "Rules"),
            table(("Rule", "Scope", "Found", "Limit", "Verdict"), verdicts, empty="No rule was asked."),
        ]
        for order in legs:
            told = await database.read(orders.details, order.client_order_id)
            executions = await database.read(fills.of_order, order.client_order_id)
            parts += [h("h2", f"Order {order.leg + 1}"), _pairs(_order_pairs(order, told.request))]
            rows = [(moment(one.executed_at), one.quantity, one.price, one.fee, one.realized_pnl) for one in executions]
            parts.append(table(("Filled at", "Quantity", "Price", "Fee", "Realized"), rows, empty="No fill."))
        times = sorted(found.stages.items(), key=lambda stage: stage[1])
        parts += [
            h("h2", "Milliseconds after it was received"),
            _pairs([(name, f"{value:g}") for name, value in times]),
        ]
        if found.answer is not None:
            parts += [h("h2", f"Answered with HTTP {found.answer_status}"), _pairs(list(found.answer.items()))]
        return self.page(request, f"Alert {found.id[:13]}", *parts)

    async def _orders(self, request: web.Request) -> web.Response:
        found = await self._desk.database.read(orders.list_orders, limit=_ROWS)
        rows = [
            (
                moment(one.created_at),
                h("a", one.alert_id[:13], href=f"/log/{one.alert_id}"),
                market(one.intent.symbol),
                one.intent.side,
                one.intent.order_type,
                one.intent.quantity,
                one.executed_quantity,
                one.average_price,
                status(one.status),
                one.error or one.code,
            )
            for one in reversed(found)
        ]
        titles = ("Time (UTC)", "Alert", "Market", "Side", "Type", "Quantity", "Filled", "At", "Status", "Why")
        return self.page(request, "Orders", table(titles, rows, empty="No order yet."))

    async def _positions(self, request: web.Request) -> web.Response:
        return self.page(request, "Positions", _positions_table(await self._desk.state()))

    async def _stats(self, request: web.Request) -> web.Response:
        periods = {"1": "24 hours", "7": "7 days", "30": "30 days", "all": "All"}
        chosen = request.query.get("days", "7")
        chosen = chosen if chosen in periods else "7"
        since = None if chosen == "all" else self._desk.clock() - timedelta(days=int(chosen))
        found = await self._desk.report(since=since)
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
                h("section", h("h2", "Alerts and orders"), _pairs(_count_pairs(found))),
                h("section", h("h2", "Money (USDC)"), _pairs(_money_pairs(found))),
                class_="columns",
            ),
            curve(found.equity, label="Equity"),
            bars(list(found.alerts_per_day.items()), label="Alerts"),
            h("h2", "Milliseconds"),
            h("p", "received: since the alert fired; all others: since it was received.", class_="dim"),
            table(("Stage", "Mean", "p50", "p95", "p99", "Alerts"), times, empty="No alert in this time."),
        )

    async def _risk(self, request: web.Request) -> web.Response:
        shown = await self._desk.database.read(limitbook.read, self._desk.settings, at=self._desk.clock())
        parts: list[object] = []
        for scope in shown["scopes"]:
            title = "Account" if scope["scope"] == "account" else f"Webhook {scope['name']}"
            parts.append(h("h2", title, " ", status(scope["state"])))
            if scope["reason"]:
                parts.append(h("p", scope["reason"]))
            used = [gauge(one.name, one.used, one.limit, _used_share(one)) for one in scope["limits"] if one.used]
            parts.append(h("div", *used, class_="limits"))
            parts.append(_pairs([(one.name, one.limit) for one in scope["limits"] if not one.used]))
        return self.page(request, "Risk", *parts)


def _banner(state: dict[str, Any]) -> Markup:
    trading, ready = state["trading"], state["ready"]
    words = [status(trading["state"]), status(state["mode"])]
    if trading["reason"] and trading["state"] != "running":
        words.append(h("span", trading["reason"]))
    words.append(
        h(
            "span",
            "ready" if ready["ready"] else f"not ready: {ready['detail'] or 'reconciling'}",
            class_="good" if ready["ready"] else "bad",
        )
    )
    stream = state["exchange"]["streamLive"]
    words.append(h("span", "stream live" if stream else "stream down", class_="good" if stream else "bad"))
    return h("p", *words, class_="banner")


def _tiles(state: dict[str, Any], found: Report) -> Markup:
    account = state["account"] or {"value": None, "free": None}
    shown = (
        ("Account (USDC)", _short(account["value"])),
        ("Unrealized", _signed(found.unrealized_pnl)),
        ("Net, 7 days", _signed(found.net_pnl)),
        ("Alerts, 7 days", str(found.counts.received)),
        ("Success", _percent(found.success_rate)),
        ("Win rate", _percent(found.win_rate)),
    )
    return join(h("div", h("span", name), h("b", value), class_="tile") for name, value in shown)


def _positions_table(state: dict[str, Any]) -> Markup:
    rows = [
        (
            market(one["symbol"]),
            "long" if Decimal(one["quantity"]) > 0 else "short",
            abs(Decimal(one["quantity"])),
            Decimal(one["entry"]),
            None if one["mark"] is None else Decimal(one["mark"]),
            _signed(None if one["unrealizedPnl"] is None else Decimal(one["unrealizedPnl"])),
            None if one["liquidation"] is None else Decimal(one["liquidation"]),
        )
        for one in (state["account"] or {"positions": []})["positions"]
    ]
    return table(("Market", "Side", "Quantity", "Entry", "Mark", "P&L", "Liquidation"), rows, empty="No open position.")


def _alerts_table(rows: list[dict[str, Any]]) -> Markup:
    shown = [
        (
            str(one["receivedAt"]).replace("T", " ")[:19],
            h("a", one["id"][:13], href=f"/log/{one['id']}"),
            one["webhook"],
            " ".join(part for part in (one["action"], market(one["symbol"]) if one["symbol"] else None) if part),
            status(one["status"]),
            ": ".join(part for part in (one["code"], one["error"]) if part),
        )
        for one in rows
    ]
    return table(("Time (UTC)", "Alert", "Webhook", "Says", "Status", "Why"), shown, empty="No alert yet.")


def _pairs(rows: list[tuple[str, Any]]) -> Markup:
    shown = [
        (h("dt", name), h("dd", value if isinstance(value, Markup) else clean(value)))
        for name, value in rows
        if value not in (None, "")
    ]
    return h("dl", *(part for pair in shown for part in pair))


def _order_pairs(order: Any, request: str | None) -> list[tuple[str, Any]]:
    intent = order.intent
    return [
        ("Asked", f"{intent.side.value} {amount(intent.quantity)} {intent.symbol} {intent.order_type.value}"),
        ("Status", status(order.status)),
        ("Filled", f"{amount(order.executed_quantity)} at {amount(order.average_price)}"),
        ("Fee (USDC)", order.fee),
        ("Realized", order.realized_pnl or None),
        ("Expected price", intent.reference_price),
        ("Client order id", order.client_order_id),
        ("Order id", order.order_id),
        ("Code", order.code),
        ("Why", order.error),
        ("Request", request),
    ]


def _count_pairs(found: Report) -> list[tuple[str, Any]]:
    counts = found.counts
    names = ("received", "done", "refused", "duplicate", "expired", "unknown", "waiting")
    rows: list[tuple[str, Any]] = [(name.capitalize(), str(getattr(counts, name))) for name in names]
    rows += [
        ("Refused by", ", ".join(f"{code} {count}" for code, count in counts.by_code.items())),
        ("Success", _percent(found.success_rate)),
        ("Orders", f"{counts.sent} sent, {counts.filled} filled, {counts.rejected} rejected"),
        ("Fill rate", _percent(found.fill_rate)),
    ]
    for name, one in (("Slippage to signal", found.slippage_signal), ("Slippage to mark", found.slippage_mark)):
        rows.append((name, None if one is None else f"mean {one.mean * 100:+.3f} %, worst {one.worst * 100:+.3f} %"))
    return rows


def _money_pairs(found: Report) -> list[tuple[str, Any]]:
    return [
        ("Realized", found.realized_pnl),
        ("Fees", found.fees),
        ("Funding", found.funding),
        ("Net", found.net_pnl),
        ("Unrealized", found.unrealized_pnl),
        ("Account", found.account_value),
        ("Leverage used", None if found.leverage is None else f"{found.leverage:.2f}"),
        ("Win rate", f"{_percent(found.win_rate)} of {found.closing_orders} closing orders"),
        ("Stops hit", _percent(found.stop_hit_rate)),
    ]


def _used_share(line: Any) -> float | None:
    """How much of a limit is used, as far as its words begin with numbers."""
    numbers = []
    for words in (line.used, line.limit):
        text = "".join(one for one in words.split()[0] if one.isdigit() or one in ".-") if words.split() else ""
        try:
            numbers.append(Decimal(text))
        except ArithmeticError:
            return None
    return float(numbers[0] / numbers[1]) if numbers[1] else None


def _percent(value: Decimal | None) -> str:
    return "-" if value is None else f"{value * 100:.1f} %"


def _signed(value: Decimal | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _short(value: str | None) -> str:
    return "-" if value is None else f"{Decimal(value):.2f}"
