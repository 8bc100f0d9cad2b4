"""Webhooks over the JSON API: create, list, show, change, rotate and delete (webhooks/document.py has the document)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

from aiohttp import web

from kekbridge.admin.json_requests import Fields, read_json
from kekbridge.admin.replays import Replays
from kekbridge.admin.service import AdminService
from kekbridge.errors import ConfigError
from kekbridge.formatting import to_jsonable
from kekbridge.ops.operation import Operation
from kekbridge.ops.webhook_operations import (
    CreateWebhook,
    DeleteWebhook,
    EditWebhook,
    ListWebhooks,
    RotateWebhook,
    ShowCredentials,
    ShowWebhook,
)
from kekbridge.webhooks.document import document_of, in_places, read_document

_PATH: Final = "/api/portfolio/webhooks"
_USUAL_GRACE_S: Final = 7 * 86_400
_LONGEST_GRACE_S: Final = 365 * 86_400


class WebhookApi:
    """Handlers of the webhooks' paths."""

    def __init__(self, service: AdminService, replays: Replays) -> None:
        self._service = service
        self._replays = replays

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get(_PATH, self._list)
        router.add_post(_PATH, self._create)
        router.add_get(_PATH + "/{webhook}", self._show)
        router.add_patch(_PATH + "/{webhook}", self._change)
        router.add_delete(_PATH + "/{webhook}", self._delete)
        router.add_post(_PATH + "/{webhook}/rotate", self._rotate)

    async def _list(self, request: web.Request) -> web.Response:
        Fields.of_query(request, ())
        found = await self._service.operations.run(ListWebhooks())
        return web.json_response({"webhooks": [document_of(one) for one in found]})

    async def _create(self, request: web.Request) -> web.Response:
        """201 with the credentials; 409 if the name is taken."""
        document = read_document(await read_json(request), is_new=True)
        made = await self._run(request, lambda: CreateWebhook(name=document.name or "", options=document.options))
        location = f"{_PATH}/{quote(made['name'], safe='')}"
        return web.json_response(document_of(made), status=201, headers={"Location": location})

    async def _show(self, request: web.Request) -> web.Response:
        name = request.match_info["webhook"]
        has_secret = Fields.of_query(request, ("secret",)).flag("secret")
        shown = await self._service.operations.run(
            ShowCredentials(webhook=name) if has_secret else ShowWebhook(webhook=name)
        )
        return web.json_response(document_of(shown))

    async def _change(self, request: web.Request) -> web.Response:
        document = read_document(await read_json(request), is_new=False)
        changed = await self._run(
            request,
            lambda: EditWebhook(
                webhook=request.match_info["webhook"],
                options=document.options,
                new_name=document.name,
                enabled=document.enabled,
            ),
        )
        return web.json_response(document_of(changed))

    async def _delete(self, request: web.Request) -> web.Response:
        Fields.of_query(request, ())
        return web.json_response(await self._run(request, lambda: DeleteWebhook(webhook=request.match_info["webhook"])))

    async def _rotate(self, request: web.Request) -> web.Response:
        fields = Fields.of(await read_json(request), ("graceS",))
        grace_s = fields.count("graceS", default=_USUAL_GRACE_S, least=0, most=_LONGEST_GRACE_S)
        made = await self._run(request, lambda: RotateWebhook(webhook=request.match_info["webhook"], grace_s=grace_s))
        return web.json_response(document_of(made))

    async def _run(self, request: web.Request, build: Callable[[], Operation]) -> Any:
        """Run an operation once per Idempotency-Key. Its errors name places of the document."""
        try:
            operation = build()  # may refuse its parameters
            return to_jsonable(await self._replays.run(request, lambda: self._service.operations.run(operation)))
        except ConfigError as error:
            raise in_places(error) from None
