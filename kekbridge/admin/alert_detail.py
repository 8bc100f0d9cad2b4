"""Web page of one alert: what was decided, its stages as a waterfall, rules, orders, fills, exits, notifications; and a dry run of it.

From the functions behind `kekbridge explain` and `kekbridge replay`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Final

import htpy as h
from aiohttp import web
from htpy import Node, Renderable

from kekbridge.admin.charts import StageSpan, waterfall
from kekbridge.admin.elements import button, gain, moment_element, pairs, status, table
from kekbridge.admin.service import AdminService
from kekbridge.admin.verdicts import verdicts_element
from kekbridge.admin.webhook_settings import page_words
from kekbridge.formatting import SHORT_ID, age, duration, market
from kekbridge.model.notifications import NotificationText
from kekbridge.ops import notify_settings
from kekbridge.ops.replay import ReplayAlert
from kekbridge.reports import alert_report, dry_run
from kekbridge.reports.alert_report import AlertReport, Section
from kekbridge.reports.dry_run import DryRunReport, PlannedOrder
from kekbridge.reports.event_facts import event_facts
from kekbridge.store.journal import Event

# Stages that follow each other, and what happens in each (model/latency.py STAGES).
_STAGES: Final = {
    "stored": "Checked and stored",
    "admitted": "Claimed for sending",
    "signed": "Signed and sent",
    "accepted": "Accepted by the exchange",
    "filled": "Filled",
}
_ANSWERED: Final = "Sender answered"
_UNFINISHED: Final = frozenset({"queued", "submitting", "accepted", "partially_filled", "unknown"})
_DONE: Final = frozenset({"filled", "done", "accepted", "partially_filled"})
# Names of facts that are texts of the command line.
_WORDS: Final = frozenset({"Why", "Fix", "Warning"})
_Notice = tuple[Event, NotificationText]


class AlertDetailPage:
    """Handlers of the page of one alert. `page` renders a whole page from a request, a title and contents."""

    def __init__(self, service: AdminService, page: Callable[..., web.Response]) -> None:
        self._service = service
        self._page = page

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/log/{alert}", self._show)
        router.add_post("/log/{alert}/dry-run", self._replay)

    async def _show(self, request: web.Request) -> web.Response:
        return await self._render(request, None)

    async def _replay(self, request: web.Request) -> web.Response:
        reply = await self._service.operations.run(ReplayAlert(alert=request.match_info["alert"]))
        return await self._render(request, dry_run.read(reply))

    async def _render(self, request: web.Request, replayed: DryRunReport | None) -> web.Response:
        report, notices = await self._service.database.read(self._read, request.match_info["alert"])
        again = button(request, f"/log/{report.alert.id}/dry-run", "Send again as a dry run")
        is_open = report.alert.status in _UNFINISHED or any(not one.order.status.is_final for one in report.orders)
        return self._page(
            request,
            f"Alert {report.alert.id[:SHORT_ID]}",
            h.div(id="headline", data_live=True)[_headline(report)],
            h.div(class_="row")[
                again, h.span(class_="dim")["What it would do now; nothing is stored, no order is sent."]
            ],
            None if replayed is None else _dry_run(replayed),
            h.div(id="alert", data_live=True)[self._parts(report, notices)],
            is_live=is_open and replayed is None,
        )

    def _read(self, connection: sqlite3.Connection, reference: str) -> tuple[AlertReport, list[_Notice]]:
        """The report, and the notifications that the alert and its orders caused, by the settings of now."""
        report = alert_report.read(connection, reference)
        settings = notify_settings.read(connection, self._service.settings.notify)
        notices: list[_Notice] = []
        for event in report.events:
            if event.kind in settings.kinds():
                message = settings.message(event.kind, event_facts(connection, event, settings.zone))
                notices += [(event, message)] if message is not None else []
        return report, notices

    def _parts(self, report: AlertReport, notices: Sequence[_Notice]) -> list[Node]:
        parts: list[Node] = []
        sections = report.sections(self._service.clock())
        for section in sections:
            match section.kind:
                case "alert":  # followed by the message
                    facts = h.section[h.h2[section.title], pairs(self._facts(section, report))]
                    parts.append(h.div(class_="columns")[facts, _section(next(sections))])
                    parts.append(_waterfall(report))
                case "order":  # followed by the replies to it
                    parts.append(h.div(class_="columns")[_section(section), _section(next(sections))])
                case "rules":
                    parts.append(h.section[h.h2[section.title], verdicts_element(report.alert.verdicts)])
                case "stages":
                    pass  # drawn above
                case "response":
                    parts += [_notifications(notices), _folded(section)]
                case _:
                    parts.append(_section(section))
        if report.alert.answer is None:
            parts.append(_notifications(notices))
        return parts

    def _facts(self, section: Section, report: AlertReport) -> list[tuple[str, object]]:
        """The section of the alert, with times that the script shows in the viewer's zone, and a link to its webhook."""
        alert = report.alert
        shown: dict[str, Node] = {
            "Received": h.fragment[
                moment_element(alert.received_at), f" ({age(alert.received_at, self._service.clock())})"
            ]
        }
        if alert.fired_at is not None:
            delay = duration(alert.received_at - alert.fired_at)
            shown["Fired"] = h.fragment[moment_element(alert.fired_at), f", {delay} before it was received"]
        if alert.webhook_id is not None:
            shown["Webhook"] = h.a(href=f"/webhooks/{alert.webhook_id}")[alert.webhook_name or alert.webhook_id]
        return [(name, shown.get(name, value)) for name, value in _named(section)]


def _headline(report: AlertReport) -> Renderable:
    """What became of it, in one line, and why."""
    alert = report.alert
    asked = " ".join(part for part in (alert.action, market(alert.symbol) if alert.symbol else None) if part)
    kind = "good" if alert.status in _DONE else "bad" if alert.code else "info"
    why = alert.error or alert.code
    return h.div(class_=f"notice {kind}")[
        h.p[
            status(alert.status),
            " ",
            h.b[asked or "alert"],
            " on webhook ",
            alert.webhook_name or "-",
            ", ",
            moment_element(alert.received_at),
        ],
        h.p[page_words(why)] if why else None,
    ]


def stage_spans(stages: Mapping[str, float]) -> list[StageSpan]:
    """The stages of an alert from begin to end, in milliseconds since its receipt, from the ends that were measured."""
    spans: list[StageSpan] = []
    begin = 0.0
    for stage, name in _STAGES.items():
        end = stages.get(stage)
        if end is None or (stage == "admitted" and end <= begin):  # mostly one commit with `stored`
            continue
        spans.append(StageSpan(name, min(begin, end), end))
        begin = max(begin, end)
    if "answered" in stages:
        spans.append(StageSpan(_ANSWERED, 0.0, stages["answered"]))
    return spans


def _waterfall(report: AlertReport) -> Renderable:
    first = ", first order" if len(report.orders) > 1 else ""
    chart = waterfall(stage_spans(report.stages), title=f"Milliseconds since it was received{first}")
    received = report.stages.get("received")
    before = None
    if received is not None:
        before = h.p(class_="dim")[f"It was received {duration(received / 1000)} after it had fired at TradingView."]
    return h.section[h.h2["Stages"], chart, before]


def _notifications(notices: Sequence[_Notice]) -> Renderable:
    rows = [(moment_element(event.at), status(message.severity), message.line) for event, message in notices]
    return h.section[
        h.h2["Notifications"], table(("Time", "Severity", "Text"), rows, empty="None, by the settings of now.")
    ]


# -------------------------------------------------------------------------------------------------------------- dry run


def _dry_run(report: DryRunReport) -> Renderable:
    kind = "good" if report.is_accepted else "bad"
    return h.section(class_="result")[
        h.div(class_=f"notice {kind}", role="status")[
            h.b[page_words(report.headline)],
            h.p["How to fix it: ", page_words(report.fix)] if report.fix else None,
            [h.p["Warning: ", page_words(warning)] for warning in report.warnings],
        ],
        verdicts_element(report.verdicts) if report.verdicts else None,
        [_planned(order) for order in report.orders],
    ]


def _planned(order: PlannedOrder) -> Renderable:
    return h.details[
        h.summary[f"Would send: {order.title}"],
        pairs([("Leverage", order.leverage), ("Waits for", order.waits_for), ("POST", order.path)]),
        h.pre[order.body],
    ]


# ------------------------------------------------------------------------------------------------------------- sections


def _section(section: Section) -> Renderable:
    """One section of the report; what is long and rarely read is folded away."""
    if section.kind == "request":
        ((_, body),) = section.rows
        return h.details[h.summary[section.title], h.pre[str(body)]]
    if section.kind == "replies":
        return h.section[h.h2[section.title], _table(section, section.rows, empty="Not sent.")]
    heading = h.h2[section.title]
    if section.columns:
        return h.section[heading, _table(section, section.rows, empty="None.")]
    return h.section[heading, pairs(_named(section))]


def _folded(section: Section) -> Renderable:
    inside = _table(section, section.rows, empty="None.") if section.columns else pairs(_named(section))
    return h.details[h.summary[section.title], inside]


def _named(section: Section) -> list[tuple[str, object]]:
    def shown(name: object, value: object) -> object:
        if name == "Status":
            return status(value)
        return page_words(value) if name in _WORDS and isinstance(value, str) else value

    return [(str(name), shown(name, value)) for name, value in section.rows]


def _table(section: Section, rows: Iterable[Sequence[object]], *, empty: str) -> Renderable:
    def cell(title: str, value: object) -> object:
        if title in ("Status", "Verdict"):
            return status(value)
        return gain(value) if title == "Realized P&L" and isinstance(value, Decimal) else value

    return table(
        [title.partition(" (UTC)")[0] for title in section.columns],  # times are elements, in the viewer's zone
        ([cell(title, value) for title, value in zip(section.columns, row, strict=True)] for row in rows),
        empty=empty,
    )
