"""The log and the story of one alert as pages: what `kekbridge logs` and `kekbridge explain` tell, by the same functions. Reads only."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from aiohttp import web

from kekbridge import parsing
from kekbridge.admin.html import Markup, gain, h, pairs, select, status, table, timeline
from kekbridge.admin.service import AdminService
from kekbridge.codes import CODES
from kekbridge.formatting import amount, clock, duration, market, moment, to_text
from kekbridge.model import Verdict
from kekbridge.reports import alert_report
from kekbridge.reports.alert_report import AlertReport, OrderTimeline
from kekbridge.store import alerts, rejected_requests, webhooks
from kekbridge.webhooks.registry import perp_symbol

_ROWS: Final = 100
_STATUSES: Final = (
    *("filled", "accepted", "partially_filled", "queued", "submitting", "unknown"),
    *("denied", "refused", "rejected", "expired", "canceled", "ignored", "done", "failed"),
)
_FILTERS: Final = ("webhook", "status", "code", "symbol", "since", "until", "text")


class AlertPages:
    """Over one desk; `page` makes a whole page of a title and contents."""

    def __init__(self, desk: AdminService, page: Callable[..., web.Response]) -> None:
        self._desk = desk
        self._page = page

    def register(self, router: web.UrlDispatcher) -> None:
        router.add_get("/log", self._log)
        router.add_get("/log/{alert}", self._alert)

    async def _log(self, request: web.Request) -> web.Response:
        asked = {name: request.query.get(name, "").strip() for name in _FILTERS}
        now = self._desk.clock()
        since = parsing.instant("since", asked["since"], now) if asked["since"] else None
        until = parsing.instant("until", asked["until"], now) if asked["until"] else None
        symbol = perp_symbol(asked["symbol"]) if asked["symbol"] else None

        def read(
            connection: sqlite3.Connection,
        ) -> tuple[alerts.SearchResult, tuple[rejected_requests.RejectedRequest, ...], list[str]]:
            found = alerts.search(
                connection,
                webhook=asked["webhook"] or None,
                status=asked["status"] or None,
                code=asked["code"] or None,
                symbol=symbol,
                since=since,
                until=until,
                text=asked["text"] or None,
                limit=_ROWS,
            )
            # Requests nobody vouched for have no webhook, symbol or message to filter by.
            shows = not (asked["webhook"] or asked["symbol"] or asked["text"]) and asked["status"] in ("", "refused")
            guesses = (
                rejected_requests.list_recent(
                    connection, since=since, until=until, code=asked["code"] or None, limit=_ROWS
                )
                if shows
                else ()
            )
            return found, guesses, [one.name for one in webhooks.list_all(connection)]

        found, guesses, names = await self._desk.database.read(read)
        rows = [(one.received_at, alert_row(_told(one), now)) for one in found.alerts]
        rows += [(one.last_at, _guess_row(one, now)) for one in guesses]
        rows.sort(key=lambda row: row[0], reverse=True)
        far = None
        if found.looked_back_to is not None:
            further = (
                f"looked for the text back to {moment(found.looked_back_to)} UTC; fill in until to look further back"
            )
            far = h("p", further, class_="dim")
        return self._page(request, "Log", _search(asked, names), far, alert_table(row for _, row in rows[:_ROWS]))

    async def _alert(self, request: web.Request) -> web.Response:
        told = await self._desk.database.read(alert_report.read, request.match_info["alert"])
        alert = told.alert
        parts: list[object] = [
            h(
                "div",
                h("section", h("h2", "Alert"), pairs(_head(told))),
                h("section", h("h2", "Message"), pairs(alert.payload.items())),
                class_="columns",
            ),
            h("h2", "Time"),
            h("p", "received: after it fired; all others: after it was received.", class_="dim"),
            timeline(told.stages),
        ]
        for one in told.orders:
            parts += _order_parts(one)
        parts += [h("h2", "Rules"), *_rules(alert.verdicts)]
        if alert.answer is not None:
            parts += [h("h2", f"Answered with HTTP {alert.answer_status}"), pairs(alert.answer.items())]
        return self._page(request, f"Alert {alert.id[:13]}", *parts)


def alert_row(one: Mapping[str, Any], now: datetime) -> tuple[object, ...]:
    """One alert of the log, of its plain JSON."""
    says = " ".join(part for part in (one["action"], market(one["symbol"]) if one["symbol"] else None) if part)
    return (
        clock(datetime.fromisoformat(one["receivedAt"]), now),
        h("a", one["id"][:13], href=f"/log/{one['id']}"),
        one["webhook"],
        says,
        status(one["status"]),
        ": ".join(part for part in (one["code"], one["error"]) if part),
    )


def alert_table(rows: Iterable[tuple[object, ...]]) -> Markup:
    return table(("Time (UTC)", "Alert", "Webhook", "Says", "Status", "Why"), rows, empty="Nothing here.")


def _told(one: Any) -> dict[str, Any]:
    return {
        "id": one.id,
        "receivedAt": one.received_at.isoformat(),
        "webhook": one.webhook_name,
        "action": one.action,
        "symbol": one.symbol,
        "status": one.status,
        "code": one.code,
        "error": one.error,
    }


def _guess_row(one: rejected_requests.RejectedRequest, now: datetime) -> tuple[object, ...]:
    times = f"{one.count} x " if one.count > 1 else ""
    why = f"{one.code}: {times}from {one.remote}: {one.error}"
    return clock(one.last_at, now), None, None, None, status("refused"), why


def _search(asked: Mapping[str, str], names: Iterable[str]) -> Markup:
    hints = {
        "symbol": "BTC",
        "since": "24h or a UTC time",
        "until": "a UTC time",
        "code": "daily_limit",
        "text": "in the message",
    }
    choices = {"webhook": list(names), "status": list(_STATUSES)}
    fields = []
    for name, value in asked.items():
        if name in choices:
            options = dict.fromkeys([*choices[name], *([value] if value else [])])
            entry = select(name, value, [("", "any"), *((one, one.replace("_", " ")) for one in options)])
        else:
            entry = h("input", name=name, value=value, placeholder=hints[name], autocomplete="off")
        fields.append(h("label", name.capitalize(), entry))
    clear = h("a", "Clear", href="/log", class_="button") if any(asked.values()) else None
    return h("form", *fields, h("button", "Filter"), clear, method="get", action="/log", class_="fields search")


def _head(told: AlertReport) -> list[tuple[str, object]]:
    alert = told.alert
    code = CODES.get(alert.code or "")
    fired = alert.fired_at
    return [
        ("Status", status(alert.status)),
        ("Code", alert.code),
        ("Why", alert.error or (code.meaning if code else None)),
        ("Fix", code.fix if code else None),
        ("Webhook", alert.webhook_name),
        ("Received", f"{moment(alert.received_at)} UTC from {to_text(alert.remote)}, proof {to_text(alert.proof)}"),
        ("Fired", fired and f"{moment(fired)} UTC, {duration(alert.received_at - fired)} before it was received"),
        ("Alert", alert.id),
        ("Sender's id", alert.alert_id),
        ("Warnings", ", ".join(alert.warnings)),
    ]


def _order_parts(told: OrderTimeline) -> list[object]:
    order, intent = told.order, told.order.intent
    size = f"{amount(intent.quantity)} {market(intent.symbol)}"
    asked = f"Order {order.leg + 1}: {intent.side.value.lower()} {size} {intent.order_type.value.replace('_', ' ')}"
    said = [(f"+{one.ms:,.0f} ms", one.what, one.figures) for one in told.answers]
    parts: list[object] = [
        h("h2", asked),
        h(
            "div",
            h("section", pairs(_order_facts(told))),
            h("section", table(("After", "What", "Figures"), said, empty="Not sent.")),
            class_="columns",
        ),
    ]
    if told.details.request:
        parts.append(
            h("details", h("summary", "Exact request (signatures travel beside it)"), h("pre", told.details.request))
        )
    trades = [*told.fills, *told.exit_fills]
    if trades:
        rows = [
            (moment(one.executed_at), one.side.value.lower(), one.quantity, one.price, one.fee, gain(one.realized_pnl))
            for one in trades
        ]
        parts.append(table(("Filled (UTC)", "Side", "Quantity", "Price", "Fee", "Realized"), rows, empty=""))
    parts += _exit_parts(told)
    failed = [one for one in told.details.verdicts if not one.passed]
    if failed:
        parts += [h("h3", "Rules right before sending"), _verdict_table(failed)]
    return parts


def _order_facts(told: OrderTimeline) -> list[tuple[str, object]]:
    order, intent = told.order, told.order.intent
    return [
        ("Status", status(order.status)),
        ("Filled", f"{amount(order.executed_quantity)} of {amount(intent.quantity)}, at {amount(order.average_price)}"),
        ("Stop loss", intent.stop_loss),
        (
            "Take profits",
            [f"{amount(one.quantity)} at {amount(one.trigger_price)}" for one in intent.take_profits] or None,
        ),
        ("Fee (USDC)", order.fee or None),
        ("Realized (USDC)", gain(order.realized_pnl) if order.realized_pnl else None),
        *(
            (f"Slippage to {one.against}", f"{one.share * 100:+.3f} % of {amount(one.expected)}")
            for one in told.slippage
        ),
        ("Client order id", order.client_order_id),
        ("Order id", order.order_id),
        ("Attempts", order.attempt if order.attempt > 1 else None),
        ("Code", order.code),
        ("Why", order.error),
    ]


def _exit_parts(told: OrderTimeline) -> list[object]:
    """What became of the stop loss and the take-profit that travelled with an entry."""
    legs = [
        (
            one.kind.replace("_", " ").lower(),
            status(one.status),
            one.trigger_price,
            one.executed_quantity,
            one.average_price,
        )
        for one in told.exits
        if one.trigger_price is not None or one.executed_quantity
    ]
    if not legs:
        return []
    return [
        h("h3", "Exits at the exchange"),
        table(("Exit", "Status", "Trigger", "Filled", "At"), legs, empty=""),
    ]


def _rules(verdicts: Sequence[Verdict]) -> list[Markup]:
    """What was denied; what passed, folded away."""
    denied = [one for one in verdicts if not one.passed]
    passed = [one for one in verdicts if one.passed]
    parts = [_verdict_table(denied)] if denied or not passed else []
    if passed:
        passed.sort(key=lambda one: one.limit == "no limit")
        limited = sum(1 for one in passed if one.limit != "no limit")
        words = f"{len(passed)} rules passed, {limited} of them with a limit"
        parts.append(h("details", h("summary", words), _verdict_table(passed)))
    return parts


def _verdict_table(verdicts: Iterable[Verdict]) -> Markup:
    rows = [
        (one.rule, one.scope, one.found, one.limit, status("passed" if one.passed else "denied")) for one in verdicts
    ]
    return table(("Rule", "Scope", "Found", "Limit", "Verdict"), rows, empty="No rule was asked.")
