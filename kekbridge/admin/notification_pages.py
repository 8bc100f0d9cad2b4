"""Web page of the notifications: channels (their URLs are never shown), a test, quiet hours, and the level of each event.

Changes are those of `kekbridge notify` and take effect at once; a wrong entry comes back with its message under the field.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import htpy as h
from aiohttp import web
from htpy import Node, Renderable

from kekbridge.admin.elements import button, form_key, table
from kekbridge.admin.service import AdminService
from kekbridge.errors import ConfigError, KekbridgeError
from kekbridge.formatting import counted
from kekbridge.model.notifications import LEVELS, SEVERITIES
from kekbridge.ops.notify_settings import ListEvents, SetLevel, SetQuietHours, ShowQuietHours
from kekbridge.ops.vault_operations import ChangeChannels, ListChannels, TryChannels

PATH: Final = "/notifications"
_DONE: Final = {
    "added": "The channel was added. Send a test to see that it works.",
    "removed": "The channel was removed.",
    "hours": "The quiet hours were saved.",
    "levels": "The levels were saved.",
}
_EXAMPLES: Final = (
    ("Telegram", "tgram://BOT_TOKEN/CHAT_ID"),
    ("ntfy", "ntfys://ntfy.sh/TOPIC"),
    ("Discord", "discord://WEBHOOK_ID/WEBHOOK_TOKEN"),
    ("E-mail", "mailtos://USER:PASSWORD@example.com"),
)
_SERVICES: Final = {
    "tgram": "Telegram",
    "ntfy": "ntfy",
    "ntfys": "ntfy",
    "discord": "Discord",
    "mailto": "E-mail",
    "mailtos": "E-mail",
    "slack": "Slack",
    "pover": "Pushover",
    "json": "JSON over HTTP",
    "jsons": "JSON over HTTPS",
}
_TITLES: Final = {"failure": "Failures", "warning": "Warnings", "info": "Information"}
_LEVEL: Final = "level-"


class NotificationPages:
    """Handlers of the page. `page` renders a whole page from a request, a title and contents."""

    def __init__(self, service: AdminService, page: Callable[..., web.Response]) -> None:
        self._service = service
        self._page = page

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get(PATH, self._show)
        router.add_post(f"{PATH}/add", self._add)
        router.add_post(f"{PATH}/remove", self._remove)
        router.add_post(f"{PATH}/test", self._test)
        router.add_post(f"{PATH}/hours", self._set_hours)
        router.add_post(f"{PATH}/levels", self._set_levels)

    async def _show(self, request: web.Request) -> web.Response:
        done = _DONE.get(request.query.get("done", ""))
        return await self._render(request, h.p(class_="good", role="status")[done] if done else None)

    async def _add(self, request: web.Request) -> web.Response:
        url = str((await request.post()).get("url", "")).strip()
        if not url:
            return await self._render(request, url_error="found nothing, expected the channel's URL", status=422)
        try:
            await self._service.operations.run(ChangeChannels(add=url))
        except ConfigError:
            text = (
                "this is no URL of a channel that apprise knows; see the examples, and https://appriseit.com for more"
            )
            return await self._render(request, url_error=text, url=url, status=422)
        raise web.HTTPSeeOther(f"{PATH}?done=added")

    async def _remove(self, request: web.Request) -> web.Response:
        name = str((await request.post()).get("channel", ""))
        await self._service.operations.run(ChangeChannels(remove=name))
        raise web.HTTPSeeOther(f"{PATH}?done=removed")

    async def _test(self, request: web.Request) -> web.Response:
        try:
            delivered = await self._service.operations.run(TryChannels())
        except ConfigError:
            return await self._render(request, h.p(class_="problem", role="alert")["Add a channel first."], status=422)
        results = [
            h.li[
                f"{name}: ",
                h.span(class_="good")["delivered"]
                if is_delivered
                else h.span(class_="bad")["NOT delivered: check the URL, and that this machine reaches the service"],
            ]
            for name, is_delivered in delivered.items()
        ]
        return await self._render(request, h.div(class_="state", role="status")[h.b["Test"], h.ul[results]])

    async def _set_hours(self, request: web.Request) -> web.Response:
        form = await request.post()
        hours, zone = (str(form.get(name, "")).strip() for name in ("hours", "zone"))
        if "off" in form or not hours:
            hours, zone = "off", ""
        try:
            await self._service.operations.run(SetQuietHours(hours=hours, zone=zone or None))
        except ConfigError as error:
            shown = {"hours": hours, "zone": zone}
            return await self._render(request, hours=shown, hours_error=error.message, status=422)
        raise web.HTTPSeeOther(f"{PATH}?done=hours")

    async def _set_levels(self, request: web.Request) -> web.Response:
        form = await request.post()
        for event in await self._service.operations.run(ListEvents()):
            wanted = form.get(_LEVEL + event["event"])
            if wanted is not None and wanted != event["level"]:
                await self._service.operations.run(SetLevel(event=event["event"], level=str(wanted)))
        raise web.HTTPSeeOther(f"{PATH}?done=levels")

    # ----------------------------------------------------------------------------------------------------- the page

    async def _render(
        self,
        request: web.Request,
        *notes: Node,
        url: str = "",
        url_error: str = "",
        hours: dict[str, str] | None = None,
        hours_error: str = "",
        status: int = 200,
    ) -> web.Response:
        run = self._service.operations.run
        return self._page(
            request,
            "Notifications",
            *notes,
            h.h2["Channels"],
            await self._channels(request),
            _add_form(request, url, url_error),
            h.h2["Quiet hours"],
            h.p(class_="dim")["Only failures are sent in these hours; the rest follows afterwards in one message."],
            _hours_form(request, hours or await run(ShowQuietHours()), hours_error),
            h.h2["Events"],
            h.p(class_="dim")["What is sent, and how important it is to you. A failure is sent in quiet hours, too."],
            _levels_form(request, await run(ListEvents())),
            status=status,
        )

    async def _channels(self, request: web.Request) -> Renderable:
        try:
            names = await self._service.operations.run(ListChannels())
        except KekbridgeError as error:
            return h.p(class_="problem", role="alert")[error.message]
        rows = [
            (
                _service_of(name),
                name,
                button(
                    request,
                    f"{PATH}/remove",
                    "Remove",
                    h.input(type="hidden", name="channel", value=name),
                ),
            )
            for name in names
        ]
        empty = "No channel yet: fills, rejections, limits and failures are not sent to you."
        shown = table(("Service", "Name", ""), rows, empty=empty)
        return h.fragment[shown, button(request, f"{PATH}/test", "Send a test to all") if names else None]


def _service_of(name: str) -> str:
    """The service of a channel, for people, by the scheme that its name begins with."""
    scheme = name.partition("-")[0]
    return _SERVICES.get(scheme, scheme)


def _problem(field: str, text: str) -> Renderable | None:
    return h.span(id=f"{field}-problem", class_="bad", role="alert")[text] if text else None


def _add_form(request: web.Request, url: str, error: str) -> Renderable:
    examples = [h.li[f"{name}: ", h.code[text]] for name, text in _EXAMPLES]
    return h.fragment[
        h.form(method="post", action=f"{PATH}/add", class_="card", id="add-channel")[
            form_key(request),
            h.label[
                h.b["Add a channel"],
                h.input(
                    name="url",
                    value=url,
                    required=True,
                    maxlength="2000",
                    autocomplete="off",
                    spellcheck="false",
                    placeholder="service://…",
                    aria_invalid="true" if error else None,
                    aria_describedby="url-problem" if error else None,
                ),
                _problem("url", error),
                h.span["It contains a token: it is kept in the vault and never shown again."],
            ],
            h.button["Add"],
        ],
        h.details[h.summary["Examples"], h.ul[examples]],
    ]


def _hours_form(request: web.Request, shown: dict[str, str], error: str) -> Renderable:
    hours = h.input(
        name="hours",
        value=shown["hours"],
        placeholder="22:00-07:00",
        maxlength="40",
        aria_invalid="true" if error else None,
        aria_describedby="hours-problem" if error else None,
    )
    zone = h.input(name="zone", value=shown["zone"], placeholder="this machine's", maxlength="60")
    return h.form(method="post", action=f"{PATH}/hours")[
        form_key(request),
        h.div(class_="fields")[
            h.label[h.b["Hours"], hours, _problem("hours", error)],
            h.label[h.b["Time zone"], zone, h.span["Such as Europe/Berlin."]],
        ],
        h.p(class_="row")[
            h.button["Save"], h.button(name="off", value="yes")["No quiet hours"] if shown["hours"] else None
        ],
    ]


def _levels_form(request: web.Request, events: list[dict[str, Any]]) -> Renderable:
    groups = []
    for severity in reversed(SEVERITIES):
        rows = [
            (
                one["event"].replace("_", " "),
                h.span(class_="dim")[one["words"]],
                h.select(name=_LEVEL + one["event"], aria_label=f"Level of {one['event'].replace('_', ' ')}")[
                    [h.option(value=level, selected=level == one["level"])[level] for level in LEVELS]
                ],
            )
            for one in events
            if one["severity"] == severity
        ]
        changed = sum(one["level"] != one["severity"] for one in events if one["severity"] == severity)
        summary = f"{_TITLES[severity]}: {counted(len(rows), 'event')}" + (f", {changed} changed" if changed else "")
        shown = table(("Event", "Text", "Level"), rows, empty="None.", phone=("first", "second", "first"))
        groups.append(h.details(class_="levels", id=f"levels-{severity}")[h.summary[summary], shown])
    return h.form(method="post", action=f"{PATH}/levels")[form_key(request), groups, h.button["Save levels"]]
