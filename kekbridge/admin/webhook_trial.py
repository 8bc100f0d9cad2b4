"""The tab Test of a webhook: paste a message of any service, see what it means and what its alerts would do now; send it on paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import htpy as h
from aiohttp import web
from htpy import Node, Renderable

from kekbridge.admin.elements import button, form_key, pairs, status, table
from kekbridge.admin.fields import Field, field_element, fields_element, not_saved
from kekbridge.admin.verdicts import verdicts_element
from kekbridge.admin.webhook_frame import WebhookFrame, path_of
from kekbridge.admin.webhook_settings import page_words
from kekbridge.alerts.profiles import PROFILES
from kekbridge.model import Mode, Webhook
from kekbridge.ops.message_trial import TryMessage
from kekbridge.reports import dry_run
from kekbridge.reports.dry_run import DryRunReport

_VALUE: Final = "value:"
_LONGEST: Final = 16_000  # form encoding may triple it, and the listener takes 64 KiB
_PING: Final = '{"action":"ping","timestamp":"{{timenow}}"}'


class TrialTab:
    """Handlers of the tab."""

    def __init__(self, frame: WebhookFrame) -> None:
        self._frame = frame

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/webhooks/{webhook}/test", self._show)
        router.add_post("/webhooks/{webhook}/test", self._try)

    async def _show(self, request: web.Request) -> web.Response:
        webhook = await self._frame.webhook_of(request)
        return self._frame.page(request, webhook, "test", self._form(request, webhook, "", {}))

    async def _try(self, request: web.Request) -> web.Response:
        webhook, form = await self._frame.webhook_of(request), await request.post()
        text = str(form.get("message", ""))
        values = {name.removeprefix(_VALUE): str(value) for name, value in form.items() if name.startswith(_VALUE)}
        problem = _problem_of(text)
        if problem is not None:
            shown = self._form(request, webhook, text[:_LONGEST], values, problem)
            return self._frame.page(request, webhook, "test", not_saved(1, what="Not checked"), shown, status_code=422)
        sends = "send" in form
        found = await self._frame.service.operations.run(
            TryMessage(webhook=webhook.id, message=text, values=values, sends=sends)
        )
        return self._frame.page(
            request,
            webhook,
            "test",
            self._form(request, webhook, text, found["values"]),
            h.section(id="result")[_result(request, webhook, found, sends=sends)],
        )

    def _form(
        self, request: web.Request, webhook: Webhook, text: str, values: Mapping[str, str], error: str | None = None
    ) -> Renderable:
        message = Field(
            name="message",
            label="Message",
            value=text,
            error=error,
            help="Of kekbridge or another service, with or without placeholders. The webhook's key and signature are added if missing.",
            placeholder=_PING,
            rows=6,
            is_required=True,
        )
        fills = [
            Field(
                name=f"{_VALUE}{name}", label=f"{{{{{name}}}}}", value=value, placeholder="what TradingView would write"
            )
            for name, value in values.items()
        ]
        is_paper = self._frame.service.settings.mode is Mode.PAPER
        return h.form(method="post", action=path_of(webhook, "test"), novalidate=True)[
            form_key(request),
            field_element(message, has_focus=bool(error)),
            h.details(open=any(not value for value in values.values()))[
                h.summary["Values of its placeholders"], fields_element(fills, has_focus=False)
            ]
            if fills
            else None,
            h.div(class_="row")[
                h.button(class_="primary")["Check as a dry run"],
                h.button(name="send", value="1")["Send on paper"] if is_paper else None,
            ],
            h.p(class_="dim")["A dry run stores nothing and sends no order."],
        ]


def _problem_of(text: str) -> str | None:
    if not text.strip():
        return "Found nothing, expected the text of an alert; paste it here."
    if len(text) > _LONGEST:
        return f"Found {len(text):,} characters, expected at most {_LONGEST:,}; paste one message."
    return None


def _result(request: web.Request, webhook: Webhook, found: Mapping[str, Any], *, sends: bool) -> list[Node]:
    check, reply = found["check"], found["reply"]
    report = None if reply is None else dry_run.read(reply)
    return [
        h.h2["Result"],
        _other_format(request, webhook, found["asLikely"]),
        _verdict(found, report, sends=sends),
        _meaning(found),
        h.section[h.h3["Rules"], verdicts_element(report.verdicts)] if report is not None and report.verdicts else None,
        [_order(number, order) for number, order in enumerate(report.orders, 1)] if report is not None else None,
        h.details(open=True)[
            h.summary["Fields of the message"],
            table(
                ("Field", "Value", "Meaning"),
                [(one["path"], one["value"], one["meaning"]) for one in check["fields"]],
                empty="No fields could be read.",
            ),
        ],
    ]


def _verdict(found: Mapping[str, Any], report: DryRunReport | None, *, sends: bool) -> Renderable:
    """What came of it, in one box."""
    if found["proof"] is not None:
        return _box("bad", f"No alert of it would be accepted: {found['proof']}.")
    if report is None:
        return _box("bad", f"It would be refused: {found['check']['error']}.")
    if sends and not report.is_decided:
        return _sent(found["reply"])
    is_new = report.fix is not None and report.fix.rstrip(".").lower() not in (report.error or "").lower()
    lines: list[Node] = [h.p["How to fix it: ", page_words(report.fix)]] if report.fix and is_new else []
    if found["ignoresAge"]:
        lines.append(h.p["It carries the time of an old alert: its age was not judged."])
    return _box("good" if report.is_accepted else "bad", report.headline, *lines)


def _sent(reply: Mapping[str, Any]) -> Renderable:
    """The response to an alert that was sent on paper."""
    body = reply["body"]
    is_accepted = reply["httpStatus"] < 300 and body.get("success") is not False
    words = f"Sent on paper: HTTP {reply['httpStatus']} after {reply['milliseconds']} ms."
    facts = pairs(
        [
            ("Status", status(body["status"]) if body.get("status") else None),
            ("Filled", body.get("executedQuantity")),
            ("Price", body.get("executedPrice")),
            ("Code", body.get("code")),
            ("Why", body.get("error")),
            (
                "Alert",
                h.a(href=f"/log/{quote(str(body['alertId']), safe='')}")[str(body["alertId"])]
                if body.get("alertId")
                else None,
            ),
        ]
    )
    return _box("good" if is_accepted else "bad", words, facts)


def _box(kind: str, headline: str, *more: Node) -> Renderable:
    return h.div(class_=f"notice {kind}", role="status")[h.b[page_words(headline)], more]


def _other_format(request: web.Request, webhook: Webhook, likely: Mapping[str, Any] | None) -> Renderable | None:
    """That the message is of another service than the webhook expects, with the button that changes it; None if it is not."""
    if likely is None:
        return None
    title = PROFILES[likely["profile"]].title
    profile = h.input(type="hidden", name="profile", value=likely["profile"])
    return h.div(class_="notice warning", role="status")[
        h.b[f"It looks like a message of {title}; "],
        f"this webhook reads {PROFILES[webhook.settings.profile].title}.",
        button(request, path_of(webhook, "message"), f"Read its messages as {title}", profile),
    ]


def _meaning(found: Mapping[str, Any]) -> Renderable:
    """What the message says, in the webhook's format and in that of the service that it looks like."""
    check, likely = found["check"], found["asLikely"]
    rows: list[tuple[str, object]] = [("Read as", PROFILES[check["profile"]].title)]
    rows += [("Would trade", text) for text in check["orders"]]
    rows += [("Refused", f"{check['code']}: {check['error']}")] if check["error"] else []
    rows += [("Missing", page_words(text)) for text in check["missing"] if not text.startswith("the key")]
    rows += [("Warning", page_words(text)) for text in check["warnings"]]
    if likely is not None:
        rows += [(f"As {PROFILES[likely['profile']].title}", text) for text in likely["orders"] or (likely["error"],)]
    return h.section[h.h3["What it means"], pairs(rows)]


def _order(number: int, order: dry_run.PlannedOrder) -> Renderable:
    return h.section[
        h.h3[f"Order {number}: {order.words}"],
        pairs(
            [
                ("Leverage", None if order.leverage is None else str(order.leverage)),
                ("Waits for", order.waits_for),
                ("POST", order.path),
                ("Body", h.code[order.body]),
            ]
        ),
    ]
