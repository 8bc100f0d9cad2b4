"""The tab Keys of a webhook: which keys are valid, when each was last used; create a new one, revoke one."""

from __future__ import annotations

import sqlite3
from typing import Final

import htpy as h
from aiohttp import web
from htpy import Renderable

from kekbridge.admin.elements import button, form_key, moment_element, status, table
from kekbridge.admin.fields import Field, field_element
from kekbridge.admin.webhook_frame import WebhookFrame, path_of
from kekbridge.errors import NotFound
from kekbridge.formatting import age
from kekbridge.model import Webhook
from kekbridge.ops.webhook_operations import RevokeWebhookKey, RotateWebhook
from kekbridge.store import webhooks as stored
from kekbridge.store.webhooks import WebhookKey
from kekbridge.webhooks.registry import key_state

_GRACES: Final = {
    "0": "stops working at once",
    "3600": "works for 1 more hour",
    "86400": "works for 24 more hours",
    "604800": "works for 7 more days",
}
_USUAL_GRACE: Final = "86400"
_STATES: Final = {"valid": "valid", "ending": "replaced", "ended": "ended"}


class KeysTab:
    """Handlers of the tab."""

    def __init__(self, frame: WebhookFrame) -> None:
        self._frame = frame

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/webhooks/{webhook}/keys", self._show)
        router.add_post("/webhooks/{webhook}/rotate", self._rotate)
        router.add_get("/webhooks/{webhook}/keys/{key}/revoke", self._confirm)
        router.add_post("/webhooks/{webhook}/keys/{key}/revoke", self._revoke)

    async def _show(self, request: web.Request) -> web.Response:
        return await self._page(request, _USUAL_GRACE)

    async def _page(self, request: web.Request, grace: str, error: str | None = None) -> web.Response:
        webhook = await self._frame.webhook_of(request)
        keys = await self._frame.service.database.read(stored.list_keys, webhook.id)
        now = self._frame.service.clock()

        def row(key: WebhookKey) -> tuple[object, ...]:
            state = key_state(key, now)
            used = "never" if key.last_used_at is None else age(key.last_used_at, now)
            revoke = h.a(href=f"{path_of(webhook, 'keys')}/{key.id}/revoke")["Revoke…"] if state != "ended" else None
            end = key.revoked_at or key.expires_at
            return f"{key.prefix}…", status(_STATES[state]), key.created_at, used, end, revoke

        field = Field(
            name="grace",
            label="The current key",
            value=grace,
            choices=tuple(_GRACES.items()),
            error=error,
            help="Paste the new message into every alert during that time.",
        )
        made = None
        if "new" in request.query:
            made = h.p(class_="notice good", role="status")[
                "The new key is in force. Copy the new message from the tab ",
                h.a(href=path_of(webhook))["Alert"],
                " into every alert at TradingView.",
            ]
        return self._frame.page(
            request,
            webhook,
            "keys",
            made,
            table(
                ("Key", "State", "Created", "Last used", "Ends", ""),
                [row(key) for key in reversed(keys)],
                empty="No keys: every alert is refused.",
            ),
            h.h2["New key"],
            h.form(method="post", action=f"{path_of(webhook)}/rotate")[
                form_key(request), field_element(field), h.div(class_="row")[h.button["Create new key"]]
            ],
            h.p(class_="dim")["A key is shown only as a part of the message and of the URL that need it."],
            status_code=422 if error else 200,
        )

    async def _rotate(self, request: web.Request) -> web.Response:
        grace = str((await request.post()).get("grace", _USUAL_GRACE))
        if grace not in _GRACES:
            return await self._page(
                request, grace[:20], f"Found {grace[:20]!r}, expected one of {', '.join(_GRACES)} seconds."
            )
        webhook = await self._frame.webhook_of(request)
        await self._frame.service.operations.run(RotateWebhook(webhook=webhook.id, grace_s=int(grace)))
        raise web.HTTPSeeOther(f"{path_of(webhook, 'keys')}?new=1")

    async def _confirm(self, request: web.Request) -> web.Response:
        webhook = await self._frame.webhook_of(request)
        key, is_last = await self._frame.service.database.read(self._find, webhook, request.match_info["key"])
        base = path_of(webhook, "keys")
        return self._frame.whole_page(
            request,
            f"Revoke {key.prefix}…?",
            h.p[f"Alerts that still use this key of webhook {webhook.name} get 401 at once, exits too."],
            _last_key_warning() if is_last else None,
            h.p[
                "Last used: ",
                "never" if key.last_used_at is None else moment_element(key.last_used_at),
                ".",
            ],
            h.div(class_="row")[
                button(request, f"{base}/{key.id}/revoke", "Yes, revoke it", kind="bad"),
                h.a(href=base, class_="button")["No"],
            ],
        )

    def _find(self, connection: sqlite3.Connection, webhook: Webhook, identifier: str) -> tuple[WebhookKey, bool]:
        """A key of the webhook that is still valid, and whether it is the only one. Raises NotFound."""
        now = self._frame.service.clock()
        valid = [key for key in stored.list_keys(connection, webhook.id) if key_state(key, now) != "ended"]
        for key in valid:
            if key.id == identifier:
                return key, len(valid) == 1
        raise NotFound("not_found", f"webhook {webhook.name} has no valid key of that id; it may be revoked already")

    async def _revoke(self, request: web.Request) -> web.Response:
        webhook = await self._frame.webhook_of(request)
        await self._frame.service.operations.run(RevokeWebhookKey(webhook=webhook.id, key=request.match_info["key"]))
        raise web.HTTPSeeOther(path_of(webhook, "keys"))


def _last_key_warning() -> Renderable:
    return h.p(class_="bad")["It is the only valid key: the webhook refuses every alert until a new one is created."]
