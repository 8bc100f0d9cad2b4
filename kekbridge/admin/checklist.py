"""The checklist of a first visit, on the overview: four steps that tick themselves, with a way to each; until it is done or dismissed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import htpy as h
from aiohttp import web
from htpy import Node, Renderable

from kekbridge.admin.elements import button
from kekbridge.admin.service import AdminService
from kekbridge.model import Mode
from kekbridge.ops.checklist import Checklist, DismissChecklist, read
from kekbridge.ops.webhook_operations import TryOrder

_TRY: Final = "/checklist/try"


class ChecklistForms:
    """The card and its forms. `page` renders a whole page from a request, a title and contents."""

    def __init__(self, service: AdminService, page: Callable[..., web.Response]) -> None:
        self._service = service
        self._page = page

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes of the forms."""
        router.add_post(_TRY, self._try)
        router.add_post("/checklist/dismiss", self._dismiss)

    async def card(self, request: web.Request) -> Renderable | None:
        """The steps; None once they are done or dismissed."""
        found = await self._service.database.read(read, self._service.settings)
        if found is None:
            return None
        steps = [
            _step(title, is_done=is_done, todo=todo)
            for title, is_done, todo in (
                ("Try an order", found.has_traded, self._trying(request, found)),
                ("Connect TradingView", found.is_connected, _connecting(found)),
                ("Set limits", found.has_limits, _limiting(found)),
                ("Be notified", found.is_notified, h.a(href="/notifications")["Add a channel"]),
            )
        ]
        return h.section(class_="state checklist", aria_labelledby="checklist")[
            h.h2(id="checklist")["First steps"],
            h.ol[steps],
            button(request, "/checklist/dismiss", "Do not show this again"),
        ]

    def _trying(self, request: web.Request, found: Checklist) -> Node:
        if self._service.settings.mode is not Mode.PAPER:
            if found.webhook_id is None:
                return h.a(href="/webhooks/new")["Create a webhook"]
            link = h.a(href=f"/webhooks/{found.webhook_id}/test")["Test a message"]
            return h.fragment[link, " without sending it, then send a small one from TradingView."]
        return button(request, _TRY, "Buy the smallest size on paper")

    async def _try(self, request: web.Request) -> web.Response:
        sent = await self._service.operations.run(TryOrder())
        body = sent["body"]
        if body.get("status") == "filled":
            raise web.HTTPSeeOther(f"/log/{body['alertId']}")
        reason = ": ".join(str(body[name]) for name in ("status", "code", "error") if body.get(name))
        return self._page(
            request,
            "Not filled",
            h.p(class_="problem", role="alert")[f"Buy {sent['quantity']} {sent['symbol']}: {reason}"],
            h.p[h.a(href="/log", class_="button")["To the log"]],
        )

    async def _dismiss(self, request: web.Request) -> web.Response:
        await self._service.operations.run(DismissChecklist())
        raise web.HTTPSeeOther("/")


def _step(title: str, *, is_done: bool, todo: Node) -> Renderable:
    mark = h.span(class_="good", role="img", aria_label="done")["✓ "] if is_done else None
    return h.li(class_="done-step" if is_done else None)[h.b[mark, title], None if is_done else h.div[todo]]


def _connecting(found: Checklist) -> Node:
    if found.webhook_id is None:
        return h.a(href="/webhooks/new")["Create a webhook"]
    link = h.a(href=f"/webhooks/{found.webhook_id}")["Copy URL and message"]
    return h.fragment[link, " into the alert at TradingView."]


def _limiting(found: Checklist) -> Node:
    if found.webhook_id is None:
        return h.a(href="/webhooks/new")["Create a webhook"]
    link = h.a(href=f"/webhooks/{found.webhook_id}/limits")["Set the largest order and the largest loss a day"]
    return h.fragment[link, " of the webhook."]
