"""The tab Alert of a webhook: its URL, and the message for an alert, built by a form.

The form is a GET: an address is a message, and the script only sends it while one types. What is built, and what would refuse its alerts,
is what `kekbridge template` prints (MakeTemplate).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any, Final

import htpy as h
from aiohttp import web
from htpy import Node, Renderable

from kekbridge.admin.elements import button, copy_button, table, with_code
from kekbridge.admin.fields import Field, error_of, field_element, fields_element, in_labels
from kekbridge.admin.qr import qr_code
from kekbridge.admin.webhook_frame import WebhookFrame, path_of
from kekbridge.admin.webhook_settings import LABELS
from kekbridge.alerts.field_names import SPELLINGS
from kekbridge.alerts.template import DEFAULT_QUANTITY, PARAMETERS, steps
from kekbridge.errors import ConfigError, NotFound
from kekbridge.formatting import camel
from kekbridge.model import Webhook
from kekbridge.ops.webhook_operations import MakeTemplate
from kekbridge.webhooks import registry

_KINDS: Final = {
    "strategy": ("Strategy", "Each order of a strategy is an order here."),
    "indicator": ("Indicator", "An indicator's alert buys or sells a size of yours."),
    "close": ("Close", "Closes the position, whichever side it is."),
    "flip": ("Flip", "Turns the position around."),
    "position": ("Position", "The position follows the strategy's, also after a lost alert."),
    "ping": ("Ping", "A heartbeat that trades nothing."),
    "pine": ("Pine script", "Functions for your own script, which make the message."),
}
_UNITS: Final = (
    ("", "coins"),
    ("usd", "USDC"),
    ("percent_equity", "% of the account value"),
    ("percent_position", "% of the position"),
    ("risk_percent", "% of the account value at risk"),
)
_TYPES: Final = (
    ("", "market"),
    ("limit", "limit"),
    ("stop", "stop"),
    ("stop_limit", "stop limit"),
    ("ioc", "immediate or cancel"),
    ("fok", "fill or kill"),
    ("post_only", "post only"),
)
#: Label, example and help of each parameter of a message.
_ENTRIES: Final[Mapping[str, tuple[str, str, str]]] = {
    "action": ("Side", "", ""),
    "symbol": ("Market", "the chart's", "Such as BTCUSDT.P; empty: the chart's own."),
    "quantity": ("Size", "", "A number, or a placeholder such as {{plot_0}}."),
    "quantity_type": ("Unit of the size", "", ""),
    "order_type": ("Order type", "", ""),
    "limit_price": ("Limit price", "", "For limit and stop limit orders; empty: the alert's price."),
    "trigger_price": ("Trigger price", "", "For stop and stop limit orders."),
    "stop_loss": ("Stop loss", "2%", "A price, or percent of the entry."),
    "take_profit": (
        "Take profits",
        "4%",
        "A price, or percent of the entry; several with their shares: 2%:50%, 4%:50%.",
    ),
    "trailing_stop": ("Trailing stop", "1.5%", "Distance in price or percent."),
    "leverage": ("Leverage", "5", "Set for the market before the order."),
    "slippage": ("Slippage", "0.5%", "Farthest market price from the alert's price."),
    "comment": ("Comment", "", "A cancel with the same comment finds the order."),
    "symbols": ("Markets it may name", "", "With commas; empty: the webhook's allowed markets."),
    "max_quantity": ("Largest size", "", "In coins; empty: the webhook's largest order."),
}
_CHOICES: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "action": (("buy", "buy"), ("sell", "sell")),
    "quantity_type": _UNITS,
    "order_type": _TYPES,
}
_ADVANCED: Final = frozenset({"trailing_stop", "leverage", "slippage", "comment", "symbols", "max_quantity"})
_ENTRY_LABELS: Final[Mapping[str, str]] = {
    f"--{parameter.replace('_', '-')}": label for parameter, (label, _, _) in _ENTRIES.items()
}
_LONGEST: Final = 400


class AlertTab:
    """Handler of the tab."""

    def __init__(self, frame: WebhookFrame) -> None:
        self._frame = frame

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the route."""
        router.add_get("/webhooks/{webhook}", self._show)

    async def _show(self, request: web.Request) -> web.Response:
        webhook = await self._frame.webhook_of(request)
        usual = "position" if webhook.settings.follow == "position" else "strategy"
        kind = request.query.get("kind", usual)
        kind = kind if kind in _KINDS else usual
        entered = entries_of(kind, request.query)
        errors: dict[str, str] = {}
        others: list[str] = []
        has_key = True
        try:
            made: dict[str, Any] | None = await self._frame.service.operations.run(
                MakeTemplate(webhook=webhook.id, kind=kind, fields=entered)
            )
        except (ConfigError, NotFound) as error:
            made, has_key = None, error.code != "key_missing"
            errors, others = place_template_error(error.message, error.field, kind)
        if made is not None and made["invalidField"]:
            errors, _ = place_template_error(
                made["problems"][-1].removeprefix("its alerts would be refused: "), made["invalidField"], kind
            )
        url = await self._frame.service.database.read(self._url)
        built = h.section(id="built")[
            _built(request, webhook, made, kind, is_wrong=bool(errors))
            if made is not None
            else _not_built(webhook, errors, others, has_key=has_key)
        ]
        return self._frame.page(
            request,
            webhook,
            "alert",
            _url_part(url),
            h.h2["Message"],
            _kind_links(webhook, kind),
            h.p(class_="dim")[_KINDS[kind][1]],
            h.div(class_="builder")[_form(webhook, kind, request.query, errors), built],
            status_code=422 if made is None and errors else 200,
        )

    def _url(self, connection: sqlite3.Connection) -> str:
        return registry.webhook_url(connection, self._frame.service.settings, is_running=True)


def entries_of(kind: str, query: Mapping[str, str]) -> dict[str, str]:
    """What was entered for a message of this kind, by parameter of `alerts.template.build`; empty fields are left out."""
    found = {name: query.get(name, "").strip()[:_LONGEST] for name in PARAMETERS[kind]}
    return {name: value for name, value in found.items() if value}


def place_template_error(text: str, field: str | None, kind: str) -> tuple[dict[str, str], list[str]]:
    """An error of a template as (that of an entry by parameter, texts for the top)."""
    parameter = parameter_of(field or "")
    if parameter not in PARAMETERS[kind]:
        return {}, [words_of(text)]
    return {parameter: error_of(text.removeprefix(f"{field}: "), "", _ENTRY_LABELS)}, []


def parameter_of(field: str) -> str:
    """The parameter that sets a field of the message: `stopLoss` -> `stop_loss`."""
    return next((name for name in _ENTRIES if SPELLINGS.get(name) == field or camel(name) == field), "")


def words_of(problem: str) -> str:
    """A problem of a template with the labels of the page."""
    words = in_labels(problem, {**LABELS, **_ENTRY_LABELS})
    return words[:1].upper() + words[1:]


def _url_part(url: str) -> Renderable:
    return h.section[
        h.h2["Webhook URL"],
        h.div(class_="copied")[h.code(id="webhook-url")[url], copy_button("#webhook-url", "Copy URL")],
        h.details[h.summary["QR code of the URL"], qr_code(url, label="QR code of the webhook URL")],
    ]


def _kind_links(webhook: Webhook, kind: str) -> Renderable:
    return h.div(class_="kinds", role="navigation", aria_label="Kind of alert")[
        (
            h.a(
                href=f"{path_of(webhook)}?kind={name}",
                class_="here" if name == kind else None,
                aria_current="true" if name == kind else None,
            )[title]
            for name, (title, _) in _KINDS.items()
        )
    ]


def _form(webhook: Webhook, kind: str, query: Mapping[str, str], errors: Mapping[str, str]) -> Renderable | None:
    if not PARAMETERS[kind]:
        return None
    shown = [_field(name, kind, query.get(name, "").strip()[:_LONGEST], errors.get(name)) for name in PARAMETERS[kind]]
    advanced = [one for one in shown if one.name in _ADVANCED]
    is_open = any(one.error or one.value for one in advanced)
    return h.form(method="get", action=path_of(webhook), data_builds="built", class_="entries", novalidate=True)[
        h.input(type="hidden", name="kind", value=kind),
        fields_element(one for one in shown if one.name not in _ADVANCED),
        h.details(open=is_open, class_="advanced")[
            h.summary["Advanced"], h.div(class_="fields")[(field_element(one) for one in advanced)]
        ]
        if advanced
        else None,
        h.div(class_="row")[h.button(class_="primary")["Build message"]],
    ]


def _field(name: str, kind: str, value: str, error: str | None) -> Field:
    label, example, help_text = _ENTRIES[name]
    if name == "quantity":
        example = {
            "strategy": "the strategy's",
            "indicator": DEFAULT_QUANTITY,
            "close": "all of it",
            "flip": "its size",
        }[kind]
    return Field(
        name=name,
        label=label,
        value=value,
        help=help_text or None,
        error=error,
        placeholder=example,
        choices=_CHOICES.get(name, ()),
        max_length=_LONGEST,
    )


def _not_built(webhook: Webhook, errors: Mapping[str, str], others: list[str], *, has_key: bool) -> list[Node]:
    """Why there is no message."""
    shown: list[Node] = [h.p["Correct the marked field."]] if errors else []
    shown += [h.p[with_code(text)] for text in others]
    if not has_key:
        shown.append(h.p["Keys: ", h.a(href=path_of(webhook, "keys"))["create a new one"], "."])
    return [h.div(class_="notice bad", role="alert")[h.b["No message."], shown]]


def _built(request: web.Request, webhook: Webhook, made: Mapping[str, Any], kind: str, *, is_wrong: bool) -> list[Node]:
    problems = [words_of(text) for text in made["problems"]]
    if is_wrong:
        problems[-1] = "Correct the marked field: the alerts of this message would be refused."
    if made["warning"]:
        problems.append(words_of(made["warning"]))
    what = "Script" if kind == "pine" else "Message"
    return [
        [h.p(class_="notice warning", role="alert")[h.b["Warning: "], with_code(text)] for text in problems],
        h.div(class_="copied")[
            h.pre(id="message-text", class_="message", tabindex="0", aria_label=what)[made["message"]],
            copy_button("#message-text", f"Copy {what.lower()}"),
            # Pine is no message, but a part of a script that makes them.
            button(
                request,
                path_of(webhook, "test"),
                "Test it",
                h.input(type="hidden", name="message", value=made["message"]),
            )
            if kind != "pine"
            else None,
        ],
        h.p(class_="dim")[f"It contains the key: keep it secret. {made['risk']}"],
        h.details(open=True)[
            h.summary["In TradingView"],
            h.ol[(h.li[with_code(_step(text))] for text in steps(kind, made["webhookUrl"]))],
        ],
        h.details[
            h.summary["What each field means"],
            table(
                ("Field", "Meaning"),
                [(name, with_code(text)) for name, text in made["explanation"].items()],
                empty="",
                is_slim=True,
            ),
        ]
        if made["explanation"]
        else None,
        h.details[
            h.summary["URL with the key, for texts that cannot be edited"],
            h.div(class_="copied")[
                h.code(id="url-with-key")[made["webhookUrlWithKey"]],
                copy_button("#url-with-key", "Copy URL with the key"),
            ],
        ]
        if "webhookUrlWithKey" in made
        else None,
    ]


def _step(text: str) -> str:
    return text.replace("the line above", "the copied message")
