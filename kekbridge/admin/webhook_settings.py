"""The tabs Limits and Message of a webhook: its settings, those that most people set first, the others under "Advanced".

Built from webhooks/options.py, the table behind the options of `kekbridge webhook edit`: same parser, same errors.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import htpy as h
from aiohttp import web
from htpy import Node, Renderable

from kekbridge import parsing
from kekbridge.admin.elements import form_key, with_code
from kekbridge.admin.fields import Field, error_of, fields_element, in_labels, not_saved
from kekbridge.admin.webhook_frame import WebhookFrame, path_of
from kekbridge.alerts.profiles import PROFILES
from kekbridge.errors import ConfigError
from kekbridge.model import Webhook, WebhookSettings
from kekbridge.ops.webhook_operations import EditWebhook
from kekbridge.webhooks.options import REQUIRED_FIELDS, ROW_OF, ROWS, Row, parse, text_of

#: Option -> its label.
LABELS: Final[Mapping[str, str]] = {row.option: row.label for row in ROWS}
_PARTS: Final[Mapping[str, Collection[str]]] = {"limits": ("limits", "rates"), "message": ("",)}
_INTRODUCTIONS: Final = {
    "limits": "An empty field means no limit. Limits apply to entries, from the next alert on; exits always pass.",
    "message": "How messages are proven, read and completed. Changes apply from the next alert on.",
}
_CHOICES: Final[Mapping[str, Mapping[str, str]]] = {
    "leverage_policy": {"refuse": "refuse the entry", "lower": "lower the leverage"},
    "follow": {"signal": "each alert is an order", "position": "each alert names a target position"},
    "profile": {name: profile.title for name, profile in PROFILES.items()},
}

# What an empty field means; for the others of a limit "no limit", of a list its form.
_EMPTY: Final = {
    "allowed_symbols": "all markets",
    "max_timestamp_age": "as set for the bridge",
    "expect_alert_every": "never",
    "alert_expires": "not known",
    "trading_hours": "always",
    "cooldown": "none",
}

#: Settings as the operations take them: by parameter, as typed.
Changes = dict[str, str | bool | list[str]]


class SettingsTabs:
    """Handlers of both tabs."""

    def __init__(self, frame: WebhookFrame) -> None:
        self._frame = frame

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        for tab in _PARTS:
            router.add_get(f"/webhooks/{{webhook}}/{{tab:{tab}}}", self._show)
            router.add_post(f"/webhooks/{{webhook}}/{{tab:{tab}}}", self._save)

    async def _show(self, request: web.Request) -> web.Response:
        webhook, tab = await self._frame.webhook_of(request), request.match_info["tab"]
        saved = h.p(class_="notice good", role="status")["Saved. It applies from the next alert on."]
        return self._page(request, webhook, tab, {}, {}, *([saved] if "saved" in request.query else []))

    async def _save(self, request: web.Request) -> web.Response:
        webhook, tab = await self._frame.webhook_of(request), request.match_info["tab"]
        form = await request.post()
        entered = {row.parameter: str(form[row.parameter]) for row in _rows_of(tab) if row.parameter in form}
        changes, errors = read_changes(entered, webhook.settings)
        others: list[str] = []
        if not errors:
            try:
                await self._frame.service.operations.run(EditWebhook(webhook=webhook.id, options=changes))
            except ConfigError as error:
                errors, others = place_error(error, entered)
            else:
                raise web.HTTPSeeOther(f"{path_of(webhook, tab)}?saved=1")
        notice = not_saved(len(errors), *others)
        return self._page(request, webhook, tab, entered, errors, notice, status_code=422)

    def _page(
        self,
        request: web.Request,
        webhook: Webhook,
        tab: str,
        entered: Mapping[str, str],
        errors: Mapping[str, str],
        *above: Node,
        status_code: int = 200,
    ) -> web.Response:
        form = h.form(
            method="post",
            action=path_of(webhook, tab),
            data_unsaved="changed" if status_code == 422 else "",
            novalidate=True,
        )[
            form_key(request),
            settings_fields(_rows_of(tab), webhook.settings, entered, errors),
            h.div(class_="row")[h.button(class_="primary")["Save"]],
        ]
        introduction = h.p(class_="dim")[_INTRODUCTIONS[tab]]
        return self._frame.page(request, webhook, tab, *above, introduction, form, status_code=status_code)


def page_words(text: str) -> Renderable:
    """A text of the command line for a page: labels instead of options, commands as code."""
    return with_code(in_labels(text, LABELS))


def _rows_of(tab: str) -> list[Row]:
    return [row for row in ROWS if row.part in _PARTS[tab]]


def settings_fields(
    rows: Collection[Row], settings: WebhookSettings, entered: Mapping[str, str], errors: Mapping[str, str]
) -> Renderable:
    """The inputs of some settings, with what was entered; the unusual ones folded away unless one of them is wrong."""
    usual = [row for row in rows if row.is_usual]
    others = [row for row in rows if not row.is_usual]

    def fields(chosen: Collection[Row]) -> list[Field]:
        return [_field(row, settings, entered.get(row.parameter), errors.get(row.parameter)) for row in chosen]

    is_wrong = any(row.parameter in errors for row in usual)
    set_count = sum(1 for row in others if text_of(row, settings) != text_of(row, WebhookSettings()))
    changed = f", {set_count} of them changed" if set_count else ""
    return h.fragment[
        fields_element(fields(usual)),
        h.details(open=any(row.parameter in errors for row in others), class_="advanced")[
            h.summary[f"Advanced: {len(others)} more settings{changed}"],
            fields_element(fields(others), has_focus=not is_wrong),
        ]
        if others
        else None,
    ]


def read_changes(entered: Mapping[str, str], before: WebhookSettings) -> tuple[Changes, dict[str, str]]:
    """The settings that a form changes, and what is wrong with its entries, by parameter.

    Only what was changed is parsed: an expiry date that has passed meanwhile would be rejected.
    """
    changes: Changes = {}
    errors: dict[str, str] = {}
    for parameter, text in entered.items():
        row = ROW_OF[parameter]
        if text.split() == text_of(row, before).split():
            continue
        given = _given(row, text)
        try:
            parse(row, given)
        except ConfigError as error:
            errors[parameter] = error_of(error.message, row.option, LABELS)
        else:
            changes[parameter] = given
    return changes, errors


def place_error(error: ConfigError, shown: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """An operation's error as (that of a field by parameter, texts for the top of the form): under its field if that is shown."""
    row = ROW_OF.get(error.field or "")
    if row is not None and row.parameter in shown:
        return {row.parameter: error_of(error.message, row.option, LABELS)}, []
    return {}, [in_labels(error.message, LABELS)]


def _field(row: Row, settings: WebhookSettings, entered: str | None, error: str | None) -> Field:
    value = text_of(row, settings) if entered is None else entered
    choices: tuple[tuple[str, str], ...] = ()
    if row.choices:
        named = _CHOICES.get(row.parameter, {})
        choices = tuple((word, named.get(word, word)) for word in row.choices)
    elif row.parser is None and not row.is_many:
        choices = (("yes", "yes"), ("no", "no"))
    return Field(
        name=row.parameter,
        label=row.label,
        value=value,
        help=in_labels(row.help, LABELS) + (" One per line." if row.is_many else ""),
        error=error,
        placeholder=row.metavar if row.is_many else _EMPTY.get(row.parameter, "no limit"),
        choices=choices,
        keyboard="decimal"
        if row.parser in (parsing.number, parsing.usdc)
        else "numeric"
        if row.parser is parsing.count
        else None,
        rows=3 if row.is_many else 0,
    )


def _given(row: Row, text: str) -> str | bool | list[str]:
    """The entered text as an option of the command line: an empty field removes a limit."""
    if row.is_many:
        return [line.strip() for line in text.splitlines() if line.strip()] or ["none"]
    if row.parser is None:
        return text == "yes"
    if text.strip() or row.field in REQUIRED_FIELDS:
        return text.strip()
    return "none"
