"""A response to a dry run in plain words: what the alert would do now, which rule decides, and what would make it pass.

`kekbridge webhook test --dry-run`, `replay` and the page of a webhook show the same report. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from msgspec import Struct

from kekbridge.codes import find as find_code
from kekbridge.formatting import format_decimal, market
from kekbridge.model import Verdict


class PlannedOrder(Struct, frozen=True, kw_only=True):
    """An order that the alert would send."""

    #: `buy 0.01 PERP_BTC_USDC (entry)`.
    title: str
    #: `buy 0.01 BTC as a market order, about 650 USDC`.
    words: str
    #: Path and body of the request, as they would go to the exchange.
    path: str
    body: str
    #: Leverage set before the order; None: unchanged.
    leverage: object = None
    #: What the order waits for; None: nothing.
    waits_for: str | None = None


class DryRunReport(Struct, frozen=True, kw_only=True):
    """What an alert would do now."""

    #: It would be answered with success.
    is_accepted: bool
    #: It was decided, and not refused before.
    is_decided: bool
    #: What admission would store: `admitted`, `duplicate`, `conflict`, `rate_limited`; None if it was not decided.
    status: str | None
    #: HTTP status that the alert would be answered with.
    http_status: int
    #: Code, text and field of a refusal.
    code: str | None = None
    error: str | None = None
    field: str | None = None
    #: What would make it pass, by its code.
    fix: str | None = None
    #: Remarks of reading it.
    warnings: tuple[str, ...] = ()
    #: Every rule that was checked.
    verdicts: tuple[Verdict, ...] = ()
    #: Orders that would be sent.
    orders: tuple[PlannedOrder, ...] = ()
    #: What would be canceled, one text each.
    cancels: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """The verdict in one sentence."""
        if self.status == "duplicate":
            return f"It came before and would not be traded again: {self.error or 'a duplicate'}."
        if not self.is_accepted:
            verb = "denied by a rule" if any(not one.passed for one in self.verdicts) else "refused"
            return f"It would be {verb}, with HTTP {self.http_status}: {self.error or self.code or 'no reason given'}."
        does = [one.words for one in self.orders] + [f"cancel the orders of {one}" for one in self.cancels]
        return f"It would be accepted: {'; then '.join(does) or 'nothing would be traded'}."


def read(reply: Mapping[str, Any]) -> DryRunReport:
    """The report of a dry run from the result of SendAlert: the HTTP status and JSON body of its response."""
    body: Mapping[str, Any] = reply["body"]
    is_decided = bool(body.get("dryRun"))
    status = int(reply["httpStatus"])
    is_accepted = status < 300 and body.get("success") is not False
    known = None if is_accepted else find_code(str(body.get("code")))
    return DryRunReport(
        is_accepted=is_accepted,
        is_decided=is_decided,
        status=body.get("status"),
        http_status=int(body.get("httpStatus") or status),
        code=body.get("code"),
        error=body.get("error"),
        field=body.get("field"),
        fix=known.fix if known else None,
        warnings=tuple(body.get("warnings") or ()),
        verdicts=tuple(Verdict(**verdict) for verdict in body.get("verdicts") or ()),
        orders=tuple(_order(order) for order in body.get("orders") or ()),
        cancels=tuple(
            f"{cancel.get('symbol') or 'every market'}, comment {cancel.get('comment') or 'any'}"
            for cancel in body.get("cancels") or ()
        ),
    )


def _order(order: Mapping[str, Any]) -> PlannedOrder:
    after = order.get("afterLeg")
    side = str(order.get("side") or "")
    return PlannedOrder(
        title=f"{order.get('side')} {order.get('quantity')} {order.get('symbol')} ({order.get('purpose')})",
        words=f"{side.lower()} {order.get('quantity')} {market(str(order.get('symbol')))} {_kind(order)}{_value(order)}",
        path=str(order.get("path")),
        body=json.dumps(order.get("request"), separators=(",", ":"), default=str),
        leverage=order.get("leverage"),
        waits_for=None if after is None else f"order {int(after) + 1}, and is sized again then",
    )


def _kind(order: Mapping[str, Any]) -> str:
    kind = str(order.get("orderType")).lower().replace("_", " ")
    exits = " that only reduces the position" if order.get("reduceOnly") else ""
    return f"as {'an' if kind[:1] in 'aeiou' else 'a'} {kind} order{exits}"


def _value(order: Mapping[str, Any]) -> str:
    """What the order is worth at the price that is expected for it."""
    try:
        value = Decimal(str(order["expectedPrice"])) * Decimal(str(order["quantity"]))
    except (KeyError, ArithmeticError):
        return ""
    return f", about {format_decimal(round(value, 2))} USDC"
