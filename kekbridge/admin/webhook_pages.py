"""Web pages of the webhooks: list, create, settings, message to paste, message to check, keys, rename, enable and disable, delete.

The settings form is built from webhooks/options.py, the table behind the options of `kekbridge webhook edit`: same parser, same errors.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from typing import Any, Final

import htpy as h
from aiohttp import web
from htpy import Node, Renderable

from kekbridge.admin.elements import button, form_key, pairs, select, status, table
from kekbridge.admin.service import AdminService
from kekbridge.alerts import template
from kekbridge.alerts.message_check import check_message
from kekbridge.errors import ConfigError
from kekbridge.formatting import age
from kekbridge.model import Webhook, WebhookSettings
from kekbridge.ops.operation import Operation
from kekbridge.ops.webhook_operations import (
    CreateWebhook,
    DeleteWebhook,
    DisableWebhook,
    EditWebhook,
    EnableWebhook,
    RotateWebhook,
)
from kekbridge.store import alerts
from kekbridge.store import webhooks as stored
from kekbridge.webhooks import registry
from kekbridge.webhooks.options import REQUIRED_FIELDS, ROWS, Row, text_of

_GRACES: Final = {
    "0": "stops working at once",
    "3600": "works for 1 more hour",
    "86400": "works for 24 more hours",
    "604800": "works for 7 more days",
}
_GROUPS: Final = (("limits", "Entry limits"), ("rates", "Rate limits"), ("", "Message, authentication and position"))
_KINDS: Final = {
    "strategy": "a strategy's orders",
    "position": "a strategy's position",
    "close": "close the position",
    "flip": "reverse the position",
    "ping": "a heartbeat",
}


class WebhookPages:
    """Handlers of the webhook pages. `page` renders a whole page from a title and contents."""

    def __init__(self, service: AdminService, page: Callable[..., web.Response]) -> None:
        self._service = service
        self._page = page

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/webhooks", self._list)
        router.add_post("/webhooks", self._create)
        router.add_get("/webhooks/{webhook}", self._show)
        router.add_get("/webhooks/{webhook}/delete", self._confirm_delete)
        router.add_post("/webhooks/{webhook}/settings", self._edit)
        router.add_post("/webhooks/{webhook}/rename", self._rename)
        router.add_post("/webhooks/{webhook}/check", self._check)
        router.add_post("/webhooks/{webhook}/{what}", self._change)

    async def _list(self, request: web.Request) -> web.Response:
        now = self._service.clock()

        def read(connection: sqlite3.Connection) -> list[tuple[Webhook, str]]:
            found = []
            for one in stored.list_all(connection):
                last = alerts.search(connection, webhook=one.id, limit=1).alerts
                found.append((one, age(last[0].received_at, now) if last else "never"))
            return found

        rows = [
            (
                h.a(href=f"/webhooks/{one.id}")[one.name],
                status("enabled" if one.enabled else "disabled"),
                one.settings.follow,
                "signature" if one.settings.require_signature else h.span(class_="bad")["key only, no signature"],
                last,
                one.created_at,
            )
            for one, last in await self._service.database.read(read)
        ]
        name = h.input(name="name", required=True, maxlength="64", pattern="[A-Za-z0-9._\\-]+", id="new-name")
        create = h.form(method="post", action="/webhooks", class_="row")[
            form_key(request), h.label["Name", name], h.button["Create"]
        ]
        titles = ("Name", "State", "Follows", "Authentication", "Last alert", "Created")
        return self._page(
            request, "Webhooks", table(titles, rows, empty="No webhooks yet."), h.h2["New webhook"], create
        )

    async def _create(self, request: web.Request) -> web.Response:
        name = str((await request.post()).get("name", "")).strip()
        made = await self._service.operations.run(CreateWebhook(name=name))
        raise web.HTTPSeeOther(f"/webhooks/{made['id']}")

    async def _show(self, request: web.Request) -> web.Response:
        found = await self._service.database.read(stored.get, request.match_info["webhook"])
        base = f"/webhooks/{found.id}"
        name = h.input(
            name="name", value=found.name, aria_label="Name", required=True, maxlength="64", pattern="[A-Za-z0-9._\\-]+"
        )
        switch = ("disable", "Disable") if found.enabled else ("enable", "Enable")
        state = "enabled" if found.enabled else "disabled"
        return self._page(
            request,
            f"Webhook {found.name}",
            h.div(class_="row")[
                status(state),
                button(request, f"{base}/{switch[0]}", switch[1]),
                h.a(href=f"{base}/delete", class_="button bad")["Delete…"],
            ],
            *await self._message(request, found),
            h.h2["Check a message"],
            h.p(class_="dim")["Paste a message of any service to see what it means here. Nothing is sent or stored."],
            _check_form(request, base, ""),
            *await self._keys(request, found),
            h.h2["Settings"],
            h.p(class_="dim")[
                "Changes apply from the next alert on. An empty field means no limit. Exits are never limited."
            ],
            _settings_form(request, found, f"{base}/settings"),
            h.h2["Name"],
            button(request, f"{base}/rename", "Rename", name),
        )

    async def _message(self, request: web.Request, found: Webhook) -> list[Node]:
        """URL and message for TradingView's alert dialog; empty when no key is valid."""
        service = self._service
        keys = await service.database.read(registry.valid_keys, found, now=service.clock())
        if not keys:
            return []
        secret = await service.database.read(registry.credentials_of, service.sealer, found, now=service.clock())
        url = await service.database.read(registry.webhook_url, service.settings, is_running=True)
        usual = "position" if found.settings.follow == "position" else "strategy"
        kind = request.query.get("kind", usual)
        kind = kind if kind in _KINDS else usual
        limits = found.settings.limits
        made = template.build(
            kind,
            api_key=secret.api_key,
            api_secret=secret.api_secret,
            profile=found.settings.profile,
            **template.default_bounds(limits.allowed_symbols, limits.max_order_size, symbol=None, quantity=None),
        )
        links = [
            h.a(href=f"/webhooks/{found.id}?kind={key}", class_="here" if key == kind else None)[label]
            for key, label in _KINDS.items()
        ]
        rows = [("Webhook URL", h.code[url]), ("Message for", h.span(class_="row")[links])]
        if found.settings.key_in_path:
            secret_url = h.details[h.summary["contains the key"], h.code[f"{url}/{secret.api_key}"]]
            rows.append(("URL with key", secret_url))
        message = h.textarea(readonly=True, rows="5", aria_label="Message", spellcheck="false")[made.message]
        return [
            h.h2["For TradingView"],
            pairs(rows),
            h.details(open=bool(request.query.get("kind")))[
                h.summary["Message to paste (contains the key: keep it secret)"],
                message,
                *(
                    [h.p(class_="bad")[f"Warning: {made.warning} to the command kekbridge template."]]
                    if made.warning
                    else []
                ),
                h.p(class_="dim")[made.risk],
            ],
        ]

    async def _check(self, request: web.Request) -> web.Response:
        found = await self._service.database.read(stored.get, request.match_info["webhook"])
        text = str((await request.post()).get("message", ""))
        checked = check_message(text.strip().encode(), found.settings, profile=found.settings.profile)
        rows: list[tuple[str, object]] = [("Format", checked.profile)]
        if checked.likely_profile != checked.profile:
            rows.append(("Looks like", checked.likely_profile))
        rows += [("Would trade", order) for order in checked.orders]
        rows += [("Refused", h.span(class_="bad")[f"{checked.code}: {checked.error}"])] if checked.error else []
        rows += [("Missing", text) for text in checked.missing] + [("Warning", text) for text in checked.warnings]
        if checked.filled:
            rows.append(("Examples for", ", ".join(f"{{{{{name}}}}}" for name in checked.filled)))
        fields = [(each.path, each.value, each.meaning) for each in checked.fields]
        return self._page(
            request,
            f"Message for {found.name}",
            pairs(rows),
            table(("Field", "Value", "Meaning"), fields, empty="No fields could be read."),
            h.h2["Another message"],
            _check_form(request, f"/webhooks/{found.id}", text),
            h.p[h.a(href=f"/webhooks/{found.id}")[f"Back to {found.name}"]],
        )

    async def _keys(self, request: web.Request, found: Webhook) -> list[Node]:
        keys = await self._service.database.read(registry.valid_keys, found, now=self._service.clock())
        rows = [(one.prefix + "…", one.created_at, one.expires_at, one.last_used_at) for one in keys]
        rotate = button(
            request,
            f"/webhooks/{found.id}/rotate",
            "Create new key",
            h.label["The current key", select("grace", "86400", _GRACES.items())],
        )
        return [
            h.h2["Keys"],
            table(("Key", "Created", "Expires", "Last used"), rows, empty="No valid keys."),
            rotate,
        ]

    async def _edit(self, request: web.Request) -> web.Response:
        form = await request.post()
        entered = {row: str(form[row.parameter]) for row in ROWS if row.parameter in form}
        identifier = request.match_info["webhook"]
        before = (await self._service.database.read(stored.get, identifier)).settings
        # Only changed fields are parsed: an expiry date that has passed meanwhile would be rejected.
        changed = {row: text for row, text in entered.items() if text.split() != text_of(row, before).split()}
        options = {row.parameter: _given(row, text) for row, text in changed.items()}
        await self._service.operations.run(EditWebhook(webhook=identifier, options=options))
        raise web.HTTPSeeOther(f"/webhooks/{identifier}")

    async def _rename(self, request: web.Request) -> web.Response:
        name = str((await request.post()).get("name", "")).strip()
        identifier = request.match_info["webhook"]
        await self._service.operations.run(EditWebhook(webhook=identifier, new_name=name))
        raise web.HTTPSeeOther(f"/webhooks/{identifier}")

    async def _confirm_delete(self, request: web.Request) -> web.Response:
        found = await self._service.database.read(stored.get, request.match_info["webhook"])
        warning = "Its keys stop working at once: alerts that still use them get 401. Its alerts and orders stay in the history."
        yes = button(request, f"/webhooks/{found.id}/delete", f"Yes, delete {found.name}", kind="bad")
        no = h.a(href=f"/webhooks/{found.id}", class_="button")["No"]
        return self._page(request, f"Delete webhook {found.name}?", h.p[warning], h.div(class_="row")[yes, no])

    async def _change(self, request: web.Request) -> web.Response:
        identifier, what = request.match_info["webhook"], request.match_info["what"]
        if what not in ("enable", "disable", "rotate", "delete"):
            raise web.HTTPNotFound(text="action not found")
        grace = str((await request.post()).get("grace", "86400"))
        if grace not in _GRACES:
            raise ConfigError(f"grace: found {grace[:20]!r}, expected one of {', '.join(_GRACES)} seconds")
        operations: dict[str, Operation] = {
            "enable": EnableWebhook(webhook=identifier),
            "disable": DisableWebhook(webhook=identifier),
            "delete": DeleteWebhook(webhook=identifier),
            "rotate": RotateWebhook(webhook=identifier, grace_s=int(grace)),
        }
        await self._service.operations.run(operations[what])
        raise web.HTTPSeeOther("/webhooks" if what == "delete" else f"/webhooks/{identifier}")


def _check_form(request: web.Request, base: str, text: str) -> Renderable:
    entry = h.textarea(name="message", rows="4", aria_label="Message", spellcheck="false", required=True)[text]
    return h.form(method="post", action=f"{base}/check")[form_key(request), entry, h.button["Check"]]


def _settings_form(request: web.Request, found: Webhook, path: str) -> Renderable:
    groups = [
        h.fieldset[
            h.legend[title], h.div(class_="fields")[[_field(row, found.settings) for row in ROWS if row.part == part]]
        ]
        for part, title in _GROUPS
    ]
    return h.form(method="post", action=path)[form_key(request), *groups, h.button["Save settings"]]


def _field(row: Row, settings: WebhookSettings) -> Renderable:
    """An input for one setting, with the help text of the command line."""
    text = text_of(row, settings)
    if row.choices or (row.parser is None and not row.is_many):
        choices: Mapping[str, Any] = {one: one for one in row.choices or ("yes", "no")}
        entry = select(row.parameter, text, choices.items())
    elif row.is_many:
        entry = h.textarea(name=row.parameter, rows="2", placeholder=f"{row.metavar}, one per line")[text]
    else:
        entry = h.input(name=row.parameter, value=text, placeholder=row.metavar, autocomplete="off")
    return h.label[h.b[row.option.removeprefix("--").replace("-", " ")], entry, h.span[row.help]]


def _given(row: Row, text: str) -> str | bool | list[str]:
    """The entered text as an option of the command line: an empty field removes a limit."""
    if row.is_many:
        return [line.strip() for line in text.splitlines() if line.strip()] or ["none"]
    if row.parser is None:
        return text == "yes"
    if text.strip() or row.field in REQUIRED_FIELDS:
        return text.strip()
    return "none"
