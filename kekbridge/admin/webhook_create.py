"""The page that creates a webhook: its name, and the settings that most people set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import htpy as h
from aiohttp import web
from htpy import Node

from kekbridge.admin.elements import form_key
from kekbridge.admin.fields import field_element, not_saved
from kekbridge.admin.service import AdminService
from kekbridge.admin.webhook_frame import name_field
from kekbridge.admin.webhook_settings import place_error, read_changes, settings_fields
from kekbridge.errors import ConfigError
from kekbridge.model import WebhookSettings
from kekbridge.ops.webhook_operations import CreateWebhook
from kekbridge.webhooks.options import ROWS

# What a trader decides before the first alert; everything else has its own tab.
_ROWS: Final = tuple(
    row for row in ROWS if row.is_usual and (row.part == "limits" or row.field in ("profile", "follow"))
)
_PATH: Final = "/webhooks/new"


class CreatePage:
    """Handlers of the page. `page` renders a whole page from a title and contents."""

    def __init__(self, service: AdminService, page: Callable[..., web.Response]) -> None:
        self._service = service
        self._page = page

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get(_PATH, self._show)
        router.add_post(_PATH, self._create)

    async def _show(self, request: web.Request) -> web.Response:
        return self._form(request, "", {}, {})

    async def _create(self, request: web.Request) -> web.Response:
        form = await request.post()
        name = str(form.get("name", "")).strip()
        entered = {row.parameter: str(form[row.parameter]) for row in _ROWS if row.parameter in form}
        changes, errors = read_changes(entered, WebhookSettings())
        others: list[str] = []
        try:
            if not errors:
                made = await self._service.operations.run(CreateWebhook(name=name, options=changes))
                raise web.HTTPSeeOther(f"/webhooks/{made['id']}")
            CreateWebhook(name=name)  # only to check the name, so that all errors are shown at once
        except ConfigError as error:
            if error.field == "name":
                errors["name"] = error.message[:1].upper() + error.message[1:]
            else:
                errors, others = place_error(error, entered)
        return self._form(request, name, entered, errors, *others)

    def _form(
        self, request: web.Request, name: str, entered: Mapping[str, str], errors: Mapping[str, str], *others: Node
    ) -> web.Response:
        wrong = errors.get("name")
        response = self._page(
            request,
            "New webhook",
            not_saved(len(errors), *others, what="Not created"),
            h.p(class_="dim")[
                "A webhook is an address for alerts with its own key and limits. An empty field means no limit."
            ],
            h.form(method="post", action=_PATH, data_unsaved="changed" if errors or others else "", novalidate=True)[
                form_key(request),
                field_element(name_field(name, wrong), has_focus=bool(wrong) or not errors),
                settings_fields(_ROWS, WebhookSettings(), entered, errors),
                h.div(class_="row")[
                    h.button(class_="primary")["Create webhook"], h.a(href="/webhooks", class_="button")["Cancel"]
                ],
            ],
        )
        if errors or others:
            response.set_status(422)
        return response
