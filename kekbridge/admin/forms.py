"""What can be changed from the pages: trading state, flatten, webhooks. Every change is a POST with the session's key.

The work is done by the functions the command line calls (store, webhooks, flatten); what is destructive asks on a page of its own first.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

from aiohttp import web

from kekbridge import webhooks
from kekbridge.admin.access import SESSION
from kekbridge.admin.desk import Desk
from kekbridge.admin.html import Markup, h, status, table
from kekbridge.alerts import template
from kekbridge.errors import ConfigError
from kekbridge.model import Limits, TradingState, Webhook, WebhookSettings
from kekbridge.store import webhooks as stored
from kekbridge.wording import amount, moment

_BY: Final = "web page"
_ROTATE_GRACE: Final = timedelta(hours=24)
_NUMBER: Final = re.compile(r"[0-9]{1,15}(\.[0-9]{1,12})?", re.ASCII)
# The limits that can be edited here; the command line edits all of them.
_LIMITS: Final = {
    "max_order_size": "Largest order, coins",
    "max_position_size": "Largest position, coins",
    "max_notional": "Largest order value, USDC",
    "daily_limit": "Traded a day, USDC",
    "daily_orders": "Orders a day",
    "max_daily_loss": "Loss a day, USDC",
    "max_leverage": "Leverage",
    "max_open_positions": "Open positions",
}
_WHOLE: Final = frozenset({"daily_orders", "max_open_positions"})
_ASKS: Final = {
    "halt": "Stop all trading, exits too? Open positions and their stops at the exchange stay as they are.",
    "flatten": "Halt trading, cancel every order and close every position of the account, also those made elsewhere?",
}


class Forms:
    """The levers, over one desk. `page` makes a whole page of a title and contents."""

    def __init__(self, desk: Desk, page: Callable[..., web.Response]) -> None:
        self._desk = desk
        self._page = page

    def register(self, router: web.UrlDispatcher) -> None:
        router.add_get("/confirm/{what}", self._confirm)
        router.add_post("/trading/{what}", self._steer)
        router.add_get("/webhooks", self._list)
        router.add_post("/webhooks", self._create)
        router.add_get("/webhooks/{webhook}", self._show)
        router.add_post("/webhooks/{webhook}/limits", self._edit)
        router.add_post("/webhooks/{webhook}/{what}", self._switch)

    def levers(self, request: web.Request, state: Mapping[str, Any]) -> Markup:
        """Halt, exits only, resume, flatten: those that would change something."""
        now = state["trading"]["state"]
        shown: list[Markup] = []
        if now != "halted":
            shown.append(h("a", "Halt…", href="/confirm/halt", class_="button bad"))
        if now != "exits_only":
            shown.append(_button(request, "/trading/exits-only", "Exits only"))
        if now != "running":
            shown.append(_button(request, "/trading/resume", "Resume"))
        shown.append(h("a", "Flatten…", href="/confirm/flatten", class_="button bad"))
        return h("div", *shown, class_="row")

    async def _confirm(self, request: web.Request) -> web.Response:
        what = request.match_info["what"]
        if what not in _ASKS:
            raise web.HTTPNotFound(text="no such page")
        return self._page(
            request,
            "Are you sure?",
            h("p", _ASKS[what]),
            h(
                "div",
                _button(request, f"/trading/{what}", f"Yes, {what}", kind="bad"),
                h("a", "No", href="/", class_="button"),
                class_="row",
            ),
        )

    async def _steer(self, request: web.Request) -> web.Response:
        what = request.match_info["what"]
        if what == "flatten":
            result = await self._desk.flatten(by=_BY)
            words = f"{result.positions_closed} positions closed, {len(result.positions_left)} left, {result.orders_left} orders left."
            return self._page(
                request,
                "Flat" if result.is_flat else "NOT flat",
                h("p", words, " Trading is halted until you resume it."),
                h("p", result.trouble) if result.trouble else None,
            )
        wanted = {"halt": TradingState.HALTED, "exits-only": TradingState.EXITS_ONLY, "resume": TradingState.RUNNING}
        if what not in wanted:
            raise web.HTTPNotFound(text="no such lever")
        await self._desk.set_trading(wanted[what], reason="by hand", by=_BY)
        raise web.HTTPSeeOther("/")

    # ----------------------------------------------------------------------------------------------------- webhooks

    async def _list(self, request: web.Request) -> web.Response:
        found = await self._desk.database.read(stored.list_all)
        rows = [
            (
                h("a", one.name, href=f"/webhooks/{one.id}"),
                status("enabled" if one.enabled else "disabled"),
                one.settings.follow,
                "required" if one.settings.require_signature else "not required",
                moment(one.created_at),
            )
            for one in found
        ]
        create = h(
            "form",
            form_key(request),
            h("label", "Name", h("input", name="name", required=True, maxlength="64", pattern="[A-Za-z0-9._\\-]+")),
            h("button", "Create"),
            method="post",
            action="/webhooks",
            class_="row",
        )
        return self._page(
            request,
            "Webhooks",
            table(("Name", "State", "Follows", "Signature", "Created (UTC)"), rows, empty="No webhook yet."),
            h("h2", "New webhook"),
            create,
        )

    async def _create(self, request: web.Request) -> web.Response:
        name = str((await request.post()).get("name", "")).strip()
        desk = self._desk

        def make(connection: sqlite3.Connection) -> Webhook:
            made, _ = webhooks.create(
                connection,
                desk.sealer,
                name=name,
                settings=WebhookSettings(),
                mode=desk.settings.mode,
                now=desk.clock(),
            )
            return made

        made = await desk.database.write(make)
        raise web.HTTPSeeOther(f"/webhooks/{made.id}")

    async def _show(self, request: web.Request) -> web.Response:
        desk = self._desk
        found = await desk.database.read(stored.get, request.match_info["webhook"])
        keys = await desk.database.read(webhooks.valid_keys, found, now=desk.clock())
        secret = (
            await desk.database.read(webhooks.credentials_of, desk.sealer, found, now=desk.clock()) if keys else None
        )
        base = f"/webhooks/{found.id}"
        parts: list[object] = [
            h("p", status("enabled" if found.enabled else "disabled"), class_="banner"),
            h(
                "div",
                _button(
                    request,
                    f"{base}/{'disable' if found.enabled else 'enable'}",
                    "Disable" if found.enabled else "Enable",
                ),
                _button(request, f"{base}/rotate", "New key; the old one works 24 hours more"),
                class_="row",
            ),
        ]
        if secret is not None:
            message = template.build(
                "strategy", api_key=secret.api_key, api_secret=secret.api_secret, profile=found.settings.profile
            ).message
            url = await desk.database.read(webhooks.address_of, desk.settings, is_running=True)
            parts += [
                h("h2", "For TradingView"),
                h("p", "Webhook URL: ", h("code", url)),
                h("details", h("summary", "Message to paste (it holds the key)"), h("pre", message)),
            ]
        rows = [
            (one.prefix + "…", moment(one.created_at), moment(one.expires_at), moment(one.last_used_at)) for one in keys
        ]
        parts += [h("h2", "Keys"), table(("Key", "Made", "Ends", "Last used"), rows, empty="No valid key.")]
        fields = [
            h(
                "label",
                words,
                h("input", name=name, value=_shown(getattr(found.settings.limits, name)), inputmode="decimal"),
            )
            for name, words in _LIMITS.items()
        ]
        parts += [
            h("h2", "Limits"),
            h(
                "p",
                "Empty: no limit. All others are edited with ",
                h("code", f"kekbridge webhook edit {found.name}"),
                ".",
                class_="dim",
            ),
            h(
                "form",
                form_key(request),
                *fields,
                h("button", "Save"),
                method="post",
                action=f"{base}/limits",
                class_="fields",
            ),
        ]
        return self._page(request, f"Webhook {found.name}", *parts)

    async def _edit(self, request: web.Request) -> web.Response:
        given = await request.post()
        wanted = {name: _limit(words, name, str(given.get(name, "")).strip()) for name, words in _LIMITS.items()}
        desk, identifier = self._desk, request.match_info["webhook"]

        def change(connection: sqlite3.Connection) -> None:
            before = stored.get(connection, identifier).settings
            limits: Limits = replace(before.limits, **wanted)
            after = replace(before, limits=limits)
            webhooks.check_settings(after)
            stored.change_settings(connection, identifier, after, now=desk.clock())

        await desk.database.write(change)
        raise web.HTTPSeeOther(f"/webhooks/{identifier}")

    async def _switch(self, request: web.Request) -> web.Response:
        desk, identifier, what = self._desk, request.match_info["webhook"], request.match_info["what"]
        if what not in ("enable", "disable", "rotate"):
            raise web.HTTPNotFound(text="no such lever")

        def change(connection: sqlite3.Connection) -> None:
            if what == "rotate":
                found = stored.get(connection, identifier)
                webhooks.rotate(
                    connection, desk.sealer, found, mode=desk.settings.mode, grace=_ROTATE_GRACE, now=desk.clock()
                )
            else:
                (stored.enable if what == "enable" else stored.disable)(connection, identifier, now=desk.clock())

        await desk.database.write(change)
        raise web.HTTPSeeOther(f"/webhooks/{identifier}")


def _limit(words: str, name: str, text: str) -> Any:
    if not text:
        return None
    if not _NUMBER.fullmatch(text) or Decimal(text) == 0 or (name in _WHOLE and "." in text):
        kind = "whole number" if name in _WHOLE else "decimal number"
        raise ConfigError(f"{words}: found {text[:40]!r}, expected a positive {kind} such as 10, or nothing")
    return int(text) if name in _WHOLE else Decimal(text)


def _shown(value: Decimal | int | None) -> str:
    return "" if value is None else amount(Decimal(value))


def form_key(request: web.Request) -> Markup | None:
    """The hidden field that every form of a session must bring back."""
    session = request.get(SESSION)
    return None if session is None else h("input", type="hidden", name="key", value=session.form_key)


def _button(request: web.Request, path: str, words: str, *, kind: str | None = None) -> Markup:
    """One lever: a form with nothing but its button."""
    return h("form", form_key(request), h("button", words, class_=kind), method="post", action=path)
