"""What the pages of one webhook share: its state, its tabs, and how the webhook of a request is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import htpy as h
from aiohttp import web
from htpy import Node, Renderable

from kekbridge.admin.elements import button, form_key, moment_element
from kekbridge.admin.fields import Field, field_element
from kekbridge.admin.service import AdminService
from kekbridge.model import Webhook
from kekbridge.reports import webhook_summary
from kekbridge.reports.webhook_summary import WebhookSummary

#: Tab -> its title; the first is the webhook's own address.
TABS: Final = {
    "alert": "Alert",
    "test": "Test",
    "activity": "Activity",
    "limits": "Limits",
    "message": "Message",
    "keys": "Keys",
}
# The summary of the request's webhook, for the line above the tabs.
_SUMMARY: Final = web.RequestKey("webhook_summary", WebhookSummary)


@dataclass(frozen=True, slots=True)
class WebhookFrame:
    """Renders the pages of one webhook."""

    #: Store, operations and clock of the daemon.
    service: AdminService
    #: Renders a whole page from a title and contents.
    whole_page: Callable[..., web.Response]

    async def webhook_of(self, request: web.Request) -> Webhook:
        """The webhook that the request's path names. Raises NotFound."""
        found = await self.service.database.read(
            webhook_summary.read, request.match_info["webhook"], now=self.service.clock()
        )
        request[_SUMMARY] = found
        return found.webhook

    def page(
        self,
        request: web.Request,
        webhook: Webhook,
        tab: str,
        *content: Node,
        status_code: int = 200,
        new_name: Field | None = None,
    ) -> web.Response:
        """A tab with its contents below the webhook's state; `new_name`: the field of a rename that was refused."""
        response = self.whole_page(
            request,
            f"Webhook {webhook.name}",
            _controls(request, webhook, new_name),
            h.div(class_="tabs", role="navigation", aria_label="Parts of the webhook")[
                (
                    h.a(
                        href=path_of(webhook, name),
                        class_="here" if name == tab else None,
                        aria_current="page" if name == tab else None,
                    )[title]
                    for name, title in TABS.items()
                )
            ],
            *content,
        )
        response.set_status(status_code)
        return response


def state_element(summary: WebhookSummary) -> Renderable:
    """What a webhook accepts now, in its colour; the reason beside it, with the page where a limit is lifted."""
    name, _, reason = summary.state.partition(" (")
    is_closed = summary.webhook.enabled and summary.state != "enabled"
    kind = "exits_only" if name.startswith("exits only") else name
    until = summary.control.until
    shown: Node = name
    if is_closed and until is not None:
        shown = h.fragment["exits only until ", moment_element(until, until)]  # within a day
    return h.span(class_="wrap")[
        h.span(class_=f"status {kind}")[shown],
        [f" {reason.removesuffix(')')} ", h.a(href="/risk")["Risk"]] if is_closed else None,
    ]


def path_of(webhook: Webhook, tab: str = "alert") -> str:
    """The address of a tab."""
    return f"/webhooks/{webhook.id}" if tab == "alert" else f"/webhooks/{webhook.id}/{tab}"


def name_field(value: str, error: str | None = None) -> Field:
    """The input for a webhook's name."""
    return Field(
        name="name",
        label="Name",
        value=value,
        error=error,
        help=None if error else "1 to 64 letters, digits, dots, dashes and underscores.",
        is_required=True,
        max_length=64,
    )


def _controls(request: web.Request, webhook: Webhook, new_name: Field | None) -> Renderable:
    base = path_of(webhook)
    switch = (
        h.a(href=f"{base}/disable", class_="button")["Disable…"]
        if webhook.enabled
        else button(request, f"{base}/enable", "Enable")
    )
    rename = h.details(open=new_name is not None, class_="rename")[
        h.summary["Rename"],
        h.form(method="post", action=f"{base}/rename")[
            form_key(request),
            field_element(new_name or name_field(webhook.name), has_focus=new_name is not None),
            h.button["Rename"],
        ],
    ]
    return h.div(class_="row")[
        state_element(request[_SUMMARY]),
        switch,
        h.a(href=f"{base}/delete", class_="button bad")["Delete…"],
        rename,
    ]
