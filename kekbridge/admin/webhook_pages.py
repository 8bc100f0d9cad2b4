"""Web pages of the webhooks: the list, and what happens to a whole webhook: rename, enable, disable, delete.

The tabs of one webhook have modules of their own: webhook_alert.py, webhook_trial.py, webhook_activity.py, webhook_settings.py (Limits and
Message) and webhook_keys.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import htpy as h
from aiohttp import web

from kekbridge.admin.elements import button, long_name, table
from kekbridge.admin.service import AdminService
from kekbridge.admin.webhook_activity import ActivityTab
from kekbridge.admin.webhook_alert import AlertTab
from kekbridge.admin.webhook_create import CreatePage
from kekbridge.admin.webhook_frame import WebhookFrame, name_field, path_of, state_element
from kekbridge.admin.webhook_keys import KeysTab
from kekbridge.admin.webhook_settings import SettingsTabs
from kekbridge.admin.webhook_trial import TrialTab
from kekbridge.errors import ConfigError
from kekbridge.formatting import age
from kekbridge.ops.operation import Operation
from kekbridge.ops.webhook_operations import DeleteWebhook, DisableWebhook, EditWebhook, EnableWebhook
from kekbridge.reports import webhook_summary

_CONFIRMATIONS: Final = {
    "disable": "It refuses every alert with 403 until it is enabled again, exits too. Open positions and their stops stay.",
    "delete": "Its keys stop working at once: alerts that still use them get 401. Its alerts and orders stay in the history.",
}


class WebhookPages:
    """Handlers of the webhook pages. `page` renders a whole page from a title and contents."""

    def __init__(self, service: AdminService, page: Callable[..., web.Response]) -> None:
        self._service = service
        self._page = page
        self._frame = WebhookFrame(service, page)
        self._parts = (
            CreatePage(service, page),
            AlertTab(self._frame),
            TrialTab(self._frame),
            ActivityTab(self._frame),
            SettingsTabs(self._frame),
            KeysTab(self._frame),
        )

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/webhooks", self._list)
        for part in self._parts:
            part.register(router)
        router.add_get("/webhooks/{webhook}/{what:disable|delete}", self._confirm)
        router.add_post("/webhooks/{webhook}/rename", self._rename)
        router.add_post("/webhooks/{webhook}/{what:enable|disable|delete}", self._change)

    async def _list(self, request: web.Request) -> web.Response:
        now = self._service.clock()
        found = await self._service.database.read(webhook_summary.read_all, now=now)
        rows = [
            (
                h.a(href=path_of(one.webhook))[long_name(one.webhook.name)],
                state_element(one),
                webhook_summary.markets_text(one.webhook),
                webhook_summary.largest_order_text(one.webhook),
                "signature"
                if one.webhook.settings.require_signature
                else h.span(class_="bad")["key only, no signature"],
                "never" if one.last_alert_at is None else age(one.last_alert_at, now),
            )
            for one in found
        ]
        return self._page(
            request,
            "Webhooks",
            h.p[h.a(href="/webhooks/new", class_="button primary")["New webhook"]],
            table(
                ("Name", "State", "Markets", "Largest order", "Authentication", "Last alert"),
                rows,
                empty="No webhooks yet.",
            ),
        )

    async def _rename(self, request: web.Request) -> web.Response:
        name = str((await request.post()).get("name", "")).strip()
        webhook = await self._frame.webhook_of(request)
        try:
            await self._service.operations.run(EditWebhook(webhook=webhook.id, new_name=name))
        except ConfigError as error:
            wrong = name_field(name, error.message[:1].upper() + error.message[1:])
            return self._frame.page(request, webhook, "", status_code=422, new_name=wrong)
        raise web.HTTPSeeOther(path_of(webhook))

    async def _confirm(self, request: web.Request) -> web.Response:
        webhook, what = await self._frame.webhook_of(request), request.match_info["what"]
        return self._page(
            request,
            f"{what.capitalize()} webhook {webhook.name}?",
            h.p[_CONFIRMATIONS[what]],
            h.div(class_="row")[
                button(request, f"{path_of(webhook)}/{what}", f"Yes, {what} {webhook.name}", kind="bad"),
                h.a(href=path_of(webhook), class_="button")["No"],
            ],
        )

    async def _change(self, request: web.Request) -> web.Response:
        identifier, what = request.match_info["webhook"], request.match_info["what"]
        operations: dict[str, Operation] = {
            "enable": EnableWebhook(webhook=identifier),
            "disable": DisableWebhook(webhook=identifier),
            "delete": DeleteWebhook(webhook=identifier),
        }
        await self._service.operations.run(operations[what])
        raise web.HTTPSeeOther("/webhooks" if what == "delete" else f"/webhooks/{identifier}")
